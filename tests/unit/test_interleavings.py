"""Every order in which appends, reads, workers and deaths can happen keeps every promise."""

from __future__ import annotations

import itertools
from collections import deque

import pytest

from tests.interleavings import (
    DEAD,
    FOREIGN,
    GUARDS,
    NOT_CACHED,
    OWN,
    Broken,
    Model,
    Reader,
    State,
)

SEQUENCES = [
    "".join(kinds)
    for length in (1, 2)
    for kinds in itertools.product((OWN, FOREIGN, DEAD), repeat=length)
]


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_no_interleaving_shows_an_old_record_or_leaves_a_wrong_copy(sequence: str) -> None:
    """
    A reader sees what it was told is kept; when all is applied, copies say what MySQL says.
    """
    assert explore(sequence, reads=3 - len(sequence)) > 500


@pytest.mark.parametrize("guard", GUARDS)
def test_without_any_one_guard_the_model_finds_a_way_to_break_a_promise(guard: str) -> None:
    """
    None of the protocol's rules is idle, and the model would notice each that is missing.
    """
    found = []
    for sequence in reversed(SEQUENCES):
        try:
            explore(sequence, frozenset({guard}), reads=3 - len(sequence))
        except Broken as broken:
            found.append(str(broken))
            break

    assert len(found) == 1


# --- the walk --------------------------------------------------------------------


def explore(todo: str, removed: frozenset[str] = frozenset(), reads: int = 2) -> int:
    """Walk every interleaving of the appends *todo*; the number of states. Raises `Broken`."""
    model = Model(removed)
    start = State(todo, Reader(reads))
    reached: dict[State, tuple[str, State] | None] = {start: None}
    waiting = deque([start])
    while waiting:
        state = waiting.popleft()
        ended = True
        try:
            check(state)
            for what, after in model.successors(state):
                ended = False
                if after not in reached:
                    reached[after] = (what, state)
                    waiting.append(after)
            if ended:
                check_end(state)
        except Broken as broken:
            raise Broken(f"{broken}, after: {'; '.join(_way_to(state, reached))}") from None
    return len(reached)


def check(state: State) -> None:
    """No cached copy is ever older than what its user was told is kept."""
    if NOT_CACHED < state.cached < state.must_show(len(state.stream)):
        raise Broken(f"the cached copy is {state.cached}")


def check_end(state: State) -> None:
    """When everything is applied a read shows exactly what MySQL holds, cached or not."""
    right = state.last(OWN + FOREIGN, 0, len(state.stream))
    if state.stored != right:
        raise Broken(f"MySQL holds {state.stored}, not {right}")
    if state.cached not in {NOT_CACHED, right}:
        raise Broken(f"the cached copy stays {state.cached}, not {right}")
    if state.overlay > state.published and state.overlay != right:
        raise Broken(f"reads go on to show {state.overlay}, not {right}")


def _way_to(state: State, reached: dict[State, tuple[str, State] | None]) -> list[str]:
    way: list[str] = []
    while step := reached[state]:
        what, state = step
        way.append(what)
    return way[::-1]
