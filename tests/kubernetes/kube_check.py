"""``make kubernetes``: builds every overlay and holds what comes out to schemas and to our code."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from kube_schemas import file_name, write_schemas
from kube_tools import prepare

ROOT = Path(__file__).parents[2]
OVERLAYS = ROOT / "compose/kubernetes/overlays"
SCHEMAS = "{{ .ResourceKind }}-{{ .Group }}-{{ .ResourceAPIVersion }}.json"
LIMIT_S = 120.0


def build(kustomize: Path, overlay: Path) -> str:
    """Return what ``kustomize build`` prints for an overlay."""
    done = subprocess.run(
        [kustomize, "build", str(overlay)],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    if done.returncode:
        sys.exit(f"{overlay}: {done.stderr.strip()}")
    return done.stdout


def documents(text: str) -> list[dict[str, Any]]:
    """Return the resources of one overlay."""
    return [document for document in yaml.safe_load_all(text) if document]


def main() -> int:
    """Check all overlays; returns the exit status."""
    begun_s = time.monotonic()
    kustomize, kubeconform, definitions = prepare()
    prepared_s = time.monotonic() - begun_s
    built = {o.name: build(kustomize, o) for o in sorted(OVERLAYS.iterdir()) if o.is_dir()}
    wanted = {(d["apiVersion"], d["kind"]) for text in built.values() for d in documents(text)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_schemas(definitions, wanted, folder)
        missing = [n for n in wanted if not (folder / file_name(*n)).exists()]
        if missing:
            sys.exit(f"nobody says what these kinds are: {sorted(missing)}")
        for overlay, text in built.items():
            path = folder / f"{overlay}.yaml"
            path.write_text(text)
            argv = [kubeconform, "-strict", "-summary", "-schema-location", f"{folder}/{SCHEMAS}"]
            done = subprocess.run([*argv, path], check=False, timeout=LIMIT_S)
            if done.returncode:
                return 1
            print(f"{overlay}: {len(documents(text))} resources", flush=True)
    print(
        f"kubernetes: {len(built)} overlays build and are valid"
        f" ({prepared_s:.0f} s to get tools and schemas, {time.monotonic() - begun_s:.0f} s in all)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
