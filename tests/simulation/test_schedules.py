"""The drain and the dispatcher keep every promise, whatever order things happen in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.__main__ import failure_text, main
from tests.simulation.runner import run_on_every_core, run_schedule

FIRST_SEED, SCHEDULES = 1, 10_000
ROOT = Path(__file__).parents[2]


def test_ten_thousand_schedules_keep_every_promise() -> None:
    """
    Interleavings, deaths, stops and failures of both stores: each entry is applied once.
    """
    done = 0
    for number, outcome in run_on_every_core(FIRST_SEED, SCHEDULES):
        assert outcome is None, failure_text(outcome)
        done += number

    assert done == SCHEDULES


@pytest.mark.parametrize("seed", [7, 8])
def test_a_seed_replays_step_by_step(seed: int) -> None:
    """
    What a seed did once it does again, in another process, whatever its hashes are.
    """
    replay = subprocess.run(
        [sys.executable, "-m", "tests.simulation", str(seed), "1"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "1234"},
        capture_output=True,
        text=True,
        check=True,
    )

    outcome = run_schedule(seed, traced=True)

    assert "\n".join(outcome.steps) == replay.stdout.rstrip("\n")
    assert len(outcome.steps) > 20


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["x", "1"], "SEED must be a whole number from 0 to 4294967296, not 'x'"),
        (["-1", "1"], "SEED must be a whole number from 0 to 4294967296, not '-1'"),
        (["1", "0"], "SCHEDULES must be a whole number from 1 to 10000000, not '0'"),
        (["1", "1.5"], "SCHEDULES must be a whole number from 1 to 10000000, not '1.5'"),
        (["1"], "two numbers are needed: SEED and SCHEDULES"),
    ],
)
def test_wrong_numbers_are_refused_by_name(
    arguments: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    One line says which number is wrong and what is allowed; the status is 2.
    """
    assert main(arguments) == 2

    assert fault == capsys.readouterr().err.strip()
