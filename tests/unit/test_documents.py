"""What documents and examples say is so: settings, limits, links, file names and commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
from typer.testing import CliRunner

from ops.cli import cli
from ops.stack import web_command
from shared import events
from shared.events import PlayRecord
from shared.keys import shard_of
from shared.settings import Settings, from_env
from tests.documents import (
    DOCUMENTS,
    OPERATIONS,
    README,
    ROOT,
    anchors,
    blocks,
    codes,
    links,
    table,
)


@pytest.fixture(name="settings_known")
def _settings_known() -> Settings:
    required = {"MYSQL_HOST": "db", "REDIS_URL": "redis://cache", "USERNAME": "u", "PASSWORD": "p"}
    return from_env(required)


by_name = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def test_the_settings_table_is_the_programs() -> None:
    """Every setting, in the program's order, with its default and what it may hold."""
    expected = []
    for known in (field.metadata for field in Settings.__dataclass_fields__.values()):
        default = "required" if known["default"] is None else known["default"] or "empty"
        expected.append([f"`{known['variable']}`", default, known["parse"].__doc__])

    rows = table(README, "setting")

    assert expected == [row[:3] for row in rows]
    assert all(row[3] for row in rows)


def test_the_shards_in_the_readme_are_where_events_go() -> None:
    """Another program that computes these numbers puts its events where they are drained."""
    rows = table(README, "user")

    assert [str(shard_of(user, 8)) for user, _, _ in rows] == [shard for _, _, shard in rows]
    assert [str(shard_of(user, 2**32)) for user, _, _ in rows] == [crc for _, crc, _ in rows]
    assert any(not user.isascii() for user, _, _ in rows)


def test_the_field_limits_in_the_readme_are_the_programs() -> None:
    """A producer that keeps them meets no dead letter."""
    text = README.read_text()
    longest = {
        name: int(limit)
        for name, limit in re.findall(r"`(\w+)` (?:1 to )?(\d+)(?= characters|[,);])", text)
    }
    limits = {field.name: _maximum(field.type) for field in msgspec.structs.fields(PlayRecord)}
    names = ("title", "source_name", "cover", "year", "search_title", "remarks", "type")

    assert {name: limits[name] for name in names} == {name: longest[name] for name in names}
    assert f"`index` 1 to {limits['index']}" in text
    assert f"name has 1 to {events.USER_MAX} characters" in text
    assert f"source 1 to {events.SOURCE_MAX} without `+`, id 1 to {events.ID_MAX};" in text
    assert f"up to {events.EXTRA_DEPTH_MAX} levels" in text
    assert f"more than {events.ENTRY_BYTES_MAX // 1024} KB" in text


@by_name
def test_links_lead_somewhere(document: Path) -> None:
    """A link inside the project names a file that is there, and a heading that is in it."""
    for link in links(document):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        target = document.parent / parts.path if parts.path else document

        assert target.exists(), link
        assert not parts.fragment or parts.fragment in anchors(target), link


@by_name
def test_files_that_are_named_exist(document: Path) -> None:
    """A path in backquotes is one of the project's, from its root."""
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()} - {".run", ".venv"}
    for code in codes(document):
        if code.split("/")[0] in folders and "/" in code and " " not in code:
            assert list(ROOT.glob(code)), code


@by_name
def test_commands_that_are_named_exist(document: Path) -> None:
    """What a reader is told to type is there: `moonwake ...` commands and make's targets."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for code in codes(document):
        words = re.split(r"\s+", code)
        if words[0] == "make":
            assert words[1] in targets, code
        elif Path(words[0]).name == "moonwake":
            told = CliRunner().invoke(cli, [*shlex.split(code)[1:], "--help"])

            assert told.exit_code == 0, told.output


def test_log_events_that_are_named_are_logged() -> None:
    """Whoever alerts on an event waits for one that can come."""
    logged = set(re.findall(r'"([a-z_]+)"', _program()))
    rows = table(OPERATIONS, "event")

    assert {event.strip("`") for event, *_ in rows} <= logged
    levels = {level for _, level, *_ in rows}
    assert {"warning", "error", "critical"} == levels


def test_metrics_that_are_named_are_served() -> None:
    """Whoever alerts on a metric waits for one that is there."""
    served = set(re.findall(r'"(?:moonwake_)?([a-z_]+)"', _program())) | {"redis_up", "mysql_up"}
    named = {code for code in codes(OPERATIONS) if code.startswith("moonwake_")}

    assert named
    assert {name.removeprefix("moonwake_").removesuffix("_total") for name in named} <= served


def test_the_proxies_blocks_are_those_of_the_examples() -> None:
    """The guide shows what `deploy/` holds, line by line."""
    for language, example in (("nginx", "nginx.conf"), ("caddy", "Caddyfile")):
        (block,) = [each for each in blocks(OPERATIONS) if each.language == language]
        for part in block.text.split("\n\n"):
            assert part.strip("\n") in (ROOT / "deploy" / example).read_text()


def test_the_example_settings_are_settings() -> None:
    """A copy of the example starts it, once its passwords are filled in."""
    text = (ROOT / "deploy" / "moonwake.env.example").read_text()
    given = dict(word.split("=", 1) for word in shlex.split(text, comments=True))
    known = {field.metadata["variable"] for field in Settings.__dataclass_fields__.values()}

    assert given.keys() <= known
    assert "admin" == from_env(given).username


def test_units_and_procfile_start_the_web_process_as_up_does(settings_known: Settings) -> None:
    """Production runs the same server, with the same options, as `moonwake up`."""
    plain = {
        "--factory",
        "api.app:create_app",
        "--no-access-log",
        "--no-proxy-headers",
        "uvloop",
        "httptools",
    }
    unit = (ROOT / "deploy" / "moonwake-web.service").read_text()
    (started,) = re.findall(r"^ExecStart=(.+)$", unit, re.MULTILINE)
    (web,) = re.findall(r"^web: (.+)$", (ROOT / "Procfile").read_text(), re.MULTILINE)

    assert plain <= set(web_command(settings_known))
    assert plain <= set(shlex.split(started))
    assert plain <= set(shlex.split(web))


def _program() -> str:
    """The source text of everything that runs."""
    folders = ("api", "worker", "shared", "schema", "ops")
    return "\n".join(path.read_text() for name in folders for path in ROOT.glob(f"{name}/**/*.py"))


def _maximum(annotation: object) -> int | None:
    """The highest number or longest text that a field of a struct takes."""
    known = msgspec.inspect.type_info(annotation)
    if isinstance(known, msgspec.inspect.Metadata):
        known = known.type
    kinds = known.types if isinstance(known, msgspec.inspect.UnionType) else (known,)
    for kind in kinds:
        if isinstance(kind, msgspec.inspect.StrType):
            return kind.max_length
        if isinstance(kind, msgspec.inspect.IntType):
            return kind.le
    return None
