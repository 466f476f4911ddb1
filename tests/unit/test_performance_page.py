"""The page on performance says what was measured, and nothing else."""

from __future__ import annotations

import copy
import re

import pytest

from bench.scale import page
from bench.scale.history import RECORDS_PER_CYCLE, contents_of, key_of, new_key_of
from bench.scale.results import Place

PROJECT = Place()


def test_the_page_is_the_one_its_results_give() -> None:
    """No figure between its markers was typed, or left behind by an earlier run."""
    text = PROJECT.page.read_text(encoding="utf-8")

    assert text == page.rendered(text, PROJECT.read())


def test_another_measurement_gives_another_page() -> None:
    """The tables follow the results, and what people wrote around them stays."""
    text = PROJECT.page.read_text(encoding="utf-8")
    results = copy.deepcopy(PROJECT.read())
    results["outage"]["acknowledged"] = 987_654_321

    changed = page.rendered(text, results)

    assert "987,654,321" in changed
    assert _around(text) == _around(changed)


def test_a_part_that_was_not_measured_is_named_so() -> None:
    """A gap shows as one."""
    text = PROJECT.page.read_text(encoding="utf-8")

    assert page.rendered(text, {}).count("Not measured yet.") == 4


def test_a_page_without_markers_is_refused() -> None:
    """Tables are never written to where nobody expects them."""
    with pytest.raises(ValueError, match="markers of 'machine'"):
        page.rendered("# Performance\n", {})


def test_every_plot_on_the_page_is_there_for_light_and_dark() -> None:
    """A reader of either theme sees it."""
    text = PROJECT.page.read_text(encoding="utf-8")
    shown = re.findall(r'"(plots/[\w-]+\.svg)"', text)

    assert shown
    assert all((PROJECT.page.parent / name).exists() for name in shown)
    assert len(shown) == 2 * len({name.replace("-dark", "") for name in shown})


def test_stored_records_come_sorted_and_once() -> None:
    """A history can be written in the order of its key, and a record found by its number."""
    keys = [key_of(number) for number in range(3 * RECORDS_PER_CYCLE)]

    assert keys == sorted(set(keys))
    assert {len(contents_of(user)) for user in range(20)} == {10, 40, 120, 300}


def test_new_records_are_not_in_the_history() -> None:
    """Half of the players of a round begin something, in every round something else."""
    stored = {key_of(number) for number in range(RECORDS_PER_CYCLE)}
    begun = {new_key_of(number, round_) for number in range(RECORDS_PER_CYCLE) for round_ in (1, 2)}

    assert len(begun) == 2 * RECORDS_PER_CYCLE
    assert not stored & begun


def _around(text: str) -> str:
    """*text* without what is generated."""
    return re.sub(r"generated -->.*?<!-- end", "", text, flags=re.DOTALL)
