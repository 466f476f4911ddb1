"""What every front shows at the end: exactly what MySQL holds."""

from __future__ import annotations

from collections.abc import Sequence, Set

import orjson

from api.play_records import PATH
from shared.cookies import sign
from shared.mysql import Pool
from tests.faults.histories import History
from tests.faults.http_client import HttpClient, NoAnswer, NotSent
from tests.faults.site import Site
from tests.mysql_state import records
from tests.plays import STREAM

#: The last ones who wrote: their cached copies and overlays are the newest.
_USERS = 200


async def compare_views(
    site: Site, pool: Pool, histories: Sequence[History], lost: Set[str]
) -> list[str]:
    """Users whose records a front shows otherwise than MySQL has them.

    Looked at are the last ones, and all who *lost* a write.
    """
    harmed = [
        history
        for history in histories[:-_USERS]
        if not lost.isdisjoint(write.identity for write in history.writes)
    ]
    held: dict[str, dict[str, int]] = {}
    for (user, source, content_id), values in (await records(pool)).items():
        held.setdefault(user, {})[f"{source}+{content_id}"] = values[1]
    found: list[str] = []
    for front in site.fronts:
        client = HttpClient(front.port, timeout_s=10)
        for history in [*harmed, *histories[-_USERS:]]:
            cookie = f"user_auth={sign(history.user, 'user', site.settings.password, 0)}"
            try:
                answer = await client.request("GET", PATH, cookie)
            except (NotSent, NoAnswer) as error:
                found.append(f"{front.name} does not answer {history.user}: {error}")
                continue
            expected = held.get(history.user, {})
            shown = _positions(answer.body) if answer.status == 200 else answer.status
            if shown != expected:
                found.append(f"{front.name} shows {history.user} {shown}, MySQL has {expected}")
                await _keep_evidence(site, history)
        client.close()
    return found


async def _keep_evidence(site: Site, history: History) -> None:
    """Note what Redis holds of a user."""
    user = site.keys.play_records(history.shard, history.user)
    async with site.redis.direct() as redis:
        pipe = redis.pipeline(transaction=True)
        pipe.get(user.version)
        for key in (user.pending, user.cached, site.keys.checkpoint(STREAM, history.shard)):
            pipe.hgetall(key)
        version, pending, cached, published = await pipe.execute()
    site.note(
        f"evidence: {user.cached}\n  version {version}\n  published {published}\n"
        f"  pending {pending}\n  cached {cached}"
    )


def _positions(body: bytes) -> dict[str, int]:
    return {key: fields["play_time"] for key, fields in orjson.loads(body).items()}
