"""
A model of one user's one record: appends, a reader, two workers, in every order there is.

Protocol 2, 6, 7 and 16 with everything else left out. A value is the position of
the entry that wrote it, so an older answer is a smaller number. One worker may stop
or die between any two steps, or go on as a zombie while the other works.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

#: Kinds of entries: acknowledged by the API; another producer's, which leaves no
#: overlay; acknowledged by the API, but MySQL will refuse it.
OWN, FOREIGN, DEAD = "o", "f", "d"
NOT_CACHED = -1

#: What keeps the promises; tests show that none can be left out.
GUARDS = (
    "Redis is read before MySQL",
    "the version is read with the overlay",
    "an append changes the version",
    "a fill compares the version",
    "the commit precedes the publishing",
    "the commit precedes the clean-up",
    "the clean-up compares positions",
    "publishing drops the copies it proves wrong",
    "publishing and dropping are one step",
    "a takeover drops copies too",
    "the published checkpoint only grows",
    "nothing unpublished is trimmed",
)


class Reader(NamedTuple):
    """A reader with so many reads to go; what it took from Redis and from MySQL."""

    reads: int
    phase: str = "begin"
    appended: int = 0
    #: Is the version it took still the present one?
    is_current: bool = False
    overlay: int = 0
    published: int = 0
    found: int = 0


class Worker(NamedTuple):
    """A worker on the shard: position, batch in hand, and what its last commit left to do."""

    phase: str = "load"
    at: int = 0
    batch_no: int = 0
    through: int = 0
    left: tuple[str, ...] = ()
    #: Of the batch that *left* is about: (position, batch number, are copies wrong?)
    about: tuple[int, int, bool] = (0, 0, False)


class State(NamedTuple):
    """Both stores and everybody who works on them."""

    todo: str
    reader: Reader
    workers: tuple[Worker, Worker] = (Worker(), Worker())
    # Redis
    stream: str = ""
    trimmed: int = 0
    overlay: int = 0
    cached: int = NOT_CACHED
    published: int = 0
    published_no: int = 0
    # MySQL
    stored: int = 0
    checkpoint: int = 0
    batch_no: int = 0

    def last(self, kinds: str, after: int, through: int) -> int:
        """The last position in (after, through] of an entry of *kinds*, 0 for none."""
        positions = range(after + 1, through + 1)
        return max((p for p in positions if self.stream[p - 1] in kinds), default=0)

    def must_show(self, appended: int) -> int:
        """The oldest right answer for whom *appended* entries were there at the beginning.

        A dead letter is shown until it is one.
        """
        return max(self.last(OWN, 0, appended), self.last(DEAD, self.checkpoint, appended))


class Broken(Exception):
    """A promise is broken; the message says which, and by which steps."""


@dataclass(frozen=True, slots=True)
class Model:
    """The protocol without the guards in *removed*."""

    removed: frozenset[str] = frozenset()

    def has(self, guard: str) -> bool:
        assert guard in GUARDS
        return guard not in self.removed

    def successors(self, state: State) -> Iterator[tuple[str, State]]:
        """(what happens, the state after it) for everything that can happen next."""
        if state.todo:
            yield f"append {state.todo[0]}", self._append(state)
        if state.reader.reads:
            yield f"reader: {state.reader.phase}", self._read(state)
        first, second = state.workers
        for what, after, worker in self._work(state, first):
            yield f"first worker: {what}", after._replace(workers=(worker, second))
        if first.phase != "dead":
            yield "first worker: dies", state._replace(workers=(Worker("dead"), second))
        for what, after, worker in self._work(state, second):
            yield f"second worker: {what}", after._replace(workers=(first, worker))

    # --- API ------------------------------------------------------------------------

    def _append(self, state: State) -> State:
        kind, at = state.todo[0], len(state.stream) + 1
        state = state._replace(todo=state.todo[1:], stream=state.stream + kind)
        if kind == FOREIGN:
            return state
        if self.has("an append changes the version"):
            state = _with_new_version(state)
        cached = NOT_CACHED if state.cached == NOT_CACHED else at
        return state._replace(overlay=at, cached=cached)

    def _read(self, state: State) -> State:
        reader = state.reader
        redis_first = self.has("Redis is read before MySQL")
        if reader.phase == "begin":
            reader = reader._replace(appended=len(state.stream))
            state = state._replace(reader=reader)
            return self._look(state, "load") if redis_first else self._load(state, "look")
        if reader.phase == "look":
            return self._look(state, "fill")
        if reader.phase == "version":
            return state._replace(reader=reader._replace(is_current=True, phase="load"))
        if reader.phase == "load":
            return self._load(state, "fill")
        return self._fill(state)

    def _look(self, state: State, phase: str) -> State:
        """Version, overlay, published checkpoint and cached copy at one moment."""
        if state.cached != NOT_CACHED:
            return self._answer(state, state.cached)
        if not self.has("the version is read with the overlay"):
            phase = "version"
        reader = state.reader._replace(phase=phase, is_current=True)
        reader = reader._replace(overlay=state.overlay, published=state.published)
        return state._replace(reader=reader)

    def _load(self, state: State, phase: str) -> State:
        return state._replace(reader=state.reader._replace(found=state.stored, phase=phase))

    def _fill(self, state: State) -> State:
        reader = state.reader
        merged = reader.overlay if reader.overlay > reader.published else reader.found
        if reader.is_current or not self.has("a fill compares the version"):
            state = state._replace(cached=merged)
        return self._answer(self._clean_up(state, reader.published), merged)

    def _answer(self, state: State, answer: int) -> State:
        expected = state.must_show(state.reader.appended)
        if answer < expected:
            raise Broken(f"a read answered {answer}, not {expected}")
        return state._replace(reader=Reader(state.reader.reads - 1))

    # --- worker -----------------------------------------------------------------------

    def _work(self, state: State, worker: Worker) -> Iterator[tuple[str, State, Worker]]:
        if worker.left:
            what, *left = worker.left
            after = self._settle(state, what, worker.about)
            yield what, after, self._hand_over(state, worker._replace(left=tuple(left)))
        if worker.phase == "read" and len(state.stream) > worker.at:
            yield "read", state, worker._replace(phase="commit", through=len(state.stream))
        elif worker.phase == "commit":
            after, worker = self._commit(state, worker)
            yield "commit", after, self._hand_over(state, worker)
        elif worker.phase == "load" and not worker.left:
            yield "load", state, Worker("look", at=state.checkpoint, batch_no=state.batch_no)
        elif worker.phase == "look":
            yield "look", state, self._take_over(state, worker)

    def _hand_over(self, state: State, worker: Worker) -> Worker:
        """The next batch may be committed, but is not settled before the last one is."""
        if worker.phase != "committed" or worker.left:
            return worker
        about = (worker.through, worker.batch_no + 1, self._is_wrong(state, worker))
        return Worker("read", about[0], about[1], left=self._order(), about=about)

    def _take_over(self, state: State, worker: Worker) -> Worker:
        if state.published_no >= worker.batch_no:
            return worker._replace(phase="read")
        # Every user of an entry that can still be read.
        between = state.last(OWN + FOREIGN + DEAD, max(state.published, state.trimmed), worker.at)
        drops = between > 0 and self.has("a takeover drops copies too")
        about = (worker.at, worker.batch_no, drops)
        return worker._replace(phase="read", left=("publish", "clean up"), about=about)

    def _is_wrong(self, state: State, worker: Worker) -> bool:
        if not self.has("publishing drops the copies it proves wrong"):
            return False
        return state.last(FOREIGN + DEAD, worker.at, worker.through) > 0

    def _order(self) -> tuple[str, ...]:
        if not self.has("nothing unpublished is trimmed"):
            return ("trim", "publish", "clean up")
        if not self.has("publishing and dropping are one step"):
            return ("publish", "drop", "clean up")
        return ("publish", "clean up")  # trimming up to what is published tells nobody anything

    def _commit(self, state: State, worker: Worker) -> tuple[State, Worker]:
        early = (worker.through, worker.batch_no + 1, self._is_wrong(state, worker))
        if not self.has("the commit precedes the publishing") and early[1] > state.published_no:
            return self._settle(state, "publish", early), worker
        if not self.has("the commit precedes the clean-up") and 0 < state.overlay <= early[0]:
            return self._settle(state, "clean up", early), worker
        if state.batch_no != worker.batch_no:  # the fence
            return state, worker._replace(phase="load")
        stored = state.last(OWN + FOREIGN, worker.at, worker.through) or state.stored
        state = state._replace(
            stored=stored, checkpoint=worker.through, batch_no=worker.batch_no + 1
        )
        return state, worker._replace(phase="committed")

    def _settle(self, state: State, what: str, about: tuple[int, int, bool]) -> State:
        at, batch_no, drops = about
        if what == "trim":
            return state._replace(trimmed=max(state.trimmed, at))
        if what == "clean up":
            return self._clean_up(state, at)
        if what == "drop":
            return self._drop(state) if drops else state
        if batch_no <= state.published_no and self.has("the published checkpoint only grows"):
            return state
        state = state._replace(published=at, published_no=batch_no)
        if drops and self.has("publishing and dropping are one step"):
            return self._drop(state)
        return state

    def _drop(self, state: State) -> State:
        return _with_new_version(state)._replace(cached=NOT_CACHED)

    def _clean_up(self, state: State, through: int) -> State:
        if state.overlay > through and self.has("the clean-up compares positions"):
            return state
        return state._replace(overlay=0)


def _with_new_version(state: State) -> State:
    return state._replace(reader=state.reader._replace(is_current=False))
