"""A dead letter as people and programs read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from rich import box
from rich.table import Table
from rich.text import Text

from worker.kept_letters import Letter
from worker.letters import body_of

_DETAIL_SHOWN = 80


def table(letters: Sequence[Letter]) -> Table:
    """One row each; what names a letter or a reason is never cut, it is there to be copied."""
    mixed = len({letter.state for letter in letters}) > 1
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("letter", no_wrap=True)
    table.add_column("since (UTC)", no_wrap=True)
    table.add_column("user", overflow="fold")
    table.add_column("state and reason" if mixed else "reason", overflow="fold")
    for letter in letters:
        state = f"{letter.state}, " if mixed else ""
        # Text: whatever a stranger's entry holds is shown, not taken for markup.
        table.add_row(
            Text(str(letter.key)),
            Text(f"{letter.created_at:%Y-%m-%d %H:%M}"),
            Text(printable(letter.username or "")),
            Text(f"{state}{letter.reason}\n{_short(printable(letter.detail))}"),
        )
    return table


def details(letter: Letter) -> str:
    """Everything known of the letter, its fields in full."""
    lines = {
        "letter": str(letter.key),
        "state": letter.state,
        "user": printable(letter.username or "unknown"),
        "reason": letter.reason,
        "detail": printable(letter.detail),
        "dead since": f"{letter.created_at} UTC",
        "length": f"{letter.length} bytes" + (f", {letter.kept} kept" if letter.is_cut else ""),
        "SHA-256": letter.sha256,
    }
    if letter.resolved_at is not None:
        batch = f", in batch {letter.resolved_batch_no}" if letter.resolved_batch_no else ""
        lines[letter.state] = f"{letter.resolved_at} UTC{batch}"
    text = [f"{name + ':':<12}{value}" for name, value in lines.items()]
    for name, value in _pairs(letter):
        text += ["", f"field {printable(name.decode(errors='backslashreplace'))}:", _pretty(value)]
    return "\n".join(text)


def as_object(letter: Letter) -> dict[str, Any]:
    """The letter for JSON; `fields` only where they were read."""
    found: dict[str, Any] = {
        "letter": str(letter.key),
        "state": letter.state,
        "username": letter.username,
        "reason": letter.reason,
        "detail": letter.detail,
        "length": letter.length,
        "kept": letter.kept,
        "sha256": letter.sha256,
        "created_at": letter.created_at,
        "resolved_at": letter.resolved_at,
        "resolved_batch_no": letter.resolved_batch_no,
    }
    if letter.raw is not None:
        found["fields"] = [[_text(name), _text(value)] for name, value in _pairs(letter)]
    return found


def raw_body(letter: Letter) -> bytes:
    """The field `d` as far as it is kept. Raises `InvalidField` where the entry has none."""
    fields = letter.fields
    return body_of(fields[: len(fields) // 2 * 2])[0]


def printable(text: str) -> str:
    """*text* without what a terminal would obey."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def _short(text: str) -> str:
    return text if len(text) <= _DETAIL_SHOWN else text[:_DETAIL_SHOWN] + "..."


def _pairs(letter: Letter) -> list[tuple[bytes, bytes]]:
    fields = letter.fields
    if len(fields) % 2:
        fields.append(b"")  # cut right behind a name
    return list(zip(fields[::2], fields[1::2], strict=True))


def _pretty(value: bytes) -> str:
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:
        return printable(_text(value))
    lines = orjson.dumps(parsed, option=orjson.OPT_INDENT_2).decode().splitlines()
    return "\n".join(printable(line) for line in lines)


def _text(value: bytes) -> str:
    return value.decode(errors="backslashreplace")
