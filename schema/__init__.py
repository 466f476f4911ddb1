"""Numbered forward-only SQL, and what brings a database to it: `python -m schema`."""

from __future__ import annotations

from schema.files import expected_version
from schema.runner import check, migrate

__all__ = ["check", "expected_version", "migrate"]
