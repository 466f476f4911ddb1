"""
Structured logs: one event per line on stdout, JSON or for people (LOG_FORMAT).

Set up once per process by whoever starts it. Secrets are taken out of every line,
whoever wrote it: a driver may put a connection's address into its message.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from shared.settings import Settings

#: A shorter secret would take half of every line with it, and so tell what it is.
_SECRET_LENGTH_MIN = 4
_COOKIES = re.compile(r"\b((?:user_)?auth=)[^;\s\"']+")


def set_up_logging(settings: Settings) -> None:
    """Send this process's logs, those of libraries too, to stdout."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
    ]
    rendering: list[Processor] = [*_renderers(settings), Redactor(secrets_in(settings))]
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(),
    )
    _adopt_standard_logs(level, shared, rendering)


def secrets_in(settings: Settings) -> list[str]:
    """Every text in *settings* that no log line may hold."""
    found: list[str] = []
    for name, known in Settings.__dataclass_fields__.items():
        if not known.metadata["secret"]:
            continue
        value = getattr(settings, name)
        password = urlsplit(value).password if name.endswith("_url") else value
        if password:
            found += (password, unquote(password))
    # In JSON a quote or a backslash of a secret is escaped.
    found += [orjson.dumps(secret)[1:-1].decode() for secret in found]
    return sorted(
        {secret for secret in found if len(secret) >= _SECRET_LENGTH_MIN}, key=len, reverse=True
    )


class Redactor:
    """Takes secrets and login cookies out of a rendered line."""

    def __init__(self, secrets: list[str]) -> None:
        self._secrets = re.compile("|".join(map(re.escape, secrets))) if secrets else None

    def __call__(self, _logger: WrappedLogger, _method: str, line: Any) -> str:
        text = _COOKIES.sub(r"\1***", str(line))
        return self._secrets.sub("***", text) if self._secrets else text


def _renderers(settings: Settings) -> list[Processor]:
    # Tracebacks without local variables: those hold cookies and passwords.
    if settings.log_format == "console":
        formatter = structlog.dev.plain_traceback
        return [
            structlog.dev.ConsoleRenderer(
                colors=False, timestamp_key="time", exception_formatter=formatter
            )
        ]
    return [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(serializer=_to_json),
    ]


def _to_json(event: EventDict, **_options: Any) -> str:
    try:
        return orjson.dumps(event, default=str).decode()
    except TypeError:  # half a surrogate pair, a number over 64 bits: rather slow than silent
        return json.dumps(event, default=str)


def _adopt_standard_logs(level: int, shared: list[Processor], rendering: list[Processor]) -> None:
    """Have the standard library's loggers, uvicorn's too, write the same lines."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # arq tells of every job twice; what a drain did is told by the drain.
    logging.getLogger("arq").setLevel(max(level, logging.WARNING))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        # A line per heartbeat tells nothing that /metrics does not.
        logger.propagate = name != "uvicorn.access"
