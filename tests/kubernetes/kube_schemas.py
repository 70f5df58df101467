"""JSON schemas, strict, of the kinds in OpenAPI definitions and CustomResourceDefinitions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

_QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
_INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
_TEXT_OR_NUMBER = {"anyOf": [{"type": "string"}, {"type": "number"}]}


def write_schemas(definitions: Iterable[Path], wanted: set[tuple[str, str]], to: Path) -> None:
    """Write ``<kind>-<group>-<version>.json`` for each (apiVersion, kind) that is known."""
    for path in definitions:
        text = path.read_text()
        found = _of_openapi(text, wanted) if path.suffix == ".json" else _of_crd(text)
        for (api_version, kind), schema in found:
            if (api_version, kind) in wanted:
                (to / file_name(api_version, kind)).write_text(json.dumps(schema))


def file_name(api_version: str, kind: str) -> str:
    """Return the name that kubeconform asks for by SCHEMAS in kube_check.py; v1 is a group."""
    group, _, version = api_version.rpartition("/")
    return f"{kind}-{group or version}-{version}.json".lower()


def _of_openapi(
    text: str, wanted: set[tuple[str, str]]
) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    every = json.loads(text)["definitions"]
    for definition in every.values():
        for entry in definition.get("x-kubernetes-group-version-kind", ()):
            name = "/".join(filter(None, (entry["group"], entry["version"]))), entry["kind"]
            if name in wanted:
                used: dict[str, Any] = {}
                schema = _resolved(definition, every, used)
                yield name, {**schema, "definitions": used}


def _resolved(schema: Any, every: dict[str, Any], used: dict[str, Any]) -> Any:
    """Return the schema, strict, and put what it refers to into ``used``."""
    if isinstance(schema, list):
        return [_resolved(entry, every, used) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    target = str(schema.get("$ref", "")).removeprefix("#/definitions/")
    if target in (_QUANTITY, _INT_OR_STRING):
        return _TEXT_OR_NUMBER
    if target and target not in used:
        used[target] = {}  # it may refer to itself
        used[target] = _resolved(every[target], every, used)
    return _strict({k: _resolved(v, every, used) for k, v in schema.items()})


def _of_crd(text: str) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    for crd in yaml.safe_load_all(text):
        spec = crd["spec"]
        for version in spec["versions"]:
            name = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
            schema = _of_structural(version["schema"]["openAPIV3Schema"])
            # Strict below; metadata is Kubernetes' own and not in the definition.
            schema["properties"]["metadata"] = {"type": "object"}
            yield name, schema


def _of_structural(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_of_structural(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return _TEXT_OR_NUMBER
    inner = {k: _of_structural(v) for k, v in schema.items()}
    return inner if schema.get("x-kubernetes-preserve-unknown-fields") else _strict(inner)


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Refuse fields that nobody knows: a typing error in one is what goes unseen in a cluster."""
    is_object = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    return {**schema, "additionalProperties": False} if is_object else schema
