"""
Does a contender count what it should? A small load, compared with the oracle of the tests.

Every key gets an event in each of three waves, a moment apart, so that plays, watched
seconds, viewers and days all have something to say.
"""

from __future__ import annotations

import asyncio
import random
import time

from bench.rivals import audit
from bench.rivals.clients import Beat, Clients
from bench.rivals.contenders import Contender
from bench.rivals.heartbeats import KEYS, SOURCE, content_of, user_of
from bench.rivals.staging import staged
from bench.servers import Lab, RunFailed
from shared.mysql import Pool, open_mysql
from tests.mysql_state import assert_mysql_equals
from tests.oracle import Oracle

_KEYS, _WAVES = 300, 3
#: Enough for some seconds of watching to count.
_BETWEEN_WAVES_S = 0.7
_ARRIVAL_TIMEOUT_S = 15.0
_POLL_S = 0.1


async def check(lab: Lab, contender: Contender) -> None:
    """Raises `RunFailed` unless MySQL holds just what the oracle makes of the same events."""
    randomness = random.Random(_KEYS)  # noqa: S311 - the same load in every run
    keys = randomness.sample(range(KEYS), _KEYS)
    sent: dict[int, Beat] = {}
    with staged(lab, contender, audit=True) as stage:
        clients = Clients(stage.port)
        for wave in range(_WAVES):
            beats = [
                Beat(
                    1_716_000_000_000 + wave * _KEYS + number,
                    key,
                    randomness.choice([1, 1, 1, 2]),
                    10 + wave * randomness.randrange(4),
                )
                for number, key in enumerate(keys)
            ]
            sent.update((beat.nonce, beat) for beat in beats)
            await clients.send(iter(beats))
            await asyncio.sleep(_BETWEEN_WAVES_S)
        if len(clients.acknowledged) != len(sent):
            raise RunFailed(
                f"{len(clients.acknowledged)} of {len(sent)} events were acknowledged,"
                f" the others answered with {sorted(set(clients.refusals))}"
            )
        async with open_mysql(lab.settings(stage.database)) as pool:
            await _await_all(pool, len(sent))
            oracle = Oracle()
            for nonce, ms in sorted(await audit.noted(pool), key=lambda event: event[::-1]):
                oracle.apply(_event(sent[nonce]), ms)
            try:
                await assert_mysql_equals(pool, oracle)
            except AssertionError as error:
                raise RunFailed(f"other counts than the oracle's: {str(error)[:300]}") from error


async def _await_all(pool: Pool, events: int) -> None:
    deadline_s = time.monotonic() + _ARRIVAL_TIMEOUT_S
    while (count := len(await audit.noted(pool))) < events:
        if time.monotonic() > deadline_s:
            raise RunFailed(f"{count} of {events} acknowledged events are in MySQL")
        await asyncio.sleep(_POLL_S)


def _event(beat: Beat) -> dict[str, object]:
    return {
        "v": 1,
        "op": "save",
        "user": user_of(beat.key),
        "source": SOURCE,
        "id": content_of(beat.key),
        "record": beat.fields,
    }
