"""Secrets: text that does not show itself, certificates, and the file that a user is given.

``lichtstrom access grant --json`` prints such a file once; ``connect(credentials=FILE)``, the
environment (``LICHTSTROM_CREDENTIALS``) and ``lichtstrom.toml`` (``credentials``) take it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pipeline.errors import ConfigError

_PEM = "-----BEGIN CERTIFICATE-----"
#: A certificate of an authority and its chain have a few kB; a secret some bytes.
_LARGEST_NBYTES = 1 << 20
_KAFKA = ("bootstrap", "username", "password", "ca")
_SECRETS = frozenset({"password", "secret_key"})
_S3 = ("endpoint", "access_key", "secret_key", "bucket", "prefix", "ca")


class Secret(str):
    """Text that does not show itself in ``repr`` (logs, tracebacks, dataclasses)."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'" if self else "''"


def certificates(ca: str) -> str:
    """Return the certificates of ``ca``, PEM text or the path of a file with some, as PEM text.

    Raises ConfigError that names the path.
    """
    if not ca or _PEM in ca:
        return ca
    text = _text(Path(ca).expanduser(), "a certificate authority's certificate")
    if _PEM not in text:
        raise ConfigError(f"{ca} has no certificate: one in PEM, -----BEGIN CERTIFICATE-----")
    return text


def secret_in(path: str) -> Secret:
    """Return the secret in a file, line ends cut off; ConfigError names the path only."""
    return Secret(_text(Path(path).expanduser(), "a secret").rstrip("\r\n"))


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaCredentials:
    """A user of the broker: SCRAM over TLS; ``ca`` is PEM text or a path, empty: the system's."""

    bootstrap: str
    username: str
    password: Secret
    ca: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Credentials:
    """A user of the S3 server, and the bucket that the user's beamtime has there."""

    endpoint: str
    access_key: str
    secret_key: Secret
    bucket: str
    #: What the keys in the bucket begin with; empty: the bucket is the beamtime's own.
    prefix: str
    ca: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What ``lichtstrom access grant --json`` prints; ``s3`` None where there is no S3 server."""

    user: str
    kafka: KafkaCredentials
    s3: S3Credentials | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what lies in a file; raises ConfigError that names the file, never its values."""
        try:
            found = json.loads(_text(path.expanduser(), "credentials"))
        except ValueError as error:
            # The parser's own text quotes what it stumbled over.
            raise ConfigError(f"{path}: not JSON, so no credentials of `access grant`") from error
        return cls.of(found, where=str(path))

    @classmethod
    def of(cls, found: Any, *, where: str) -> Self:
        """Return credentials from parsed JSON; ``where`` is for messages."""
        whole = _table(found, ("user", "kafka", "s3"), where)
        if not isinstance(whole.get("user"), str):
            raise ConfigError(f"{where}: user is missing, or no text")
        kafka = _texts(whole.get("kafka"), _KAFKA, f"{where}: kafka")
        s3 = whole.get("s3")
        return cls(
            user=whole["user"],
            kafka=KafkaCredentials(**kafka),
            s3=S3Credentials(**_texts(s3, _S3, f"{where}: s3")) if s3 is not None else None,
        )

    @property
    def prefix(self) -> str:
        """What the names of topics and buckets begin with: the first part of the user's name."""
        return self.kafka.username.partition(".")[0] if "." in self.kafka.username else ""

    def to_json(self) -> dict[str, Any]:
        """Return the object with its secrets, to be shown once."""
        return {
            "user": self.user,
            "kafka": {name: str(getattr(self.kafka, name)) for name in _KAFKA},
            "s3": {name: str(getattr(self.s3, name)) for name in _S3} if self.s3 else None,
        }


def _table(found: Any, names: tuple[str, ...], where: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ConfigError(f"{where}: not an object with {', '.join(names)}")
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise ConfigError(f"{where}: {unknown[0]} is unknown; known: {', '.join(names)}")
    return found


def _texts(found: Any, names: tuple[str, ...], where: str) -> dict[str, Any]:
    table = _table(found, names, where)
    for name in names:
        if not isinstance(table.get(name), str):
            raise ConfigError(f"{where}.{name} is missing, or no text")
    return {name: Secret(text) if name in _SECRETS else text for name, text in table.items()}


def _text(path: Path, what: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_NBYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} ({what}) cannot be read: {error.strerror}") from error
    if len(data) > _LARGEST_NBYTES:
        raise ConfigError(f"{path} ({what}) has more than {_LARGEST_NBYTES >> 20} MiB")
    try:
        return data.decode()
    except UnicodeDecodeError:
        # Without its cause, which has the bytes.
        raise ConfigError(f"{path} ({what}) is not text") from None


#: Variables that are, hold or name secrets: ours, and those of Amazon's programs.
_SECRET_VARIABLES = (
    "LICHTSTROM_CREDENTIALS",
    "LICHTSTROM_KAFKA_PASSWORD",
    "LICHTSTROM_KAFKA_PROPERTIES",
    "LICHTSTROM_STORE_ACCESS_KEY",
    "LICHTSTROM_STORE_SECRET_KEY",
    "LICHTSTROM_CONNECT_",
    "AWS_",
    "ROOT_ACCESS_KEY",
    "ROOT_SECRET_",
)


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for others' code: without our secrets, or where they lie."""
    return {n: v for n, v in environment.items() if not n.startswith(_SECRET_VARIABLES)}
