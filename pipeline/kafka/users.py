"""SCRAM users of the broker, and what its ACLs allow them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)

from pipeline.config import KafkaSettings
from pipeline.credentials import Secret
from pipeline.errors import PipelineError
from pipeline.kafka.admin import Admin

#: RFC 7677 asks for 4096 at least; a login costs 5 ms with so many.
_ITERATIONS = 8192
Kind = Literal["topic", "group", "transactional_id", "cluster"]
_KINDS: Mapping[Kind, ResourceType] = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional_id": ResourceType.TRANSACTIONAL_ID,
    "cluster": ResourceType.BROKER,
}


@dataclass(frozen=True, slots=True, order=True)
class Rule:
    """One thing a user may do with a resource; with ``prefixed`` all whose names begin so."""

    kind: Kind
    name: str
    operation: str
    prefixed: bool = True


class Users:
    """Creates and removes users and rules. Needs an administrator's credentials."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin

    def set_password(self, user: str, password: Secret) -> None:
        """Make a user, or give one another password."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, _ITERATIONS)
        change = UserScramCredentialUpsertion(user, info, str(password).encode())
        found = self._admin.client.alter_user_scram_credentials([change])
        self._admin.result(found[user])

    def remove(self, user: str) -> None:
        """Take a user's password away; one that has none is no error."""
        if user not in self.names():
            return
        change = UserScramCredentialDeletion(user, ScramMechanism.SCRAM_SHA_512)
        self._admin.result(self._admin.client.alter_user_scram_credentials([change])[user])

    def names(self) -> list[str]:
        """Return all users that have a password."""
        found = self._admin.result(self._admin.client.describe_user_scram_credentials())
        return sorted(found)

    def allow(self, user: str, rules: Iterable[Rule]) -> None:
        """Add rules; those that are there are no error."""
        bindings = [_binding(user, rule) for rule in rules]
        for future in self._admin.client.create_acls(bindings).values():
            self._admin.result(future)

    def disallow(self, user: str, keep: Iterable[Rule] = ()) -> None:
        """Remove all rules of a user but those to keep."""
        kept = set(keep)
        gone = [rule for rule in self.rules(user) if rule not in kept]
        filters = [_filter(user, rule) for rule in gone]
        if filters:
            for future in self._admin.client.delete_acls(filters).values():
                self._admin.result(future)

    def rules(self, user: str) -> list[Rule]:
        """Return what a user may do."""
        return sorted(rule for name, rule in self.all_rules() if name == user)

    def all_rules(self) -> list[tuple[str, Rule]]:
        """Return the rules of all users, each with its user."""
        every = AclBindingFilter(
            ResourceType.ANY,
            None,
            ResourcePatternType.ANY,
            None,
            None,
            AclOperation.ANY,
            AclPermissionType.ALLOW,
        )
        found = self._admin.result(self._admin.client.describe_acls(every))
        return [(b.principal.removeprefix("User:"), _rule(b)) for b in found if _is_known(b)]


def set_password(settings: KafkaSettings, user: str, password: Secret) -> None:
    """Make a user on the broker of ``settings``, or give one another password."""
    admin = Admin(settings)
    try:
        Users(admin).set_password(user, password)
    finally:
        admin.close()


def require_authorizer(admin: Admin) -> None:
    """Raise PipelineError where the broker keeps no ACLs, so that all may do everything."""
    try:
        Users(admin).all_rules()
    except PipelineError as error:
        if "SECURITY_DISABLED" in repr(error.__cause__) or "authorizer" in str(error).lower():
            raise PipelineError(
                f"Kafka at {admin.settings.bootstrap} keeps no access rules: start it with"
                " `lichtstrom up --secure`, or set authorizer.class.name on its brokers"
            ) from error
        raise


def _binding(user: str, rule: Rule) -> AclBinding:
    return AclBinding(*_pattern(user, rule))


def _filter(user: str, rule: Rule) -> AclBindingFilter:
    return AclBindingFilter(*_pattern(user, rule))


def _pattern(
    user: str, rule: Rule
) -> tuple[ResourceType, str, ResourcePatternType, str, str, AclOperation, AclPermissionType]:
    form = ResourcePatternType.PREFIXED if rule.prefixed else ResourcePatternType.LITERAL
    operation = AclOperation[rule.operation.upper()]
    principal = f"User:{user}"
    # Users come from anywhere: the password, not the address, proves them.
    return (_KINDS[rule.kind], rule.name, form, principal, "*", operation, AclPermissionType.ALLOW)


def _is_known(binding: AclBinding) -> bool:
    return binding.restype in _KINDS.values() and binding.principal.startswith("User:")


def _rule(binding: AclBinding) -> Rule:
    kind = next(kind for kind, known in _KINDS.items() if known == binding.restype)
    prefixed = binding.resource_pattern_type == ResourcePatternType.PREFIXED
    return Rule(kind, binding.name, binding.operation.name.lower(), prefixed)
