"""The README and the documentation: their Python runs and prints what they say, and their links lead somewhere."""

import re
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from math import isclose
from pathlib import Path

import pytest
import torch

import sampleprop as sp
from sampleprop.estimator import FAMILIES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GENERATED = {DOCS / "estimators" / f"{kind.__name__.lower()}.md" for kind in sp.REGISTER}
FAMILY_PAGES = {DOCS / "estimators" / f"family-{family.replace(' ', '-')}.md" for family in FAMILIES}
FOLDERS = ("", "article/", "coming_from/", "results/")
PAGES = sorted(
    {ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(page for folder in FOLDERS for page in DOCS.glob(f"{folder}*.md"))}
)

FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TOLERANCE = 0.15  # of a printed number: the same seed gives other rounding, and elsewhere other noise

BLOCKS = {page: FENCE.findall(page.read_text(encoding="utf-8")) for page in PAGES}
RUNNING = [page for page in PAGES if any(language == "python" for language, _ in BLOCKS[page])]


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", RUNNING, ids=_name)
def test_the_blocks_of_a_page_run_in_order_and_print_what_it_says(page: Path) -> None:
    torch.manual_seed(0)
    scope: dict[str, object] = {}
    printed = ""
    for language, block in BLOCKS[page]:
        if language == "python":
            output = StringIO()
            with redirect_stdout(output):
                exec(compile(block, str(page), "exec"), scope)
            printed = output.getvalue()
        elif language == "output":
            assert _same(printed, block), f"{page} says\n{block}\nbut its code prints\n{printed}"
    assert scope


def _same(printed: str, stated: str) -> bool:
    """Whether the words are the same, and the numbers nearly so."""
    words: Callable[[str], list[str]] = lambda text: NUMBER.sub("#", text).split()  # noqa: E731
    numbers: Callable[[str], list[float]] = lambda text: [float(number) for number in NUMBER.findall(text)]  # noqa: E731
    return words(printed) == words(stated) and all(
        isclose(a, b, rel_tol=TOLERANCE) for a, b in zip(numbers(printed), numbers(stated), strict=True)
    )


def test_another_output_is_noticed() -> None:
    assert _same("bias 12.0 %, 3e-05", "bias  12.5 %, 3e-05\n")
    assert not _same("bias 12.0 %", "bias 15.0 %")
    assert not _same("bias 12.0 %", "variance 12.0 %")
    assert not _same("0.0", "0.1")


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    lost = [target for target in _targets(page.read_text(encoding="utf-8")) if not _leads(page, target)]
    assert not lost, f"{page} links to {lost}"


def test_a_dead_link_is_noticed() -> None:
    assert _leads(DOCS / "index.md", "choosing.md")
    assert _leads(DOCS / "index.md", "estimators/rebar.md")
    assert _leads(DOCS / "index.md", "contract.md#shapes")
    assert not _leads(DOCS / "index.md", "missing.md")
    assert not _leads(DOCS / "index.md", "estimators/missing.md")
    assert not _leads(DOCS / "index.md", "contract.md#missing")
    assert _targets("[a](b.md), `[c](d.md)` and [e](https://f)\n```\n[g](h.md)\n```\n") == ["b.md"]


def _targets(text: str) -> list[str]:
    """Where the links go that stay inside the project; what code looks like a link is none."""
    prose = re.sub(r"^```.*?^```|`[^`]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    return [target for target in LINK.findall(prose) if not re.match(r"[a-z]+:", target)]


def _leads(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    if file in GENERATED | FAMILY_PAGES:
        return not anchor
    return file.exists() and (not anchor or anchor in _anchors(file))


def _anchors(page: Path) -> set[str]:
    """The headings, as the builder names them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_page_is_in_one_table_of_contents() -> None:
    listed: list[Path] = []
    for index in PAGES:
        for entries in re.findall(
            r"^```\{toctree\}\n(.*?)^```", index.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        ):
            lines = [line for line in entries.splitlines() if line and not line.startswith(":")]
            names = [re.sub(r".*<(.*)>", r"\1", line) for line in lines]
            found = {page for name in names for page in index.parent.glob(f"{name}.md")} - {index}
            listed += found | {index.parent / f"{name}.md" for name in names if name.startswith("estimators/")}
    assert len(listed) == len(set(listed))
    pages = {page for page in PAGES if page.is_relative_to(DOCS)} - {DOCS / "index.md"}
    assert set(listed) == pages | FAMILY_PAGES
