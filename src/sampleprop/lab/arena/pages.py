"""What the arena writes: one HTML file, Markdown, and the tables inside a page of the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sampleprop.lab.arena import records as files
from sampleprop.lab.arena import tables
from sampleprop.lab.arena.page import page
from sampleprop.lab.arena.records import Record
from sampleprop.lab.measure.folder import replace

BEGIN, END = "<!-- arena:begin -->", "<!-- arena:end -->"


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
    """Put the tables of the library's files between the markers of a page.

    Raises:
        ValueError: for a page without the markers.
    """
    path.write_text(_filled(path), encoding="utf-8")


def filled(path: Path) -> bool:
    """Whether the tables in the page are those of the library's files."""
    return path.read_text(encoding="utf-8") == _filled(path)


def _filled(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{path} needs the line {BEGIN} and, below it, the line {END}, once each. Add them.")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{markdown(files.read_all(files.STANDARD))}\n{END}{after}"
