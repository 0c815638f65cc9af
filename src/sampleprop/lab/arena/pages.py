"""What the arena writes: one HTML file, Markdown, and the tables inside a page of the documentation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sampleprop.lab.arena import records as files
from sampleprop.lab.arena import tables
from sampleprop.lab.arena.page import page
from sampleprop.lab.arena.records import Record
from sampleprop.lab.measure.folder import replace

BEGIN, END = "<!-- arena:begin", "<!-- arena:end -->"
BLOCK = re.compile(rf"({BEGIN}((?: [\w-]+)*)(?:: ([^\n]+))? -->\n).*?({END})", re.DOTALL)


def write(records: Sequence[Record], out: Path) -> list[Path]:
    """Write arena.md and arena.html into a folder; return their paths."""
    out.mkdir(parents=True, exist_ok=True)
    written = [out / "arena.md", out / "arena.html"]
    replace(written[0], f"# Arena\n\n{markdown(records)}\n")
    replace(written[1], page(records))
    return written


def markdown(records: Sequence[Record]) -> str:
    """Every table."""
    return "\n\n".join(table.markdown() for table in tables.all_tables(records))


def fill(path: Path) -> None:
    """Put tables of the library's files between the markers of a page.

    The marker `<!-- arena:begin -->` asks for every table, and `<!-- arena:begin digits 20 -->` for that of one problem
    at one budget, without its title. `<!-- arena:begin digits 20: ARMS; REBAR, trained -->` asks for some of its rows.

    Raises:
        ValueError: for a page without markers, and for an unknown problem or budget, or a row that is not there.
    """
    path.write_text(_filled(path), encoding="utf-8")


def filled(path: Path) -> bool:
    """Whether the tables in the page are those of the library's files."""
    return path.read_text(encoding="utf-8") == _filled(path)


def _filled(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if not BLOCK.search(text):
        raise ValueError(f"{path} needs the line {BEGIN} --> and, below it, the line {END}. Add them.")
    records = files.read_all(files.STANDARD)
    return BLOCK.sub(lambda found: f"{found[1]}{_block(records, found[2].split(), found[3])}\n{found[4]}", text)


def _block(records: Sequence[Record], words: Sequence[str], rows: str | None) -> str:
    if not words:
        return markdown(records)
    if len(words) != 2 or not words[1].isdigit():
        raise ValueError(f"A marker needs a problem and a budget; got {' '.join(words)}. Write digits 20, say.")
    names = None if rows is None else [name.strip() for name in rows.split(";")]
    return tables.one(records, words[0], int(words[1]), names).body()
