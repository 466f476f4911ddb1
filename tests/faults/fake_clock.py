"""A clock of one server alone, set while it runs: libfaketime from the system's packages."""

from __future__ import annotations

import os
from pathlib import Path

#: Where distributions keep it; Debian's has the machine's name in the path.
_PATTERNS = (
    "usr/lib/*/faketime/libfaketime.so.1",
    "usr/lib/faketime/libfaketime.so.1",
    "usr/lib64/faketime/libfaketime.so.1",
    "usr/local/lib/faketime/libfaketime.so.1",
)
_SHARED_MEMORY = Path("/dev/shm")
#: The library reads its file again when what it knows is older than this.
CACHED_S = 1


def find_faketime(root: Path = Path("/")) -> Path | None:
    """The library, if it is installed below *root*."""
    return next((path for pattern in _PATTERNS for path in sorted(root.glob(pattern))), None)


class FakeClock:
    """The wall clock of a process that is started with `environ()`; others keep theirs.

    Intervals (the monotonic clock) are left alone.
    """

    def __init__(self, library: Path, file: Path) -> None:
        self._library = library
        self._file = file
        self.shift(0)

    def environ(self) -> dict[str, str]:
        """The environment of the process whose clock this is."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            # The C library's allocator comes before jemalloc, which asks for the time while
            # libfaketime, which needs memory to start, cannot tell it yet.
            "LD_PRELOAD": f"{self._library} libc.so.6",
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": str(CACHED_S),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def shift(self, ahead_s: int) -> None:
        """From at most CACHED_S seconds on it is *ahead_s* seconds ahead of the machine's."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{ahead_s:+d}\n")
        fresh.replace(self._file)

    def forget(self, pid: int) -> None:
        """Remove what the library leaves of a process that was killed."""
        for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
            (_SHARED_MEMORY / name).unlink(missing_ok=True)
