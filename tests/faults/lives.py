"""
What users do, from a seed: short lives in which every write leaves a trace of its own.

An upsert hides what happened twice, and a later save what was lost before it. So a save
carries a nonce and mostly an index of its own (each of them counts one play), some saves
have a content of their own that is deleted soon after (done again, it would count again),
a key is deleted at most once by its user, and a life has at most one clear.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from tests.plays import record

_CONTENTS = 8
_STEPS_MIN, _STEPS_MAX = 20, 70
#: Shares of the steps; the rest are saves of shared contents.
_PROBE, _DELETE = 0.15, 0.05
_CLEARED_LIVES = 0.5


@dataclass(frozen=True, slots=True)
class Step:
    """One write. *key* None: a clear; *record* None: a delete."""

    user: str
    key: str | None
    record: dict[str, Any] | None

    @property
    def identity(self) -> str:
        """What tells its entry from every other: see `identity_of`."""
        if self.record is not None:
            return str(self.record["nonce"])
        return f"clear {self.user}" if self.key is None else f"delete {self.user} {self.key}"


def identity_of(event: dict[str, Any]) -> str:
    """The identity of an event read back from a stream."""
    match event:
        case {"nonce": str(nonce)} | {"record": {"nonce": str(nonce)}}:
            return nonce
        case {"op": "clear", "user": user}:
            return f"clear {user}"
        case {"op": "delete", "user": user, "source": source, "id": content_id}:
            return f"delete {user} {source}+{content_id}"
    raise ValueError(f"not an event of this run: {orjson.dumps(event)!r}")


class Life:
    """One user's steps from first to last, a function of *dice* alone."""

    def __init__(self, user: str, dice: random.Random) -> None:
        self.user = user
        self._dice = dice
        self._saves = 0
        self._saved: list[str] = []
        self._deleted: set[str] = set()
        self._probes: list[str] = []

    def steps(self) -> Iterator[Step]:
        dice = self._dice
        length = dice.randrange(_STEPS_MIN, _STEPS_MAX)
        clear_at = dice.randrange(length) if dice.random() < _CLEARED_LIVES else -1
        for number in range(length):
            if number == clear_at:
                yield Step(self.user, None, None)
            else:
                yield self._step(dice.random())
        for key in self._probes:
            yield Step(self.user, key, None)

    def _step(self, chance: float) -> Step:
        if self._probes and chance < _PROBE:
            return Step(self.user, self._probes.pop(0), None)
        if chance < 2 * _PROBE:
            return self._save(f"p+{self.user}.{self._saves}", probe=True)
        open_keys = [key for key in self._saved if key not in self._deleted]
        if open_keys and chance < 2 * _PROBE + _DELETE:
            key = self._dice.choice(open_keys)
            self._deleted.add(key)
            return Step(self.user, key, None)
        return self._save(f"s+{self._dice.randrange(_CONTENTS)}", probe=False)

    def _save(self, key: str, *, probe: bool) -> Step:
        dice = self._dice
        self._saves += 1
        if probe:
            self._probes.append(key)
        elif key not in self._saved:
            self._saved.append(key)
        fields: dict[str, Any] = {
            # Half of them stay with the episode, or nothing would be watched.
            "index": dice.choice((1, 1 + self._saves)),
            "play_time": dice.randrange(4_000),
            "total_episodes": dice.randrange(1, 100),
            "nonce": f"{self.user}.{self._saves}",
        }
        if dice.random() < 0.1:
            fields["original_episodes"] = dice.randrange(1, 100)
        return Step(self.user, key, record(**fields))
