"""The cases that hold the model of Redis against a real one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from shared.keys import CLEAR_FIELD
from shared.published import BatchWork, Checkpoint, clear_pending, publish, read_published
from shared.scripts import script
from shared.streams import (
    BEGINNING,
    Append,
    EntryId,
    ShardGroup,
    append_arguments,
    entry_id,
    read_chunk,
    read_range,
    trim,
)
from tests.simulation.conformance import Case, Stores, outcome
from tests.simulation.sink import STREAM, body_of
from worker import leases


async def _fill(stores: Stores, *ids: str) -> None:
    for number, identity in enumerate(ids):
        await stores.redis.xadd(stores.stream, {"d": f"body {number}"}, id=identity)


async def _about(stores: Stores) -> list[Any]:
    chunk = await read_chunk(stores.redis, stores.stream, BEGINNING, 100)
    entries = [
        (bytes(identity), [bytes(each) for each in fields]) for identity, fields in chunk.entries
    ]
    return [entries, chunk.info, chunk.disputed, len(chunk.stamp)]


async def a_stream_is_read_in_order(stores: Stores) -> list[Any]:
    """XADD, XREAD, XRANGE and XINFO STREAM, beginning with a stream that is not there."""
    seen = [await _about(stores)]
    await _fill(stores, "5-1", "5-2", "9-0", "10-0")
    seen.append(await _about(stores))
    chunk = await read_chunk(stores.redis, stores.stream, EntryId(5, 1), 2)
    seen.append([bytes(identity) for identity, _ in chunk.entries])
    for after, through in (
        (EntryId(5, 1), EntryId(9, 0)),
        (EntryId(9, 0), None),
        (BEGINNING, None),
    ):
        page = await read_range(stores.redis, stores.stream, after, through, 3)
        seen.append([bytes(identity) for identity, _ in page])
    return seen


async def an_id_must_grow(stores: Stores) -> list[Any]:
    """XADD and XSETID refuse to go back."""
    await _fill(stores, "5-1")
    xadd, xsetid = stores.redis.xadd, stores.redis.execute_command
    seen = [
        await outcome(xadd(stores.stream, {"d": "x"}, id=each)) for each in ("5-1", "4-9", "5-2")
    ]
    seen += [
        await outcome(xsetid("XSETID", stores.stream, each)) for each in ("5-1", "5-2", "90-0")
    ]
    seen.append(await outcome(xadd(stores.stream, {"d": "x"}, id="89-0")))
    seen.append(await outcome(xsetid("XSETID", "nothing", "90-0")))
    return [*seen, await _about(stores)]


async def trimming_leaves_the_figures(stores: Stores) -> list[Any]:
    """Trimmed entries count as added; the trim script wants its master; DEL starts anew."""
    await _fill(stores, "1-0", "2-0", "3-0", "4-0")
    stamp = (await read_chunk(stores.redis, stores.stream, BEGINNING, 1)).stamp
    seen: list[Any] = []
    for whose, checkpoint, keep in (
        ("other000", EntryId(4, 0), 9),
        (stamp, EntryId(3, 0), 2),
        (stamp, EntryId(3, 0), 9),
        (stamp, EntryId(99, 0), 99),
    ):
        seen.append(await trim(stores.redis, stores.stream, whose, checkpoint, keep))
        seen.append(await _about(stores))
    seen.append(await stores.redis.xtrim(stores.stream, maxlen=0, approximate=False))
    seen.append(await stores.redis.delete(stores.stream))
    await _fill(stores, "1-0")
    return [*seen, await _about(stores)]


async def publishing_never_goes_back(stores: Stores) -> list[Any]:
    """The publish script, its figures and the copies that it drops."""
    key = stores.deps.keys.checkpoint(STREAM, 0)
    ann, keys = stores.deps.keys.play_records(0, "ann"), (key, stores.stream)
    checkpoint = Checkpoint(
        *(2, 5, EntryId(7, 1), 3, 4, 1, 2),
        stamps={"x": EntryId(4, 0), "abcdefgh": EntryId(7, 1)},
        over=frozenset({"x"}),
        floor_ms=9,
    )
    seen: list[Any] = [await read_published(stores.redis, key)]
    for new, work in (
        (checkpoint, BatchWork(3, 2, 10)),
        (checkpoint, BatchWork(3, 2, 10)),
        (replace(checkpoint, batch_no=4), None),
        (replace(checkpoint, incarnation=1, batch_no=9), None),
        (replace(checkpoint, incarnation=3, batch_no=1, applied=9), None),
        (replace(checkpoint, incarnation=3, batch_no=2), BatchWork(5, 1, 2)),
    ):
        await stores.redis.hset(ann.cached, "a", "1")
        seen.append(await publish(stores.redis, keys, new, f"token {len(seen)}", [ann], work))
        seen.append(await stores.redis.hgetall(key))
        seen += [await stores.redis.get(ann.version), await stores.redis.exists(ann.cached)]
    return seen


async def an_append_changes_everything_at_once(stores: Stores) -> list[Any]:
    """The append script: entry, overlay, version and copy; its replies, late ones too."""
    keys = stores.deps.keys
    ann = keys.play_records(0, "ann")
    await stores.redis.hset(ann.cached, mapping={"a+1": "x", "cached": "1"})
    group = [Append(0, ann, b"d", b"a+1", body_of(1, "ann")), Append(0, ann, b"d", b"b+1", b"two")]
    other = keys.play_records(1, "ben")
    beside = ShardGroup(1, [Append(1, other, b"d", b"c+1", body_of(2, "ben"))])
    seconds, _ = await stores.redis.time()
    seen: list[Any] = []
    for group_now, not_after_s in ((group, 60), ([], 60), (group, -60), (_clear(stores), 60)):
        arguments = append_arguments(
            keys, STREAM, (seconds + not_after_s) * 1000, [ShardGroup(0, group_now), beside]
        )
        count = 1 + arguments[0]
        run = stores.redis.register_script(script("append"))
        _, *replies = await run(arguments[1:count], arguments[count:])
        seen.append([(added, len(stamp), about[0]) for added, stamp, *about in replies])
        ids = [each for _, _, _, _, *those in replies for each in those]
        # A millisecond may pass inside a script: that they grow is all there is to compare.
        seen.append([those == sorted(those, key=entry_id) for _, _, _, _, *those in replies])
        for user in (ann, other):
            overlay = await stores.redis.hgetall(user.pending)
            seen.append({name: value.split(b" ")[2:] for name, value in overlay.items()})
            seen.append([value.split(b" ")[0] in ids for value in overlay.values()])
            seen.append(await stores.redis.hgetall(user.cached))
            last = replies[user is other][3] if replies else None
            seen.append(last is None or await stores.redis.get(user.version) == last)
    return seen


def _clear(stores: Stores) -> list[Append]:
    ann = stores.deps.keys.play_records(0, "ann")
    return [Append(0, ann, b"c", CLEAR_FIELD, b"three")]


async def a_clean_up_compares(stores: Stores) -> list[Any]:
    """The clear_pending script: by position, by stamp, and whatever is damaged."""
    ann = stores.deps.keys.play_records(0, "ann")
    values = {
        "below": "9-1 abcdefgh d",
        "at": "10-1 abcdefgh d",
        "above": "10-2 abcdefgh d",
        "longer": "100-0 abcdefgh d",
        "unknown": "9-1 zzzzzzzz d",
        "of one that is over": "999-1 over1234 d",
        "damaged": "nonsense",
        "other": "9-1 abcdefgh d",
    }
    names = [name.encode() for name in values if name != "other"] + [b"absent"]
    seen: list[Any] = []
    known = {"abcdefgh": EntryId(10, 1), "12345678": EntryId(99, 0), "over1234": EntryId(5, 0)}
    for stamps in (known, {}):
        await stores.redis.hset(ann.pending, mapping=values)
        upto = Checkpoint(last=EntryId(10, 1), stamps=stamps, over=frozenset({"over1234"}))
        await clear_pending(stores.redis, upto, [(ann, names)])
        seen.append(sorted(await stores.redis.hgetall(ann.pending)))
    return seen


async def a_lease_has_one_holder(stores: Stores) -> list[Any]:
    """Taken once, renewed and given back by its holder alone."""
    redis, key = stores.redis, "lease"
    seen = [await leases.take(redis, key, "a"), await leases.take(redis, key, "b")]
    seen += [await leases.renew(redis, key, "b"), await leases.renew(redis, key, "a")]
    await leases.give_back(redis, key, "b")
    seen.append(await redis.get(key))
    await leases.give_back(redis, key, "a")
    seen += [await redis.get(key), await leases.renew(redis, key, "a")]
    await redis.hset("checkpoint", "holder", "a")
    for worker in ("b", "a"):
        await redis.register_script(script("leave"))(["checkpoint"], [worker])
        seen.append(await redis.hget("checkpoint", "holder"))
    return seen


async def hashes_and_errors(stores: Stores) -> list[Any]:
    """What else the workers send: hashes that vanish when empty, errors inside a pipeline."""
    redis = stores.redis
    await redis.set("text", "x")
    seen: list[Any] = [
        await redis.hset("h", "a", 1),
        await redis.hset("h", mapping={"a": 2, "b": 3}),
    ]
    seen += [await redis.hincrby("h", "n", 5), await redis.hget("h", "n"), await redis.hgetall("h")]
    seen += [await redis.hdel("h", "a", "zz"), await redis.hdel("h", "b", "n")]
    seen += [await redis.exists("h"), await redis.hdel("h", "a"), await redis.hget("h", "a")]
    seen.append(await outcome(redis.hgetall("text")))
    seen.append(await outcome(redis.xinfo_stream("nothing")))
    async with redis.pipeline(transaction=True) as pipe:
        pipe.hgetall("text")
        pipe.set("text", "y")
        pipe.xinfo_stream("nothing")
        seen += [type(each).__name__ for each in await pipe.execute(raise_on_error=False)]
        pipe.hgetall("text")
        seen.append((await outcome(pipe.execute())).partition(":")[0])
    seen.append((await redis.info("replication"))["role"])
    await redis.flushall()
    return [*seen, await redis.get("text")]


REDIS_CASES: Sequence[Case] = (
    a_stream_is_read_in_order,
    an_id_must_grow,
    trimming_leaves_the_figures,
    publishing_never_goes_back,
    an_append_changes_everything_at_once,
    a_clean_up_compares,
    a_lease_has_one_holder,
    hashes_and_errors,
)
