"""Keys of a LunaTV's Redis: taken for one meaning, or refused."""

from __future__ import annotations

import pytest

from ops.lunatv import Found, past_record
from shared.errors import InvalidField
from worker.history import PastRecord

RECORD = b'{"title":"T","source_name":"S","index":1}'


def read(key: str, field: str | None = None, value: bytes = RECORD) -> PastRecord:
    return past_record(Found(key.encode(), None if field is None else field.encode(), value))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("u:ann:pr:src+1", ("ann", "src", "1")),
        ("u:ann:pr:src+a+b+", ("ann", "src", "a+b+")),
        ("u:a:n:n:pr:src+1", ("a:n:n", "src", "1")),
        ("u:a+n@b.c:pr:src+1", ("a+n@b.c", "src", "1")),
        ("u:ann:pr:s:rc+http://x/1:2", ("ann", "s:rc", "http://x/1:2")),
        ("u:a:pr:b:pr:src", None),
        ("u:月:pr:源+片", ("月", "源", "片")),
        ("u:ann:pr:src+x:pr", ("ann", "src", "x:pr")),
        ("u:a:pr:b+c:pr:d", ("a", "b", "c:pr:d")),
    ],
)
def test_a_flat_key_is_split_where_only_one_split_makes_sense(
    key: str, expected: tuple[str, str, str] | None
) -> None:
    """Names may hold colons and plus signs, ids anything."""
    if expected is None:
        with pytest.raises(InvalidField, match="Invalid key format"):
            read(key)
    else:
        assert expected == read(key).key


@pytest.mark.parametrize("key", ["u:a:pr:pr:b+1", "u:a:pr:b+c:pr:d+e", "u:x:pr:a:pr:s+1"])
def test_a_key_that_can_be_read_in_two_ways_is_refused(key: str) -> None:
    """A record never goes to a user it may not belong to."""
    with pytest.raises(InvalidField, match="Ambiguous key"):
        read(key)


@pytest.mark.parametrize(
    "key",
    ["u:pr:x+1", "u::pr:x+1", "u:ann:pr:", "u:ann:pr:+1", "u:ann:pr:x+", f"u:{'a' * 51}:pr:s+1"],
)
def test_a_key_that_names_no_user_source_and_id_is_refused(key: str) -> None:
    """Neither an empty name nor one that is longer than its column."""
    with pytest.raises(InvalidField):
        read(key)


def test_a_hash_names_its_user_and_its_fields_the_records() -> None:
    """Everything between u: and the last :pr is the name, whatever it holds."""
    assert ("a:pr:b", "src", "1+2") == read("u:a:pr:b:pr", "src+1+2").key
    assert "u:ann:pr src+1" == read("u:ann:pr", "src+1").origin


@pytest.mark.parametrize("user", ["ann ", "a\nn", ""])
def test_a_name_that_no_column_keeps_apart_is_refused(user: str) -> None:
    """utf8mb4_bin pads: 'ann ' would be ann."""
    with pytest.raises(InvalidField, match="Invalid user name"):
        read(f"u:{user}:pr", "s+1")


def test_a_name_that_is_not_utf8_is_refused() -> None:
    """It is shown escaped, and goes nowhere."""
    found = Found(b"u:\xff:pr:s+1", None, RECORD)

    assert r"u:\xff:pr:s+1" == found.origin
    with pytest.raises(InvalidField, match="UTF-8"):
        past_record(found)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (b"{", "record"),
        (b"[]", "record"),
        (b"\xff", "record"),
        (b'{"source_name":"S","index":1}', "record.title"),
        (b'{"title":"T","source_name":"S","index":0}', "record.index"),
        (b'{"title":"T","source_name":"S","index":1,"save_time":"now"}', "record.save_time"),
        (RECORD[:-1] + b',"x":"' + b"y" * 262_144 + b'"}', "record"),
    ],
)
def test_a_value_that_is_no_record_is_refused(value: bytes, field: str) -> None:
    """The refusal names what is wrong with it."""
    with pytest.raises(InvalidField) as refused:
        read("u:ann:pr:s+1", None, value)

    assert field == refused.value.field


def test_a_record_is_read_as_leniently_as_a_players_own() -> None:
    """Fractions, nulls and numeric years are taken; what is unknown is kept."""
    value = RECORD[:-1] + b',"play_time":1.9,"year":2024,"remarks":null,"_x":true}'

    record = read("u:ann:pr:s+1", None, value).record

    assert (1, "2024", None) == (record.play_time, record.year, record.remarks)
    assert {"_x": True} == getattr(record, "extra", None)
