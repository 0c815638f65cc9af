"""The pages for those who come from another library: what they show of it is what ran, and what it printed.

The other library's programs run in an environment of its own; `docs/coming_from/run.py` leaves code, output and
versions in a file beside the page. Where the library is installed in the version of the page, its programs run again.
"""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from docs.test_pages import _same

FOLDER = Path(__file__).parents[2] / "docs" / "coming_from"
NAMES = ("storchastic", "pyro", "optax")
BLOCK = re.compile(r"^```py\n(.*?)^```\n(?:```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_page_shows_what_ran_and_what_it_printed(name: str) -> None:
    shown = BLOCK.findall((FOLDER / f"{name}.md").read_text(encoding="utf-8"))
    assert shown == [(block["code"], block["prints"]) for block in recorded(name)["blocks"]]
    assert len(shown) > 1


@pytest.mark.parametrize("name", NAMES)
def test_the_page_names_the_versions_and_the_command(name: str) -> None:
    page, found = (FOLDER / f"{name}.md").read_text(encoding="utf-8"), recorded(name)
    assert found["command"] in page
    for package, version in found["versions"].items():
        assert package == "python" or version.partition("+")[0] in page


def here(name: str) -> bool:
    """Whether the libraries of a page are installed, in its versions."""
    try:
        versions = recorded(name)["versions"]
        return all(importlib.metadata.version(p) == v for p, v in versions.items() if p != "python")
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_prints_the_same_again(name: str, tmp_path: Path) -> None:
    if not here(name):
        pytest.skip(f"the libraries of {name}.md are not installed in its versions")
    written = tmp_path / "again.json"
    subprocess.run([sys.executable, str(FOLDER / "run.py"), name, "--json", str(written)], check=True)
    again = json.loads(written.read_text(encoding="utf-8"))["blocks"]
    for block, was in zip(again, recorded(name)["blocks"], strict=True):
        assert _same(block["prints"], was["prints"])
