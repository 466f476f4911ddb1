"""What was lost is told: by `moonwake status`, as a document, and in metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC

import orjson
import pytest
from redis.asyncio import Redis

from ops.attention import attention, notes
from ops.overview import look
from ops.servers import free_port
from shared.incidents import CAUSES, LISTED_MAX, CauseTotal, Harmless, Incident, read_incidents
from shared.mysql import Pool, transaction
from shared.settings import Settings
from shared.streams import BEGINNING, EntryId
from tests.commands import moonwake
from tests.fronts import front
from tests.plays import STREAM, append, deps_of, drain_all, rows, save
from worker import incidents
from worker.deps import Deps
from worker.incidents import Cause


@pytest.fixture(name="deps")
def _deps(migrated: Settings, redis: Redis, pool: Pool) -> Deps:
    return deps_of(replace(migrated, shards=2, flush_interval_ms=0), redis, pool)


#: What a worker wrote down, but for what each test says otherwise.
FAILOVER = incidents.Incident(
    incarnation=3,
    cause=Cause.MASTER_CHANGED,
    lost=4,
    is_exact=True,
    after=EntryId(1_795_367_827_280, 1),
    before=EntryId(1_795_367_828_000, 7),
    position=BEGINNING,
    ended_stamp="aaaaaaaa00000001",
    stamp="bbbbbbbb00000001",
    base=10,
    seen_added=20,
)


async def write_down(
    pool: Pool, *told: incidents.Incident, shard: int = 0, hours_ago: int = 1
) -> None:
    """Have incidents in the table that were found *hours_ago* by MySQL's clock."""
    async with transaction(pool) as cursor:
        for incident in told:
            await incidents.insert(cursor, STREAM, shard, incident)
            await cursor.execute(
                "UPDATE incidents SET detected_at = UTC_TIMESTAMP(3) - INTERVAL %s HOUR"
                " WHERE id = LAST_INSERT_ID()",
                (hours_ago,),
            )


def losses(listed: Sequence[Incident]) -> list[tuple[int, int, bool]]:
    return [(each.shard, each.lost, each.is_exact) for each in listed]


# --- reading -------------------------------------------------------------------------


async def test_a_row_is_read_as_the_worker_wrote_it(pool: Pool, migrated: Settings) -> None:
    """Every field, and the moment by MySQL's clock in UTC."""
    await write_down(pool, FAILOVER, shard=1)
    [(number, detected_at)] = await rows(pool, "SELECT id, detected_at FROM incidents")

    found = await read_incidents(pool)

    assert [
        Incident(
            id=number,
            stream=STREAM,
            shard=1,
            incarnation=3,
            cause="master_changed",
            lost=4,
            is_exact=True,
            after_id="1795367827280-1",
            before_id="1795367828000-7",
            stamp="bbbbbbbb00000001",
            detected_at=detected_at.replace(tzinfo=UTC),
            amended_at=None,
        )
    ] == found.listed
    assert () == tuple(found.harmless)


async def test_the_newest_are_first_and_those_of_a_week_ago_are_left_to_the_totals(
    pool: Pool, migrated: Settings
) -> None:
    """What happened today is what somebody looks for; nothing is forgotten in the sums."""
    await write_down(pool, FAILOVER, hours_ago=7 * 24 + 1)
    await write_down(pool, replace(FAILOVER, lost=5), hours_ago=7 * 24 - 1)
    await write_down(pool, replace(FAILOVER, lost=6, is_exact=False), hours_ago=23)
    await write_down(pool, replace(FAILOVER, lost=0, is_exact=False), hours_ago=2)
    old = replace(FAILOVER, cause=Cause.TRIMMED, lost=8, is_exact=False)
    await write_down(pool, old, hours_ago=25)

    found = await read_incidents(pool)

    expected = [(0, 0, False), (0, 6, False), (0, 8, False), (0, 5, True)]
    assert expected == losses(found.listed)
    assert {
        CauseTotal(STREAM, "master_changed", 4, 15, 2, new_losses=1, new_lost=6, new_inexact=2),
        CauseTotal(STREAM, "trimmed", 1, 8, 1, new_losses=0, new_lost=0, new_inexact=0),
    } == set(found.totals)


async def test_a_restart_that_lost_nothing_is_counted_once_for_all_shards(
    pool: Pool, migrated: Settings
) -> None:
    """
    Each shard begins an incarnation; one that lost, or may have lost, makes the restart harmful.
    """
    nothing = replace(FAILOVER, lost=0)
    second = replace(nothing, stamp="cccccccc00000001")
    third = replace(nothing, stamp="dddddddd00000001")
    for shard in range(2):
        await write_down(pool, replace(nothing, stamp=f"bbbbbbbb0000000{shard}"), shard=shard)
        await write_down(pool, second, shard=shard)
    await write_down(pool, third)
    await write_down(pool, replace(third, lost=1), shard=1)
    fourth = replace(nothing, stamp="eeeeeeee00000001")
    await write_down(pool, fourth)
    await write_down(pool, replace(fourth, is_exact=False), shard=1)
    await write_down(pool, replace(nothing, cause=Cause.RECREATED))
    await write_down(pool, replace(nothing, stamp="ffffffff00000001"), hours_ago=7 * 24 + 1)

    found = await read_incidents(pool)

    assert [
        Harmless("recreated", masters=1, shards=1),
        Harmless("master_changed", masters=2, shards=4),
    ] == sorted(found.harmless, key=lambda each: each.shards)
    assert [(1, 0, False), (1, 1, True)] == losses(found.listed)


async def test_no_more_than_the_newest_are_listed(pool: Pool, migrated: Settings) -> None:
    """A Redis that fails over all night must not fill the memory of who looks at it."""
    told = [replace(FAILOVER, lost=number + 1) for number in range(LISTED_MAX + 2)]
    async with transaction(pool) as cursor:
        for each in told:
            await incidents.insert(cursor, STREAM, 0, each)
        await cursor.execute("UPDATE incidents SET detected_at = UTC_TIMESTAMP(3)")

    found = await read_incidents(pool)

    assert LISTED_MAX == len(found.listed)
    assert (LISTED_MAX + 2, 3) == (found.listed[0].lost, found.listed[-1].lost)
    assert sum(range(LISTED_MAX + 3)) == found.totals[0].lost


# --- moonwake status ------------------------------------------------------------------


async def test_a_loss_that_a_worker_counts_is_shown(deps: Deps) -> None:
    """From the stream that went to the line in the terminal, with nothing made up."""
    await append(deps.settings, deps.redis, [save("bob"), save("bob", index=2)])
    await drain_all(deps)
    await append(deps.settings, deps.redis, [save("bob", index=3)] * 5)
    stream = deps.keys.stream(STREAM, 0)
    entries = await deps.redis.xrange(stream)
    await deps.redis.xtrim(stream, maxlen=2, approximate=False)
    await drain_all(deps)

    shown = await moonwake(deps.settings, "status")
    result = await moonwake(deps.settings, "status", "--json")

    assert 0 == shown.exit_code
    assert "- exactly 3 entries were lost in the last 24 hours: see incidents" in shown.output
    [line] = [line for line in shown.output.splitlines() if " trimmed " in line]
    assert ["plays:0", "trimmed", "exactly", "3"] == line.split()[2:6]
    [told] = orjson.loads(result.output)["incidents"]
    assert (entries[1][0], entries[5][0]) == (told["after_id"].encode(), told["before_id"].encode())


async def test_the_document_holds_every_field_that_the_help_promises(deps: Deps) -> None:
    """Scripts read it; those of exactly nothing are in the totals alone."""
    await write_down(deps.pool, FAILOVER, replace(FAILOVER, lost=0, stamp="cccccccc"))
    await write_down(
        deps.pool, replace(FAILOVER, cause=Cause.RECREATED, lost=3, is_exact=False), hours_ago=48
    )
    async with transaction(deps.pool) as cursor:
        await cursor.execute(
            "UPDATE incidents SET detected_at = '2999-01-02 03:04:05.678',"
            " amended_at = '2999-01-02 03:05:00' WHERE lost = 4"
        )
    [(number,)] = await rows(deps.pool, "SELECT id FROM incidents WHERE lost = 4")

    document = orjson.loads((await moonwake(deps.settings, "status", "--json")).output)

    first, second = document["incidents"]
    assert {
        "id": number,
        "stream": STREAM,
        "shard": 0,
        "incarnation": 3,
        "cause": "master_changed",
        "lost": 4,
        "exact": True,
        "after_id": "1795367827280-1",
        "before_id": "1795367828000-7",
        "stamp": "bbbbbbbb00000001",
        "detected_at": "2999-01-02T03:04:05.678+00:00",
        "amended_at": "2999-01-02T03:05:00.000+00:00",
    } == first
    assert ("recreated", 3, False) == (second["cause"], second["lost"], second["exact"])
    assert {
        "incidents": 3,
        "lost": 7,
        "inexact": 1,
        "by_cause": {
            "master_changed": {"incidents": 2, "lost": 4, "inexact": 0},
            "recreated": {"incidents": 1, "lost": 3, "inexact": 1},
        },
    } == document["totals"]["incidents"]


@pytest.mark.parametrize(
    ("told", "hours_ago", "expected"),
    [
        (FAILOVER, 23, ["exactly 4 entries were lost in the last 24 hours: see incidents"]),
        (
            replace(FAILOVER, is_exact=False),
            23,
            ["at least 4 entries were lost in the last 24 hours: see incidents"],
        ),
        (
            replace(FAILOVER, lost=0, is_exact=False),
            23,
            ["in the last 24 hours nobody could tell whether anything was lost: see incidents"],
        ),
        (replace(FAILOVER, lost=0), 23, []),
        (FAILOVER, 25, []),
        (replace(FAILOVER, is_exact=False), 25, []),
    ],
)
async def test_a_loss_of_today_is_a_note_and_the_site_is_healthy(
    deps: Deps, told: incidents.Incident, hours_ago: int, expected: list[str]
) -> None:
    """Nobody can bring it back; what to look at is its cause."""
    await write_down(deps.pool, told, hours_ago=hours_ago)

    view = await look(deps.redis, deps.pool, deps.settings)

    assert [] == attention(view)
    assert expected == [note for note in notes(view) if "24 hours" in note]


async def test_with_mysql_down_incidents_are_unknown(deps: Deps) -> None:
    """'None' would be a lie."""
    await write_down(deps.pool, FAILOVER)
    down = replace(deps.settings, mysql_port=free_port())

    shown = await moonwake(down, "status")
    document = orjson.loads((await moonwake(down, "status", "--json")).output)

    assert "incidents: unknown while MySQL does not answer" in shown.output
    assert (None, None) == (document["incidents"], document["totals"]["incidents"])


# --- metrics --------------------------------------------------------------------------


async def metrics_of(settings: Settings) -> dict[str, str]:
    """The samples about incidents: name and labels -> value."""
    async with front(settings) as site:
        text = (await site.client.get("/metrics")).text
    samples = (line.rpartition(" ") for line in text.splitlines() if "moonwake_incident" in line)
    return {name: value for name, _, value in samples if not name.startswith("#")}


async def test_metrics_sum_incidents_by_cause_from_zero(deps: Deps) -> None:
    """A cause that never struck is there with 0, so that its first time is an increase."""
    await write_down(deps.pool, FAILOVER, replace(FAILOVER, lost=2, is_exact=False), shard=1)
    await write_down(deps.pool, replace(FAILOVER, cause=Cause.TRIMMED, lost=9), hours_ago=999)

    found = await metrics_of(deps.settings)

    def of(cause: str) -> list[str]:
        labels = f'{{cause="{cause}",stream="plays"}}'
        names = ("incidents_total", "incident_lost_entries_total", "incidents_inexact")
        return [found.pop(f"moonwake_{name}{labels}") for name in names]

    assert ["2.0", "6.0", "1.0"] == of("master_changed")
    assert ["1.0", "9.0", "0.0"] == of("trimmed")
    assert ["0.0", "0.0", "0.0"] == of("recreated")
    assert ["0.0", "0.0", "0.0"] == of("mysql_restored")
    assert {} == found


async def test_metrics_leave_incidents_out_while_mysql_is_away(deps: Deps) -> None:
    """A sum of 0 would look like one that began anew."""
    await write_down(deps.pool, FAILOVER)

    assert {} == await metrics_of(replace(deps.settings, mysql_port=free_port()))


async def test_every_cause_of_a_worker_is_known_to_metrics() -> None:
    """The list beside the metrics and the workers' own are one."""
    known = tuple(cause.value for cause in Cause)
    assert known == CAUSES
