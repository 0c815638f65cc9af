"""The comparison with other libraries: a gradient that is not right is noticed, and its time does not count.

The contenders that are installed are compared with exact gradients by the program itself, in a process of its own,
since one of them changes torch. A false alarm: |z| > 5 for one of about 400 numbers, once in 3,000 runs.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import peers  # noqa: E402
from contenders import ours  # noqa: E402
from contenders.problems import CASES, Problem  # noqa: E402

pytestmark = pytest.mark.slow

# Which contender does not have the right gradient, or none; the page of benchmarks says so.
WITHOUT = {
    ("storchastic", "DisARM, vae, bits"),
    ("storchastic", "REBAR, vae, bits"),
    ("storchastic", "RELAX, vae, bits"),
    ("storchastic", "unordered set, toy-1"),
    ("pyro-ppl", "importance-weighted bound, vae, bits"),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    written = tmp_path_factory.mktemp("peers") / "run.json"
    command = [sys.executable, str(BENCHMARKS / "peers.py"), "--agreement", "--json", str(written)]
    subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(written.read_text())["rows"]
    return found


def test_all_gradients_agree_but_those_that_are_named(rows: list[dict[str, Any]]) -> None:
    here = {row["contender"] for row in rows}
    assert "sampleprop" in here
    assert len(here) > 1
    found = {(row["contender"], row["case"]) for row in rows if not row["agrees"]}
    assert found == {(name, case) for name, case in WITHOUT if name in here}, [r for r in rows if not r["agrees"]]


def test_a_bias_of_a_quarter_would_have_been_seen(rows: list[dict[str, Any]]) -> None:
    seen = {(row["contender"], row["case"]): row["bias seen"] for row in rows if row["agrees"]}
    assert max(seen.values()) < 0.25, seen


def halved(method: str) -> SimpleNamespace:
    """A contender that is fast, and wrong by a half."""

    def build(problem: Problem, samples: int) -> Any:
        right = ours.STEPS[method](problem, samples)

        def step() -> None:
            right()
            for tensor in problem.trained:
                tensor.grad.mul_(0.5)

        return step

    return SimpleNamespace(STEPS={method: build}, PACKAGE="halved", SUMS=False)


@pytest.mark.parametrize("case", {case.method: case for case in reversed(CASES)}.values(), ids=str)
def test_a_wrong_gradient_is_noticed_in_every_method(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "REPLICATES", 100)
    wrong = halved(case.method)
    found = peers.judged(case, [wrong])
    assert found[ours.PACKAGE]["agrees"]
    assert not found[wrong.PACKAGE]["agrees"]
    assert found[wrong.PACKAGE]["says"].startswith("does not agree: |z| = ")


def test_a_contender_that_fails_is_named() -> None:
    def build(problem: Problem, samples: int) -> Any:
        raise NotImplementedError("not here")

    broken = SimpleNamespace(STEPS={CASES[0].method: build}, PACKAGE="broken", SUMS=False)
    found = peers.judged(CASES[0], [broken])
    assert found[broken.PACKAGE]["says"] == "does not run: NotImplementedError: not here"
    assert "does not run" in peers.table([found[broken.PACKAGE]])


def test_a_contender_that_is_not_installed_is_left_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "MODULES", ("nobody",))
    found, missing = peers.installed()
    assert not found
    assert missing == ["nobody (No module named 'contenders.nobody')"]


def test_both_are_timed_on_one_problem() -> None:
    same = SimpleNamespace(STEPS=ours.STEPS, PACKAGE="same", SUMS=False)
    row = peers.timed(CASES[0], [same], rounds=30, seconds=1)["same"]
    first, middle, third = row["ratio"]
    assert first <= middle <= third
    assert 0.5 < middle < 2
    assert 0 < row["tight ratio"][1] < 1.5


def bars(**ratios: float) -> Iterator[str]:
    rows = [
        {"case": case, "contender": name, "ratio": [ratio] * 3}
        for case, (name, ratio) in zip("ab", ratios.items(), strict=False)
    ]
    yield from peers.bars(rows).splitlines()[2:]


def test_the_summary_has_a_line_for_each_case_with_all_contenders() -> None:
    tight = {"tight ratio": [0.5] * 3, "tight and object ratio": [1.1] * 3}
    rows = [
        {"case": "a", "contender": "sampleprop"},
        {"case": "a", "contender": "pyro", "ours": 90.0, "ratio": [0.4] * 3},
        {"case": "a", "contender": "dice", "ours": 91.2, "ratio": [0.9] * 3} | tight,
        {"case": "b", "contender": "pyro", "ours": 50.0, "ratio": [0.3] * 3},
    ]
    head, _, a, b = peers.summary(rows).splitlines()
    assert head == "| case | µs | over pyro | over dice | tight, tight and object, over the best |"
    assert a == "| a | 91 | 0.40 | 0.90 | 0.50, 1.10 |"
    assert b == "| b | 50 | 0.30 |  |  |"


def test_the_bars() -> None:
    one, other, mean = bars(pyro=1.04, dice=0.1)
    assert one.startswith("- MISSED: at most 1.03 of pyro on each of 1 cases. Above: a 1.04")
    assert other.startswith("- holds: at most 1.03 of dice on each of 1 cases. The worst: 0.10")
    assert mean == "- holds: geometric mean at most 0.45 of the best on 2 cases. 0.32"
    assert list(bars(pyro=0.9, dice=0.9))[-1].startswith("- MISSED: geometric mean at most 0.45")


def test_what_can_be_had_is_said_beside_the_bar() -> None:
    rows = [{"case": "a", "contender": "pyro", "ratio": [0.9] * 3, "tight ratio": [0.5] * 3}]
    assert (
        peers.bars(rows).splitlines()[-1]
        == "- What can be had: on 1 of them tight is at 0.50 of the best, ours at 0.90"
    )
