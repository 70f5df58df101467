"""``up --secure``: TLS and users on every listener, and folders that others cannot read.

Clients come as SCRAM users over TLS; the broker's own listeners, to itself and to its controller,
ask for a certificate of the runtime's authority instead.  Nobody may do anything that no ACL
allows; the administrator and the broker may do everything.
"""

from __future__ import annotations

import secrets
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import KafkaSettings
from pipeline.credentials import Secret
from pipeline.errors import RuntimeUnavailableError
from pipeline.local.net import LOOPBACK
from pipeline.local.secure_certificates import Authority, Issued

#: The user that `up` makes, and whose password `runtime.json` has.
ADMINISTRATOR = "lichtstrom-admin"
BROKER = "lichtstrom-broker"
_S3 = "lichtstrom-s3"
#: How long a connection lives on after its user's password was taken away.
REAUTHENTICATE_MS = 20_000

_PROPERTIES = """
listeners=CLIENT://{host}:{port},CONTROLLER://{host}:{controller_port},INTERNAL://{host}:{internal}
advertised.listeners=CLIENT://{host}:{port},INTERNAL://{host}:{internal}
inter.broker.listener.name=INTERNAL
listener.security.protocol.map=CLIENT:SASL_SSL,CONTROLLER:SSL,INTERNAL:SSL
ssl.enabled.protocols=TLSv1.3,TLSv1.2
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={truststore}
listener.name.controller.ssl.client.auth=required
listener.name.internal.ssl.client.auth=required
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.client.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
# A user who was taken away is out after so long, on connections that were open already, too.
connections.max.reauth.ms={reauthenticate_ms}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:CN={broker};User:{administrator}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Secured:
    """The certificates of one home."""

    ca: Path
    broker: Issued
    s3: Issued

    def broker_properties(self, ports: tuple[int, ...]) -> str:
        """Return lines for the broker's properties: later ones win."""
        port, controller_port, internal = ports
        return _PROPERTIES.format(
            host=LOOPBACK,
            port=port,
            controller_port=controller_port,
            internal=internal,
            keystore=self.broker.both,
            truststore=self.ca,
            reauthenticate_ms=REAUTHENTICATE_MS,
            broker=BROKER,
            administrator=ADMINISTRATOR,
        )

    def context(self) -> ssl.SSLContext:
        """Return what asks the broker's inner listener, as the broker itself."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.broker.certificate, self.broker.key)
        return context

    def make_administrator(self, internal_port: int, password: str) -> None:
        """Give the administrator this password; the broker's certificate may."""
        from pipeline.kafka.users import set_password

        settings = KafkaSettings(
            bootstrap=f"{LOOPBACK}:{internal_port}",
            timeout_s=30.0,
            properties={
                "security.protocol": "SSL",
                "ssl.ca.location": str(self.ca),
                "ssl.certificate.location": str(self.broker.certificate),
                "ssl.key.location": str(self.broker.key),
            },
        )
        set_password(settings, ADMINISTRATOR, Secret(password))


def prepare(home: Path) -> Secured:
    """Return the certificates of ``home``, made if need be, and close its folders to others.

    Raises RuntimeUnavailableError for a store that everybody may read.
    """
    store = home / "store"
    _check_store(store)
    # Others must reach their beamtime's folder, and see nothing else on the way.
    home.chmod(0o711)
    for name in ("kafka", "log", "connect", "s3-iam", "s3-metadata"):
        folder = home / name
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
    authority = Authority(home / "tls")
    return Secured(
        ca=authority.certificate,
        broker=authority.issue(BROKER),
        s3=authority.issue(_S3),
    )


def load(home: Path) -> Secured:
    """Return the certificates of a home that was prepared."""
    folder = home / "tls"

    def issued(name: str) -> Issued:
        return Issued(
            certificate=folder / f"{name}.pem",
            key=folder / f"{name}.key",
            both=folder / f"{name}.both.pem",
        )

    return Secured(ca=folder / "ca.pem", broker=issued(BROKER), s3=issued(_S3))


def new_password() -> str:
    """Return a password nobody guesses."""
    return secrets.token_urlsafe(32)


def _check_store(store: Path) -> None:
    made = not any(store.iterdir())
    if made:
        store.chmod(0o711)
    if store.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        raise _open_to_all(store, f"chmod o-rw {store}")
    for folder in store.iterdir():
        if folder.is_dir() and folder.stat().st_mode & stat.S_IRWXO:
            raise _open_to_all(folder, f"chmod o-rwx {store}/*/")


def _open_to_all(folder: Path, remedy: str) -> RuntimeUnavailableError:
    return RuntimeUnavailableError(
        f"--secure: every user of this machine may read {folder} as files, past all policies:"
        f" `{remedy}` first"
    )
