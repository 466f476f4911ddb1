"""
Errors moonwake raises on purpose, and what the caller does about each.

* MoonwakeError
  * SettingsError        a setting is missing or wrong -> print it, do not start
  * InvalidField         a request or entry breaks a rule -> 400, or a dead letter
  * Refused              a rule about what is stored says no -> 400, in words for the user
    * NotFound           what it is about is not there -> 404
    * Conflict           it met another change, or a reused Idempotency-Key -> 409
  * TooManyAttempts      too many logins failed lately -> 429 with Retry-After
  * Unavailable          a store cannot serve now -> 503 with Retry-After
    * AppendRefused      Redis refused or did not answer an append
      * AckUnmet         Redis cannot keep what INGEST_ACK promises -> do not start, or 503
    * Closed             the shard is above its high-water mark
    * StoreDown          MySQL or Redis cannot be read
    * Busy               others hold what this needs, for too long
  * CheckpointMoved      another worker is ahead on this shard -> abandon the batch, reload
  * Rewound              Redis holds less than it once did -> open a new incarnation
  * StoredRecordIsNewer  a folded batch met a newer stored record -> read it again, unfolded
  * DataRefused          MySQL refused a value of the batch -> bisect to the entry
    * Taken              a unique key is taken -> another was first
  * Transient            MySQL failed in a way that passes -> try again
    * Contended          it waited for a lock, or too long -> try again with less at a time
  * ShardStopped         refusals pile up: our fault, not the data's -> stop and say so
  * SchemaError          the database's schema is not this program's -> do not start
"""

from __future__ import annotations


class MoonwakeError(Exception):
    """Base of every error in this module."""


class SettingsError(MoonwakeError):
    """One or more settings are missing or wrong; the message names each."""


class InvalidField(MoonwakeError):
    """A value breaks a rule: *field* is its path, *allowed* says what would pass.

    *error* is the text real front ends know (facts section 5).
    """

    def __init__(self, error: str, field: str, allowed: str) -> None:
        super().__init__(f"{error}: {field}, allowed: {allowed}")
        self.error = error
        self.field = field
        self.allowed = allowed


class Refused(MoonwakeError):
    """What is stored does not allow it; nothing was changed. The text is for the user."""


class NotFound(Refused):
    """What the request is about is not there."""


class Conflict(Refused):
    """The request met another change, or its Idempotency-Key was used for another request."""


class TooManyAttempts(MoonwakeError):
    """Too many logins failed lately; the next one may be made in *retry_after_s* seconds."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("尝试次数过多，请稍后再试")
        self.retry_after_s = retry_after_s


class Unavailable(MoonwakeError):
    """A store cannot serve now; the client may try again."""


class AppendRefused(Unavailable):
    """Redis refused the append, or its answer did not come in time."""


class AckUnmet(AppendRefused):
    """Redis cannot keep what the level of INGEST_ACK promises; *remedy* says what would help."""

    def __init__(self, level: str, fault: str, remedy: str) -> None:
        super().__init__(f"INGEST_ACK is {level}, but Redis cannot keep that now: {fault}")
        self.level = level
        self.fault = fault
        self.remedy = remedy


class Closed(Unavailable):
    """The shard's lag is above the high-water mark."""


class StoreDown(Unavailable):
    """A store could not be reached or answered with an error that passes."""


class Busy(Unavailable):
    """Others hold what this needs, for longer than anybody should wait."""


class CheckpointMoved(MoonwakeError):
    """The shard's checkpoint row is not where this worker left it."""


class Rewound(MoonwakeError):
    """A stream holds less than it once did: it was flushed, or a stale replica took over."""


class StoredRecordIsNewer(MoonwakeError):
    """A key's stored record is newer than the first of several saves folded over it."""


class DataRefused(MoonwakeError):
    """MySQL refused a value of the batch for what it is; the same batch would fail again."""


class Taken(DataRefused):
    """A unique key is taken: somebody else was first, or the same was done before."""


class Transient(MoonwakeError):
    """MySQL failed in a way that passes: lock wait, deadlock, lost connection, read-only."""


class Contended(Transient):
    """A lock wait, a deadlock or a statement's time-out: with fewer rows it is less likely."""


class ShardStopped(MoonwakeError):
    """MySQL refuses so much of a batch that the fault must be ours."""


class SchemaError(MoonwakeError):
    """The database's schema is not the one this program was built for."""


def text_of(error: BaseException) -> str:
    """What *error* says, or of what kind it is where it says nothing."""
    return str(error) or type(error).__name__


#: What asyncmy and uvloop say, as a RuntimeError, of a connection that is reset at once.
_RESET = ("Transport does not expose socket", "unable to perform operation on <")


def is_reset(error: BaseException) -> bool:
    """Does *error* say that a connection was reset before it could be used?"""
    return isinstance(error, RuntimeError) and str(error).startswith(_RESET)
