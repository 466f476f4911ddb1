"""
Becomes another program that ends with its owner: `launch.py SIGNAL OWNER PROGRAM ARGV...`.

The kernel is told to send SIGNAL when the thread that started us dies; then this
process turns into PROGRAM. A program of its own, because Python code between fork
and exec (preexec_fn) may deadlock in an owner with threads.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main(death_signal: str, owner: str, program: str, *argv: str) -> None:
    """Never returns; exits with 127 when PROGRAM cannot be run, as a shell does."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(death_signal))
    if os.getppid() != int(owner):  # it died before the line above
        sys.exit("the owner is gone")
    try:
        os.execv(program, argv)  # noqa: S606 -- no shell is wanted
    except OSError as fault:
        sys.stderr.write(f"cannot run {program}: {fault.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main(*sys.argv[1:])
