"""The papers: `references.bib`, and what an estimator cites of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """Where an estimator comes from.

    Attributes:
        key: of its entry in `references.bib`.
        where: the section, equation or algorithm.
    """

    key: str
    where: str = ""

    def bibtex(self) -> str:
        """The entry for a bibliography."""
        return entries()[self.key]

    def __getitem__(self, field: str) -> str:
        """A field of the entry, "" where it has none."""
        found = re.search(rf"^  {field} = {{+(.*?)}}+,?$", self.bibtex(), re.MULTILINE)
        return found[1] if found else ""

    def __str__(self) -> str:
        venue = self["booktitle"] or self["journal"] or self["howpublished"]
        arxiv = f", arXiv:{self['eprint']}" if self["eprint"] else ""
        where = f", {self.where}" if self.where else ""
        return f"{self['author']} ({self['year']}), “{self['title']}”, {venue}{arxiv}{where}"


def cited(key: str, where: str = "") -> Source:
    """The paper under this key."""
    return Source(key, where)


@cache
def entries() -> dict[str, str]:
    """Each entry as it stands in the file, by its key."""
    text = Path(__file__).with_name("references.bib").read_text(encoding="utf-8")
    return {re.match(r"@\w+{(.*),", entry)[1]: entry for entry in text.strip().split("\n\n")}  # type: ignore[index]


def own_entry() -> str:
    """The entry of sampleprop itself, in the version that runs; `CITATION.cff` says the same."""
    from sampleprop import __version__

    return f"""@misc{{sampleprop,
  author = {{{{The sampleprop developers}}}},
  year = {{2026}},
  title = {{{{sampleprop: gradients through continuous and discrete samples in PyTorch, each estimator certified}}}},
  howpublished = {{Software, version {__version__}, Apache-2.0}}
}}"""
