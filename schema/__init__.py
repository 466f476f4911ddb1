"""Numbered forward-only SQL and what applies it: `python -m schema`."""
