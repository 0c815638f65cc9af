"""An estimator of the user's own on the command line: `sampleprop compare --estimators my.py:Mine`."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import Result

import sampleprop as sp
from lab.running import run
from sampleprop.lab.measure.configurations import make_estimator, split

QUICK = ("--replicates", "128", "--train-steps", "0", "--budgets", "none", "--budget", "8", "--json")

MINE = """
import torch
import sampleprop as sp
from beside_mine import HALF


class Mine(sp.ScoreFunction):
    '''Half of the gradient: biased, although it says otherwise.'''

    source = None

    def estimate(self, *arguments, **keywords):
        value = super().estimate(*arguments, **keywords)
        return HALF * value + (1 - HALF) * value.detach()


class ScoreFunction(sp.ScoreFunction):
    '''Of the same name as one of the library.'''


class Demanding(sp.ScoreFunction):
    def __init__(self, samples, *, step=1.0):
        super().__init__(samples)
        self.step = step


class Unfinished(sp.Estimator):
    pass


class Failing(sp.ScoreFunction):
    def __init__(self, samples=2):
        raise RuntimeError("a mistake in this file")


instance = Mine(4)
learned = sp.RELAX(critic=torch.nn.Sequential(torch.nn.Linear(6, 1), torch.nn.Flatten(0)), use_f=False)
number = 3
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my.py").write_text(MINE)
    (tmp_path / "beside_mine.py").write_text("HALF = 0.5\n")
    monkeypatch.chdir(tmp_path)


def compare(estimators: str, *arguments: str) -> Result:
    return run("compare", "toy", "--estimators", estimators, *QUICK, *arguments)


@pytest.mark.parametrize("name", ["Mine", "instance"])
def test_a_class_and_an_instance_are_compared(name: str) -> None:
    result = compare(f"my.py:{name}, ScoreFunction, ./my.py:learned")
    assert result.exit_code == 0, result.output
    rows = {line["label"]: line for line in map(json.loads, result.stdout.splitlines())}
    assert set(rows) == {
        "Mine(samples=8)",
        "ScoreFunction(samples=8)",
        "RELAX(samples=8, critic=Sequential, use_f=False)",
    }
    assert rows["Mine(samples=8)"]["name"] == "Mine"
    mine, plain = rows["Mine(samples=8)"]["variance"], rows["ScoreFunction(samples=8)"]["variance"]
    assert mine < plain / 2  # a quarter, but for noise


def test_the_bias_of_ones_own_is_seen() -> None:
    result = compare("my.py:Mine", "--replicates", "1024")
    assert [line["biased"] for line in map(json.loads, result.stdout.splitlines())] == [True]


def test_one_of_the_same_name_as_the_librarys_is_another_one() -> None:
    result = compare("my.py:ScoreFunction, ScoreFunction")
    labels = {json.loads(line)["label"] for line in result.stdout.splitlines()}
    assert labels == {"ScoreFunction(samples=8)", "ScoreFunction(samples=8) no. 2"}


def test_several_processes_load_the_file_too() -> None:
    result = run("compare", "toy", "--estimators", "my.py:Mine", *QUICK, "--seeds", "2", "--jobs", "2")
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["seed"] for line in result.stdout.splitlines()] == [0, 1]


def test_what_the_file_draws_belongs_to_the_seed() -> None:
    before = torch.get_rng_state()
    weights = [make_estimator("my.py:learned", seed).critic[0].weight for seed in (0, 1, 0)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])


def test_results_of_another_version_of_the_file_are_not_mixed() -> None:
    assert compare("my.py:Mine").exit_code == 0
    assert compare("my.py:Mine").stderr.startswith("Kept from")
    Path("my.py").write_text(MINE + "# changed\n")
    result = compare("my.py:Mine")
    assert result.exit_code == 2
    assert "the files of the estimators were changed since" in " ".join(result.stderr.replace("│", " ").split())


def test_the_list_keeps_its_order() -> None:
    texts = "rebar( coupled = True ), my.py:Mine, ScoreFunction"
    assert split(texts) == ("REBAR(coupled=True)", "my.py:Mine", "ScoreFunction")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other.py:Mine", "--estimators other.py:Mine needs the file other.py; there is none in"),
        ("my.py:Missing", "needs an estimator Missing in my.py; there is none"),
        ("my.py:number", "needs an estimator number in my.py; got 3. Derive your class from sampleprop.Estimator"),
        ("my.py:Demanding", "can be made without arguments; got Demanding(samples, *, step=1.0)"),
        ("my.py:Unfinished", "got a class without"),
        ("my.py", "names with arguments"),
        ("my.py:Mine()", "FILE.py:NAME"),
    ],
)
def test_each_mistake_is_one_line(name: str, words: str) -> None:
    result = compare(name)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize("name", ["other.py:Mine", "my.py:Missing", "my.py:number", "my.py:Demanding"])
def test_cite_refuses_the_same(name: str) -> None:
    result = run("cite", name)
    assert result.exit_code == 2
    assert f"{name} needs" in result.stderr.replace("│", " ")


@pytest.mark.parametrize("command", ["compare", "cite", "certify"])
def test_what_breaks_in_the_file_is_one_line(command: str) -> None:
    result = compare("my.py:Failing") if command == "compare" else run(command, "my.py:Failing")
    assert result.exit_code == 2
    assert result.stderr.strip().splitlines()[-1] == "my.py:33: RuntimeError: a mistake in this file"


def test_cite_says_where_there_is_no_source() -> None:
    cited = run("cite", "my.py:Mine", "Pathwise").stdout
    assert cited.startswith("% Mine states no source.\n\n@")


def test_recommend_writes_the_name_of_ones_own_without_the_prefix() -> None:
    mine = make_estimator("my.py:ScoreFunction")
    logits = torch.zeros(3, requires_grad=True)
    q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
    found = sp.recommend(lambda x: (x - 0.4).square().sum(-1), q, [mine], budget=4, replicates=128)
    assert found.code == "estimator = ScoreFunction(samples=4)"
