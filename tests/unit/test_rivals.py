"""The bench of rivals: what it sends, what it says of whom, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from api.gate import Visitor
from api.play_records import save_of
from bench.rivals import __main__ as program
from bench.rivals import figures, heartbeats, setting_up, without_overlay
from bench.rivals.clients import Beat
from bench.rivals.contenders import BY_NAME, MOONWAKE, ROOT, Kind
from bench.rivals.figures import Found
from bench.rivals.killing import Killed, Moment
from bench.rivals.setting_up import NotSetUp
from bench.rivals.sustained import Sustained
from bench.servers import OWNER
from shared.cookies import verify
from shared.keys import Keys

ROUND = Sustained(
    events=1_000,
    accepted_per_s=1_000.0,
    p99_ms=5.0,
    sustained_per_s=900.0,
    behind_s=0.1,
    cpu_s_per_1000=0.2,
    front_cpu_s=0.1,
    consumers_cpu_s=0.05,
    redis_cpu_s=0.02,
    mysql_cpu_s=0.03,
    memory_mib=100.0,
)


def found(
    name: str, *, sustained: float = 900.0, cpu: float = 0.2, lost: int = 0, doubled: int = 0
) -> Found:
    """Three equal rounds, and a kill at each moment that did this harm."""
    run = replace(ROUND, sustained_per_s=sustained, cpu_s_per_1000=cpu)
    kills = [Killed(moment, 1_000, lost, doubled) for moment in Moment]
    return Found(BY_NAME[name], [run] * 3, kills)


def goals(*every: Found) -> dict[str, bool | None]:
    return {goal.text: goal.met for goal in figures.goals({f.contender.name: f for f in every})}


def test_every_heartbeat_carries_a_valid_cookie_and_record() -> None:
    """What is sent passes the product's own checks, as the user whose key it is."""
    beat = Beat(nonce=1_716_000_000_007, key=4_321, index=2, play_time=50)
    head, _, body = beat.request.partition(b"\r\n\r\n")
    cookie = next(line for line in head.split(b"\r\n") if line.startswith(b"Cookie: "))
    user = verify(cookie.removeprefix(b"Cookie: "), OWNER["PASSWORD"])
    visitor = Visitor(str(user), 0, Keys("moontv:").play_records(0, str(user)))

    assert heartbeats.user_of(4_321) == user
    assert b"%d" % beat.nonce in save_of(visitor, body).body


def test_two_hundred_users_and_fifty_titles_make_ten_thousand_keys() -> None:
    """Every pair of a user and a title is one key, and no other is sent."""
    pairs = {(heartbeats.user_of(n), heartbeats.content_of(n)) for n in range(heartbeats.KEYS)}

    assert len(pairs) == 10_000
    assert len({user for user, _ in pairs}) == 200


def test_a_faster_rival_that_loses_nothing_makes_a_target_missed() -> None:
    """Whoever keeps what was acknowledged counts, and the miss is said."""
    said = goals(found(MOONWAKE), found("Redis Streams", sustained=800.0, cpu=0.1, doubled=9))

    assert said["sustained 1.1 times Redis Streams, at least 1.3"] is False
    assert said["CPU per 1,000 events 0.20 s, below Redis Streams's 0.10"] is False


def test_a_rival_that_loses_events_may_be_as_fast_as_it_likes() -> None:
    """It is in the table and in no target."""
    said = goals(found(MOONWAKE), found("memory buffer", sustained=90_000.0, lost=1))

    assert said == {"moonwake loses and doubles nothing": True}


def test_one_event_doubled_by_moonwake_misses_its_target() -> None:
    """0 means 0 in every run, not in the median."""
    ours = found(MOONWAKE)
    ours.kills.append(Killed(Moment.ANY, 1_000, 0, 1))

    assert goals(ours) == {"moonwake loses and doubles nothing": False}


def test_a_rival_that_was_not_run_has_no_figure_and_no_target() -> None:
    """Its row says why in place of numbers, also in the JSON."""
    absent = Found(BY_NAME["BullMQ"], faults=["no npm on this machine: apt-get install npm"])
    _, row = figures.rows([absent])

    assert row[1] == "not run: no npm on this machine: apt-get install npm"
    assert not any(row[2:])
    assert absent.document()["median"] is None
    assert goals(found(MOONWAKE), absent) == {"moonwake loses and doubles nothing": True}


def test_without_kills_nobody_is_said_to_lose_nothing() -> None:
    """Neither of moonwake nor of a rival is anything claimed that was not tried."""
    ours, rival = found(MOONWAKE), found("arq")
    ours.kills, rival.kills = [], []

    assert set(goals(ours, rival).values()) == {None}


def test_the_table_replaces_the_one_before_it_and_nothing_else(tmp_path: Path) -> None:
    """The README keeps what is outside the two marks; without them it is left alone."""
    readme = tmp_path / "README.md"
    begin, end = figures.MARKS
    readme.write_text(f"before\n{begin}\nold\n{end}\nafter\n", encoding="utf-8")

    assert figures.write_readme([found(MOONWAKE)], readme)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{begin}\n| ")
    assert text.endswith(f"\n{end}\nafter\n")
    assert "old" not in text

    readme.write_text("nothing here\n", encoding="utf-8")
    assert not figures.write_readme([found(MOONWAKE)], readme)


def test_the_project_readme_has_a_place_for_the_table() -> None:
    """`make bench-rivals` finds its marks."""
    text = figures.README.read_text(encoding="utf-8")

    assert [1, 1] == [text.count(mark) for mark in figures.MARKS]


def test_the_variant_without_overlay_differs_in_three_places(tmp_path: Path) -> None:
    """Two lines fewer in the append script, and a clean-up that does nothing."""
    copy = without_overlay.make_copy(tmp_path / "copy")
    ours = (ROOT / "shared/lua/append.lua").read_text(encoding="utf-8")
    theirs = (copy / "shared/lua/append.lua").read_text(encoding="utf-8")
    gone = set(ours.splitlines()) - set(theirs.splitlines())

    assert len(ours.splitlines()) - len(theirs.splitlines()) == 2
    assert all("write[" in line or "'SET'" in line for line in gone)
    assert "XADD" in theirs


def test_an_append_script_that_was_rewritten_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variant that no longer leaves the overlay out is reported, never measured."""
    monkeypatch.setattr(without_overlay, "OVERLAY_LINES", ("no such line", "nor this"))

    with pytest.raises(NotSetUp, match=r"append\.lua no longer has the lines"):
        without_overlay.make_copy(tmp_path / "copy")


def test_a_machine_without_node_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the program and the package."""
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(NotSetUp, match="no node on this machine: apt-get install nodejs npm"):
        setting_up.program_of(Kind.NODE)


def test_an_unknown_contender_is_refused_with_the_known_ones() -> None:
    """Exit code 2 and one line, before anything is started."""
    app = Typer()
    app.command()(program.main)
    done = CliRunner().invoke(app, ["--only", "nobody"])

    assert done.exit_code == 2
    assert "--only nobody: one of moonwake, without overlay," in done.output
