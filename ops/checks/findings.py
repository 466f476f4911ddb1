"""A finding: what one check saw, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad; ordered by `RANK`."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


RANK = {Level.OK: 0, Level.WARNING: 1, Level.ERROR: 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's answer. *why* and *remedy* are empty where all is well."""

    check: str
    level: Level
    found: str
    why: str = ""
    remedy: str = ""


def ok(check: str, found: str) -> Finding:
    return Finding(check, Level.OK, found)


def warning(check: str, found: str, why: str, remedy: str) -> Finding:
    return Finding(check, Level.WARNING, found, why, remedy)


def error(check: str, found: str, why: str, remedy: str) -> Finding:
    return Finding(check, Level.ERROR, found, why, remedy)


def worst(findings: Iterable[Finding]) -> Level:
    """The highest level among *findings*."""
    return max((finding.level for finding in findings), key=RANK.__getitem__, default=Level.OK)


def numbers(version: str) -> tuple[int, ...]:
    """(10, 11, 19) of '10.11.19-MariaDB-deb12': its leading numbers."""
    parts: list[int] = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        parts.append(int(digits))
        if digits != part:
            break
    return tuple(parts)


def mib(size_bytes: float) -> str:
    """`12.5 MiB`, or GiB from one up."""
    if size_bytes >= 1 << 30:
        return f"{size_bytes / (1 << 30):.1f} GiB"
    return f"{size_bytes / (1 << 20):.1f} MiB"
