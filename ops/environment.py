"""
The environment of the local stack: what the operator gave, and what `.run/env` remembers.

Each group of variables comes whole from one of the two, decided by its leader: a
USERNAME that the login shell exports never meets a PASSWORD that we made up, nor
one server's password another server's address.
"""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path

from ops.files import write_private
from ops.servers import free_port
from shared.errors import SettingsError
from shared.settings import Settings, from_env

#: Where `moonwake up` keeps everything, below the folder it is started in.
RUN = Path(".run")
GROUPS = {
    "PASSWORD": ("USERNAME", "PASSWORD"),
    "MYSQL_HOST": (
        "MYSQL_HOST",
        "MYSQL_PORT",
        "MYSQL_USER",
        "MYSQL_PASSWORD",
        "MYSQL_DATABASE",
    ),
    "REDIS_URL": ("REDIS_URL",),
}
HEADER = """\
# Made by `moonwake up`, which reads it at every start. Holds secrets.
# A shell can read it too: set -a; . .run/env
"""


def settings(run: Path = RUN) -> Settings:
    """The settings of a command: the environment's, else those of the stack in *run*.

    Raises `SettingsError`.
    """
    try:
        return from_env(merge(os.environ, load(run)))
    except SettingsError as error:
        if (run / "env").exists():
            raise
        raise SettingsError(
            f"{error}; nor is there {run / 'env'} here, of `moonwake up`"
        ) from error


def merge(given: Mapping[str, str], saved: Mapping[str, str]) -> dict[str, str]:
    """*given*, with each group that it does not lead taken from *saved*."""
    merged = {**saved, **given}
    for leader, names in GROUPS.items():
        source = given if given.get(leader) else saved
        for name in names:
            merged.pop(name, None)
            if name in source:
                merged[name] = source[name]
    return merged


def load(run: Path) -> dict[str, str]:
    """What `.run/env` remembers; nothing when there is none."""
    path = run / "env"
    if not path.exists():
        return {}
    words = shlex.split(path.read_text(), comments=True)
    return {
        name: value for name, equals, value in (word.partition("=") for word in words) if equals
    }


def save(run: Path, values: Mapping[str, str]) -> None:
    """Replace `.run/env` in one step."""
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in sorted(values.items())]
    write_private(run / "env", HEADER + "".join(lines))


def complete(given: Mapping[str, str], saved: Mapping[str, str]) -> dict[str, str]:
    """*saved* with an owner and random passwords for every group that *given* does not lead."""
    values = dict(saved)
    if not given.get("PASSWORD"):
        values.setdefault("USERNAME", "admin")
        values.setdefault("PASSWORD", secrets.token_urlsafe(24))
    if not given.get("MYSQL_HOST"):
        values |= {"MYSQL_HOST": "127.0.0.1", "MYSQL_USER": "moontv", "MYSQL_DATABASE": "moontv"}
        values.setdefault("MYSQL_PORT", str(free_port()))
        # In hex: it stands in configuration files and SQL, each with its own quoting.
        values.setdefault("MYSQL_PASSWORD", secrets.token_hex(16))
    if not given.get("REDIS_URL"):
        # With the user's name: redis-cli sends an empty one as it stands, and is refused.
        login = f"default:{secrets.token_hex(16)}"
        values.setdefault("REDIS_URL", f"redis://{login}@127.0.0.1:{free_port()}/0")
    return values
