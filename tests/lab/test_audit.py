"""The command `sampleprop audit`, as somebody's CI would call it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sampleprop.lab.command.app import app

SOURCE = """
import torch

def good(rewards):
    return rewards - 0.2

def bad(token_level_rewards, response_mask, **kwargs):
    scores = token_level_rewards.sum(1)
    return (scores - scores.mean()) / (scores.std() + 1e-4)

def odd(rewards, schedule):
    return rewards

number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "mine $ & <b>.py"
    path.write_text(SOURCE, encoding="utf-8")
    return str(path)


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["audit", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_a_gate_for_other_peoples_trainers(file: str) -> None:
    code, out, _ = run(f"{file}:good", "--groups", "2", "--fail-above", "0.01")
    assert code == 0, out
    assert "Unbiased on all of these policies." in out
    code, out, error = run(f"{file}:bad", "--groups", "2", "--fail-above", "0.01")
    assert code == 1
    assert "Biased: the mean update is 0 to 59.0% off." in out
    assert "An error of 59.03% is above 1.00%." in error


def test_report(file: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, printed, _ = run(f"{file}:bad", "--groups", "2", "--json", "--out", str(out))
    assert code == 0
    assert json.loads(printed)["rows"][0]["error"] == pytest.approx(0.5903, abs=1e-4)
    assert {path.name for path in out.iterdir()} == {"audit.json", "audit.md", "audit.png", "audit.html"}
    page = (out / "audit.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "<b>" not in page
    assert "59.0%" in page
    assert (out / "audit.png").stat().st_size > 5000
    assert "| 59.0% |" in (out / "audit.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("{file}",), "needs FILE.py:FUNCTION"),
        (("nowhere.py:good",), "needs the file nowhere.py"),
        (("{file}:none",), "needs a function none"),
        (("{file}:number",), "needs a function number"),
        (("{file}:odd",), "what odd wants as 'schedule'"),
        (("{file}:good", "--groups", "two"), "--groups needs whole numbers"),
        (("{file}:good", "--groups", "1"), "2 draws or more"),
        (("{file}:good", "--reduce", "sum"), "reduce as one of"),
        (("{file}:good", "--worlds", "large"), "--worlds needs plain or tools"),
        (("{file}:good", "--json", "--markdown"), "Leave one of them out"),
    ],
)
def test_refusals_are_one_line(file: str, arguments: tuple[str, ...], match: str) -> None:
    code, _, error = run(*(argument.format(file=file) for argument in arguments))
    assert code == 2
    assert match in " ".join(error.replace("│", " ").split())
    assert "Traceback" not in error
