"""The pictures of the documentation: they are drawn from their numbers, the numbers can be measured again, and captions
say no other ones.

False alarms: a new measurement is off by more than Z standard errors with a probability of 6e-7 for each number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch

from pictures import FOLDER, NAMES, data_file, drawn, module
from pictures.style import svg

Z = 5
DOCS = Path(__file__).parents[2] / "docs"
OUTCOMES = [f"outcomes-{name}" for name in module("outcomes").TABLES]  # a page's table each
ALL = [*NAMES, *OUTCOMES, *(f"thumbnail-{name}" for name in module("thumbnails").DRAWINGS)]
DRAWN_BY = (
    "3.11."  # the version of matplotlib with which the committed files were drawn: others place letters otherwise
)
# A few seconds each: the arguments of `numbers`, where it is not told enough by a twentieth of the replicates.
SMALL: dict[str, dict[str, int]] = {
    "applications": {"seeds": 2},
    "arena": {},
    "baseline": {"replicates": 6000},
    "certificates": {"step": 40, "replicates": 4000},
    "choose": {},
    "digital_option": {"replicates": 4000},
    "equal_time": {},
    "extreme_values": {},
    "gumbel_max": {"draws": 1000},
    "gumbel_softmax": {"replicates": 20_000},
    "hero": {"replicates": 40},
    "methods": {"replicates": 4000},
    "motivation": {"replicates": 1000},
    "peers": {},
    "policies": {"replicates": 200},
    "programs": {"replicates": 2000},
    "rebar": {"replicates": 2000},
    "relax": {"replicates": 2000},
    "reparameterization": {"replicates": 20_000},
    "scaling": {},
    "score_pathwise": {"replicates": 10_000},
    "step_times": {},
    "straight_through": {"replicates": 5000},
    "structures": {"samples": 1000, "replicates": 128},
}
MEASURED = OUTCOMES + [name for name in NAMES if hasattr(module(name), "numbers")]


def test_each_measured_picture_has_a_small_measurement() -> None:
    assert set(MEASURED) == {*SMALL, *OUTCOMES}


def rounded(text: str) -> str:
    """An SVG with its positions in whole points: rounding differs from one machine to the next."""
    return re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]):.0f}".replace("-0", "0"), text)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_the_committed_picture_is_that_of_the_committed_numbers(name: str) -> None:
    if not matplotlib.__version__.startswith(DRAWN_BY):
        pytest.skip(f"needs matplotlib {DRAWN_BY}")
    committed = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    assert rounded(svg(drawn(name))) == rounded(committed)


def numbers_of(tree: Any, path: str = "") -> Iterator[tuple[str, dict[str, float]]]:
    """Every measured number in the data, with the way to it."""
    if isinstance(tree, dict) and set(tree) == {"mean", "error"}:
        yield path, tree
    elif isinstance(tree, dict | list):
        for key, inner in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from numbers_of(inner, f"{path}/{key}")


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURED)
def test_a_new_measurement_agrees(name: str) -> None:
    torch.manual_seed(1)
    committed = json.loads(data_file(name).read_text(encoding="utf-8"))
    small = SMALL.get(name, {})
    again = json.loads(json.dumps(module(name).numbers(**small)))
    if not small:  # the numbers of a table on a page
        assert again == committed
        return
    then, now = dict(numbers_of(committed)), dict(numbers_of(again))
    assert then
    for path, new in now.items():
        off = abs(new["mean"] - then[path]["mean"])
        assert off <= Z * (new["error"] ** 2 + then[path]["error"] ** 2) ** 0.5 + 1e-3 * abs(new["mean"]), path


OPENING = re.compile(r"(:{3,}|`{3})\{picture\} ([\w-]+)")


def pictures_of(page: Path) -> Iterator[tuple[Path, str, str, str]]:
    """The pictures of a page: the page, the name, the options and the caption."""
    lines = iter(page.read_text(encoding="utf-8").splitlines())
    for line in lines:
        if found := OPENING.fullmatch(line):
            inside = list(iter(lines.__next__, found[1]))
            options = [one for one in inside if one.startswith(":")]
            yield page, found[2], "\n".join(options), "\n".join(inside[len(options) :])


CAPTIONS = [each for page in sorted(DOCS.glob("**/*.md")) if "_build" not in page.parts for each in pictures_of(page)]
NUMBER = re.compile(r"(?<![\w.^{])\d[\d,]*(?:\.\d+)?(?![\w}])")


def said(tree: Any) -> Iterator[float]:
    """All numbers in the data; parts of one as percentages too."""
    if isinstance(tree, bool) or tree is None:
        return
    if isinstance(tree, int | float):
        yield from (tree, 100 * tree)
    elif isinstance(tree, str):
        yield from (float(found) for found in re.findall(r"\d+(?:\.\d+)?", tree))
    elif isinstance(tree, list):
        yield len(tree)
        for inner in tree:
            yield from said(inner)
    else:
        for key, inner in tree.items():
            yield from said(key)
            yield from said(inner)


@pytest.mark.parametrize(("page", "name", "options", "caption"), CAPTIONS, ids=lambda value: str(value)[:40])
def test_a_caption_says_numbers_that_were_measured(page: Path, name: str, options: str, caption: str) -> None:
    assert ":alt: " in options
    assert name in ALL
    stated = NUMBER.findall(re.sub(r"\]\([^)]*\)|`[^`]*`", "", caption))
    if stated:
        known = set(said(json.loads(data_file(name).read_text(encoding="utf-8"))))
    for number in stated:
        digits = len(number.partition(".")[2])
        assert any(f"{value:.{digits}f}" == number.replace(",", "") for value in known), f"{page}: {number}"


def test_every_picture_is_shown() -> None:
    assert {name for _, name, _, _ in CAPTIONS} == set(ALL)
