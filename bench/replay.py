"""
The same SQL without a worker: recorded once, replayed by the server's own client.

What the server's general log holds of a drain is every statement it was sent, the
transactions' too, in order and as text: nothing is left to render.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path

from bench.servers import Lab, RunFailed
from bench.workload import PREFIX, Backlog, Backlogs
from shared.logging import set_up_logging
from shared.settings import Settings
from worker.deps import open_deps
from worker.drain import ShardDrain
from worker.sinks.plays import PlaysSink

_FROM_LOG = """
SELECT CONCAT(argument, ';') FROM mysql.general_log
WHERE command_type = 'Query' AND thread_id IN (
    SELECT thread_id FROM mysql.general_log WHERE argument LIKE '%UPDATE stream_checkpoints%'
);
"""


def record(lab: Lab, backlogs: Backlogs, backlog: Backlog) -> Path:
    """A file with every statement that draining *backlog* into empty tables sends."""
    script = lab.directory / f"{backlog.name}.sql"
    with lab.database() as database, backlogs.staged(backlog):
        lab.sql("SET GLOBAL log_output = 'TABLE'; TRUNCATE TABLE mysql.general_log")
        lab.sql("SET GLOBAL general_log = ON")
        settings = lab.settings(database, KEY_PREFIX=PREFIX, SHARDS="1", LOG_LEVEL="error")
        set_up_logging(settings)
        try:
            asyncio.run(_drain(settings))
        finally:
            lab.sql("SET GLOBAL general_log = OFF")
    argv, environ = lab.client()
    with script.open("wb") as file:
        argv += ["--raw", f"--execute={_FROM_LOG}"]
        subprocess.run(argv, env=environ, stdout=file, check=True)
    lab.sql("TRUNCATE TABLE mysql.general_log")
    return script


async def _drain(settings: Settings) -> None:
    async with open_deps(settings) as deps:
        if await ShardDrain(deps, PlaysSink(settings), 0).run(slice_s=600):
            raise RunFailed("the drain to be recorded did not end in time")


def replay(lab: Lab, script: Path, database: str) -> float:
    """Seconds that the client takes to send *script* and to throw away what it selects."""
    argv, environ = lab.client(database)
    with script.open("rb") as file:
        begun_s = time.monotonic()
        done = subprocess.run(
            argv,
            env=environ,
            stdin=file,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        duration_s = time.monotonic() - begun_s
    if done.returncode:
        raise RunFailed(f"the replay failed: {done.stderr.decode(errors='replace')[:500]}")
    return duration_s
