"""Shares: shards are divided evenly, nobody is left out, and no more moves than has to."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from worker.shares import Standing


def standing(held: Sequence[int], pending: int, at: int) -> Standing:
    """How worker *at* of those that hold so many sees itself."""
    others = {str(n): shards for n, shards in enumerate(held) if n != at}
    return Standing(str(at), held[at], others, pending, unheld=pending - sum(held))


def taken(held: list[int], pending: int) -> list[int]:
    """Everybody takes what there is room for, one by one, until nothing changes."""
    while sum(held) < pending:
        roomy = [n for n in range(len(held)) if held[n] < standing(held, pending, n).share]
        if not roomy:
            break
        held[min(roomy, key=held.__getitem__)] += 1
    return held


@given(workers=st.integers(1, 9), pending=st.integers(0, 70))
def test_every_shard_finds_a_worker_with_room(workers: int, pending: int) -> None:
    """And no worker holds more than pending / workers, rounded up."""
    held = taken([0] * workers, pending)

    assert pending == sum(held)
    assert max(held) <= max(1, math.ceil(pending / workers))


@given(held=st.lists(st.integers(0, 12), min_size=1, max_size=9))
def test_any_division_becomes_even_and_then_nothing_moves(held: list[int]) -> None:
    """Also where some have the rounded-up share and one has nothing."""
    pending = sum(held)
    for _ in range(20 * len(held)):
        gives = [standing(held, pending, n).surplus for n in range(len(held))]
        assert sum(map(bool, gives)) <= 1
        held = taken([each - gone for each, gone in zip(held, gives, strict=True)], pending)

    assert [0] * len(held) == [standing(held, pending, n).surplus for n in range(len(held))]
    assert max(held) - min(held) <= 1
    assert pending == sum(held)


def test_a_newcomer_takes_one_shard_from_one_worker() -> None:
    """Eight workers with two shards each do not all end a drain for it."""
    held = [2] * 8 + [0]

    assert [0] * 7 + [1, 0] == [standing(held, 16, n).surplus for n in range(9)]


def test_what_is_on_its_way_counts() -> None:
    """A shard that was given up and is not taken yet is the newcomer's already."""
    assert 1 == standing([3, 1], 4, at=0).surplus
    assert 0 == standing([2, 1], 4, at=0).surplus
    assert 0 == Standing("a", 3, {"b": 1}, pending=5, unheld=1).surplus


def test_a_worker_alone_keeps_everything() -> None:
    """There is nobody to give to."""
    alone = Standing("a", 64, {}, pending=64)

    assert (64, 0, False) == (alone.share, alone.surplus, alone.others_have_room)
