"""Settings: what is read once at start and passed on, frozen.

Order: argument, then environment (``LICHTSTROM_*``), then ``lichtstrom.toml``, then the runtime
that ``lichtstrom up`` runs, then the default.  Unknown keys fail with the nearest known one.
Secrets never appear in ``repr`` or in errors.
"""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.conversion import convert, converted, nearest
from pipeline.credentials import Credentials, Secret, secret_in
from pipeline.errors import ConfigError
from pipeline.naming import DEFAULT_PREFIX

MIB = 1024 * 1024
#: The rest of a record's 900 kB is for what it says about its frames.
MAX_INLINE_NBYTES = 128 * 1024
#: Where every setting can also come from.
ENVIRONMENT_PREFIX = "LICHTSTROM_"
#: The file of `lichtstrom access grant --json`.
_CREDENTIALS = ENVIRONMENT_PREFIX + "CREDENTIALS"
_IDENTITY = ("username", "password", "ca")


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """How to reach the broker; ``bootstrap`` empty means there is none (stored streams only).

    With a ``username`` or a ``ca`` all goes by TLS, and the user is proved by SCRAM.
    ``properties`` go to librdkafka unchanged, for what these do not cover (Kerberos, ...).
    """

    bootstrap: str = ""
    #: Certificates of who may sign the brokers': PEM text or a file; empty: the system's.
    ca: str = field(default="", repr=False)
    username: str = ""
    password: Secret = field(default_factory=Secret)
    #: A file with the password, in place of ``password``.
    password_file: str = ""
    mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = "SCRAM-SHA-512"
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
    #: A file with the secret key, in place of ``secret_key``.
    secret_key_file: str = ""
    #: Certificates of who may sign the server's, beside the system's: PEM text or a file.
    ca: str = field(default="", repr=False)
    region: str = "us-east-1"
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectSettings:
    """How to reach the REST interface of Kafka Connect; ``url`` empty: the local runtime's."""

    url: str = ""
    username: str = ""
    password: Secret = field(default_factory=Secret)
    password_file: str = ""
    #: As for the store.
    ca: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamtimeSettings:
    """What says the current beamtime, for ``--beamtime auto``: a file, or a command's output."""

    file: str = ""
    command: str = ""


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
    connect: ConnectSettings = field(default_factory=ConnectSettings)
    beamtime: BeamtimeSettings = field(default_factory=BeamtimeSettings)
    #: Make topics and buckets when they are missing; the default only on the local runtime.
    create: bool = False


_SECTIONS: Mapping[str, type] = {
    "kafka": KafkaSettings,
    "store": StoreSettings,
    "publish": PublishSettings,
    "read": ReadSettings,
    "connect": ConnectSettings,
    "beamtime": BeamtimeSettings,
}


#: Options of `lichtstrom connect` and `lichtstrom beamtime` come by such names, too.
_COMMANDS_TOO = ("connect", "beamtime")

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


def load(
    store: str | None = None,
    *,
    credentials: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Read the settings.

    Parameters
    ----------
    store:
        A store URL instead of the configured one.  ``s3`` and ``file`` alone choose between the
        two ways to the local runtime's store.
    credentials:
        File of ``lichtstrom access grant --json``: stronger than all but ``store``.
    environment:
        Instead of the process's, for tests.

    Raises
    ------
    ConfigError
        Names the key, its source and the nearest known key; never a secret.
    """
    environ = os.environ if environment is None else environment
    values: dict[str, dict[str, Any]] = {name: {} for name in _SECTIONS}
    runtime = _runtime(home(environ) / "runtime.json", values)
    own = dict(values["kafka"])
    given = _File.found(environ)
    named = environ.get(_CREDENTIALS) or given.credentials
    if named and credentials is None:
        _use_credentials(Path(named), values)
    given.apply(values)
    create = _environment(environ, values, given.create)
    if credentials is not None:
        _use_credentials(Path(credentials), values)
    is_own = bool(runtime) and values["kafka"].get("bootstrap") == own.get("bootstrap")
    if not is_own:  # its keys are for its servers alone
        _forget(values["kafka"], own)
    if create is None:  # the default only on the local runtime, for who runs it
        create = is_own and values["kafka"].get("username") == own.get("username")
    _choose_store(values["store"], store, runtime)
    sections = {name: _build(name, values[name]) for name in _SECTIONS}
    return Settings(**sections, create=create)


def _runtime(path: Path, values: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Take over what ``lichtstrom up`` wrote down."""
    try:
        runtime: dict[str, Any] = json.loads(path.read_text())
        kafka = runtime["kafka"]
        values["kafka"]["bootstrap"] = kafka["bootstrap"]
        values["kafka"] |= {name: kafka[name] for name in _IDENTITY if kafka.get(name)}
        values["store"]["url"] = runtime["store"]["url"]
        _use_s3(values["store"], runtime)
        connect = runtime.get("connect") or {}
        known = ("url", *_IDENTITY)
        values["connect"] |= {name: connect[name] for name in known if connect.get(name)}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise ConfigError(f"{path} cannot be read ({what}): run `lichtstrom up` again") from error
    return runtime


def _use_s3(store: dict[str, Any], runtime: Mapping[str, Any]) -> None:
    s3 = runtime.get("s3") or {}
    if s3:
        nodes = runtime.get("nodes", ())
        several = [n["address"] for n in nodes if n["name"].startswith("gateway-")]
        store["endpoints"] = tuple(several) or (s3["endpoint"],)
        store["access_key"], store["secret_key"] = s3["access_key"], s3["secret_key"]
        store["region"] = s3.get("region", "us-east-1")
        store["ca"] = s3.get("ca", "")


def _use_credentials(path: Path, values: dict[str, dict[str, Any]]) -> None:
    """Take over what a user was given, and nothing of another user's."""
    found = Credentials.read(path)
    kafka = values["kafka"]
    kafka |= {"password_file": "", "mechanism": "SCRAM-SHA-512"}
    kafka |= {name: str(getattr(found.kafka, name)) for name in ("bootstrap", *_IDENTITY)}
    if found.prefix:
        kafka["prefix"] = found.prefix
    if found.s3 is not None:
        s3, place = found.s3, "/".join(filter(None, (found.s3.bucket, found.s3.prefix)))
        values["store"] |= {"access_key": s3.access_key, "secret_key": str(s3.secret_key)}
        values["store"] |= {"secret_key_file": "", "ca": s3.ca, "endpoints": (s3.endpoint,)}
        # A bucket of its own for each beamtime, unless this one holds all below a prefix.
        values["store"]["url"] = f"s3://{place}" if s3.prefix else "s3://"


def _forget(kafka: dict[str, Any], own: Mapping[str, Any]) -> None:
    for name in _IDENTITY:
        if name in own and kafka.get(name) == own[name]:
            del kafka[name]


@dataclass(frozen=True, slots=True)
class _File:
    """What ``lichtstrom.toml`` says."""

    path: Path
    content: Mapping[str, Any]
    create: bool | None = None
    credentials: str = ""

    @classmethod
    def found(cls, environ: Mapping[str, str]) -> _File:
        path = Path(environ.get(ENVIRONMENT_PREFIX + "CONFIG", "lichtstrom.toml"))
        if not path.exists():
            if ENVIRONMENT_PREFIX + "CONFIG" in environ:
                raise ConfigError(f"{path} (from LICHTSTROM_CONFIG) does not exist")
            return cls(path, {})
        try:
            content = tomllib.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: {error}") from error
        create, credentials = content.pop("create", None), content.pop("credentials", "")
        return cls(
            path,
            content,
            None if create is None else converted(bool, create, f"{path}: create"),
            # Beside the file, wherever the program was started.
            credentials and str(path.parent / converted(str, credentials, f"{path}: credentials")),
        )

    def apply(self, values: dict[str, dict[str, Any]]) -> None:
        for section, entries in self.content.items():
            if section in _SECTIONS:
                if not isinstance(entries, dict):
                    raise ConfigError(f"{self.path}: {section} must be a section, [{section}]")
                for key, value in entries.items():
                    _set(values, section, key, value, f"{self.path}: [{section}] {key}")
            elif section != "adapter":  # one section per instrument, read by the command line
                near = nearest(section, _SECTIONS)
                raise ConfigError(f"{self.path}: [{section}] is unknown{near}")


def _environment(
    environ: Mapping[str, str], values: dict[str, dict[str, Any]], create: bool | None
) -> bool | None:
    for name in sorted(environ):
        section, _, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("_")
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        if section == "create" and not key:
            create = converted(bool, environ[name], name)
        elif section in _COMMANDS_TOO and key not in {f.name for f in fields(_SECTIONS[section])}:
            continue
        elif section in _SECTIONS and key:
            _set(values, section, key, environ[name], name)
    return create


def _set(values: dict[str, dict[str, Any]], section: str, key: str, value: Any, where: str) -> None:
    known = {f.name: f for f in fields(_SECTIONS[section])}
    if key not in known:
        raise ConfigError(f"{where} is unknown{nearest(key, known)}")
    values[section][key] = convert(str(known[key].type), value, where)


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
    for entry in fields(kind):
        if entry.type == "Secret":
            file = given.get(f"{entry.name}_file")
            given[entry.name] = secret_in(file) if file else Secret(given.get(entry.name, ""))
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
    choices = {
        "durability": ("process", "disk"),
        "when_full": ("block", "refuse"),
        "mechanism": ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"),
    }
    for key, allowed in choices.items():
        value = getattr(settings, key, allowed[0])
        if value not in allowed:
            raise ConfigError(f"{name}.{key} = {value!r} must be one of {', '.join(allowed)}")


def with_publish(settings: Settings, **changes: Any) -> Settings:
    """Return the settings with some of the publisher's changed; ConfigError names a wrong one."""
    known = {entry.name: entry for entry in fields(PublishSettings)}
    for key in changes:
        if key not in known:
            raise ConfigError(f"publish.{key} is unknown{nearest(key, known)}")
    changed = _build("publish", {name: getattr(settings.publish, name) for name in known} | changes)
    return replace(settings, publish=changed)
