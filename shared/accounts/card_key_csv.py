"""Card keys as CSV for a spreadsheet, which must take no cell for a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from shared.accounts.card_keys import CardKey
from shared.times import iso

#: A cell that begins so is a formula to a spreadsheet; to a Chinese one in full width too.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_HEADINGS = ("key", "type", "status", "created", "expires", "bound to", "bound", "source")


def csv_text(keys: Iterable[CardKey]) -> str:
    """*keys* below headings, a row each."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_HEADINGS)
    for key in keys:
        row = [
            *(key.key, key.key_type, key.status, iso(key.created_at), iso(key.expires_at)),
            *(key.bound_to or "", iso(key.bound_at), key.source or ""),
        ]
        writer.writerow([_cell(value) for value in row])
    return text.getvalue()


def _cell(value: str) -> str:
    # Names that older sites took may begin with anything.
    return f"'{value}" if value.startswith(_FORMULA) else value
