"""Settings: what is read once at start and passed on, frozen.

Order: argument, then environment (``LICHTSTROM_*``), then ``lichtstrom.toml``, then the runtime
that ``lichtstrom up`` runs, then the default.  Unknown keys fail with the nearest known one.
Secrets never appear in ``repr``.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import ConfigError
from pipeline.naming import DEFAULT_PREFIX

MIB = 1024 * 1024
#: The rest of a record's 900 kB is for what it says about its frames.
MAX_INLINE_NBYTES = 128 * 1024
#: Where every setting can also come from.
ENVIRONMENT_PREFIX = "LICHTSTROM_"


class Secret(str):
    """Text that does not show itself in ``repr`` (logs, tracebacks, dataclasses)."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'" if self else "''"


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """How to reach the broker; ``bootstrap`` empty means there is none (stored streams only).

    ``properties`` go to librdkafka unchanged (security.protocol, sasl.*, ssl.*).
    """

    bootstrap: str = ""
    prefix: str = DEFAULT_PREFIX
    timeout_s: float = 10.0
    partitions: int = 8
    #: Address of a Confluent-compatible schema registry; empty: none.
    registry: str = ""
    properties: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """Where the payloads are.

    ``url``: ``file:///dir``, ``s3://`` (a bucket per beamtime), ``s3://bucket/prefix`` (all in
    one bucket) or ``memory://NAME``.  Several ``endpoints`` are several ways to the same objects:
    writes spread over them and survive the loss of one.
    """

    url: str = ""
    endpoints: tuple[str, ...] = ()
    access_key: str = ""
    secret_key: Secret = field(default_factory=Secret)
    region: str = "us-east-1"
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishSettings:
    """How frames are packed, queued and made durable."""

    #: A segment closes at this size ...
    segment_nbytes: int = 8 * MIB
    #: ... or this long after its first frame.
    linger_s: float = 0.005
    #: Payloads of a segment below this size travel inside the record.
    inline_nbytes: int = 64 * 1024
    #: "process" survives the death of any process, "disk" the loss of power.
    durability: Literal["process", "disk"] = "process"
    #: Bytes of frames that may wait for store and broker before ``write`` waits, too.
    queue_nbytes: int = 256 * MIB
    #: What ``write`` does when the queue is full: wait, or refuse with QueueFullError (counted).
    when_full: Literal["block", "refuse"] = "block"
    #: Threads that write objects.
    uploads: int = 2
    #: Folder for frames while broker or store are away; empty: no spool, ``write`` waits.
    spool: str = ""
    spool_nbytes: int = 16 * 1024 * MIB
    #: How long the queue may be full, or nearly, before the spool is used.
    spool_after_s: float = 1.0
    #: How long a hole in the numbers is kept open for late frames, below the floor.
    hole_wait_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSettings:
    """How much a reader fetches ahead."""

    prefetch_nbytes: int = 64 * MIB
    threads: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a session needs to know."""

    kafka: KafkaSettings = field(default_factory=KafkaSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    publish: PublishSettings = field(default_factory=PublishSettings)
    read: ReadSettings = field(default_factory=ReadSettings)
    #: Make topics and buckets when they are missing; the default only on the local runtime.
    create: bool = False


_SECTIONS: Mapping[str, type] = {
    "kafka": KafkaSettings,
    "store": StoreSettings,
    "publish": PublishSettings,
    "read": ReadSettings,
}


#: Smallest and largest values; of the others none is negative.
_RANGES: Mapping[str, tuple[float, float]] = {
    "kafka.partitions": (1, 10_000),
    "publish.segment_nbytes": (1, 2**31 - 1),
    "publish.queue_nbytes": (1, math.inf),
    "publish.inline_nbytes": (0, MAX_INLINE_NBYTES),
    "publish.uploads": (1, 256),
    "read.threads": (1, 256),
}


def home(environment: Mapping[str, str] | None = None) -> Path:
    """Return the folder of the local runtime: LICHTSTROM_HOME or the user's data directory."""
    environ = os.environ if environment is None else environment
    named = environ.get("LICHTSTROM_HOME")
    if named:
        return Path(named).expanduser().absolute()
    data = environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser().absolute() / "lichtstrom"


def load(store: str | None = None, *, environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    Parameters
    ----------
    store:
        A store URL instead of the configured one.  ``s3`` and ``file`` alone choose between the
        two ways to the local runtime's store.
    environment:
        Instead of the process's, for tests.

    Raises
    ------
    ConfigError
        Names the key, its source and the nearest known key.
    """
    environ = os.environ if environment is None else environment
    values: dict[str, dict[str, Any]] = {name: {} for name in _SECTIONS}
    runtime = _runtime(home(environ) / "runtime.json", values)
    local = values["kafka"].get("bootstrap")
    create = _file(environ, values)
    create = _environment(environ, values, create)
    if create is None:  # the default only on the local runtime
        create = bool(runtime) and values["kafka"].get("bootstrap") == local
    _choose_store(values["store"], store, runtime)
    sections = {name: _build(name, values[name]) for name in _SECTIONS}
    return Settings(**sections, create=create)


def _runtime(path: Path, values: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Take over what ``lichtstrom up`` wrote down."""
    try:
        runtime: dict[str, Any] = json.loads(path.read_text())
        values["kafka"]["bootstrap"] = runtime["kafka"]["bootstrap"]
        values["store"]["url"] = runtime["store"]["url"]
        _use_s3(values["store"], runtime)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error!r}): run `lichtstrom up` again"
        ) from error
    return runtime


def _use_s3(store: dict[str, Any], runtime: Mapping[str, Any]) -> None:
    s3 = runtime.get("s3") or {}
    if s3:
        nodes = runtime.get("nodes", ())
        several = [n["address"] for n in nodes if n["name"].startswith("gateway-")]
        store["endpoints"] = tuple(several) or (s3["endpoint"],)
        store["access_key"], store["secret_key"] = s3["access_key"], s3["secret_key"]
        store["region"] = s3.get("region", "us-east-1")


def _file(environ: Mapping[str, str], values: dict[str, dict[str, Any]]) -> bool | None:
    """Read ``lichtstrom.toml``; return what it says of ``create``, None for nothing."""
    create = None
    path = Path(environ.get(ENVIRONMENT_PREFIX + "CONFIG", "lichtstrom.toml"))
    if not path.exists():
        if ENVIRONMENT_PREFIX + "CONFIG" in environ:
            raise ConfigError(f"{path} (from LICHTSTROM_CONFIG) does not exist")
        return create
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    for section, entries in content.items():
        if section == "create":
            create = _convert(bool, entries, f"{path}: create")
        elif section in _SECTIONS:
            if not isinstance(entries, dict):
                raise ConfigError(f"{path}: {section} must be a section, [{section}]")
            for key, value in entries.items():
                _set(values, section, key, value, f"{path}: [{section}] {key}")
        elif section != "adapter":  # one section per instrument, read by the command line
            raise ConfigError(f"{path}: [{section}] is unknown{_nearest(section, _SECTIONS)}")
    return create


def _environment(
    environ: Mapping[str, str], values: dict[str, dict[str, Any]], create: bool | None
) -> bool | None:
    for name in sorted(environ):
        section, _, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("_")
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        if section == "create" and not key:
            create = _convert(bool, environ[name], name)
        elif section in _SECTIONS and key:
            _set(values, section, key, environ[name], name)
    return create


def _set(values: dict[str, dict[str, Any]], section: str, key: str, value: Any, where: str) -> None:
    known = {f.name: f for f in fields(_SECTIONS[section])}
    if key not in known:
        raise ConfigError(f"{where} is unknown{_nearest(key, known)}")
    values[section][key] = _convert_named(str(known[key].type), value, where)


def _convert_named(kind: str, value: Any, where: str) -> Any:
    if kind in {"int", "float"}:
        return _convert(int if kind == "int" else float, value, where)
    if kind.startswith("tuple"):
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list):
            raise ConfigError(f"{where}: {value!r} is not a list")
        return tuple(str(part).strip() for part in parts)
    if kind.startswith("Mapping"):
        if isinstance(value, str):
            pairs = (pair.partition("=") for pair in value.split(",") if pair)
            return {k.strip(): v.strip() for k, _, v in pairs}
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: {value!r} is not a table")
        return {str(k): str(v) for k, v in value.items()}
    return _convert(str, value, where)


def _convert(kind: type[Any], value: Any, where: str) -> Any:
    if kind is bool and isinstance(value, str):
        known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
        if value.lower() in known:
            return known[value.lower()]
        raise ConfigError(f"{where}: {value!r} is neither true nor false")
    wrong = ConfigError(f"{where}: {value!r} is not of type {kind.__name__}")
    # A float is no int, and a boolean no number; an int is a float.
    if not isinstance(value, (str, kind)) and not (kind is float and type(value) is int):
        raise wrong
    if isinstance(value, bool) and kind is not bool:
        raise wrong
    try:
        return kind(value)
    except ValueError as error:
        raise wrong from error


def _choose_store(values: dict[str, Any], store: str | None, runtime: Mapping[str, Any]) -> None:
    if store is not None:
        values["url"] = store
    if values.get("url") == "file":
        values["url"] = runtime.get("store", {}).get("url", "file")
    elif values.get("url") == "s3":
        values["url"] = "s3://"


def _build(name: str, values: Mapping[str, Any]) -> Any:
    kind = _SECTIONS[name]
    given = dict(values)
    if "secret_key" in given:
        given["secret_key"] = Secret(given["secret_key"])
    settings = kind(**given)
    for entry in fields(kind):
        _check_range(f"{name}.{entry.name}", getattr(settings, entry.name))
    _check_choice(name, settings)
    return settings


def _check_range(name: str, value: Any) -> None:
    if not isinstance(value, (int, float)):
        return
    low, high = _RANGES.get(name, (0, math.inf))
    if not low <= value <= high:  # nan is in no range
        limits = f"{low} to {high}" if high < math.inf else f"at least {low}"
        problem = "must not be negative" if value < 0 else f"must be {limits}"
        raise ConfigError(f"{name} = {value} {problem}")


def _check_choice(name: str, settings: Any) -> None:
    choices = {"durability": ("process", "disk"), "when_full": ("block", "refuse")}
    for key, allowed in choices.items():
        value = getattr(settings, key, allowed[0])
        if value not in allowed:
            raise ConfigError(f"{name}.{key} = {value!r} must be one of {', '.join(allowed)}")


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def with_publish(settings: Settings, **changes: Any) -> Settings:
    """Return the settings with some of the publisher's changed; ConfigError names a wrong one."""
    known = {entry.name: entry for entry in fields(PublishSettings)}
    for key in changes:
        if key not in known:
            raise ConfigError(f"publish.{key} is unknown{_nearest(key, known)}")
    changed = _build("publish", {name: getattr(settings.publish, name) for name in known} | changes)
    return replace(settings, publish=changed)
