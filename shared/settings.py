"""Every setting, read from the environment once, at start-up."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from shared.errors import SettingsError


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError
        return value

    parse.__doc__ = f"a whole number from {low} to {high}"
    return parse


def _one_of(*values: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in values:
            raise ValueError
        return text

    *others, last = values
    parse.__doc__ = f"{', '.join(others)} or {last}" if others else last
    return parse


def _redis_url(text: str) -> str:
    """redis://, rediss:// or unix:// followed by an address"""
    if urlsplit(text).scheme not in {"redis", "rediss", "unix"}:
        raise ValueError
    return text


def _redis_url_or_none(text: str) -> str:
    """empty, or redis://, rediss:// or unix:// followed by an address"""
    return text and _redis_url(text)


def _key_prefix(text: str) -> str:
    """text without braces (they are Redis Cluster's hash tags)"""
    if "{" in text or "}" in text:
        raise ValueError
    return text


def _database(text: str) -> str:
    """1 to 64 letters, digits, _ or -"""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        raise ValueError
    return text


def _text(text: str) -> str:
    """any text that is not empty"""
    if not text:
        raise ValueError
    return text


def _any_text(text: str) -> str:
    """any text"""
    return text


def _time_zone(text: str) -> str:
    """an IANA time zone such as Asia/Shanghai"""
    ZoneInfo(text)
    return text


def _boolean(text: str) -> bool:
    """true or false"""
    return {"true": True, "false": False}[text.lower()]


def _networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """addresses or networks such as 10.0.0.0/8, separated by commas"""
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def _log_level(text: str) -> str:
    """debug, info, warning or error"""
    if text.lower() not in {"debug", "info", "warning", "error"}:
        raise ValueError
    return text.lower()


def setting(
    variable: str, parse: Callable[[str], Any], default: str | None, *, secret: bool = False
) -> Any:
    """One field of `Settings`: its environment variable, parser and default (None: required)."""
    return field(
        repr=not secret,
        metadata={"variable": variable, "parse": parse, "default": default, "secret": secret},
    )


_PORT = _integer(1, 65_535)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Names are the environment variables' in lower case; units are in the names."""

    storage_type: str = setting("STORAGE_TYPE", _one_of("mysql-redis"), "mysql-redis")
    mysql_host: str = setting("MYSQL_HOST", _text, None)
    mysql_port: int = setting("MYSQL_PORT", _PORT, "3306")
    mysql_user: str = setting("MYSQL_USER", _text, "moontv")
    mysql_password: str = setting("MYSQL_PASSWORD", _any_text, "", secret=True)
    mysql_database: str = setting("MYSQL_DATABASE", _database, "moontv")
    mysql_pool_size: int = setting("MYSQL_POOL_SIZE", _integer(1, 1_000), "20")
    redis_url: str = setting("REDIS_URL", _redis_url, None, secret=True)
    arq_redis_url: str = setting("ARQ_REDIS_URL", _redis_url_or_none, "", secret=True)
    key_prefix: str = setting("KEY_PREFIX", _key_prefix, "moontv:")
    username: str = setting("USERNAME", _text, None)
    password: str = setting("PASSWORD", _text, None, secret=True)
    accept_lunatv_cookie: bool = setting("ACCEPT_LUNATV_COOKIE", _boolean, "true")
    cookie_secure: bool = setting("COOKIE_SECURE", _boolean, "false")
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = setting(
        "TRUSTED_PROXIES", _networks, ""
    )
    login_attempts_per_user: int = setting("LOGIN_ATTEMPTS_PER_USER", _integer(1, 1_000_000), "10")
    login_attempts_per_address: int = setting(
        "LOGIN_ATTEMPTS_PER_ADDRESS", _integer(1, 1_000_000), "100"
    )
    registrations_per_address: int = setting(
        "REGISTRATIONS_PER_ADDRESS", _integer(1, 1_000_000), "100"
    )
    redis_locks: bool = setting("REDIS_LOCKS", _boolean, "true")
    host: str = setting("HOST", _text, "127.0.0.1")
    port: int = setting("PORT", _PORT, "8000")
    web_concurrency: int = setting("WEB_CONCURRENCY", _integer(1, 64), "1")
    shards: int = setting("SHARDS", _integer(1, 256), "8")
    batch_max_rows: int = setting("BATCH_MAX_ROWS", _integer(1, 1_000_000), "10000")
    batch_max_entries: int = setting("BATCH_MAX_ENTRIES", _integer(1, 10_000_000), "100000")
    batch_max_bytes: int = setting("BATCH_MAX_BYTES", _integer(1_024, 1_073_741_824), "8388608")
    flush_interval_ms: int = setting("FLUSH_INTERVAL_MS", _integer(0, 60_000), "500")
    stream_retention_s: int = setting("STREAM_RETENTION_S", _integer(0, 604_800), "60")
    max_lag_entries: int = setting("MAX_LAG_ENTRIES", _integer(1, 1_000_000_000), "250000")
    ingest_ack: str = setting("INGEST_ACK", _one_of("memory", "fsync", "replica"), "memory")
    stats_timezone: str = setting("STATS_TIMEZONE", _time_zone, "Asia/Shanghai")
    stop_timeout_s: int = setting("STOP_TIMEOUT_S", _integer(1, 3_600), "30")
    log_level: str = setting("LOG_LEVEL", _log_level, "info")
    log_format: str = setting("LOG_FORMAT", _one_of("json", "console"), "json")

    @property
    def low_water_entries(self) -> int:
        """Lag per shard at which a closed shard opens again: 80 % of the high-water mark."""
        return self.max_lag_entries * 4 // 5


def from_env(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from *environ* (default: the process's own).

    Raises `SettingsError` naming every variable that is missing or wrong, and
    what it may hold; never its value when it is a secret.
    """
    if environ is None:
        environ = os.environ
    values: dict[str, Any] = {}
    faults: list[str] = []
    for name, known in Settings.__dataclass_fields__.items():
        try:
            values[name] = _parse(known.metadata, environ)
        except ValueError as fault:
            faults.append(str(fault))
    if faults:
        raise SettingsError("; ".join(faults))
    values["arq_redis_url"] = values["arq_redis_url"] or values["redis_url"]
    return Settings(**values)


def _parse(known: Mapping[str, Any], environ: Mapping[str, str]) -> Any:
    variable, parse = known["variable"], known["parse"]
    text = environ.get(variable) or known["default"]
    if text is None:
        raise ValueError(f"{variable} is required: {parse.__doc__}")
    try:
        return parse(text)
    except (ValueError, KeyError, OSError):
        given = "" if known["secret"] else f", not {text!r}"
        raise ValueError(f"{variable} must be {parse.__doc__}{given}") from None
