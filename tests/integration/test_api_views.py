"""A record reads the same wherever it lies: in the overlay, in the cached copy, in MySQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from redis.asyncio import Redis

from shared.mysql import Pool
from shared.settings import Settings
from tests.plays import drain_all
from tests.two_fronts import (
    USER,
    Site,
    two_fronts,
)

texts = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=40)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


counts = st.integers(0, 2**31 - 1)


required = {"title": texts, "source_name": texts, "index": st.integers(1, 2**31 - 1)}


optional = {
    "cover": st.none() | texts,
    "year": st.none() | st.text("0123456789", max_size=20),
    "search_title": st.none() | texts,
    "remarks": st.none() | texts,
    "douban_id": st.none() | st.integers(0, 2**62),
    "type": st.none() | texts,
    "save_time": st.none() | st.integers(0, 253_402_300_799_999),
    "original_episodes": st.none() | counts,
}


#: As browsers send them: every number is there and whole.
tidy_records = st.fixed_dictionaries(
    {**required, "total_episodes": counts, "play_time": counts, "total_time": counts},
    optional=optional,
)


untidy_records = st.builds(
    lambda known, unknown: {**unknown, **known},
    known=st.fixed_dictionaries(
        required,
        optional={
            **optional,
            "total_episodes": st.none() | counts,
            "play_time": st.none() | st.floats(0, 1e6) | counts,
            "total_time": counts,
            "cover": st.just("https://example.org/" + "x" * 2000),
            "year": st.integers(1900, 2100),
            "remarks": st.just("更新至第12集" * 100),
            "douban_id": texts,
        },
    ),
    unknown=st.dictionaries(texts, json_values, max_size=2),
)


sent_records = st.lists(tidy_records | untidy_records, min_size=1, max_size=12)


@pytest.fixture(name="site")
async def _site(migrated: Settings, redis: Redis, pool: Pool) -> AsyncIterator[Site]:
    async with two_fronts(migrated, redis, pool) as site:
        yield site


@given(first=sent_records, second=sent_records)
@effort(max_examples=25, suppress_health_check=list(HealthCheck))
async def test_a_record_looks_the_same_before_and_after_it_is_drained(
    site: Site, first: list[dict[str, Any]], second: list[dict[str, Any]]
) -> None:
    """Read from the cached copy, the overlay or MySQL, each record is the same JSON object."""
    await site.near.clear(USER)
    # The second go over the first, which MySQL holds: original_episodes has a past.
    for sent in (first, second):
        await site.near.records(USER)  # so that appends update a cached copy
        for number, fields in enumerate(sent):
            response = await site.near.save(USER, f"s+{number}", fields)
            assert 200 == response.status_code, response.text
        cached = await site.far.records(USER)
        await site.forget_cached()
        pending = await site.far.records(USER)
        await drain_all(site.deps)
        await site.forget_cached()
        drained = await site.far.records(USER)

        assert cached == pending
        assert pending == drained
    assert max(len(first), len(second)) == len(await site.near.records(USER))
