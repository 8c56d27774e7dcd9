"""What a page of the documentation holds: its blocks of code, its links, its headings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
GUIDES = sorted((ROOT / "dispatch" / "docs").glob("*.md"))
PAGES = [README, *GUIDES]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_ID = re.compile(r'<a id="([^"]+)"></a>')


class Block(NamedTuple):
    """`where`: page and line, for messages."""

    language: str
    text: str
    where: str

    @property
    def name(self) -> str | None:
        """The file that the block is, if its first line says so."""
        found = re.match(r"(?:#|//) (\w+\.(?:py|mjs))\n", self.text)
        return found[1] if found else None


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(one[1], one[2], f"{page.name}:{text.count(chr(10), 0, one.start()) + 2}")
        for one in _BLOCK.finditer(text)
    ]


def prose(page: Path) -> str:
    return _BLOCK.sub("", page.read_text())


def links(page: Path) -> list[str]:
    return _LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """Where links into a page may go: its headings, as GitHub names them, and its ids."""
    text = prose(page)
    return {_slug(one) for one in _HEADING.findall(text)} | set(_ID.findall(text))


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def everything() -> str:
    return "\n".join(page.read_text() for page in PAGES)
