"""The sweep of laws. `SAMPLEPROP_LAWS=all` runs every regime; without it, the ordinary one.

Each cell compares value and gradient at 6.5 standard errors, a false alarm once in a million runs of the whole sweep.
"""

from __future__ import annotations

import os

import pyro.distributions as pd
import pytest
import torch
import torch.distributions as td

from laws.page import DATA, PAGE, PICTURES, load, picture, render, template
from laws.pyro_table import LEFT_OUT, PYRO
from laws.subclasses import METHODS, harmless, has, refused
from laws.sweep import BIAS, ESTIMATORS, run
from laws.table import REGIMES, TORCH, Law
from sampleprop.families import laws as door

pytestmark = pytest.mark.filterwarnings("ignore:Singular sample detected", "ignore:Low df values detected")  # Wishart
ALL = os.environ.get("SAMPLEPROP_LAWS") == "all"
ROWS = 2000 if ALL else 600
RUN = range(len(REGIMES)) if ALL else (REGIMES.index("ordinary"),)
DOCUMENTED = load()


@pytest.mark.parametrize("law", [*TORCH, *PYRO], ids=str)
def test_each_cell_is_right_or_refused_as_the_page_says(law: Law) -> None:
    for regime in RUN:
        for name in ESTIMATORS:
            torch.manual_seed(0)
            verdict = run(law, regime, name, ROWS)
            found = DOCUMENTED[law.name][name][regime]
            assert (verdict.kind, template(verdict.says)) == (found.kind, template(found.says)), (name, REGIMES[regime])


@pytest.mark.parametrize("law", TORCH, ids=str)
def test_a_subclass_that_overrides_one_method_is_refused(law: Law) -> None:
    tried = 0
    for method in METHODS:
        if has(law.kind, method):
            for regime in range(len(REGIMES)):
                for name in ESTIMATORS:
                    assert refused(law, regime, method, name).kind == "refused"
                    tried += 1
    assert tried >= 2 * 5 * 6  # sample and log_prob at least


@pytest.mark.parametrize("law", TORCH, ids=str)
def test_a_subclass_that_defines_sample_and_log_prob_is_scored_by_them(law: Law) -> None:
    kind = run(law, REGIMES.index("ordinary"), "ScoreFunction", 600, harmless(law.kind)).kind
    assert kind == DOCUMENTED[law.name]["ScoreFunction"][REGIMES.index("ordinary")].kind


def test_every_class_is_in_the_sweep() -> None:
    def classes(module: object) -> set[str]:
        kinds = {name: getattr(module, name) for name in dir(module)}
        return {n for n, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, td.Distribution)}

    swept = {law.kind.__name__ for law in TORCH}
    assert classes(td) - swept <= {"Distribution", "ExponentialFamily"}
    own = {name for name in classes(pd) if not hasattr(td, name)}
    assert own - {law.kind.__name__ for law in PYRO} == {name for name in LEFT_OUT if hasattr(pd, name)} - {
        "ExponentialFamily"
    }
    assert len(swept) >= 40


@pytest.mark.parametrize("kind", sorted({law.kind for law in TORCH}, key=lambda kind: kind.__name__))
def test_what_pyro_only_wraps_is_taken_as_torchs(kind: type[td.Distribution]) -> None:
    wrapper = getattr(pd, kind.__name__, kind)
    assert door.of_class(wrapper).plain
    assert door.of_class(wrapper).contradiction is None


def test_the_page_and_the_pictures_are_those_of_the_data() -> None:
    assert set(DOCUMENTED) == {law.name for law in (*TORCH, *PYRO)}
    assert all(set(row) == set(ESTIMATORS) for row in DOCUMENTED.values())
    assert all(len(verdicts) == len(REGIMES) for row in DOCUMENTED.values() for verdicts in row.values())
    assert PAGE.read_text() == render(DOCUMENTED, 2000, BIAS)
    for theme, path in PICTURES.items():
        assert path.read_text() == picture(DOCUMENTED, theme)
    assert DATA.exists()
