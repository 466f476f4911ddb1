"""Logs: one event per line, and no secret or login cookie in any of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from shared.cookies import sign
from shared.logging import secrets_in, set_up_logging
from shared.settings import Settings, from_env

SITE_SECRET = 'top"secret'
ENVIRON = {
    "MYSQL_HOST": "h",
    "MYSQL_PASSWORD": "mysql-secret",
    "REDIS_URL": "redis://user:redis%40secret@h/0",
    "USERNAME": "admin",
    "PASSWORD": SITE_SECRET,
}


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Logging is the process's: as it was before, whatever a test set up."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def settings_of(**changes: str) -> Settings:
    return from_env({**ENVIRON, **changes})


def fail_to_connect() -> None:
    raise ConnectionError("redis://user:redis@secret@h/0 with mysql-secret")


def write_much() -> None:
    """Events of ours and lines of libraries, each with something that must not be seen."""
    log = structlog.get_logger()
    cookie = f"user_auth={sign('ann', 'user', SITE_SECRET, 0)}; theme=dark"
    log.info("request_seen", cookie=cookie, nested={"password": SITE_SECRET})
    try:
        fail_to_connect()
    except ConnectionError:
        log.exception("store_failed")
        logging.getLogger("some.library").exception("failed for %s", ENVIRON["REDIS_URL"])
    logging.getLogger("uvicorn.error").warning("Cookie: auth=abcdef")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_secret_and_no_cookie_is_in_any_line(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither plain nor as JSON or a URL writes it, in values, messages or tracebacks."""
    set_up_logging(settings_of(LOG_FORMAT=log_format))
    write_much()
    told = capsys.readouterr().out

    for name in ("request_seen", "store_failed", "failed for", "Traceback"):
        assert name in told
    for secret in (SITE_SECRET, 'top\\"secret', "mysql-secret", "redis@secret", "redis%40secret"):
        assert secret not in told
    assert "abcdef" not in told
    assert "signature" not in told


def test_each_line_is_one_json_object_whoever_wrote_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Time, level and event are in all of them; libraries say their logger's name."""
    set_up_logging(settings_of())
    write_much()
    structlog.get_logger().info("odd_values", half="\ud800", big=2**80, raw=b"\xff")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert 5 == len(lines)
    assert all({"time", "level", "event"} <= set(line) for line in lines)
    assert [None, None, "some.library", "uvicorn.error", None] == [
        line.get("logger") for line in lines
    ]


def test_the_level_is_that_of_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    """For our events and for libraries."""
    set_up_logging(settings_of(LOG_LEVEL="warning"))
    structlog.get_logger().info("quiet")
    logging.getLogger("some.library").info("quiet")
    structlog.get_logger().warning("loud")

    assert ["loud"] == [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]


def test_there_is_no_line_per_request(capsys: pytest.CaptureFixture[str]) -> None:
    """uvicorn's access log has nowhere to write to: it does not even try."""
    set_up_logging(settings_of())
    access = logging.getLogger("uvicorn.access")
    access.info("POST /api/playrecords 200")

    assert not access.hasHandlers()
    assert "" == capsys.readouterr().out


def test_secrets_too_short_to_hide_anything_are_left(capsys: pytest.CaptureFixture[str]) -> None:
    """Taking an 'a' out of every line would tell that it is the password."""
    settings = settings_of(PASSWORD="a")
    set_up_logging(settings)
    structlog.get_logger().info("a_batch_was_written")

    assert "a" not in secrets_in(settings)
    assert "a_batch_was_written" in capsys.readouterr().out
