"""What the rivals need that moonwake does not: made by the bench, below folders git ignores."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from bench.rivals.contenders import NODE, ROOT, Kind
from bench.servers import RunFailed

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
VENV = ROOT / ".rivals" / "venv"
_NODE_MAJOR_MIN = 20


class NotSetUp(RunFailed):
    """A rival that cannot run on this machine; the message says what is missing."""


def program_of(kind: Kind) -> str:
    """The interpreter for contenders of *kind*, everything they need installed.

    Raises `NotSetUp`.
    """
    if kind is Kind.CELERY:
        return _virtualenv()
    return _node() if kind is Kind.NODE else sys.executable


def _virtualenv() -> str:
    """celery refuses the redis-py that arq needs, so it has an environment of its own."""
    python, stamp = VENV / "bin" / "python", VENV / "made-from"
    wanted = sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return str(python)
    shutil.rmtree(VENV, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(VENV)], "python -m venv")
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    locked = ["--require-hashes", "-r", str(REQUIREMENTS)]
    _run([str(python), *install, *locked], "pip install")
    stamp.write_text(wanted)
    return str(python)


def _node() -> str:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise NotSetUp(
            f"no {'npm' if node else 'node'} on this machine: apt-get install nodejs npm"
        )
    version = _run([node, "--version"], "node --version").strip().lstrip("v")
    if int(version.partition(".")[0]) < _NODE_MAJOR_MIN:
        raise NotSetUp(f"node {version} is too old: {_NODE_MAJOR_MIN} or newer is needed")
    stamp = NODE / "node_modules" / ".made-from"
    wanted = sha256((NODE / "package-lock.json").read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        options = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        _run([npm, "ci", "--prefix", str(NODE), *options], "npm ci")
        stamp.write_text(wanted)
    return node


def _run(argv: Sequence[str], what: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=NODE)
    if done.returncode:
        told = (done.stderr or done.stdout).strip().splitlines() or [f"exit {done.returncode}"]
        raise NotSetUp(f"{what} failed: {told[-1][:200]}")
    return done.stdout
