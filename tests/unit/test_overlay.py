"""The overlay's merge: what counts, what goes over what, what damage does."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from shared.overlay import merge, read_overlay
from shared.published import Checkpoint
from shared.streams import BEGINNING, EntryId


def saved(at: str, kind: str = "x", number: int = 3, **fields: Any) -> bytes:
    """An overlay value as append.lua writes it for a save."""
    return f"{at} stamp s {kind} {number} ".encode() + orjson.dumps({"title": "t", **fields})


def views(
    fields: dict[bytes, bytes],
    stored: dict[bytes, dict[str, Any]] | None = None,
    published: EntryId = BEGINNING,
) -> dict[str, Any]:
    """What a read returns for an overlay over *stored*."""
    merged = merge(stored or {}, read_overlay(fields, Checkpoint(last=published)))
    return {name.decode(): orjson.loads(value.partition(b" ")[2]) for name, value in merged.items()}


STORED = {b"s+1": {"title": "stored", "original_episodes": 7}}


@pytest.mark.parametrize(
    ("at", "published", "counts"),
    [
        ("5-0", EntryId(5, 0), False),
        ("5-1", EntryId(5, 0), True),
        ("5-9", EntryId(5, 10), False),
        ("9-0", EntryId(10, 0), False),
        ("10-0", EntryId(9, 5), True),
        ("18446744073709551615-1", EntryId(18446744073709551615, 0), True),
        ("9007199254740993-0", EntryId(9007199254740992, 0), True),
    ],
)
def test_a_field_counts_only_above_the_published_checkpoint(
    at: str, published: EntryId, counts: bool
) -> None:
    """Positions compare as pairs of whole numbers, never as text and never rounded."""
    overlay = read_overlay({b"s+1": saved(at)}, Checkpoint(last=published))

    assert counts == (b"s+1" in overlay.saved)
    assert counts == (overlay.settled == [])


@pytest.mark.parametrize(
    ("at", "counts"),
    [("5-0 known", False), ("7-0 known", True), ("9-0 forgotten", False), ("9-2 new", True)],
)
def test_each_stream_is_settled_up_to_its_own_last_entry(at: str, counts: bool) -> None:
    """Ids of one need not be greater than another's; an unknown one is new above the checkpoint."""
    published = Checkpoint(last=EntryId(9, 1), stamps={"known": EntryId(6, 0)})
    value = f"{at} s x 3 ".encode() + orjson.dumps({"title": "t"})

    overlay = read_overlay({b"s+1": value}, published)

    assert counts == (b"s+1" in overlay.saved)


def test_a_save_goes_over_the_stored_record_and_a_delete_takes_it_away() -> None:
    """Only keys with a pending event change."""
    stored = {**STORED, b"s+2": {"title": "kept", "original_episodes": 1}}

    assert {"s+1": "t", "s+2": "kept"} == {
        key: view["title"] for key, view in views({b"s+1": saved("5-0")}, stored).items()
    }
    assert ["s+2"] == list(views({b"s+1": b"5-0 stamp d"}, stored))


def test_a_clear_hides_what_is_stored_and_what_came_before_it() -> None:
    """Saves after the clear stay; fields from before it would only be left by damage."""
    fields = {b"clear": b"5-0 stamp c", b"s+2": saved("4-0"), b"s+3": saved("6-0")}

    assert ["s+3"] == list(views(fields, STORED))


def test_a_settled_clear_hides_nothing() -> None:
    """MySQL applied it already, and may hold records saved afterwards."""
    assert ["s+1"] == list(views({b"clear": b"5-0 stamp c"}, STORED, EntryId(5, 0)))


@pytest.mark.parametrize(
    ("kind", "stored", "expected"),
    [("x", {}, 3), ("x", STORED, 3), ("u", {}, 3), ("u", STORED, 7)],
)
def test_original_episodes_follow_the_client_then_the_stored_record(
    kind: str, stored: dict[bytes, dict[str, Any]], expected: int
) -> None:
    """'x' is final; 'u' takes the stored record's, or the number where none is stored."""
    [view] = views({b"s+1": saved("5-0", kind)}, stored).values()

    assert expected == view["original_episodes"]


def test_the_time_of_a_save_is_the_client_s_or_the_entry_s() -> None:
    """As it will be once it is drained."""
    assert 5 == views({b"s+1": saved("5-0")})["s+1"]["save_time"]
    assert 77 == views({b"s+1": saved("5-0", save_time=77)})["s+1"]["save_time"]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"junk",
        b"5 stamp s x 1 {}",
        b"5-x stamp d",
        b"5-0",
        b"5-0 stamp z",
        b"5-0 stamp s x",
        b"5-0 stamp s y 1 {}",
        b"5-0 stamp s x one {}",
        b"5-0 stamp s x 1 [1]",
        b"5-0 stamp s x 1 {",
    ],
)
def test_a_damaged_field_is_told_and_does_not_count(value: bytes) -> None:
    """Neither a save nor a clear comes out of it."""
    overlay = read_overlay({b"s+1": value, b"clear": value}, Checkpoint())

    assert [b"clear", b"s+1"] == overlay.damaged
    assert {"s+1": STORED[b"s+1"]} == views({b"s+1": value, b"clear": value}, STORED)
