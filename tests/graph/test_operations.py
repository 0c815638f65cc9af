"""The list of operations without a derivative is the one that a sweep over torch finds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sampleprop.graph.operations import RULES

TESTS = Path(__file__).parents[1]
UNREACHED = Path(__file__).with_name("unreached.txt")
# Listed by their formulas: the sweep's inputs give no derivative here, and none that would prove the rule.
UNPROVEN = {
    "CdistBackward0",
    "EqBackward1",
    "GridSampler2DBackwardBackward0",
    "HardshrinkBackwardBackward0",
    "NeBackward1",
    "SoftshrinkBackwardBackward0",
}
# Variants that this version of torch does not make, and what no operation of torch's own makes (see test_paths.py).
NOT_SWEPT = {"DivBackward0", "DivBackward1", "DivBackward3", "CppFunction"}


@pytest.fixture(scope="module")
def sweep() -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "graph.sweep"], cwd=TESTS, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_no_derivative_passes_where_the_list_says_so(sweep: dict[str, Any]) -> None:
    for edge in sweep["edges"]:
        if edge["said"]:
            assert "live" not in edge["states"], edge
            proven = edge["states"].keys() & {"zero", "undefined", "borrowed"}
            assert proven or edge["node"] in UNPROVEN, edge
    assert {edge["node"] for edge in sweep["edges"] if edge["said"]} == RULES.keys() - NOT_SWEPT


@pytest.mark.slow
def test_a_derivative_passes_everywhere_else(sweep: dict[str, Any]) -> None:
    """Or the result does not depend on the argument; and no setting tells where one passes and where none does."""
    for edge in sweep["edges"]:
        if not edge["said"]:
            assert "undefined" not in edge["states"], edge
            assert "live" in edge["states"] or not edge["states"].keys() & {"zero", "borrowed"}, edge
            assert not edge["telling"], edge


@pytest.mark.slow
def test_what_the_sweep_does_not_reach_is_known(sweep: dict[str, Any]) -> None:
    """Other devices and layouts, views, tests of torch's own. A new version of torch shows here what is new in it."""
    assert sweep["unreached"] == UNREACHED.read_text().split()
