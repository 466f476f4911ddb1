"""What workers do on a schedule; a module each, idempotent by what the database holds."""

from __future__ import annotations
