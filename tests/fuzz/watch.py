"""What a reader must not do while it reads: write anywhere, open what lies elsewhere, call out, take long, take all."""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import velatura

CPU_SECONDS = 2.0  # of a case; time of the processor, for machines are shared
MEMORY = 512 * 2**20  # bytes by which a case may raise the peak of the process
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {  # which of the arguments are changed
    "os.remove": (0,), "os.rmdir": (0,), "os.mkdir": (0,), "os.truncate": (0,), "os.chmod": (0,), "os.rename": (0, 1),
    "os.link": (1,), "os.symlink": (1,),
}  # fmt: skip
_NEVER = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "socket.connect",
    "socket.getaddrinfo",
)
_HUB = os.environ.get(
    "HF_HOME", str(Path.home() / ".cache" / "huggingface")
)  # looks for models there, and for its token
_LIBRARIES = (
    _HUB,
    sys.prefix,
    sys.base_prefix,
    str(Path(velatura.__file__).parent),
    "/proc",
    "/sys",
    "/usr",
    "/etc/mime",
)

_inside: str | None = None  # the folder of the case that runs
_reads_anywhere = False


class Broken(BaseException):
    """A rule was broken; no reader may catch this."""


@contextmanager
def watched(folder: Path, *, reads_anywhere: bool = False) -> Iterator[None]:
    """Raise Broken at what breaks a rule. The time limit works in a main thread only."""
    global _inside, _reads_anywhere
    _listen()
    before = peak_memory()
    _inside, _reads_anywhere = os.path.realpath(folder), reads_anywhere
    old = signal.signal(signal.SIGPROF, _too_slow)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        with warnings.catch_warnings(action="ignore"):  # of Pillow and torch about damage
            yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)
        _inside = None
    if (grown := peak_memory() - before) > MEMORY:
        raise Broken(f"took {grown / 2**20:.0f} MiB")


def peak_memory() -> int:
    """Bytes of this process that were in memory at once, at most."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def limit_memory(room: int) -> None:
    """Let this process allocate no more than `room` bytes above what it has; POSIX only, where /proc tells that."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + room
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def fast_folder() -> str | None:
    """A folder in memory, where there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise Broken(f"took more than {CPU_SECONDS:g} s")


def _listen() -> None:
    """Audit hooks stay for the life of the process: one is enough."""
    if not hasattr(sys, "_velatura_fuzz"):
        sys._velatura_fuzz = True  # type: ignore[attr-defined]
        sys.addaudithook(_heard)


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if _inside is None:
        return
    if event == "open" and isinstance(arguments[0], str | bytes):
        _check_open(os.fsdecode(arguments[0]), arguments[1], arguments[2])
    elif event in _CHANGES:
        for changed in _CHANGES[event]:
            if not _within(arguments[changed]) and not _of_open_folder(arguments):
                raise Broken(f"{event} of {arguments[changed]}")
    elif event in _NEVER:
        raise Broken(f"{event} {arguments}")


def _check_open(path: str, mode: str | None, flags: int) -> None:
    writes = bool(flags & _WRITES) if mode is None else any(sign in mode for sign in "wax+")
    allowed = _reads_anywhere or os.path.realpath(path).startswith(_LIBRARIES)
    if _within(path) or (allowed and not writes):
        return
    raise Broken(f"{'writes' if writes else 'reads'} {path}")


def _of_open_folder(arguments: tuple[Any, ...]) -> bool:
    """A name in a folder that is open already, as when a tree is removed."""
    return (
        not Path(os.fsdecode(arguments[0])).is_absolute()
        and isinstance(arguments[-1], int)
        and arguments[-1] >= 0
    )


def _within(path: object) -> bool:
    assert _inside is not None
    if not isinstance(path, str | bytes | os.PathLike):
        return True  # a descriptor, which was opened before
    real = os.path.realpath(os.fsdecode(path))
    return real == _inside or real.startswith(_inside + os.sep)
