"""
What whoever takes a shard does before it reads on: publish what is committed.

A worker that died after its commit left the published checkpoint behind MySQL's.
Cached copies filled meanwhile may be wrong for every user with an entry in
between, so those are dropped in the script that publishes (protocol 16).
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

from shared.errors import InvalidField
from shared.keys import shard_of
from shared.mysql import Pool, reading
from shared.published import Checkpoint, clear_pending, publish, read_published
from shared.streams import EntryId, RawEntry, entry_id, read_range
from worker.deps import Deps
from worker.letters import body_of, username_in
from worker.sinks import Sink, Touched

_PAGE = 2_000
# resolved_batch_no counts in the shard of the user, which need not be the letter's.
_REPLAYED = """
SELECT DISTINCT username FROM dead_letters
WHERE stream = %s AND state = 'replayed' AND resolved_batch_no > %s
"""


async def publish_committed(deps: Deps, sink: Sink, shard: int, committed: Checkpoint) -> bool:
    """Bring the published checkpoint up to *committed*; True if it was behind."""
    key = deps.keys.checkpoint(sink.stream, shard)
    keys = (key, deps.keys.stream(sink.stream, shard))
    published = await read_published(deps.redis, key)
    known = published or Checkpoint(incarnation=0, batch_no=0)
    if known.number >= committed.number:
        return False
    if known.incarnation != committed.incarnation:
        # Copies are filled for an incarnation: none of this one can exist.
        await publish(deps.redis, keys, committed, uuid.uuid4().hex)
        return True
    touched = [user async for user in _touched_between(deps, sink, shard, known, committed)]
    names = {user.username for user in touched}
    replayed = await _replayed(deps.pool, sink.stream, known.batch_no)
    names.update(name for name in replayed if shard_of(name, deps.settings.shards) == shard)
    users = [sink.user_keys(shard, name) for name in names]
    await publish(deps.redis, keys, committed, uuid.uuid4().hex, users)
    await clear_pending(
        deps.redis,
        committed,
        ((sink.user_keys(shard, user.username), user.written) for user in touched),
    )
    return True


async def _touched_between(
    deps: Deps, sink: Sink, shard: int, known: Checkpoint, committed: Checkpoint
) -> AsyncIterator[Touched]:
    """The users whose copies or overlays the entries in between concern, dead letters' too."""
    fold, dead = sink.new_fold(), set[str]()
    async for identity, fields in _entries(deps, sink.stream, shard, known.last, committed.last):
        try:
            body, foreign = body_of(fields)
            event = sink.decode(body)
        except InvalidField:
            dead.add(username_in(fields) or "")
            continue
        if shard_of(sink.username(event), deps.settings.shards) == shard:
            at = entry_id(identity)
            is_outdated = foreign or at <= committed.again_through
            fold.add(event, at.ms, len(body), foreign=is_outdated)
    for user in sink.touched(fold):
        yield user
    for name in dead - {""}:
        if shard_of(name, deps.settings.shards) == shard:
            yield Touched(name, (), outdated=True)


async def _entries(
    deps: Deps, stream: str, shard: int, after: EntryId, through: EntryId
) -> AsyncIterator[RawEntry]:
    key = deps.keys.stream(stream, shard)
    while page := await read_range(deps.redis, key, after, through, _PAGE):
        for entry in page:
            yield entry
        after = entry_id(page[-1][0])


async def _replayed(pool: Pool, stream: str, batch_no: int) -> list[str]:
    """Users whose dead letters were replayed in a batch after the published one."""
    async with reading(pool) as cursor:
        await cursor.execute(_REPLAYED, (stream, batch_no))
        return [name for (name,) in await cursor.fetchall()]
