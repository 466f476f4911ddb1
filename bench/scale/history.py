"""
What a site has stored after years: users with few or many records, popular and rare titles.

Every record follows from its number, so that any of ten million is known without asking.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

from bench.servers import Lab, RunFailed
from bench.workload import SOURCES

#: Records of twenty users; then it begins anew: half of the users have ten, one in twenty
#: has three hundred.
_COUNTS = (10,) * 10 + (40,) * 6 + (120,) * 3 + (300,)
RECORDS_PER_CYCLE = sum(_COUNTS)
TITLES = 50_000
#: Where users find what they have no record of.
NEW_SOURCE = "newsource"
_ROWS_PER_STATEMENT, _STATEMENTS_PER_COMMIT = 1_000, 200
_PLAYED_MS = 1_716_000_000_000
_RECORD_COLUMNS = (
    "username,source,content_id,title,source_name,cover,year,episode_index,total_episodes,"
    "play_time,total_time,search_title,remarks,save_time,original_episodes,event_ms"
)
_VIEWER_COLUMNS = "username,source,content_id,first_seen_ms"

#: (username, source, content id)
Key = tuple[str, str, str]


def key_of(number: int) -> Key:
    """The key of stored record *number*; in the order of numbers they are sorted."""
    cycle, within = divmod(number, RECORDS_PER_CYCLE)
    user = cycle * len(_COUNTS)
    for count in _COUNTS:
        if within < count:
            break
        within -= count
        user += 1
    return (username(user), *contents_of(user)[within])


def new_key_of(number: int, edition: int) -> Key:
    """A key that is not stored, of the user who has record *number*; another in each *edition*."""
    user, _, content_id = key_of(number)
    return user, NEW_SOURCE, f"{content_id}.{edition}"


def username(user: int) -> str:
    return f"viewer{user:07d}"


@lru_cache(maxsize=1_000)
def contents_of(user: int) -> list[tuple[str, str]]:
    """(source, content id) of what *user* has records of, sorted; popular titles are in most."""
    count = _COUNTS[user % len(_COUNTS)]
    start = user * 0.6180339887 % 1
    titles = [
        slot + int((TITLES - count) * ((slot + (start + slot * 0.7548776662) % 1) / count) ** 3)
        for slot in range(count)
    ]
    return sorted(_content(title) for title in titles)


def _content(title: int) -> tuple[str, str]:
    return SOURCES[title % len(SOURCES)], f"{40_000 + title}"


# --- writing it ---------------------------------------------------------------------


def fill(lab: Lab, database: str, records: int) -> None:
    """Store *records* records, a multiple of a cycle, with their users, viewers and contents."""
    argv, environ = lab.client(database)
    client = subprocess.Popen(
        argv,
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert client.stdin is not None
    assert client.stderr is not None
    try:
        for statement in _statements(records):
            client.stdin.write(statement)
        client.stdin.close()
    except BrokenPipeError:
        pass  # what it died of is told below
    told = client.stderr.read()
    if client.wait():
        raise RunFailed(f"the history was not stored: {told[:500]}")


def _statements(records: int) -> Iterator[str]:
    """Sorted rows in large statements, checks left out: they hold by construction."""
    yield "SET unique_checks=0, foreign_key_checks=0, autocommit=0;\n"
    yield from _inserts("users", "username,password_hash", _users(records))
    stats = "source,content_id,title,source_name,play_count,total_watch_time,unique_users"
    yield from _inserts("content_stats", stats, _contents())
    yield from _inserts("play_records", _RECORD_COLUMNS, _records(records))
    yield from _inserts("content_viewers", _VIEWER_COLUMNS, _viewers(records))
    yield "ANALYZE TABLE play_records, content_viewers, content_stats, users;\n"


def _inserts(table: str, columns: str, rows: Iterator[str]) -> Iterator[str]:
    number = 0
    while part := list(islice(rows, _ROWS_PER_STATEMENT)):
        yield f"INSERT INTO {table} ({columns}) VALUES {','.join(part)};\n"
        number += 1
        if number % _STATEMENTS_PER_COMMIT == 0:
            yield "COMMIT;\n"
    yield "COMMIT;\n"


def _users_with(records: int) -> range:
    return range(records // RECORDS_PER_CYCLE * len(_COUNTS))


def _users(records: int) -> Iterator[str]:
    return (f"('{username(user)}','!')" for user in _users_with(records))


def _contents() -> Iterator[str]:
    for source, content_id in sorted(map(_content, range(TITLES))):
        yield f"('{source}','{content_id}','Title {content_id}','影视 {source}',1000,900000,400)"


def _records(records: int) -> Iterator[str]:
    number = 0
    for user in _users_with(records):
        name = username(user)
        for source, content_id in contents_of(user):
            number += 1
            picture = f"{number * 2_654_435_761 % 2**64:016x}"
            yield (
                f"('{name}','{source}','{content_id}','Title {content_id}','影视 {source}',"
                f"'https://img.example.net/upload/vod/20240517-1/{picture}{picture}.jpg','2023',"
                f"{1 + number % 12},12,{number % 2712},2712,'Title {content_id}','HD',"
                f"'2024-05-18 02:40:00.000',12,{_PLAYED_MS})"
            )


def _viewers(records: int) -> Iterator[str]:
    for user in _users_with(records):
        name = username(user)
        for source, content_id in contents_of(user):
            yield f"('{name}','{source}','{content_id}',{_PLAYED_MS})"
