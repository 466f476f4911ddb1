"""
The pending overlay: acknowledged events that MySQL may not hold yet, merged over what it holds.

Pure: the reads fetch, this decides. The values are append.lua's:
`ID STAMP s KIND NUMBER JSON`, `ID STAMP d`, and in the clear field `ID STAMP c`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from shared.keys import CLEAR_FIELD
from shared.published import Checkpoint
from shared.records import merge_original_episodes
from shared.streams import EntryId, entry_id


@dataclass(frozen=True, slots=True)
class PendingSave:
    """A save that counts: *number* is its original_episodes, or what to take if none is stored."""

    at: EntryId
    follows_stored: bool
    number: int
    fields: dict[str, Any]


@dataclass(slots=True)
class Overlay:
    """One user's overlay, as it counts over a published checkpoint."""

    cleared: bool = False
    saved: dict[bytes, PendingSave] = field(default_factory=dict)
    deleted: set[bytes] = field(default_factory=set)
    #: Fields at or below the checkpoint: MySQL holds them, they only take up room.
    settled: list[bytes] = field(default_factory=list)
    #: Fields that cannot be read.
    damaged: list[bytes] = field(default_factory=list)


def read_overlay(fields: Mapping[bytes, bytes], published: Checkpoint) -> Overlay:
    """The overlay in *fields* (a whole HGETALL); a field counts only above *published*.

    *published* knows that of each stream: the ids of another one need not be greater
    (protocol 24). What is of one that is over was lost, and must not hide what was
    written since.
    """
    overlay = Overlay()
    cleared = None
    if CLEAR_FIELD in fields:
        cleared = _read_clear(overlay, fields[CLEAR_FIELD], published)
    for name, value in fields.items():
        if name != CLEAR_FIELD:
            _read_field(overlay, name, value, published, cleared)
    return overlay


def merge(stored: Mapping[bytes, dict[str, Any]], overlay: Overlay) -> dict[bytes, bytes]:
    """The cached hash's fields of *stored* views (record key -> view) under *overlay*.

    Each value is `b"<original_episodes> <JSON>"`.
    """
    views = {} if overlay.cleared else dict(stored)
    for name in overlay.deleted:
        views.pop(name, None)
    for name, save in overlay.saved.items():
        views[name] = _view(save, views.get(name))
    return {
        name: b"%d %b" % (view["original_episodes"], orjson.dumps(view))
        for name, view in views.items()
    }


def _read_clear(
    overlay: Overlay, value: bytes, published: Checkpoint
) -> tuple[bytes, EntryId] | None:
    """Put the clear field into *overlay*; its stamp and position, None if it does not count."""
    try:
        identity, stamp, op = value.split(b" ")
        at, by = entry_id(identity), stamp.decode("latin-1")
    except ValueError:
        overlay.damaged.append(CLEAR_FIELD)
        return None
    if op != b"c":
        overlay.damaged.append(CLEAR_FIELD)
    elif published.settles(at, by):
        overlay.settled.append(CLEAR_FIELD)
    elif by not in published.over:
        overlay.cleared = True
        return stamp, at
    return None


def _read_field(
    overlay: Overlay,
    name: bytes,
    value: bytes,
    published: Checkpoint,
    cleared: tuple[bytes, EntryId] | None,
) -> None:
    try:
        identity, stamp, op, *rest = value.split(b" ", 5)
        at, by = entry_id(identity), stamp.decode("latin-1")
        before_clear = cleared is not None and cleared[0] == stamp and at <= cleared[1]
        if before_clear or published.settles(at, by):
            overlay.settled.append(name)
        elif by in published.over:
            return  # lost, and counted
        elif op == b"d":
            overlay.deleted.add(name)
        elif op == b"s":
            overlay.saved[name] = _pending_save(at, *rest)
        else:
            overlay.damaged.append(name)
    except (ValueError, TypeError):
        overlay.damaged.append(name)


def _pending_save(at: EntryId, kind: bytes, number: bytes, record: bytes) -> PendingSave:
    """Raises `ValueError` (or `TypeError` for a missing part) if it is no save."""
    fields = orjson.loads(record)
    if not isinstance(fields, dict) or kind not in {b"x", b"u"}:
        raise ValueError(kind)
    return PendingSave(at, kind == b"u", int(number), fields)


def _view(save: PendingSave, stored: dict[str, Any] | None) -> dict[str, Any]:
    """As `records.view` will show it once it is drained over *stored*."""
    prev = stored["original_episodes"] if stored else None
    given = None if save.follows_stored else save.number
    return {
        "save_time": save.at.ms,
        **save.fields,
        "original_episodes": merge_original_episodes(prev, given, save.number),
    }
