"""Random event sequences for property tests: few keys, so that events meet each other."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.plays import record

USERS = ("ann", "bob")
CONTENTS = ("1", "2")
#: 2023-11-14 23:59 in Asia/Shanghai: sequences cross a midnight.
START_MS = 1_699_977_540_000

_records = st.builds(
    lambda optional, **fields: record(**fields, **optional),
    optional=st.fixed_dictionaries(
        {}, optional={"original_episodes": st.integers(0, 30), "note": st.just("extra")}
    ),
    index=st.integers(1, 2),
    play_time=st.integers(0, 4000),
    total_episodes=st.integers(0, 30),
)


def _save(user: str, content: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {"v": 1, "op": "save", "user": user, "source": "s", "id": content, "record": fields}


def _delete(user: str, content: str) -> dict[str, Any]:
    return {"v": 1, "op": "delete", "user": user, "source": "s", "id": content}


_users, _contents = st.sampled_from(USERS), st.sampled_from(CONTENTS)
_saves = st.builds(_save, _users, _contents, _records)
_events = st.one_of(
    _saves,
    _saves,
    _saves,
    st.builds(_delete, _users, _contents),
    st.builds(lambda user: {"v": 1, "op": "clear", "user": user}, _users),
)
_gaps_ms = st.one_of(
    st.integers(0, 60_000), st.sampled_from([1_800_000, 1_800_001, 0, 1, 333, 40_000_000])
)


@st.composite
def timed_events(draw: st.DrawFn, longest: int = 25) -> list[tuple[int, dict[str, Any]]]:
    """(ms, event) in stream order; times never fall and may repeat."""
    steps = draw(st.lists(st.tuples(_gaps_ms, _events), min_size=1, max_size=longest))
    ms, timed = START_MS, []
    for gap_ms, event in steps:
        ms += gap_ms
        timed.append((ms, event))
    return timed
