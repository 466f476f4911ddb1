"""One run of the checker: start, load, faults, heal, drain, compare."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from shared.errors import StoreDown, Transient
from shared.keys import testimonies_of
from shared.mysql import Pool, open_mysql
from shared.redis import redis_errors
from shared.streams import now_ms_of, stream_info
from tests.faults.accounts import accounts
from tests.faults.fault import Fault
from tests.faults.injector import Injector
from tests.faults.lifetimes import Lifetimes
from tests.faults.load import Load
from tests.faults.plan import plan
from tests.faults.reckoning import reckon
from tests.faults.site import Site
from tests.faults.start import running_site, until_fronts_answer
from tests.faults.strangers import Strangers
from tests.faults.views import compare_views
from tests.faults.watch import Clerk, Supervisor, watching
from tests.plays import STREAM
from tests.waiting import until

#: After the last fault: workers look after dead jobs, leases and time-outs by themselves.
_DRAINED_WITHIN_S = 180.0
#: A front looks at each stream and testifies several times a second.
_TESTIFIES_WITHIN_MS = 2_000


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is a function of, as far as the machine allows."""

    seed: int
    duration_s: float
    kinds: Mapping[str, type[Fault]]
    clients: int = 24
    pace_s: float = 0.1
    #: Seconds between two faults, on the average.
    every_s: float = 5.0


@dataclass(slots=True)
class Result:
    """What a run found. *differences* is empty if moonwake kept its promises."""

    injected: Counter[str] = field(default_factory=Counter)
    #: (kind, reason) -> how often.
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    acknowledged: int = 0
    applied: int = 0
    lost: int = 0
    differences: list[str] = field(default_factory=list)
    #: Answers and reads by what they were; incidents by what they claim.
    counts: Counter[str] = field(default_factory=Counter)
    #: Fronts that did not start because they found no Redis.
    refused_starts: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    phase: str
    elapsed_s: float
    faults: int
    running: list[str]
    acknowledged: int
    differences: int


async def run(options: Options, folder: Path, show: Callable[[Progress], None]) -> Result:
    """Carry out one run with everything it writes in *folder*; tell *show* a few times a second.

    Raises what keeps it from being carried out: `ProgramMissing`, `ProcessFailed`.
    """
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(running_site(folder))
        direct = replace(site.settings, mysql_port=site.mysql.server.port)
        pool = await stack.enter_async_context(open_mysql(direct))
        return await _Run(options, site, pool, show).carry_out()


class _Run:
    def __init__(
        self, options: Options, site: Site, pool: Pool, show: Callable[[Progress], None]
    ) -> None:
        self._options = options
        self._site = site
        self._pool = pool
        self._show = show
        self._phase = "load and faults"
        self._started_s = time.monotonic()
        self._load = Load(site, options.seed)
        self._strangers = Strangers(site, options.seed)
        self._injector = Injector(site, options.kinds, options.seed)
        self._supervisor = Supervisor(site)
        self._clerk = Clerk(site, pool)
        self._lifetimes = Lifetimes(site)

    async def carry_out(self) -> Result:
        looks = (
            self._supervisor.look,
            self._lifetimes.look,
            self._clerk.look,
            self._site.tap.catch_up,
            self._tell,
        )
        failed: list[str] = []
        async with watching(*looks):
            await self._strike()
            self._phase = "draining"
            try:
                await self._settle()
            except AssertionError as never:
                failed.append(str(never))
        self._phase = "comparing"
        await self._tell()
        return await self._result(failed)

    async def _strike(self) -> None:
        """Load for the whole duration, faults inside it."""
        options = self._options
        planned = plan(options.seed, options.duration_s, list(options.kinds), options.every_s)
        loading = asyncio.create_task(self._load.run(options.clients, options.pace_s))
        adding = asyncio.create_task(self._strangers.run())
        striking = asyncio.create_task(self._injector.run(planned, options.duration_s))
        try:
            done, _ = await asyncio.wait((loading, striking), return_when=asyncio.FIRST_COMPLETED)
            if loading in done:
                loading.result()  # users never leave by themselves: this raises
            await striking
        finally:
            striking.cancel()
            self._load.stop()
            self._strangers.stop()
            await asyncio.gather(loading, adding)

    async def _settle(self) -> None:
        """Return when everything runs, everything added is in MySQL and every front was heard."""
        site = self._site
        site.redis.proxy.heal()
        site.mysql.proxy.heal()
        await until_fronts_answer(site)
        await self._until_fronts_testified()
        await until(self._is_drained, "everything is drained", timeout_s=_DRAINED_WITHIN_S)
        await self._clerk.look()

    async def _until_fronts_testified(self) -> None:
        """Return when every front looked at the streams and said what it saw, if it is late."""
        since_ms = now_ms_of(await self._site.redis.master.command("TIME"))

        async def have_all() -> bool:
            with suppress(StoreDown):
                told = await self._site.redis.master.command("HVALS", self._site.keys.fronts)
                late = [ms for ms in map(int, told) if ms < since_ms + _TESTIFIES_WITHIN_MS]
                return len(told) - len(late) >= len(self._site.fronts)
            return False

        await until(have_all, "every front says that it lives")

    async def _is_drained(self) -> bool:
        with suppress(StoreDown, Transient):
            found = await accounts(self._pool)
            async with self._site.redis.direct() as redis:
                for shard in range(self._site.settings.shards):
                    with redis_errors():
                        key = self._site.keys.stream(STREAM, shard)
                        about = await redis.xinfo_stream(key)
                        unheard = await redis.exists(testimonies_of(key))
                    account = found.get(shard)
                    if unheard or not account:
                        return False
                    if account.base + stream_info(about).added != account.ordinal:
                        return False
            return True
        return False

    async def _result(self, failed: list[str]) -> Result:
        histories = self._load.histories
        strangers = self._strangers.histories
        reckoning = await reckon(self._site, self._pool, histories, strangers, self._lifetimes)
        reckoning.add("fault", self._injector.failed)
        reckoning.add("the end", failed)
        reckoning.add("ended by itself", self._supervisor.unasked)
        reckoning.add("stale read", self._load.stale)
        lost = reckoning.losses.lost
        reckoning.add("last read", await compare_views(self._site, self._pool, histories, lost))
        counts = self._load.counts
        counts["incidents, exactly"] = reckoning.losses.exact
        counts["incidents, at least"] = reckoning.losses.at_least
        counts["losses that every front saw"] = reckoning.losses.witnessed
        counts["of other producers, passed over"] = reckoning.losses.passed_over
        return Result(
            injected=self._injector.injected,
            refused=self._injector.refused,
            acknowledged=self._load.acknowledged,
            applied=reckoning.applied,
            lost=len(reckoning.losses.lost),
            differences=reckoning.differences,
            counts=counts,
            refused_starts=self._supervisor.refused_starts,
        )

    # --- progress -----------------------------------------------------------------------

    async def _tell(self) -> None:
        self._show(
            Progress(
                phase=self._phase,
                elapsed_s=time.monotonic() - self._started_s,
                faults=self._injector.injected.total(),
                running=sorted(self._injector.running.elements()),
                acknowledged=self._load.acknowledged,
                differences=len(self._load.stale) + len(self._injector.failed),
            )
        )
