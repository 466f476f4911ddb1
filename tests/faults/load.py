"""The load: users behind HTTP who write, remember every answer, and check what they read."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import Sequence
from urllib.parse import quote

import orjson

from api.play_records import PATH
from shared.cookies import sign
from shared.keys import shard_of
from tests.faults.histories import History, Outcome, Write
from tests.faults.http_client import HttpClient, NoAnswer, NotSent
from tests.faults.lives import Life, Step
from tests.faults.site import Site

#: An answer takes two seconds at most while the front is alive.
_TIMEOUT_S = 8.0
_AFTER_NOT_SENT_S = 0.1
_READ_SHARE = 0.4


class Load:
    """So many users at a time, each with a connection to every front, until it is stopped."""

    def __init__(self, site: Site, seed: int) -> None:
        self._settings = site.settings
        self._ports = [front.port for front in site.fronts]
        self._epochs = site.epochs
        self._note = site.note
        self._seed = seed
        self._stopping = asyncio.Event()
        #: Everybody who ever wrote.
        self.histories: list[History] = []
        #: Reads that showed what they must not.
        self.stale: list[str] = []
        self.counts: Counter[str] = Counter()

    @property
    def acknowledged(self) -> int:
        return self.counts[Outcome.ACKNOWLEDGED.value]

    def stop(self) -> None:
        self._stopping.set()

    async def run(self, clients: int, pace_s: float) -> None:
        """Live until `stop` is called; every write in flight is answered or given up by then."""
        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(self._client(number, pace_s))

    async def _client(self, number: int, pace_s: float) -> None:
        """One user after the other."""
        dice = random.Random(f"{self._seed}:load:{number}")
        for life_number in itertools.count():
            life = Life(f"u{number}x{life_number}", dice)
            visitor = _Visitor(self, life.user)
            try:
                for step in life.steps():
                    await visitor.write(step, dice.choice(visitor.fronts))
                    if dice.random() < _READ_SHARE:
                        visitor.read_beside(dice.choice(visitor.fronts))
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._stopping.wait(), pace_s)
                    if self._stopping.is_set():
                        return
            finally:
                await visitor.leave()

    def new_history(self, user: str) -> History:
        shard = shard_of(user, self._settings.shards)
        history = History(user, shard, born=self._epochs[shard])
        self.histories.append(history)
        return history

    def epoch(self, shard: int) -> int:
        return self._epochs[shard]

    def cookie_of(self, user: str) -> str:
        return f"user_auth={sign(user, 'user', self._settings.password, 0)}"

    def tell_stale(self, what: str) -> None:
        self.stale.append(what)
        self._note(f"stale read: {what}")

    @property
    def ports(self) -> Sequence[int]:
        return self._ports


class _Front:
    """One visitor's connections to one front: a read may go on beside the next write."""

    def __init__(self, port: int) -> None:
        self.name = f"front {port}"
        self.writing = HttpClient(port, _TIMEOUT_S)
        self.reading = HttpClient(port, _TIMEOUT_S)


class _Visitor:
    """One user with a cookie."""

    def __init__(self, load: Load, user: str) -> None:
        self._load = load
        self._cookie = load.cookie_of(user)
        self._history = load.new_history(user)
        self._read: asyncio.Task[None] | None = None
        self.fronts = [_Front(port) for port in load.ports]

    async def leave(self) -> None:
        """Hear what the last read says, and hang up."""
        if self._read is not None:
            await self._read
        for front in self.fronts:
            front.writing.close()
            front.reading.close()

    async def write(self, step: Step, front: _Front) -> None:
        """Send *step* and keep what its answer says."""
        write = Write(
            identity=step.identity,
            key=step.key,
            effect=None if step.record is None else step.identity,
            sent_at_s=time.monotonic(),
            epoch=self._load.epoch(self._history.shard),
        )
        self._history.writes.append(write)
        outcome = Outcome.UNANSWERED
        try:
            outcome = await self._send(step, front)
        finally:
            write.settle(outcome, time.monotonic())
            self._load.counts[outcome.value] += 1
        if outcome is Outcome.NOT_SENT:
            await asyncio.sleep(_AFTER_NOT_SENT_S)

    async def _send(self, step: Step, front: _Front) -> Outcome:
        if step.record is not None:
            method, path = "POST", PATH
            body = orjson.dumps({"key": step.key, "record": step.record})
        else:
            method, body = "DELETE", b""
            path = PATH if step.key is None else f"{PATH}?key={quote(step.key, safe='')}"
        try:
            answer = await front.writing.request(method, path, self._cookie, body)
        except NotSent:
            return Outcome.NOT_SENT
        except NoAnswer:
            return Outcome.UNANSWERED
        if answer.status == 200:
            return Outcome.ACKNOWLEDGED
        if answer.status < 500:
            raise AssertionError(f"{method} {path}: {answer}")
        return Outcome.REFUSED

    def read_beside(self, front: _Front) -> None:
        """Begin a read that is judged when it ends; one at a time."""
        if self._read is None or self._read.done():
            if self._read is not None:
                self._read.result()
            self._read = asyncio.create_task(self._read_once(front))

    async def _read_once(self, front: _Front) -> None:
        shard = self._history.shard
        epoch, began_at_s = self._load.epoch(shard), time.monotonic()
        try:
            answer = await front.reading.request("GET", PATH, self._cookie)
        except (NotSent, NoAnswer):
            self._load.counts["reads without an answer"] += 1
            return
        if answer.status != 200:
            self._load.counts["reads refused"] += 1
            return
        if epoch % 2 or epoch != self._load.epoch(shard):
            self._load.counts["reads in doubt"] += 1
            return
        self._load.counts["reads judged"] += 1
        shown = {key: fields["nonce"] for key, fields in orjson.loads(answer.body).items()}
        wrong = self._history.judge(shown, epoch, began_at_s, time.monotonic())
        for line in wrong:
            self._load.tell_stale(f"{self._history.user} (shard {shard}) at {front.name}: {line}")
