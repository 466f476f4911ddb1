"""The simulation notices when a guard is taken away: it is no theatre."""

from __future__ import annotations

from itertools import count, islice

import pytest

from tests.simulation.mutations import MUTATIONS, Mutation
from tests.simulation.runner import run_schedule
from tests.simulation.scenarios import plan_of

#: Schedules in which every guard that matters is missed, and the harmless ones are not.
SCHEDULES_MAX, HARMLESS = 4_000, 150


@pytest.mark.parametrize(
    "mutation", [each for each in MUTATIONS if each.caught], ids=lambda each: each.name
)
def test_without_a_guard_some_schedule_breaks_a_promise(mutation: Mutation) -> None:
    """
    The first schedule that breaks without it, and holds with it, comes soon.
    """
    assert first_to_miss(mutation, SCHEDULES_MAX) is not None


@pytest.mark.parametrize(
    "mutation", [each for each in MUTATIONS if not each.caught], ids=lambda each: each.name
)
def test_what_only_saves_work_can_go_without_harm(mutation: Mutation) -> None:
    """
    No promise rests on it: another guard, named beside it, stands behind.
    """
    assert first_to_miss(mutation, HARMLESS) is None


def first_to_miss(mutation: Mutation, schedules: int) -> int | None:
    """The first seed whose schedule breaks a promise without the guard, and none with it."""
    for seed in islice(filter(lambda each: _suits(mutation, each), count(1)), schedules):
        with mutation.applied():
            broken = run_schedule(seed).broken
        if broken and not run_schedule(seed).broken:
            return seed
    return None


def _suits(mutation: Mutation, seed: int) -> bool:
    return any(mutation.among in name for name in (plan_of(seed).disasters or ("",)))
