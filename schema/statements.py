"""A file of SQL, cut into its statements without being fooled by comments and quotes."""

from __future__ import annotations

import re

# Comments that begin /*! or /*M! are code for one of the servers, and a hint /*+ is code too.
_TOKEN = re.compile(
    r"""
      (?P<code> '(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*" | `(?:[^`]|``)*`
              | /\*(?:M?!|\+).*?\*/ )
    | (?P<comment> --(?=\s|\Z)[^\n]* | \#[^\n]* | /\*(?!M?!|\+).*?\*/ )
    | (?P<end> ; )
    | (?P<open> ['"`] | /\* )
    | (?P<text> [^'"`;\#/-]+ | [/-] )
    """,
    re.VERBOSE | re.DOTALL,
)


def split(sql: str) -> list[str]:
    """The statements of *sql* in order, without their semicolons and leading comments.

    Comments inside a statement stay; the last statement needs no semicolon.
    Stored programs (DELIMITER) are not understood. Raises ValueError with the
    line of a quote or comment that never ends.
    """
    statements: list[str] = []
    current: list[str] = []
    for token in _TOKEN.finditer(sql):
        kind, text = token.lastgroup, token.group()
        if kind == "open":
            line = sql.count("\n", 0, token.start()) + 1
            raise ValueError(f"line {line}: {text} is opened and never closed")
        if kind == "end":
            statements.append("".join(current).rstrip())
            current = []
        elif current or (kind != "comment" and not text.isspace()):
            current.append(text if current else text.lstrip())
    statements.append("".join(current).rstrip())
    return [statement for statement in statements if statement]
