"""
moonwake without the overlay: a copy of its packages whose append writes the stream only.

For one row of the table, what read-your-writes costs; no setting of the product does this.
The copy is made by taking lines away, and refuses when they are no longer there.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from bench.rivals.contenders import ROOT
from bench.rivals.setting_up import NotSetUp

_PACKAGES = ("api", "schema", "shared", "worker")
#: Overlay field and cached copy, then the version that tells readers of a change.
OVERLAY_LINES = ("write[ARGV[at]](", "redis.call('SET', KEYS[key + 1], id)")
_CLEAN_UP = "async def clear_pending("
_NO_CLEAN_UP = """

async def clear_pending(*_: object) -> None:
    \"\"\"There is nothing to clear.\"\"\"
"""


def make_copy(into: Path) -> Path:
    """*into*, a folder to run `api` and `worker` from. Raises `NotSetUp`."""
    for package in _PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, into / package, ignore=ignored)
    script = into / "shared" / "lua" / "append.lua"
    lines = script.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not line.strip().startswith(OVERLAY_LINES)]
    if len(kept) != len(lines) - len(OVERLAY_LINES):
        raise NotSetUp(f"append.lua no longer has the lines {OVERLAY_LINES}")
    script.write_text("".join(kept), encoding="utf-8")
    holders = [
        path
        for path in (into / "shared").glob("*.py")
        if _CLEAN_UP in path.read_text(encoding="utf-8")
    ]
    if len(holders) != 1:
        raise NotSetUp(f"{len(holders)} modules of shared define clear_pending, not one")
    with holders[0].open("a", encoding="utf-8") as file:
        file.write(_NO_CLEAN_UP)
    return into
