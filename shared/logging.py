"""
Structured logs, set up once per process: one event per line on standard output.

Events are past tense with their figures beside them; no secret, cookie or password
is ever a value.
"""

from __future__ import annotations

import logging
import sys

import orjson
import structlog
from structlog.typing import Processor

from shared.settings import Settings


def set_up_logging(settings: Settings) -> None:
    """Log as LOG_FORMAT and LOG_LEVEL say; other libraries' warnings come the same way."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if settings.log_format == "json":
        renderers: list[Processor] = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_to_json),
        ]
    else:
        renderers = [structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())]
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(),
        cache_logger_on_first_use=True,
    )
    _adopt_standard_logging(shared, renderers)


def _to_json(event: object, **options: object) -> str:
    del options
    return orjson.dumps(event, default=str).decode()


def _adopt_standard_logging(shared: list[Processor], renderers: list[Processor]) -> None:
    """Libraries that use the standard module speak from warnings up, in the same form."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
