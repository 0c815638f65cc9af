"""The papers in `references.bib`: whole entries, and every key that a docstring names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sampleprop
from sampleprop.bibliography import entries

SOURCES = sorted(Path(sampleprop.__file__).parent.rglob("*.py"))
YEAR = re.compile(r"(?:1[89]|20)\d\d")
KEY = re.compile(r"\[([a-z]+(?:1[89]|20)\d\d[a-z]+)\]")


@pytest.mark.parametrize("key", entries())
def test_an_entry_is_whole(key: str) -> None:
    """As BibTeX reads it: one field a line, each with a comma but the last, and every brace closed."""
    first, *fields, last = entries()[key].splitlines()
    assert re.fullmatch(rf"@(article|inproceedings|misc|book)\{{{key},", first)
    assert last == "}"
    assert all(field.endswith("},") for field in fields[:-1])
    assert fields[-1].endswith("}")
    assert all(field.count("{") == field.count("}") for field in fields)
    found = [field.split(" = ")[0].strip() for field in fields]
    assert found[:3] == ["author", "year", "title"]
    assert ("eprint" in found) == ("archivePrefix" in found)
    assert f"year = {{{YEAR.findall(key)[0]}}}" in entries()[key]


def test_entries_are_in_order() -> None:
    assert list(entries()) == sorted(entries())


def test_every_key_that_is_named_has_an_entry_and_every_entry_is_named() -> None:
    named = {key for path in SOURCES for key in KEY.findall(path.read_text(encoding="utf-8"))}
    named |= {key for path in SOURCES for key in re.findall(r'cited\("(\w+)"', path.read_text(encoding="utf-8"))}
    assert named == set(entries())
