"""
Apply a dead letter after all: once, however often it is asked for (protocol 19).

One transaction holds the fence, claims the letter if it is still dead, applies its
event at the time of its own entry and moves one from dead to applied in the books.
Moving the checkpoint row fences out a batch that was folded without the letter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from hashlib import sha256
from typing import Any

from shared.errors import DataRefused, InvalidField, Rewound, StoreDown, Transient
from shared.events import TIME_MS_MAX
from shared.keys import shard_of
from shared.mysql import transaction
from shared.published import Checkpoint
from worker import checkpoints, kept_letters
from worker.deps import Deps
from worker.kept_letters import Letter, LetterKey
from worker.letters import body_of
from worker.sinks import Sink
from worker.takeover import publish_committed

_DETAIL_MAX = 500


class Verdict(Enum):
    """What became of a letter."""

    REPLAYED = "replayed"
    #: Applied; but a store did not answer, so the shard's next drain drops the cached copy.
    UNPUBLISHED = "replayed, not published"
    REFUSED = "still refused"
    RESOLVED = "resolved before"
    UNKNOWN = "not found"


@dataclass(frozen=True, slots=True)
class Answer:
    """One letter's verdict, and why where that is not plain."""

    key: LetterKey
    verdict: Verdict
    why: str = ""

    @property
    def is_done(self) -> bool:
        """Is the event applied, now or before?"""
        return self.verdict in {Verdict.REPLAYED, Verdict.UNPUBLISHED}


@dataclass(frozen=True, slots=True)
class _Repaired:
    """A letter's event, and the note of where its body came from."""

    event: Any
    username: str
    size: int
    detail: str


async def replay(
    deps: Deps, sinks: Mapping[str, Sink], key: LetterKey, body: bytes | None = None
) -> Answer:
    """Apply the letter *key*, with *body* in place of its own if given.

    A letter that is refused again stays dead. Raises `Transient` when MySQL fails: the
    letter may be applied or not, and asking again does what is left to do.
    """
    letter = await kept_letters.find(deps.pool, key)
    if letter is None:
        return Answer(key, Verdict.UNKNOWN)
    if letter.state != kept_letters.DEAD:
        return Answer(key, Verdict.RESOLVED, f"it was {letter.state} at {letter.resolved_at} UTC")
    sink = sinks.get(key.stream)
    if sink is None:
        return Answer(key, Verdict.REFUSED, f"nothing here knows the stream {key.stream}")
    try:
        repaired = _repair(sink, letter, body)
        moved = await _apply(deps, sink, letter, repaired)
    except (InvalidField, DataRefused) as error:
        return Answer(key, Verdict.REFUSED, str(error))
    if not moved:
        return Answer(key, Verdict.RESOLVED, "somebody else just did it")
    return Answer(key, await _publish(deps, sink, moved))


def _repair(sink: Sink, letter: Letter, body: bytes | None) -> _Repaired:
    """The event of *letter*. Raises `InvalidField` for what still cannot be applied."""
    detail = letter.detail
    if body is not None:
        note = f"; replayed with a body of {len(body)} bytes, SHA-256 {sha256(body).hexdigest()}"
        detail = detail[: _DETAIL_MAX - len(note)] + note
    elif letter.is_cut:
        allowed = f"a body given by you: {letter.length - letter.kept} bytes of its own are gone"
        raise InvalidField("Cut letter", "fields", allowed)
    else:
        body, _ = body_of(letter.fields)
    if letter.key.entry.ms > TIME_MS_MAX:
        raise InvalidField("id_out_of_range", "entry id", f"at most {TIME_MS_MAX} ms")
    event = sink.decode(body)
    return _Repaired(event, sink.username(event), len(body), detail)


async def _apply(
    deps: Deps, sink: Sink, letter: Letter, repaired: _Repaired
) -> dict[int, Checkpoint]:
    """Claim and apply *letter*; the checkpoints that moved, by shard, none if it was too late.

    The letter's shard owns the books, the user's shard owns the rows; they differ
    where a producer chose the wrong one. Both fences are held, in order.
    """
    key, home = letter.key, letter.key.shard
    target = shard_of(repaired.username, deps.settings.shards)
    fold = sink.new_fold()
    fold.add(repaired.event, key.entry.ms, repaired.size, foreign=True)
    async with transaction(deps.pool) as cursor:
        old = {
            shard: await checkpoints.lock(cursor, key.stream, shard)
            for shard in sorted({home, target})
        }
        new = {shard: replace(row, batch_no=row.batch_no + 1) for shard, row in old.items()}
        new[home] = replace(new[home], applied=old[home].applied + 1, dead=old[home].dead - 1)
        if not await kept_letters.mark_replayed(
            cursor, key, new[target].batch_no, repaired.username, repaired.detail
        ):
            return {}
        for shard, row in old.items():
            await checkpoints.advance(cursor, key.stream, shard, row, new[shard], None)
        await sink.apply(cursor, fold, target, new[target])
    return new


async def _publish(deps: Deps, sink: Sink, moved: dict[int, Checkpoint]) -> Verdict:
    """Publish what *moved*, as whoever takes a shard over does.

    So the user's cached copy goes, and with it those that a batch just committed made
    wrong: its worker may be dead, and cannot publish it any more once this is.
    """
    try:
        for shard, checkpoint in moved.items():
            await publish_committed(deps, sink, shard, checkpoint)
    except (Rewound, StoreDown, Transient):
        return Verdict.UNPUBLISHED
    return Verdict.REPLAYED
