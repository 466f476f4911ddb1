"""How a route is described in the OpenAPI document, beside the route itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from api.bodies import PAGE_MAX


@dataclass(frozen=True, slots=True)
class Query:
    """A parameter of the query string."""

    name: str
    about: str
    kind: str = "string"
    required: bool = False
    #: What it may be besides, as JSON Schema has it.
    rules: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Described:
    """What an operation takes and gives; *errors* are statuses that carry an `ErrorBody`."""

    tag: str
    result: Any
    body: Any = None
    errors: tuple[int, ...] = ()
    login: bool = False
    #: Who may, where that is not every user.
    role: Literal["admin", "owner"] | None = None
    queries: tuple[Query, ...] = ()
    #: Does it take an Idempotency-Key?
    once: bool = False
    #: Does 503 carry the result too?
    tells_why: bool = False
    #: Of the result; JSON has a schema.
    kind: str = "application/json"


def _from_1(highest: int, default: int) -> dict[str, int]:
    return {"minimum": 1, "maximum": highest, "default": default}


#: (path, method in lower case) -> its description.
Descriptions = Mapping[tuple[str, str], Described]


def pages(size: int, size_max: int) -> tuple[Query, Query]:
    """The parameters of what comes in pages, of *size* unless the query says otherwise."""
    return (
        Query("page", "Which page, from 1.", "integer", rules=_from_1(PAGE_MAX, 1)),
        Query(
            "pageSize",
            f"Its size, 1 to {size_max:,}.",
            "integer",
            rules=_from_1(size_max, size),
        ),
    )
