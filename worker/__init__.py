"""Drains streams into MySQL and runs the scheduled jobs."""
