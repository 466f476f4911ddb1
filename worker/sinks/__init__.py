"""
What turns a batch of one stream into SQL inside an open transaction.

A stream family is one module here with a `Sink`; the drain knows no more of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shared.keys import UserKeys
from shared.mysql import Cursor
from shared.published import Checkpoint


class Fold(Protocol):
    """A batch in memory; it grows with distinct rows, not with entries."""

    rows: int
    bytes: int

    def add(self, event: Any, ms: int, size: int, *, foreign: bool) -> None:
        """Fold *event* in; *ms* is its entry's time, *size* its length in bytes."""

    def touches(self, event: Any) -> bool:
        """Does the batch hold anything that *event* would be folded with?"""

    def finish(self) -> None:
        """No event follows: do now what else the transaction would have to wait for."""


@dataclass(frozen=True, slots=True)
class Touched:
    """A user whose overlay and cached copy a batch concerns."""

    username: str
    #: Overlay fields that are in MySQL now.
    written: Sequence[bytes]
    #: An entry came from another producer: the cached copy knows nothing of it.
    outdated: bool


class Sink(Protocol):
    """One stream family: how its entries fold, and what the fold writes."""

    stream: str

    def decode(self, body: bytes) -> Any:
        """The event of an entry's body. Raises `InvalidField` for what can never be applied."""

    def username(self, event: Any) -> str:
        """Whose event it is: the name decides the shard."""

    def new_fold(self) -> Fold: ...

    async def apply(self, cursor: Cursor, fold: Any, shard: int, checkpoint: Checkpoint) -> int:
        """Write *fold* in the open transaction that moved to *checkpoint*; rows written.

        Raises `StoredRecordIsNewer` when only entry by entry can be exact.
        """

    def outdated(self, fold: Any) -> Collection[str]:
        """The users of *fold* of whom an entry came from another producer."""

    def touched(self, fold: Any) -> Iterator[Touched]:
        """The users of *fold*."""

    def user_keys(self, shard: int, username: str) -> UserKeys: ...
