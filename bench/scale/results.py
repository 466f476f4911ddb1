"""What was measured last, part by part, and where it is kept: in this project or below a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson

PROJECT = Path(__file__).parents[2]


class Part(StrEnum):
    """What can be measured alone."""

    WORKERS = "workers"
    STORED = "stored"
    OUTAGE = "outage"


#: Part -> its document: when and where it was measured, with which parameters, what came out.
Results = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where results, the page and its plots lie below *root*."""

    root: Path = PROJECT

    @property
    def results(self) -> Path:
        return self.root / "bench" / "results" / "scale.json"

    @property
    def page(self) -> Path:
        return self.root / "docs" / "performance.md"

    @property
    def plots(self) -> Path:
        return self.root / "docs" / "plots"

    def read(self) -> dict[str, Any]:
        """All parts that were measured; nothing yet is no part."""
        if not self.results.exists():
            return {}
        kept: dict[str, Any] = orjson.loads(self.results.read_bytes())
        return kept

    def keep(self, part: Part, document: Mapping[str, Any]) -> None:
        """Replace what was kept of *part*; the others stay."""
        kept = {**self.read(), part.value: document}
        ordered = {name.value: kept[name] for name in Part if name in kept}
        self.results.parent.mkdir(parents=True, exist_ok=True)
        self.results.write_bytes(orjson.dumps(ordered, option=orjson.OPT_INDENT_2) + b"\n")
