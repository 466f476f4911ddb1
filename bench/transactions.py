"""Points redeemed and card keys bound over HTTP, against a bare script's same transactions."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path

from bench import wrk
from bench.ingest import served
from bench.report import Result, Target
from bench.servers import OWNER, Lab, RunFailed
from shared.cookies import sign

#: Each client is one user.
CLIENTS = 32
KINDS = ("redeem", "bind")
#: Of each client on each side: more than it binds in a second.
_KEYS_PER_S = 90
_ROWS_PER_INSERT = 2_000
_BALANCE = 1_000_000_000


def user_name(number: int) -> str:
    return f"bench{number:05d}"


def key_text(side: str, client: int, number: int) -> str:
    """The *number*th card key that a client of *side* ("http" or "bare") binds."""
    return f"{side}{client:03d}{number:09d}"


def measure(lab: Lab, rounds: int, duration_s: int) -> list[Result]:
    """Each kind of transaction on both sides in turn, *rounds* times."""
    wrk.check_installed()
    rates: dict[tuple[str, str], list[float]] = {}
    with lab.database() as database, served(lab, database, "moonwake") as url:
        keys = (rounds + 1) * duration_s * _KEYS_PER_S
        _provision(lab, database, keys)
        for number in range(rounds):
            first = (number + 1) * duration_s * _KEYS_PER_S
            for kind in KINDS:
                script = _script(lab.directory / f"{kind}.lua", kind, first)
                load = wrk.run(script, url, duration_s, connections=CLIENTS, threads=CLIENTS)
                rates.setdefault((kind, "http"), []).append(load.requests_per_s)
                rate = _bare(lab, database, kind, duration_s, first)
                rates.setdefault((kind, "bare"), []).append(rate)
        _check(lab, database)
    return [
        Result(
            f"{kind}s",
            "per s",
            rates[kind, "http"],
            "bare asyncmy",
            rates[kind, "bare"],
            Target(0.5),
        )
        for kind in KINDS
    ]


def _bare(lab: Lab, database: str, kind: str, duration_s: int, first: int) -> float:
    """Transactions per second of the bare script; its start is not counted."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.bare", kind, str(duration_s), str(first)],
        env=lab.environ(database),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RunFailed(f"the bare script: {done.stderr}")
    return int(done.stdout) / duration_s


def _provision(lab: Lab, database: str, keys: int) -> None:
    names = [user_name(number) for number in range(CLIENTS)]
    _insert(lab, database, "users (username, password_hash)", [f"('{name}','!')" for name in names])
    columns = "user_points (username, invitation_code, balance, total_earned)"
    rows = [f"('{name}','{name}',{_BALANCE},{_BALANCE})" for name in names]
    _insert(lab, database, columns, rows)
    columns = "points_records (id, username, type, amount, reason)"
    rows = [f"('{name}','{name}','earn',{_BALANCE},'bench')" for name in names]
    _insert(lab, database, columns, rows)
    now, end = ("UTC_TIMESTAMP(3)", "UTC_TIMESTAMP(3) + INTERVAL 7 DAY")
    for side in ("http", "bare"):
        texts = [key_text(side, each, number) for each in range(CLIENTS) for number in range(keys)]
        hashed = [(hashlib.sha256(text.encode()).hexdigest(), text) for text in texts]
        rows = [
            f"('{hash_}','{text}','week','admin_created',{now},{end})" for hash_, text in hashed
        ]
        columns = "card_keys (key_hash, plain_key, key_type, source, created_at, expires_at)"
        _insert(lab, database, columns, rows)


def _insert(lab: Lab, database: str, into: str, rows: list[str]) -> None:
    for start in range(0, len(rows), _ROWS_PER_INSERT):
        values = ",".join(rows[start : start + _ROWS_PER_INSERT])
        lab.sql(f"INSERT INTO {into} VALUES {values}", database)


def _script(path: Path, kind: str, first: int) -> Path:
    """A wrk script: each thread is one user; an answer without success is a fault."""
    now_ms = time.time_ns() // 1_000_000
    cookies = [
        sign(user_name(number), "user", OWNER["PASSWORD"], now_ms) for number in range(CLIENTS)
    ]
    where = "/api/redeem/cardkey" if kind == "redeem" else "/api/user/cardkey"
    bodies = {
        "redeem": "'{}'",
        "bind": """'{"cardKey":"' .. string.format("http%03d%09d", client, at) .. '"}'""",
    }
    body = bodies[kind]
    path.write_text(
        "\n".join(
            (
                "local cookies = {" + ",".join(f'"user_auth={each}"' for each in cookies) + "}",
                f"local at, threads = {first - 1}, {{}}",
                'bad, told = 0, ""',
                "setup = function(thread)",
                '  thread:set("client", #threads)',
                "  table.insert(threads, thread)",
                "end",
                "request = function()",
                "  at = at + 1",
                f'  return wrk.format("POST", "{where}",',
                '    {["Cookie"] = cookies[client + 1], ["Content-Type"] = "application/json"},',
                f"    {body})",
                "end",
                "response = function(status, headers, body)",
                '  if status ~= 200 or string.find(body, "false,", 1, true) == 12 then',
                "    bad, told = bad + 1, body",
                "  end",
                "end",
                "done = function()",
                "  for _, thread in ipairs(threads) do",
                '    local bad = thread:get("bad")',
                "    if bad > 0 then",
                '      print("Non-2xx or 3xx responses: " .. bad .. " " .. thread:get("told"))',
                "    end",
                "  end",
                "end",
            )
        ),
        encoding="utf-8",
    )
    return path


def _check(lab: Lab, database: str) -> None:
    """Raises `RunFailed` unless every point and every key is accounted for."""
    ((wrong,),) = lab.sql(
        "SELECT COUNT(*) FROM user_points a WHERE balance <> (SELECT SUM(amount)"
        " FROM points_records r WHERE r.username = a.username)",
        database,
    )
    ((loose,),) = lab.sql(
        "SELECT COUNT(*) FROM card_keys k LEFT JOIN user_card_keys h ON h.key_hash = k.key_hash"
        " AND h.status = 'used' WHERE k.status = 'used' AND h.id IS NULL",
        database,
    )
    if int(wrong) or int(loose):
        raise RunFailed(f"{wrong} accounts and {loose} keys are wrong afterwards")
