"""The command, from its arguments to what it prints and writes."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

import sampleprop
from lab.running import run
from sampleprop import Pathwise, ScoreFunction, diagnostics, families
from sampleprop.estimators import REGISTER
from sampleprop.lab.command import main
from sampleprop.lab.measure import problems, progress
from sampleprop.lab.measure.mistakes import INTERRUPTED
from sampleprop.lab.show import table, terminal
from sampleprop.lab.show.summary import Summary

QUICK = ("--replicates", "128", "--train-steps", "2", "--budgets", "none")
SMALL = (*QUICK, "--estimators", "ScoreFunction,Enumerate,Pathwise")


def compare(tmp_path: Path, *arguments: object) -> Result:
    return run("compare", *arguments, *SMALL, "--out", tmp_path / "out")


def test_compare_shows_a_table_and_writes_files(tmp_path: Path) -> None:
    result = compare(tmp_path, "toy", "--dim", 3, "--t", 0.2)
    assert result.exit_code == 0, result.output
    assert "Toy: E[(b - 0.2)²], 3 fair bits" in result.stdout
    assert "Enumerate()" in result.stdout
    assert "by enumeration of 8 states" in result.stdout
    assert "Not compared: Pathwise(): Pathwise needs a continuous distribution" in result.stdout
    assert "Written:" in result.stderr
    out = tmp_path / "out"
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines[:2]] == ["Enumerate", "ScoreFunction"]
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "comparison.md").read_text().startswith("# Toy")
    assert (out / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_json_and_nothing_else_on_standard_output(tmp_path: Path) -> None:
    result = compare(tmp_path, "normal", "--json", "--budget", 4, "--seed", 5)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert {line["label"] for line in lines} == {"Pathwise(samples=4)", "ScoreFunction(samples=4)", "Enumerate()"}
    assert {line["seed"] for line in lines} == {5}
    assert not any(line.get("biased") for line in lines)


@pytest.mark.parametrize(("chosen", "refused"), [("default", []), ("all", ["Pathwise()"])])
def test_the_selections(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chosen: str, refused: list[str]) -> None:
    monkeypatch.setattr("sampleprop.lab.measure.configurations.REGISTER", (ScoreFunction, Pathwise))
    result = run("compare", "toy", "--json", "--estimators", chosen, *QUICK, "--out", tmp_path)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["label"] for line in lines] == ["ScoreFunction(samples=16)", *refused]


def test_configurations_are_compared(tmp_path: Path) -> None:
    chosen = "rebar(coupled=True), ScoreFunction(baseline=SelfCritical()), REBAR"
    arguments = ("--replicates", "128", "--train-steps", "0", "--budgets", "none", "--budget", 12)
    result = run("compare", "toy", "--json", "--estimators", chosen, *arguments, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    labels = {json.loads(line)["label"] for line in result.stdout.splitlines()}
    assert labels == {
        "REBAR(samples=6, coupled=True)",
        "ScoreFunction(samples=11, baseline=SelfCritical)",
        "REBAR(samples=4)",
    }


def test_the_digits_are_trained_and_enumerable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(problems, "TRAINING_STEPS", 10)
    result = compare(tmp_path)
    assert result.exit_code == 0, result.output
    assert "Digits: discrete VAE, 10 Bernoulli latents" in result.stdout
    assert "by enumeration of 1024 states" in result.stdout


@pytest.mark.parametrize("name", [name for name in problems.BUILT_IN if not name.startswith("digits")])
def test_the_built_in_problems_fit_together(name: str) -> None:
    problem = problems.find(name)()
    points = problem.dist.sample((7,))
    assert problem.f(points).shape == (7, *problem.dist.batch_shape)
    other = problems.find(name)()
    assert torch.equal(problem.f(points), other.f(points))


@pytest.mark.parametrize("name", ["normal", "poisson", "mixture", "digital-option"])
def test_the_exact_gradients_are_right(name: str) -> None:
    """By 262 thousand samples of the score function, |z| < 5: for 60 numbers a false alarm once in 29,000 seeds."""
    problem = problems.find(name)()
    named = families.recognize(problem.dist).parameters
    leaves = {key: p.detach().double().expand(1024, *p.shape).clone().requires_grad_() for key, p in named.items()}
    dist = families.with_parameters(problem.dist, leaves)
    value = sampleprop.expect(problem.f, dist, ScoreFunction(256), generator=torch.Generator().manual_seed(0))
    for (key, exact), found in zip(
        problem.exact.items(), torch.autograd.grad(value.sum(), list(leaves.values())), strict=True
    ):
        z = (found.mean(0) - exact) / (found.std(0) / len(found) ** 0.5)
        assert z.abs().max() < 5, key


def test_the_digital_option_has_the_greeks_of_black_and_scholes() -> None:
    spot, volatility = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (100.0, 0.2))
    years, rate = problems.YEARS, problems.RATE
    d = ((spot / 110).log() + (rate - volatility.square() / 2) * years) / (volatility * years**0.5)
    delta, vega = torch.autograd.grad(math.exp(-rate * years) * torch.special.ndtr(d), (spot, volatility))
    exact = problems.digital_option(spot=100.0, strike=110.0, volatility=0.2).exact
    by_loc, by_scale = exact["loc"].double(), exact["scale"].double()
    torch.testing.assert_close(by_loc / 100, delta, rtol=1e-5, atol=0)
    torch.testing.assert_close(years**0.5 * (by_scale - 0.2 * years**0.5 * by_loc), vega, rtol=1e-5, atol=0)


def test_a_jump_is_not_differentiated(tmp_path: Path) -> None:
    result = compare(tmp_path, "digital-option")
    assert result.exit_code == 0, result.output
    assert "ScoreFunction(samples=16)" in result.stdout
    assert "Pathwise(samples=16): Pathwise needs a cost that is differentiable in x" in result.stdout


@pytest.mark.parametrize("name", ["poisson", "mixture"])
def test_unbiased_estimators_are_not_called_biased(tmp_path: Path, name: str) -> None:
    result = compare(tmp_path, name, "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    measured = {line["name"]: line["biased"] for line in lines if "biased" in line}
    assert measured == {"ScoreFunction": False, **({"Pathwise": False} if name == "mixture" else {})}


def test_a_problem_of_your_own(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("TARGET = 0.3\n")
    (tmp_path / "my_model.py").write_text(
        "import torch\n"
        "from torch.distributions import Normal\n"
        "from beside import TARGET\n"
        "def problem():\n"
        "    mean = torch.zeros(2, requires_grad=True)\n"
        "    return lambda x: (x - TARGET).square(), Normal(mean, 1.0), 2 * (mean.detach() - TARGET)\n"
        "def nothing():\n"
        "    return None\n"
    )
    before = list(sys.path)
    result = compare(tmp_path, f"{tmp_path / 'my_model.py'}:problem")
    assert result.exit_code == 0, result.output
    assert "Pathwise(samples=16)" in result.stdout
    assert "the exact gradient that was given" in result.stdout
    assert sys.path == before
    assert "my_model" not in sys.modules
    with pytest.raises(TypeError, match="return f, dist or f, dist, exact"):
        problems.find(f"{tmp_path / 'my_model.py'}:nothing")()
    with pytest.raises(ValueError, match="needs a function missing"):
        problems.find(f"{tmp_path / 'my_model.py'}:missing")()


def test_what_a_file_draws_belongs_to_the_seed(tmp_path: Path) -> None:
    (tmp_path / "random_model.py").write_text(
        "import torch\n"
        "from torch.distributions import Normal\n"
        "TARGET = torch.randn(2)\n"
        "def problem():\n"
        "    return lambda x: (x - TARGET).square(), Normal(torch.randn(2, requires_grad=True), 1.0)\n"
    )
    made = [problems.find(f"{tmp_path / 'random_model.py'}:problem", seed=seed)() for seed in (0, 1, 0)]
    costs = [problem.f(torch.zeros(2)) for problem in made]
    means = [problem.dist.mean for problem in made]
    for drawn in (costs, means):
        assert torch.equal(drawn[0], drawn[2])
        assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "digits-200, toy, categorical, normal"),
        (("nowhere.py:problem",), "needs the file"),
        (("normal", "--dim", "3"), "belong to the problem toy"),
        (("toy", "--estimators", "ScoreFunktion"), "Perhaps ScoreFunction"),
        (("toy", "--budget", "0"), "--budget"),
        (("toy", "--budgets", "2,x"), "--budgets needs whole numbers"),
        (("toy", "--budgets", "0,4"), "budgets of at least 1"),
        (("toy", "--seeds", "0"), "--seeds needs a number of seeds"),
        (("toy", "--seeds", "0,a"), "--seeds needs whole numbers"),
        (("toy", "--trajectory", "1"), "at least 2 points"),
        (("toy", "--dask", "tcp://127.0.0.1:1", "--jobs", "2"), "--jobs"),
        (("toy", "nowhere"), "digits-200, toy, categorical, normal"),
        (("toy", "--estimators", ","), "--estimators needs names"),
        (("toy", "--estimators", ""), "--estimators needs names"),
        (("toy", "--estimators", "REBAR(coupled=true)"), "numbers, texts, True"),
        (("toy", "--estimators", "REBAR(samples=0)"), "at least 1"),
        (("toy", "--estimators", "REBAR(colour=1)"), "cannot be made"),
        (("toy", "--estimators", "sp.REBAR()"), "names with arguments"),
        (("toy", "--estimators", "*REBAR"), "--estimators needs names"),
        (("toy", "--estimators", "REBAR(" + 3000 * "-" + "1)"), "--estimators needs names"),
        (("toy", "--estimators", "REBAR(**{'coupled': True})"), "names with arguments"),
        (("toy", "--estimators", "REBAR(coupled=True, coupled=False)"), "each given once"),
        (("toy", "--estimators", "ScoreFunction(4, baseline=LeafOneOut())"), "Perhaps LeaveOneOut"),
        (("toy", "--trajectory", "102"), "--trajectory"),
        (("toy", "--out", __file__), "--out needs a folder"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple[str, ...], words: str) -> None:
    result = run("compare", *arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


MISTAKEN = """
import torch
from torch.distributions import Bernoulli

BIT = Bernoulli(logits=torch.zeros((), requires_grad=True))

def wide():
    return lambda x: torch.stack([x, x], -1), BIT

def alone():
    return lambda x: x
"""


@pytest.mark.parametrize("command", ["compare", "recommend"])
@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("nowhere", "needs a function nowhere"),
        ("wide", "one cost for each point, shape [k, *batch] = [2]; f returned [2, 2]"),
        ("alone", "to return f, dist"),
    ],
)
def test_mistakes_in_a_file_are_named(
    command: str, function: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mistaken.py").write_text(MISTAKEN)
    result = run(command, f"mistaken.py:{function}")
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


def test_a_terminal_without_greek_letters_is_no_obstacle() -> None:
    code = "from sampleprop.lab.command.main import main; main()"
    given = {**os.environ, "PYTHONIOENCODING": "ascii"}
    shown = subprocess.run([sys.executable, "-c", code, "table"], env=given, capture_output=True)
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert b"Differentiable" in shown.stdout


def test_an_interruption_keeps_what_is_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    @contextmanager
    def interrupting(console: Any) -> Iterator[Any]:
        def told(stage: str, done: int, total: int) -> None:
            if (stage, done) == ("measuring", 8):
                raise KeyboardInterrupt

        yield told

    monkeypatch.setattr(progress, "show_progress", interrupting)
    result = compare(tmp_path, "toy")
    assert result.exit_code == INTERRUPTED
    assert "Interrupted" in result.stdout
    assert json.loads((tmp_path / "out" / "results.jsonl").read_text().splitlines()[0])["replicates"] == 32


def test_a_narrow_terminal_gets_fewer_columns() -> None:
    from rich.console import Console

    comparison = diagnostics.compare(lambda x: x.sum(-1), problems.toy().dist, [ScoreFunction()], replicates=128)
    shown = {}
    for width in (50, 70, 200):
        console = Console(width=width, force_terminal=True, record=True, file=StringIO())
        terminal.show(Summary([comparison]), console)
        shown[width] = console.export_text()
    assert "bias z" not in shown[70]
    assert "variance × time" in shown[70]
    assert all(name in shown[200] for name in ("bias z", "evaluations", "signal/noise", "time (ms)"))
    assert "ScoreFunction(" in shown[50]  # the name may be folded, and never cut
    assert "…" not in shown[50]


def test_table(tmp_path: Path) -> None:
    assert run("table", "--markdown").stdout.strip() == table.markdown()
    assert "ScoreFunction" in run("table").stdout
    page = tmp_path / "README.md"
    page.write_text(f"{table.BEGIN}\n{table.END}\n")
    outdated = run("table", "--check", page)
    assert outdated.exit_code == 1
    assert "sampleprop table --write" in outdated.stderr
    assert run("table", "--write", page).exit_code == 0
    assert run("table", "--check", page).exit_code == 0
    assert run("table", "--check", tmp_path / "none").exit_code == 2


def test_cite_list_and_version() -> None:
    cited = run("cite", "scorefunction", "Pathwise").stdout
    assert cited.count("@") == 2
    assert "williams1992simple" in cited
    assert run("cite", "ScoreFunctoin").exit_code == 2
    assert [line.split()[0] for line in run("list").stdout.splitlines()] == [kind.__name__ for kind in REGISTER]
    assert run("--version").stdout.strip() == sampleprop.__version__


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'matplotlib', 'sklearn', 'joblib', 'distributed'}"
    code = f"import sys, sampleprop.lab.command.app; print(sorted({heavy} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


@pytest.mark.parametrize("name", ["typer", "matplotlib.figure"])
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.setattr(sys, "argv", ["sampleprop", "compare", "toy", *SMALL, "--out", str(tmp_path)])
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "sampleprop.lab.command.app")
    monkeypatch.delattr("sampleprop.lab.command.app")
    with pytest.raises(SystemExit, match=rf"needs {name.split('.')[0]} .*pip install 'sampleprop\[lab\]'"):
        main.main()
