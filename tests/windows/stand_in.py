"""Makes our code poorer until it has what Python has on Windows, then runs adapters.

What is taken away: the modules, functions and flags that Python lacks there; names that NTFS
refuses; the freedom to rename over, delete or replace a file that is open.  ``sys.platform`` stays,
because the standard library below us is that of Linux.
"""

# The very functions that are taken away:
# ruff: noqa: PTH100, PTH112, PTH115, PTH120, PTH123, PTH208
from __future__ import annotations

import builtins
import importlib
import os
import signal
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

#: Modules of the standard library, and of ours' dependencies, that Windows does not have.
MODULES = ("fcntl", "pwd", "grp", "resource", "termios", "inotify_simple", "syslog", "posix_ipc")
#: Attributes of modules that are missing there (Python documentation, "Availability").
MISSING: dict[ModuleType, tuple[str, ...]] = {
    os: (
        "fork", "forkpty", "getuid", "geteuid", "getgid", "getegid", "chown", "fchown", "fchmod",
        "statvfs", "fstatvfs", "mkfifo", "mknod", "sched_getaffinity", "killpg", "getpgid",
        "posix_fadvise", "posix_fallocate", "pread", "pwrite", "preadv", "pwritev", "readv",
        "writev", "setsid", "sendfile", "sync", "nice", "wait", "waitid",
        "fdatasync", "getloadavg", "uname", "sysconf",
        "O_DIRECTORY", "O_CLOEXEC", "O_NOFOLLOW", "O_DIRECT", "O_SYNC", "O_NONBLOCK", "O_TMPFILE",
        "getxattr", "setxattr", "listxattr", "eventfd", "memfd_create", "copy_file_range", "splice",
    ),
    socket: ("AF_UNIX", "socketpair_unix", "SO_REUSEPORT"),
    signal: ("SIGKILL", "SIGSTOP", "SIGCONT", "SIGHUP", "SIGUSR1", "SIGUSR2", "pthread_kill",
             "pthread_sigmask", "setitimer", "alarm", "pause", "sigwait"),
}  # fmt: skip
#: What is not ours: the standard library's parts and our dependencies.
OTHERS = (
    "asyncio", "multiprocessing.util", "subprocess", "tempfile", "platform",
    "numpy", "h5py", "hdf5plugin", "confluent_kafka.admin", "obstore.store", "minio", "urllib3",
    "fastavro", "google_crc32c", "tifffile", "zstandard", "dectris.compression", "filelock",
    "click", "rich",
)  # fmt: skip
#: Characters and names that NTFS, or Windows above it, refuses.
BAD_CHARACTERS = set('<>:"|?*\\') | {chr(code) for code in range(32)}
RESERVED = {"con", "prn", "aux", "nul"} | {f"{n}{i}" for n in ("com", "lpt") for i in range(1, 10)}


def is_legal(name: str) -> bool:
    """Tell whether a file or folder may be called so."""
    return (
        not BAD_CHARACTERS & set(name)
        and not name.endswith((".", " "))
        and name.partition(".")[0].rstrip().lower() not in RESERVED
        and len(name) <= 255
    )


def become_poor(folder: Path) -> None:
    """Take everything away from our code; files below ``folder`` behave as on NTFS."""
    _guard_files(os.fspath(folder) + "/")
    _guard_imports({module.__name__: _poorer(module, names) for module, names in MISSING.items()})


def _poorer(module: ModuleType, missing: tuple[str, ...]) -> ModuleType:
    """Return a copy of a module without some of its names."""
    poor = ModuleType(module.__name__, module.__doc__)
    poor.__dict__.update({k: v for k, v in vars(module).items() if k not in missing})
    if module is os:
        poor.kill = _kill  # type: ignore[attr-defined]
    return poor


def _guard_imports(poor: dict[str, ModuleType]) -> None:
    """Give the poorer modules to all but the standard library and what has Windows packages."""
    import_as_before = builtins.__import__
    library = os.path.dirname(os.__file__)

    def guarded(name: str, globals: Any = None, *args: Any, **kw: Any) -> Any:
        if str((globals or {}).get("__file__", "")).startswith(library):
            return import_as_before(name, globals, *args, **kw)
        if name.partition(".")[0] in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        found = import_as_before(name, globals, *args, **kw)
        return poor.get(name, found)

    builtins.__import__ = guarded


def _kill(pid: int, number: int) -> None:
    # os.kill(pid, 0) sends CTRL_C_EVENT there, any other number ends the process.
    raise AssertionError(f"os.kill({pid}, {number}) hurts a process on Windows")


def _guard_files(below: str) -> None:
    rename, replace, unlink = os.rename, os.replace, os.unlink

    def check(path: Any) -> str:
        text = os.path.abspath(os.fspath(path))
        return os.fsdecode(text)

    def check_not_open(path: Any) -> None:
        text = check(path)
        if text.startswith(below) and text in _open_paths():
            raise PermissionError(13, "used by another process [WinError 32]", text)

    def guarded_rename(source: Any, target: Any, **kw: Any) -> None:
        if os.path.lexists(target) and not kw:
            raise FileExistsError(17, "cannot rename over a file [WinError 183]", str(target))
        check_not_open(source)
        rename(source, target, **kw)

    def guarded_replace(source: Any, target: Any, **kw: Any) -> None:
        check_not_open(source)
        check_not_open(target)
        replace(source, target, **kw)

    def guarded_unlink(path: Any, **kw: Any) -> None:
        if not kw:
            check_not_open(path)
        unlink(path, **kw)

    os.rename, os.replace, os.unlink, os.remove = (
        guarded_rename, guarded_replace, guarded_unlink, guarded_unlink,
    )  # fmt: skip

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.mkdir", "os.rename"):
            return
        for argument in arguments[: 2 if event == "os.rename" else 1]:
            if not isinstance(argument, (str, bytes)):
                continue
            path = os.path.abspath(os.fsdecode(argument))
            if path.startswith(below) and not all(map(is_legal, path[len(below) :].split("/"))):
                raise OSError(22, "NTFS refuses the name [WinError 123]", path)
        if event == "open" and isinstance(arguments[0], str):
            is_folder = os.path.isdir(arguments[0])
            if is_folder and arguments[0].startswith(below):
                raise PermissionError(13, "a folder cannot be opened", arguments[0])

    sys.addaudithook(audit)


def _open_paths() -> set[str]:
    """What this process has open or mapped."""
    paths = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            paths.add(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    with open("/proc/self/maps") as maps:
        paths.update(line.rstrip("\n").partition("/")[2].join(("/", "")) for line in maps)
    return paths


def main() -> None:
    folder = Path(sys.argv[1])
    # These have packages for Windows; here they look at the platform and take what it has.
    for name in OTHERS:
        importlib.import_module(name)
    become_poor(folder)
    import end_to_end

    end_to_end.run(folder, sys.argv[2])


if __name__ == "__main__":
    main()
