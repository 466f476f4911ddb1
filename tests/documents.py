"""The project's documents as tests read them: their code blocks, links and tables."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
OPERATIONS = ROOT / "docs" / "operations.md"
DOCUMENTS = [README, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block, and what the `text` block right behind it says that it prints."""

    language: str
    text: str
    prints: str | None = None


def blocks(document: Path) -> list[Block]:
    """The fenced blocks of *document*; a `text` block right behind another belongs to that."""
    text = document.read_text()
    found: list[Block] = []
    end = 0
    for fence in _FENCE.finditer(text):
        language, content = fence.groups()
        if language == "text" and found and not text[end : fence.start()].strip():
            found[-1] = replace(found[-1], prints=content)
        else:
            found.append(Block(language, content))
        end = fence.end()
    return found


def prose(document: Path) -> str:
    """*document* without its fenced blocks."""
    return _FENCE.sub("", document.read_text())


def links(document: Path) -> list[str]:
    """The targets of its links."""
    return _LINK.findall(prose(document))


def codes(document: Path) -> list[str]:
    """What stands in `backquotes` in its prose."""
    return _CODE.findall(prose(document))


def anchors(document: Path) -> set[str]:
    """What a link to one of its headings may say after the #."""
    headings = _HEADING.findall(prose(document))
    return {re.sub(r"[^\w\- ]", "", text).lower().replace(" ", "-") for text in headings}


def table(document: Path, first_column: str) -> list[list[str]]:
    """The rows of the table in *document* whose first column is named *first_column*."""
    lines = iter(document.read_text().splitlines())
    for line in lines:
        if line.startswith(f"| {first_column} |"):
            break
    rows: list[list[str]] = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows[1:]
