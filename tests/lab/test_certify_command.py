"""`sampleprop certify`: exit codes, JSON, and what is said of mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sampleprop.lab.command.app import app

OWN = """
import sampleprop as sp


class Longer(sp.ScoreFunction):
    def estimate(self, *arguments):
        value = super().estimate(*arguments)
        return {factor} * value + (1 - {factor}) * value.detach()
"""
QUICK = ["--problem", "one bit", "--detectable", "0.1"]


def test_an_estimator_of_the_library_is_certified() -> None:
    found = CliRunner().invoke(app, ["certify", "ScoreFunction(4)", *QUICK])
    assert found.exit_code == 0
    assert found.stdout.startswith("ScoreFunction(samples=4): nothing wrong was found on 1 problem")


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (1.3, 1)])
def test_the_exit_code_says_whether_ones_own_is_right(factor: float, code: int, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN.format(factor=factor))
    found = CliRunner().invoke(app, ["certify", f"{tmp_path / 'own.py'}:Longer", *QUICK, "--json"])
    assert found.exit_code == code
    assert json.loads(found.stdout)["ok"] is (code == 0)


def test_a_problem_that_does_not_exist_is_said_in_a_line() -> None:
    found = CliRunner().invoke(app, ["certify", "DisARM", "--problem", "one byte"])
    assert found.exit_code == 2
    assert "needs the name of a built-in problem; got 'one byte'" in " ".join(found.output.replace("│", "").split())
