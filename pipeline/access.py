"""Who may what with a beamtime: one user of the broker and of the S3 server at once.

A user of a beamtime has a name of its own for it (``<prefix>.<beamtime>.<user>``), so that what is
taken away in one beamtime leaves the others alone.  Rules of the broker end in a dot (beamtime
``c1`` is not one of ``c10``), and a beamtime has a bucket of its own: no policy of the store relies
on how keys begin.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from pipeline.blobs.admin import BucketAdmin
from pipeline.blobs.links import Links
from pipeline.blobs.users import UserAdmin, VersityUsers
from pipeline.config import Settings
from pipeline.credentials import (
    Credentials,
    KafkaCredentials,
    S3Credentials,
    Secret,
    certificates,
)
from pipeline.errors import InvalidArgumentError, PipelineError, StoreDeniedError
from pipeline.kafka.admin import Admin
from pipeline.kafka.users import Rule, Users, require_authorizer
from pipeline.naming import Names, check_name, escape, unescape

Role = Literal["read", "write", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
_OBJECTS: Mapping[Role, tuple[str, ...]] = {
    "read": ("s3:GetObject",),
    "write": (
        "s3:GetObject",
        "s3:PutObject",
        "s3:AbortMultipartUpload",
        "s3:ListMultipartUploadParts",
    ),
    # Not s3:*: who may write policies and ACLs can let in anybody.
    "admin": (
        "s3:GetObject",
        "s3:PutObject",
        "s3:AbortMultipartUpload",
        "s3:ListMultipartUploadParts",
        "s3:DeleteObject",
    ),
}
_BUCKET: Mapping[Role, tuple[str, ...]] = {
    "read": ("s3:ListBucket", "s3:GetBucketLocation"),
    "write": ("s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"),
    "admin": ("s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"),
}


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Access:
    """One user's access to one beamtime; a role None where that server knows nothing of it."""

    beamtime: str
    user: str
    kafka: Role | None
    s3: Role | None


class AccessControl:
    """Grants, revokes and lists. Needs the administrator's credentials of both servers.

    Nothing is contacted before the first call; ``close`` releases the connections.
    """

    def __init__(self, settings: Settings, *, users: UserAdmin | None = None) -> None:
        self._settings = settings
        self._names = Names(settings.kafka.prefix)
        self._admin = Admin(settings.kafka)
        self._kafka = Users(self._admin)
        # The store may be reached as files here; users reach it by S3.
        self._store = replace(settings.store, url="s3://")
        self._links = Links(self._store, store="s3://")
        self._buckets = BucketAdmin(self._links, store="s3://")
        self._s3_users = users or VersityUsers(self._links, store="s3://")

    @property
    def _has_s3(self) -> bool:
        return bool(self._store.endpoints)

    def grant(self, beamtime: str, user: str, role: Role) -> Credentials:
        """Give a user a role, and new secrets: those of an earlier grant are void.

        Blocks for a few requests to each server. Raises the errors of these; what was done before
        one is undone by :meth:`revoke`, and completed by granting again.
        """
        if role not in ROLES:
            raise InvalidArgumentError("role", f"{role!r} is not one of {', '.join(ROLES)}")
        self._check_store()
        require_authorizer(self._admin)
        name = self._name(beamtime, user)
        s3 = self._grant_s3(beamtime, name, role) if self._has_s3 else None
        rules = self._rules(beamtime, role)
        self._kafka.allow(name, rules)
        self._kafka.disallow(name, keep=rules)
        password = _new_secret()
        self._kafka.set_password(name, password)
        kafka = KafkaCredentials(
            bootstrap=self._settings.kafka.bootstrap,
            username=name,
            password=password,
            ca=certificates(self._settings.kafka.ca),
        )
        return Credentials(user=user, kafka=kafka, s3=s3)

    def revoke(self, beamtime: str, user: str) -> bool:
        """Take everything away; False if there was nothing.

        Requests that begin after this call are refused; connections to the broker that are open
        are closed when they must prove themselves again (20 s with ``lichtstrom up --secure``).
        All is tried before an error is raised.
        """
        name = self._name(beamtime, user)
        had = any(a.user == user for a in self.list(beamtime)) or name in self._kafka.names()
        steps: list[Callable[[], None]] = [
            lambda: self._kafka.remove(name),
            lambda: self._kafka.disallow(name),
        ]
        if self._has_s3:
            steps += [
                lambda: self._s3_users.remove(name),
                lambda: self._set_policy(beamtime, self._without(beamtime, name)),
            ]
        failures: list[PipelineError] = []
        for step in steps:
            try:
                step()
            except PipelineError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return had

    def list(self, beamtime: str | None = None) -> list[Access]:
        """Return who has access, to one beamtime or to all that the broker knows."""
        found: dict[tuple[str, str], set[Rule]] = {}
        for name, rule in self._kafka.all_rules():
            place = self._parse(name)
            if place is not None and beamtime in (None, place[0]):
                found.setdefault(place, set()).add(rule)
        beamtimes = {b for b, _ in found} | (
            {beamtime} if beamtime else set(self._admin.beamtimes())
        )
        stored = {b: self._roles_in_policy(b) for b in beamtimes} if self._has_s3 else {}
        everybody = set(found) | {(b, u) for b, roles in stored.items() for u in roles}
        return sorted(
            Access(
                beamtime=b,
                user=u,
                kafka=self._role_of(b, found.get((b, u), set())),
                s3=stored.get(b, {}).get(u),
            )
            for b, u in everybody
        )

    def extend(self, beamtime: str) -> None:
        """Bring the rules of all users of a beamtime up to date, after a detector was made."""
        for access in self.list(beamtime):
            if access.kafka is not None:
                name = self._name(beamtime, access.user)
                self._kafka.allow(name, self._rules(beamtime, access.kafka))

    def close(self) -> None:
        """Release the connections."""
        self._admin.close()
        self._links.close()

    # -- the broker -------------------------------------------------------------------------------

    def _name(self, beamtime: str, user: str) -> str:
        check_name("beamtime", beamtime)
        check_name("user", user)
        return f"{self._names.prefix}.{escape(beamtime)}.{escape(user)}"

    def _parse(self, name: str) -> tuple[str, str] | None:
        parts = name.split(".")
        if len(parts) != 3 or parts[0] != self._names.prefix:
            return None
        try:
            return unescape(parts[1]), unescape(parts[2])
        except PipelineError:
            return None

    def _rules(self, beamtime: str, role: Role) -> set[Rule]:
        """Return what a role may on the broker, for the detectors that there are."""
        own = f"{self._names.prefix}.{escape(beamtime)}."
        topic = {"read", "describe", "describe_configs"}
        group = {"read", "describe"}
        rules = {
            Rule("topic", self._names.schemas(), "read", prefixed=False),
            # The client asks who coordinates its group, also where it uses none.
            Rule("group", f"{self._names.prefix}.reader", "describe", prefixed=False),
        }
        if role == "read":
            # Retries and dead letters of groups: topics named after a detector's, and a dot.
            # The detector's own topic, which has no dot behind it, is not among them.
            for detector in self._detector_topics(own):
                rules |= {Rule("topic", f"{detector}.", op) for op in ("write", "create")}
        else:
            topic |= {"write", "create"}
            rules |= {Rule("transactional_id", own, op) for op in ("write", "describe")}
        if role == "admin":
            topic |= {"delete", "alter", "alter_configs"}
            group |= {"delete"}
        return (
            rules | {Rule("topic", own, x) for x in topic} | {Rule("group", own, x) for x in group}
        )

    def _detector_topics(self, own: str) -> Iterable[str]:
        catalogue = f"{own}catalogue"
        for topic in self._admin.topics():
            rest = topic.removeprefix(own)
            if topic.startswith(own) and "." not in rest and topic != catalogue:
                yield topic

    def _role_of(self, beamtime: str, rules: set[Rule]) -> Role | None:
        own = f"{self._names.prefix}.{escape(beamtime)}."
        for role, sign in (("admin", "delete"), ("write", "write"), ("read", "read")):
            if Rule("topic", own, sign) in rules:
                return role  # type: ignore[return-value] # one of ROLES
        return None

    # -- the store --------------------------------------------------------------------------------

    def _check_store(self) -> None:
        parts = self._settings.store.url.removeprefix("s3://")
        if self._settings.store.url.startswith("s3://") and parts:
            raise InvalidArgumentError(
                "store.url",
                f"{self._settings.store.url!r} keeps all beamtimes in one bucket, where nothing"
                " parts them: access is granted for s3://, a bucket per beamtime",
            )

    def _grant_s3(self, beamtime: str, name: str, role: Role) -> S3Credentials:
        bucket = self._names.bucket(beamtime)
        self._buckets.create(bucket)
        if role != "read" and not self._s3_users.keeps_to_buckets(bucket):
            raise StoreDeniedError(
                "s3://",
                "this server lets who writes to one bucket reach all others by ../ in upload"
                " ids or keys (versitygw 1.7.0 as it comes): only the role read can be granted;"
                " docs/security.md says how to close it",
            )
        secret = _new_secret()
        self._s3_users.put(name, secret)
        self._set_policy(beamtime, {**self._without(beamtime, name), name: role})
        return S3Credentials(
            endpoint=",".join(self._store.endpoints),
            access_key=name,
            secret_key=secret,
            bucket=bucket,
            prefix="",
            ca=certificates(self._store.ca),
        )

    def _without(self, beamtime: str, name: str) -> dict[str, Role]:
        roles = self._roles_in_policy(beamtime)
        return {
            self._name(beamtime, user): role
            for user, role in roles.items()
            if self._name(beamtime, user) != name
        }

    def _set_policy(self, beamtime: str, roles: Mapping[str, Role]) -> None:
        bucket = self._names.bucket(beamtime)
        # A policy that names a user who is gone is refused.
        known = set(self._s3_users.names())
        kept = {name: role for name, role in roles.items() if name in known}
        if kept:
            self._buckets.set_policy(bucket, policy_of(bucket, kept))
        elif bucket in self._buckets.names():
            self._buckets.delete_policy(bucket)

    def _roles_in_policy(self, beamtime: str) -> dict[str, Role]:
        bucket = self._names.bucket(beamtime)
        if bucket not in self._buckets.names():
            return {}
        found: dict[str, Role] = {}
        for name, role in roles_of(self._buckets.policy(bucket)).items():
            place = self._parse(name)
            if place is not None and place[0] == beamtime:
                found[place[1]] = role
        return found


def policy_of(bucket: str, roles: Mapping[str, Role]) -> str:
    """Return the policy of a bucket: per role one statement on its objects and one on itself."""
    statements = []
    for role in ROLES:
        users = sorted(name for name, given in roles.items() if given == role)
        if not users:
            continue
        itself, objects = f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"
        for sid, actions, resources in (
            # versitygw asks about a request that deletes many as one about the bucket.
            (f"{role}Objects", _OBJECTS[role], [objects, itself]),
            (f"{role}Bucket", _BUCKET[role], [itself]),
        ):
            statement = {"Sid": sid, "Effect": "Allow", "Principal": {"AWS": users}}
            statements.append(statement | {"Action": list(actions), "Resource": resources})
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def roles_of(policy: str) -> dict[str, Role]:
    """Undo :func:`policy_of`; statements of others say nothing."""
    found: dict[str, Role] = {}
    for statement in json.loads(policy)["Statement"] if policy else ():
        for role in ROLES:
            if statement.get("Sid") == f"{role}Objects":
                found |= dict.fromkeys(statement["Principal"]["AWS"], role)
    return found


def _new_secret() -> Secret:
    # 256 bits: neither guessed nor found from what a broker's disk has of it.
    return Secret(secrets.token_urlsafe(32))
