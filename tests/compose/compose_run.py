"""Run compose.yaml for real; see ``--help``."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from compose_engine import NoEngineError, engine, ensure_compose, prepare, with_compose
from compose_images import ROOT, NoImageError, plugin_built, pulled, settings, stand_ins

from pipeline.errors import PipelineError

PROJECT = "lichtstrom-check"
_TESTS_LIMIT_S = 900.0
_started_s = time.monotonic()


def main() -> int:
    """Prepare an engine and images, run check_stack.py, leave nothing behind."""
    parser = argparse.ArgumentParser(
        prog="tests/compose/run",
        description="Start the whole of compose/compose.yaml and look at what comes out. Uses the"
        " Docker engine of this machine; where none answers, root starts one for the run. Images"
        " that cannot be pulled are replaced, in an engine of its own only, by stand-ins made from"
        " the same programs. Exit status 0 if everything passed or nothing could be run.",
    )
    parser.add_argument("--full", action="store_true", help="Also what CI has no time for.")
    parser.add_argument("--config-only", action="store_true", help="Only validate compose.yaml.")
    parser.add_argument(
        "--prepare", action="store_true", help="Only install the engine and build Compose."
    )
    options = parser.parse_args()
    environ = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="lichtstrom-compose-") as name:
        folder = Path(name)
        try:
            if options.config_only:
                if shutil.which("docker") is None:
                    prepare()
                return validate(with_compose(environ, folder))
            if options.prepare:
                prepare()
                ensure_compose()
                return 0
            with ThreadPoolExecutor(1) as pool, engine() as (environ, ours):
                compose = pool.submit(ensure_compose)
                chosen = images(environ, folder, ours=ours)
                compose.result()
                return check(with_compose(environ, folder) | chosen, full=options.full)
        except (NoEngineError, NoImageError) as error:
            tell(f"THE STACK WAS NOT RUN: {error}")
            print("0 passed, 0 failed, 1 skipped", flush=True)
            return 0
        except PipelineError as error:
            tell(f"FAILED: {error}")
            print("0 passed, 1 failed", flush=True)
            return 1


def tell(text: str) -> None:
    """Say on stderr what goes on, with the seconds since the start."""
    print(f"[compose {time.monotonic() - _started_s:5.1f} s] {text}", file=sys.stderr, flush=True)


def validate(environ: dict[str, str]) -> int:
    """Let Compose read the file with every profile."""
    argv = ["docker", "compose", "-f", str(ROOT / "compose" / "compose.yaml"), "--profile", "*"]
    done = subprocess.run([*argv, "config", "--quiet"], env=environ, timeout=60, check=False)
    print(f"{int(not done.returncode)} passed, {int(bool(done.returncode))} failed", flush=True)
    return done.returncode


def images(environ: dict[str, str], folder: Path, *, ours: bool) -> dict[str, str]:
    """Have every image; return the settings that differ from compose/.env."""
    names = settings()
    profiles = names["COMPOSE_PROFILES"].split(",")
    chosen: dict[str, str] = {}
    real = pulled(environ, names["KAFKA_IMAGE"])
    if not real and not ours:
        raise NoImageError(f"{names['KAFKA_IMAGE']} is not there and cannot be pulled")
    if not real:
        tell("no image can be pulled here: stand-ins are made from the same jars and programs")
        chosen = stand_ins(environ, folder, tell)
        if not plugin_built(tell):
            tell("LEFT OUT: connect, whose plugin needs Maven here")
            profiles.remove("connect")
    chosen["COMPOSE_PROFILES"] = ",".join(profiles)
    if not real:
        tell(f"LEFT OUT: Grafana, whose image {names['GRAFANA_IMAGE']} cannot be pulled")
        chosen["LICHTSTROM_CHECK_WITHOUT"] = "grafana"
    return chosen


def check(environ: dict[str, str], *, full: bool) -> int:
    """Build our images and run the checks; containers, volumes and networks go afterwards."""
    environ |= {
        "COMPOSE_FILE": str(ROOT / "compose" / "compose.yaml"),
        "COMPOSE_PROJECT_NAME": PROJECT,
        "LICHTSTROM_CHECK_FULL": str(int(full)),
    }
    tell("building our images")
    services = ["setup", *(["connect"] if "connect" in environ["COMPOSE_PROFILES"] else [])]
    done = subprocess.run(
        ["docker", "compose", "--progress", "quiet", "build", *services],
        env=environ,
        timeout=900,
        check=False,
    )
    if done.returncode:
        print("0 passed, 1 failed", flush=True)
        return done.returncode
    listing = ["docker", "image", "ls", "--format", "{{.Repository}} {{.Size}}", "lichtstrom*"]
    sizes = subprocess.run(listing, env=environ, capture_output=True, text=True, check=False).stdout
    tell(f"starting the stack; sizes: {', '.join(sizes.splitlines())}")
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--no-cov", "-v"]
    argv += ["--durations=5", str(Path(__file__).with_name("check_stack.py"))]
    try:
        return subprocess.run(
            argv, env=environ, cwd=ROOT, timeout=_TESTS_LIMIT_S, check=False
        ).returncode
    finally:
        down = ["docker", "compose", "--profile", "*", "--progress", "quiet", "down"]
        down += ["--volumes", "--remove-orphans", "--timeout", "5"]
        subprocess.run(down, env=environ, timeout=120, check=False)


if __name__ == "__main__":
    sys.exit(main())
