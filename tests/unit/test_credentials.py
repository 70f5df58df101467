"""Credentials and secrets: what the file is, and that nothing of it shows itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import config
from pipeline.access import ROLES, Role, policy_of, roles_of
from pipeline.credentials import Credentials, without_secrets
from pipeline.errors import ConfigError
from pipeline.kafka.client import security

HUSH = "hush-hush-hush"
PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
GIVEN: dict[str, Any] = {
    "user": "alice",
    "kafka": {"bootstrap": "b:1", "username": "facility.c1.alice", "password": HUSH, "ca": PEM},
    "s3": {
        "endpoint": "https://s:1",
        "access_key": "facility.c1.alice",
        "secret_key": HUSH,
        "bucket": "facility-c1",
        "prefix": "",
        "ca": PEM,
    },
}


def written(folder: Path, value: Any = GIVEN) -> Path:
    path = folder / "credentials.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_a_file_of_credentials_says_who_we_are_and_where(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert Credentials.read(path).to_json() == GIVEN
    for found in (
        config.load(credentials=path, environment={}),
        config.load(environment={"LICHTSTROM_CREDENTIALS": str(path)}),
    ):
        assert (found.kafka.bootstrap, found.kafka.prefix) == ("b:1", "facility")
        assert (found.store.url, found.store.endpoints) == ("s3://", ("https://s:1",))
        assert security(found.kafka) == {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": "facility.c1.alice",
            "sasl.password": HUSH,
            "ssl.ca.pem": PEM,
        }
        assert found.create is False
        assert HUSH not in repr(found)
    assert HUSH not in repr(Credentials.read(path))


@pytest.mark.parametrize(
    "value",
    [
        "{" + HUSH,
        [HUSH],
        {"user": HUSH},
        {**GIVEN, "passwort": HUSH},
        {**GIVEN, "kafka": {**GIVEN["kafka"], "password": [HUSH]}},
    ],
)
def test_what_is_wrong_in_the_file_is_told_without_its_values(tmp_path: Path, value: Any) -> None:
    path = written(tmp_path, value)
    with pytest.raises(ConfigError, match="credentials") as caught:
        Credentials.read(path)
    assert HUSH not in str(caught.value)


@pytest.mark.parametrize("line", [f"password = ['{HUSH}']", f"properties = ['{HUSH}']"])
def test_a_secret_of_the_wrong_type_is_not_quoted(tmp_path: Path, line: str) -> None:
    path = tmp_path / "lichtstrom.toml"
    path.write_text(f"[kafka]\n{line}\n")
    with pytest.raises(ConfigError, match="kafka") as caught:
        config.load(environment={"LICHTSTROM_CONFIG": str(path)})
    assert HUSH not in str(caught.value)


def test_the_administrators_password_is_for_the_runtimes_broker_alone(tmp_path: Path) -> None:
    runtime = {
        "kafka": {"bootstrap": "own:1", "username": "admin", "password": HUSH, "ca": PEM},
        "store": {"url": "file:///store"},
    }
    (tmp_path / "runtime.json").write_text(json.dumps(runtime))
    home = {"LICHTSTROM_HOME": str(tmp_path)}
    assert str(config.load(environment=home).kafka.password) == HUSH
    other = config.load(environment={**home, "LICHTSTROM_KAFKA_BOOTSTRAP": "other:1"})
    assert (other.kafka.username, str(other.kafka.password), other.kafka.ca) == ("", "", "")


def test_passwords_come_from_files_too(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(HUSH + "\n")
    names = {"LICHTSTROM_KAFKA_PASSWORD_FILE": str(tmp_path / "password")}
    assert str(config.load(environment=names).kafka.password) == HUSH


def test_the_code_of_others_gets_no_variable_with_a_secret() -> None:
    kept = {"PATH": "/bin", "LICHTSTROM_HOME": "/home", "LICHTSTROM_KAFKA_BOOTSTRAP": "b:1"}
    secret = dict.fromkeys(
        (
            "LICHTSTROM_CREDENTIALS",
            "LICHTSTROM_KAFKA_PASSWORD",
            "LICHTSTROM_KAFKA_PASSWORD_FILE",
            "LICHTSTROM_KAFKA_PROPERTIES",
            "LICHTSTROM_STORE_SECRET_KEY",
            "AWS_SECRET_ACCESS_KEY",
            "LICHTSTROM_CONNECT_URL",
        ),
        HUSH,
    )
    assert without_secrets({**kept, **secret}) == kept


def test_a_policy_says_each_users_role_and_lets_nobody_change_it() -> None:
    roles: dict[str, Role] = {f"p.c1.{role}": role for role in ROLES}
    text = policy_of("p-c1", roles)
    assert roles_of(text) == roles
    assert roles_of("") == {}
    for word in ("s3:*", '"*"', 'Policy"', "Acl"):
        assert word not in text
