"""
Play records as readers see them: one pure merge that the sink and the reads share.

A record looks the same before and after it is drained: the fields the client
sent, `save_time` (the client's, or the entry's time) and `original_episodes`.
"""

from __future__ import annotations

from typing import Any

from shared.events import ExtendedPlayRecord, PlayRecord

#: Optional columns in the order real front ends send them (facts section 4).
_OPTIONAL = ("cover", "year", "search_title", "remarks", "douban_id", "type")


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
