"""Settings: read once, checked all together, named in every complaint, secrets never shown."""

from __future__ import annotations

import dataclasses

import pytest

from shared.errors import SettingsError
from shared.settings import Settings, from_env

REQUIRED = {
    "MYSQL_HOST": "db",
    "REDIS_URL": "redis://cache:6379/1",
    "USERNAME": "admin",
    "PASSWORD": "secret",
}


def complaint(**environ: str) -> str:
    """What `from_env` says of the required settings changed by *environ*."""
    with pytest.raises(SettingsError) as caught:
        from_env({**REQUIRED, **environ})
    return str(caught.value)


def test_the_required_settings_are_enough() -> None:
    """Everything else has the default that the architecture names."""
    settings = from_env(REQUIRED)

    expected = Settings(
        storage_type="mysql-redis",
        mysql_host="db",
        mysql_port=3306,
        mysql_user="moontv",
        mysql_password="",
        mysql_database="moontv",
        mysql_pool_size=20,
        redis_url="redis://cache:6379/1",
        arq_redis_url="redis://cache:6379/1",
        key_prefix="moontv:",
        username="admin",
        password="secret",
        accept_lunatv_cookie=True,
        cookie_secure=False,
        trusted_proxies=(),
        login_attempts_per_user=10,
        login_attempts_per_address=100,
        registrations_per_address=100,
        redis_locks=True,
        host="127.0.0.1",
        port=8000,
        web_concurrency=1,
        shards=8,
        batch_max_rows=10_000,
        batch_max_entries=100_000,
        batch_max_bytes=8 * 1024 * 1024,
        flush_interval_ms=500,
        stream_retention_s=60,
        max_lag_entries=250_000,
        ingest_ack="memory",
        stats_timezone="Asia/Shanghai",
        stop_timeout_s=30,
        log_level="info",
        log_format="json",
    )
    assert expected == settings


def test_every_missing_setting_is_named_in_one_message() -> None:
    """An operator learns all that is missing at once, not one start after another."""
    with pytest.raises(SettingsError) as caught:
        from_env({})

    for variable in REQUIRED:
        assert f"{variable} is required" in str(caught.value)


def test_wrong_and_missing_settings_are_named_together() -> None:
    """One message for the whole environment."""
    said = complaint(PORT="http", USERNAME="")

    assert "PORT must be a whole number from 1 to 65535, not 'http'" in said
    assert "USERNAME is required" in said


@pytest.mark.parametrize(
    ("variable", "wrong"),
    [
        ("STORAGE_TYPE", "upstash"),
        ("MYSQL_PORT", "0"),
        ("MYSQL_PORT", "65536"),
        ("MYSQL_PORT", "33 06"),
        ("MYSQL_DATABASE", "moon`tv"),
        ("MYSQL_DATABASE", "x" * 65),
        ("MYSQL_POOL_SIZE", "0"),
        ("KEY_PREFIX", "moon{1}:"),
        ("PORT", "-1"),
        ("WEB_CONCURRENCY", "0"),
        ("SHARDS", "0"),
        ("SHARDS", "257"),
        ("SHARDS", "eight"),
        ("SHARDS", "8.0"),
        ("BATCH_MAX_ROWS", "0"),
        ("BATCH_MAX_ENTRIES", "0"),
        ("BATCH_MAX_BYTES", "1023"),
        ("FLUSH_INTERVAL_MS", "-1"),
        ("STREAM_RETENTION_S", "1e3"),
        ("MAX_LAG_ENTRIES", "0"),
        ("INGEST_ACK", "disk"),
        ("STATS_TIMEZONE", "Mars/Olympus"),
        ("STATS_TIMEZONE", "../../etc/passwd"),
        ("STOP_TIMEOUT_S", "0"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_a_wrong_setting_is_refused_by_name_with_its_value(variable: str, wrong: str) -> None:
    """The message names the variable, what it may hold and what it held."""
    said = complaint(**{variable: wrong})

    assert said.startswith(f"{variable} must be ")
    assert said.endswith(f"not {wrong!r}")


@pytest.mark.parametrize("variable", ["REDIS_URL", "ARQ_REDIS_URL"])
def test_a_wrong_secret_is_refused_by_name_without_its_value(variable: str) -> None:
    """A URL holds a password: the complaint may end up in a log."""
    said = complaint(**{variable: "http://:hunter2@cache"})

    assert variable in said
    assert "hunter2" not in said


def test_an_empty_variable_counts_as_unset() -> None:
    """Compose files pass VARIABLE= for what is not set."""
    settings = from_env({**REQUIRED, "PORT": "", "ARQ_REDIS_URL": ""})

    assert (8000, REQUIRED["REDIS_URL"]) == (settings.port, settings.arq_redis_url)


def test_arq_can_have_a_redis_of_its_own() -> None:
    """On a Redis Cluster arq needs another server than the streams."""
    settings = from_env({**REQUIRED, "ARQ_REDIS_URL": "redis://other/0"})

    assert ("redis://cache:6379/1", "redis://other/0") == (
        settings.redis_url,
        settings.arq_redis_url,
    )


@pytest.mark.parametrize(
    ("variable", "least", "most"),
    [
        ("PORT", 1, 65_535),
        ("SHARDS", 1, 256),
        ("FLUSH_INTERVAL_MS", 0, 60_000),
        ("STREAM_RETENTION_S", 0, 604_800),
        ("STOP_TIMEOUT_S", 1, 3_600),
    ],
)
def test_the_bounds_of_a_number_are_inside(variable: str, least: int, most: int) -> None:
    """The smallest and the largest named values are accepted."""
    for value in (least, most):
        settings = from_env({**REQUIRED, variable: str(value)})

        assert value == getattr(settings, variable.lower())


@pytest.mark.parametrize(("max_lag", "low"), [(250_000, 200_000), (10, 8), (1, 0)])
def test_the_low_water_mark_is_four_fifths_of_the_high_one(max_lag: int, low: int) -> None:
    """A closed shard opens again only when a fifth of the room is free."""
    settings = from_env({**REQUIRED, "MAX_LAG_ENTRIES": str(max_lag)})

    assert low == settings.low_water_entries


def test_a_level_may_be_written_in_capitals() -> None:
    """LOG_LEVEL=INFO is what most people type."""
    assert "warning" == from_env({**REQUIRED, "LOG_LEVEL": "WARNING"}).log_level


def test_settings_cannot_change_after_the_start() -> None:
    """What a process started with is what it runs with."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        from_env(REQUIRED).shards = 9  # type: ignore[misc]


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an argument the process's own environment is read."""
    for variable, value in {**REQUIRED, "SHARDS": "5"}.items():
        monkeypatch.setenv(variable, value)

    assert 5 == from_env().shards


def test_each_setting_reads_the_variable_of_its_own_name() -> None:
    """`shards` is SHARDS: nobody has to look a name up."""
    for name, known in Settings.__dataclass_fields__.items():
        assert name.upper() == known.metadata["variable"]


def test_settings_written_to_a_log_show_no_secret() -> None:
    """Passwords, and URLs that hold one, are left out of the printed form."""
    environ = {
        **REQUIRED,
        "PASSWORD": "hunter2",
        "MYSQL_PASSWORD": "hunter2",
        "REDIS_URL": "redis://:hunter2@cache",
    }

    assert "hunter2" not in repr(from_env(environ))
