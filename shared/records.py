"""
Play records as readers see them: one pure merge that the sink and the reads share.

A record looks the same before and after it is drained: the fields the client
sent, `save_time` (the client's, or the entry's time) and `original_episodes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from shared.events import ExtendedPlayRecord, PlayRecord
from shared.times import ms_of

#: Optional columns in the order real front ends send them (facts section 4).
_OPTIONAL = ("cover", "year", "search_title", "remarks", "douban_id", "type")
#: The columns of `play_records` that `stored_view` takes, in its order.
STORED_COLUMNS = (
    *("source", "content_id", "title", "source_name", "cover", "year"),
    *("episode_index", "total_episodes", "play_time", "total_time", "search_title", "remarks"),
    *("douban_id", "content_type", "save_time", "original_episodes", "extra", "event_ms"),
)


def merge_original_episodes(prev: int | None, given: int | None, total_episodes: int) -> int:
    """`original_episodes` of a save over a stored record (facts section 6).

    *prev* is the stored record's resolved value, None where there is no record;
    *given* is the client's. The client wins, then the stored, then *total_episodes*.
    """
    if given is not None:
        return given
    return total_episodes if prev is None else prev


def view(record: PlayRecord, original_episodes: int, event_ms: int) -> dict[str, Any]:
    """The JSON object that a read returns for *record*, applied at *event_ms*."""
    fields: dict[str, Any] = {
        "title": record.title,
        "source_name": record.source_name,
        "index": record.index,
        "total_episodes": record.total_episodes,
        "play_time": record.play_time,
        "total_time": record.total_time,
    }
    for name in _OPTIONAL:
        if (value := getattr(record, name)) is not None:
            fields[name] = value
    fields["save_time"] = event_ms if record.save_time is None else record.save_time
    fields["original_episodes"] = original_episodes
    if type(record) is ExtendedPlayRecord:
        fields.update(record.extra)
    return fields


def stored_view(row: Sequence[Any]) -> tuple[bytes, dict[str, Any]]:
    """(record key, view) of a row of `STORED_COLUMNS`."""
    source, content_id, title, source_name, cover, year, *numbers = row[:10]
    search_title, remarks, douban_id, content_type, save_time, original, extra, event_ms = row[10:]
    index, total_episodes, play_time, total_time = numbers
    values = {
        "title": title,
        "source_name": source_name,
        "cover": cover,
        "year": year,
        "index": index,
        "total_episodes": total_episodes,
        "play_time": play_time,
        "total_time": total_time,
        "search_title": search_title,
        "remarks": remarks,
        "douban_id": douban_id,
        "type": content_type,
        "save_time": None if save_time is None else ms_of(save_time),
    }
    record = (
        PlayRecord(**values)
        if extra is None
        else ExtendedPlayRecord(**values, extra=orjson.loads(extra))
    )
    return f"{source}+{content_id}".encode(), view(record, original, event_ms)
