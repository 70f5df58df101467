"""A certificate authority of one runtime, and the certificates of its servers.

ECDSA on P-256: what Java, OpenSSL, Go and rustls all take.  Keys are PKCS#8 without a passphrase
in files that their owner alone reads: a passphrase would have to lie beside them.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import RuntimeUnavailableError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

_DAY = datetime.timedelta(days=1)
_CA_LIFE = 3650 * _DAY
#: What Apple and others still accept of a server; renewed by the first `up` in its last 60 days.
_LIFE = 397 * _DAY
_RENEW = 60 * _DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """The files of one certificate: ``both`` has key and chain, as Kafka wants them."""

    certificate: Path
    key: Path
    both: Path


class Authority:
    """The authority in a folder: made on first use, and only there.

    Raises RuntimeUnavailableError where the package ``cryptography`` is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.certificate = folder / "ca.pem"
        self._key = folder / "ca.key"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        _package()
        if not self.certificate.exists():
            self._make()

    def issue(self, name: str, *, hosts: Sequence[str] = ()) -> Issued:
        """Return the certificate of ``CN=name`` for these hosts; a good one is kept."""
        issued = Issued(
            certificate=self._folder / f"{name}.pem",
            key=self._folder / f"{name}.key",
            both=self._folder / f"{name}.both.pem",
        )
        wanted = sorted({*hosts, *_local_names()})
        if not self._is_good(issued, wanted):
            self._issue(name, wanted, issued)
        return issued

    def _make(self) -> None:
        from cryptography import x509

        key = _new_key()
        name = _name(f"lichtstrom CA on {socket.gethostname()}"[:64])
        now = datetime.datetime.now(datetime.UTC)
        builder = _builder(name, name, key, now, _CA_LIFE)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        builder = builder.add_extension(_usage(ca=True), True)
        _write(self._key, _pem_of_key(key))
        _write(self.certificate, _pem(_signed(builder, key)), mode=0o644)

    def _issue(self, name: str, hosts: Sequence[str], issued: Issued) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
        from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose

        ca = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        ca_key: EllipticCurvePrivateKey = load_pem_private_key(self._key.read_bytes(), None)  # type: ignore[assignment] # our own
        key = _new_key()
        now = datetime.datetime.now(datetime.UTC)
        builder = _builder(_name(name), ca.subject, key, now, _LIFE)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        builder = builder.add_extension(_usage(ca=False), True)
        purposes = [Purpose.SERVER_AUTH, Purpose.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), False)
        names = x509.SubjectAlternativeName([_host(host) for host in hosts])
        builder = builder.add_extension(names, False)
        certificate, private = _pem(_signed(builder, ca_key)), _pem_of_key(key)
        _write(issued.key, private)
        _write(issued.both, private + certificate)
        _write(issued.certificate, certificate, mode=0o644)

    def _is_good(self, issued: Issued, hosts: Sequence[str]) -> bool:
        from cryptography import x509

        if not all(path.exists() for path in (issued.key, issued.both, issued.certificate)):
            return False
        found = x509.load_pem_x509_certificate(issued.certificate.read_bytes())
        ca = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        left = found.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
        present = {str(n.value) for n in names}
        return found.issuer == ca.subject and set(hosts) <= present and left > _RENEW


def _package() -> None:
    try:
        import cryptography  # noqa: F401 -- only whether it is there
    except ImportError as error:
        raise RuntimeUnavailableError(
            "certificates are made with the package cryptography, which is not installed:"
            " pip install 'lichtstrom[secure]'"
        ) from error


def _local_names() -> tuple[str, ...]:
    return ("127.0.0.1", "::1", "localhost", socket.gethostname())


def _host(host: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(text: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: EllipticCurvePrivateKey,
    now: datetime.datetime,
    life: datetime.timedelta,
) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks at beamlines differ by minutes.
        .not_valid_before(now - _DAY)
        .not_valid_after(now + life)
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(builder: x509.CertificateBuilder, key: EllipticCurvePrivateKey) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    public = key.public_key()
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(public)
    return builder.add_extension(identifier, False).sign(key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _pem_of_key(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    partial.replace(path)
