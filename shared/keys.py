"""
The names of every Redis key; no other module spells one.

What one event touches shares a hash tag, the shard (architecture section 4): a cluster
would take one script call per shard for what one server takes in a single one.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

#: Overlay field of a pending clear. Record fields always contain "+", this does not.
CLEAR_FIELD = b"clear"
#: Field a cached hash always holds, so that "no records" can be cached too.
MARKER_FIELD = b"cached"


def shard_of(username: str, shards: int) -> int:
    """CRC-32 of the UTF-8 name modulo the shard count: one user, one shard, one order."""
    return zlib.crc32(username.encode()) % shards


def testimonies_of(stream_key: str) -> str:
    """Hash of what fronts saw of a stream before it lost entries (shared/witness.py)."""
    return f"{stream_key}:testimonies"


@dataclass(frozen=True, slots=True)
class UserKeys:
    """The keys of one user's play records."""

    cached: str
    pending: str
    version: str


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names under one prefix (setting KEY_PREFIX)."""

    prefix: str

    def stream(self, stream: str, shard: int) -> str:
        return f"{self.prefix}{{{shard}}}:{stream}"

    def checkpoint(self, stream: str, shard: int) -> str:
        """The published copy of the checkpoint row. `plays` owns the plain name."""
        name = "checkpoint" if stream == "plays" else f"{stream}:checkpoint"
        return f"{self.prefix}{{{shard}}}:{name}"

    def closed(self, stream: str, shard: int) -> str:
        """Set while the shard is above its high-water mark."""
        return f"{self.prefix}{{{shard}}}:{stream}:closed"

    def stopped(self, stream: str, shard: int) -> str:
        """Why the shard is stopped until an operator resumes it; absent while it is not."""
        return f"{self.prefix}{{{shard}}}:{stream}:stopped"

    def lease(self, stream: str, shard: int) -> str:
        return f"{self.prefix}{{{shard}}}:{stream}:lease"

    def play_records(self, shard: int, username: str) -> UserKeys:
        cached = f"{self.prefix}{{{shard}}}:user:{username}:play_records"
        return UserKeys(cached, f"{cached}:pending", f"{cached}:version")

    @property
    def shard_count(self) -> str:
        """The shard count, fixed at first start."""
        return f"{self.prefix}shards"

    @property
    def workers(self) -> str:
        """Hash of live worker processes: id -> JSON."""
        return f"{self.prefix}workers"

    @property
    def fronts(self) -> str:
        """Hash of live API processes: id -> Redis' time when it was seen, in ms."""
        return f"{self.prefix}fronts"

    @property
    def probe(self) -> str:
        """Written by readiness probes: only a write tells whether writes are accepted."""
        return f"{self.prefix}probe"

    def session(self, session_id: str) -> str:
        """One login; *session_id* is the SHA-256 of what its cookie holds."""
        return f"{self.prefix}session:{session_id}"

    def sessions(self, username: str) -> str:
        """Sorted set of the user's session ids, by when they end."""
        return f"{self.prefix}user:{username}:sessions"

    def barred(self, reason: str) -> str:
        """Set of the users whose logins count no more: banned or deleted."""
        return f"{self.prefix}users:{reason}"

    @property
    def barred_revision(self) -> str:
        """Which revision of MySQL's list those sets are; absent while they may be another's."""
        return f"{self.prefix}users:barred_revision"

    def login_attempts(self, kind: str, who: str) -> str:
        """Lately: failed logins of a user or from an address, registrations, new passwords."""
        return f"{self.prefix}login_attempts:{kind}:{who}"

    def lock(self, name: str) -> str:
        return f"{self.prefix}lock:{name}"

    def arq_queue(self, name: str) -> str:
        return f"{self.prefix}arq:{name}"
