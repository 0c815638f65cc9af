"""What the command says where a user really stands: broken files, full disks, other runs, no terminal."""

import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from rich.console import Console
from typer.testing import Result

import sampleprop
from lab.running import run
from sampleprop.lab.measure import folder, progress
from sampleprop.lab.measure.names import PROBLEMS, estimators

QUICK = ("--replicates", "128", "--train-steps", "2", "--budgets", "none", "--estimators", "ScoreFunction,Enumerate")

FILES = {
    "syntax.py": "def problem():\n    return (\n",
    "missing.py": "import torch\nimport no_such_package\n",
    "raising.py": "import torch\ndef problem():\n    x = torch.zeros(2)\n    return x[3]\n",
    "exiting.py": "import sys\nsys.exit(0)\n",
    "exiting_later.py": "import sys\ndef problem():\n    sys.exit(0)\n",
}
LINES = {
    "syntax.py": "syntax.py:2: SyntaxError: '(' was never closed",
    "missing.py": "missing.py:2: ModuleNotFoundError: No module named 'no_such_package'",
    "raising.py": "raising.py:4: IndexError: index 3 is out of bounds for dimension 0 with size 2",
    "exiting.py": "exiting.py:2: sys.exit was called with 0",
    "exiting_later.py": "exiting_later.py:3: sys.exit was called with 0",
}
MODEL = """
import os
import sys
import torch
from torch.distributions import Bernoulli, Independent

print("the file talks")
BITS = Independent(Bernoulli(logits=torch.zeros(3, requires_grad=True)), 1)

def talking():
    print("so does the problem")
    def f(x):
        print("and f")
        return (x - 0.3).square().sum(-1)
    return f, BITS

def half_broken():
    def f(x):
        if len(x) < 60:
            return {}["no such key"]
        return (x - 0.3).square().sum(-1)
    return f, Independent(Bernoulli(logits=torch.zeros(6, requires_grad=True)), 1)

def broken():
    return lambda x: {}["no such key"], BITS

def exiting():
    return lambda x: sys.exit(0), BITS

def killed():
    if torch.initial_seed() == 1:
        os.kill(os.getpid(), 9)
    return (lambda x: x.sum(-1)), BITS

def titled():
    from sampleprop.lab.measure.problems import Problem
    return Problem("Costs $5 <script>alert(1)</script> or $x^", lambda x: (x - 0.3).square().sum(-1), BITS)
"""


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (FILES | {"model.py": MODEL}).items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)


def compare(problem: str, *arguments: object, quick: tuple[str, ...] = QUICK) -> Result:
    return run("compare", problem, *quick, "--out", "out", *arguments)


@pytest.mark.parametrize("command", ["compare", "recommend"])
@pytest.mark.parametrize("name", FILES)
def test_a_broken_file_is_one_line(name: str, command: str) -> None:
    result = run(command, f"{name}:problem")
    assert result.exit_code == 2
    assert result.stderr.strip() == LINES[name]
    assert result.stdout == ""


@pytest.mark.usefixtures("_without_pictures")
def test_an_f_that_raises_at_some_points_ends_one_estimator() -> None:
    """f fails for fewer than 60 points; only the enumeration of 64 states asks for enough in its trial step."""
    result = compare("model.py:half_broken", "--budget", 64, "--json")
    assert result.exit_code == 0, result.output
    lines = {line["label"]: line for line in map(json.loads, result.stdout.splitlines())}
    assert "variance" in lines["Enumerate()"]
    assert "variance" in lines["ScoreFunction(samples=64)"]
    result = compare("model.py:half_broken", "--budget", 40, "--json", "--fresh", "--estimators", "ScoreFunction,ARM")
    assert result.exit_code == 1


@pytest.mark.usefixtures("_without_pictures")
@pytest.mark.parametrize(
    ("problem", "words"),
    [
        ("broken", "KeyError: 'no such key' (model.py, line 25)."),
        ("exiting", "RuntimeError: f called sys.exit(0) (model.py, line 28)."),
    ],
)
def test_where_every_estimator_failed_the_exit_code_tells(problem: str, words: str) -> None:
    result = compare(f"model.py:{problem}")
    assert result.exit_code == 1
    assert f"No estimator could be measured: model.py:{problem}, seed 0." in result.stderr
    said = " ".join(result.stdout.split())
    assert words in said
    assert said.count("model.py, line") == 1  # for both estimators together


@pytest.mark.usefixtures("_without_pictures")
@pytest.mark.parametrize("command", ["compare", "recommend"])
def test_json_is_clean_of_what_the_problem_prints(command: str) -> None:
    result = run("recommend", "model.py:talking", "--json", "--replicates", "128") if command == "recommend" else None
    result = result or compare("model.py:talking", "--json")
    assert result.exit_code == 0, result.output
    assert all(json.loads(line) for line in result.stdout.splitlines())
    for words in ("the file talks", "so does the problem", "and f"):
        assert words in result.stderr


@pytest.mark.slow
def test_a_killed_worker_loses_its_own_piece() -> None:
    """In a process of its own: joblib keeps its workers, and those of other tests would be met here."""
    command = [sys.executable, "-m", "sampleprop", "compare", "model.py:killed", *QUICK, "--out", "out"]
    result = subprocess.run([*command, "--seeds", "3", "--jobs", "2"], capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr
    assert "model.py:killed, seed 1: its process was killed." in result.stderr
    assert "seeds 0, 2." in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


def test_dollars_and_tags_in_a_title() -> None:
    result = compare("model.py:titled", "--trajectory", 2)
    assert result.exit_code == 0, result.output
    assert "<script" not in Path("out/comparison.md").read_text()
    assert "&lt;script>alert(1)&lt;/script>" in Path("out/comparison.md").read_text()
    assert "<script" not in Path("out/report.html").read_text()
    assert "Costs $5" in Path("out/report.html").read_text()


def test_links_in_the_folder_are_replaced_and_not_followed() -> None:
    Path("out").mkdir()
    outside = Path("outside.txt")
    outside.write_text("mine")
    for name in ("settings.json", "results.jsonl.part", "comparison.md", "comparison.png", "report.html"):
        Path("out", name).symlink_to(outside.resolve())
    assert compare("toy").exit_code == 0
    assert outside.read_text() == "mine"
    assert not Path("out/report.html").is_symlink()
    Path("out/results.jsonl").rename("results.jsonl")
    Path("out/results.jsonl").symlink_to(Path("results.jsonl").resolve())
    before = Path("results.jsonl").read_bytes()
    assert compare("toy", "--seeds", 2).exit_code == 0  # reads what the link points to, and adds to a file of its own
    assert Path("results.jsonl").read_bytes() == before
    assert not Path("out/results.jsonl").is_symlink()


@pytest.mark.usefixtures("_without_pictures")
def test_a_full_disk_is_one_line_and_keeps_what_was_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compare("toy").exit_code == 0
    before = Path("out/results.jsonl").read_bytes()

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder.os, "replace", full)
    result = compare("toy", "--seeds", 2)
    assert result.exit_code == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("--out needs a folder that can be written; got out: No space left on device. What was")
    assert Path("out/results.jsonl").read_bytes() == before
    assert {path.name for path in Path("out").iterdir()} == {"results.jsonl", "settings.json", ".lock"}


@pytest.mark.usefixtures("_without_pictures")
@pytest.mark.parametrize("name", ["results.jsonl", "settings.json"])
@pytest.mark.parametrize("content", [b"3\n", b"[]\n", b"{}\n", b"\xff\xfe\n", b"null\n", b'{"argument": 1}\n'])
def test_odd_files_are_named(name: str, content: bytes) -> None:
    assert compare("toy").exit_code == 0
    Path("out", name).write_bytes(content)
    result = compare("toy")
    assert result.exit_code == 2
    said = " ".join(result.stderr.split())
    assert f"out/{name} needs to be as sampleprop wrote it" in said or "holds results of other settings" in said
    assert "Traceback" not in result.output


@pytest.mark.usefixtures("_without_pictures")
@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_line_is_noticed(missing: int) -> None:
    assert compare("toy").exit_code == 0
    lines = Path("out/results.jsonl").read_text().splitlines(keepends=True)
    del lines[missing]
    Path("out/results.jsonl").write_text("".join(lines))
    result = compare("toy")
    assert result.exit_code == 2
    assert "or a line is missing" in " ".join(result.stderr.split())


@pytest.mark.slow
def test_two_runs_on_one_folder_lose_nothing() -> None:
    command = [sys.executable, "-m", "sampleprop", "compare", "toy", *QUICK, "--out", "out"]
    runs = [subprocess.Popen([*command, "--seed", seed], stderr=subprocess.PIPE, text=True) for seed in ("0", "1")]
    said = [process.communicate()[1] for process in runs]
    assert [process.returncode for process in runs] == [0, 0], said
    kept = {json.loads(line)["seed"] for line in Path("out/results.jsonl").read_text().splitlines()}
    assert kept == {0, 1}


@pytest.mark.usefixtures("_without_pictures")
def test_a_run_waits_for_another_one_and_keeps_its_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other run finishes as soon as this one has said that it waits."""
    assert compare("toy").exit_code == 0
    first = Path("out/results.jsonl").read_text()
    Path("out/results.jsonl").unlink()
    other = FileLock("out/.lock", thread_local=False)
    other.acquire()
    said = Console.print

    def finish(console: Console, text: Any, **options: Any) -> None:
        said(console, text, **options)
        if "Waiting: another run is writing to out." in str(text):
            Path("out/results.jsonl").write_text(first)
            other.release()

    monkeypatch.setattr(Console, "print", finish)
    result = compare("toy", "--seeds", 2)
    assert result.exit_code == 0, result.output
    assert "Waiting: another run" in result.stderr
    assert "Kept from out: toy, seed 0." in result.stderr
    assert {json.loads(line)["seed"] for line in Path("out/results.jsonl").read_text().splitlines()} == {0, 1}


LIGHT = """
import sys
sys.argv = ["sampleprop", *{arguments!r}]
from sampleprop.lab.command.main import main
try:
    main()
finally:
    heavy = {{"torch", "numpy", "matplotlib", "sklearn", "joblib", "distributed"}} & set(sys.modules)
    print(sorted(heavy), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("compare", "--help"), ("recommend", "--help")])
def test_version_and_help_import_nothing_heavy(arguments: tuple[str, ...]) -> None:
    """Therefore they are there at once."""
    code = LIGHT.format(arguments=list(arguments))
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stderr.strip() == "[]"
    assert found.stdout.strip() == sampleprop.__version__ or "Usage:" in found.stdout


def test_the_package_is_a_command() -> None:
    command = [sys.executable, "-m", "sampleprop"]
    found = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == sampleprop.__version__


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("sampleprop com", ["compare"]),
        ("sampleprop compare dig", ["digits", "digits-200", "digital-option"]),
        ("sampleprop cite Score", ["ScoreFunction"]),
        ("sampleprop certify Dis", ["DisARM"]),
        ("sampleprop compare toy --estimators DisARM,REB", ["DisARM,REBAR"]),
        ("sampleprop recommend po", ["poisson"]),
    ],
)
def test_the_shell_completes(words: str, completed: list[str]) -> None:
    asked = {
        "_SAMPLEPROP_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    code = LIGHT.format(arguments=[])
    found = subprocess.run([sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True)
    assert found.stdout.split() == completed
    assert found.stderr.strip() == "[]"


def test_the_names_are_those_of_the_register_and_of_the_problems() -> None:
    from sampleprop.lab.measure import problems

    assert estimators() == [kind.__name__ for kind in sampleprop.REGISTER]
    assert tuple(problems.BUILT_IN) == PROBLEMS


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test can set."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_line_now_and_then_tells_the_time_left(clock: list[float]) -> None:
    console = Console(file=StringIO(), width=200)
    with progress.show_progress(console) as report:
        for done in range(11):
            report("measuring", done, 10)
            clock[0] += 20
    said = console.file.getvalue().splitlines()
    assert said[0] == "measuring: 2 of 10, about 3 min left"
    assert said[-1] == "measuring: 10 of 10, about 0 s left"
    assert len(said) == 5


def test_training_and_measuring_tell_how_far_they_are() -> None:
    told = []
    bits = torch_bits()
    given = [sampleprop.ScoreFunction(), sampleprop.REBAR()]
    arguments: dict[str, Any] = {"budget": 6, "replicates": 128, "train_steps": 3}
    sampleprop.compare(lambda x: x.sum(-1), bits, given, progress=lambda *step: told.append(step), **arguments)
    assert [step for step in told if step[0] == "training REBAR"] == [("training REBAR", i, 3) for i in (1, 2, 3)]
    assert [done for stage, done, total in told if stage == "measuring"] == list(range(65))


def test_papers_are_cited_by_their_keys() -> None:
    from sampleprop.bibliography import entries

    printed = run("cite", "kool2019buy", "REBAR", "kool2019buy").stdout.strip()
    assert printed == f"{entries()['kool2019buy']}\n\n{entries()['tucker2017rebar']}"


def torch_bits() -> Any:
    import torch
    from torch.distributions import Bernoulli, Independent

    return Independent(Bernoulli(logits=torch.zeros(3, requires_grad=True)), 1)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("REINFORCE", "ScoreFunction"),
        ("rloo", "ScoreFunction"),
        ("Concrete", "GumbelSoftmax"),
        ("IWAE", "ImportanceWeighted"),
        ("DReG", "DoublyReparameterized"),
    ],
)
def test_other_names_lead_to_the_estimator(alias: str, name: str) -> None:
    kind = getattr(sampleprop, name)
    assert run("cite", alias).stdout.strip() == kind.source.bibtex()
    line = next(line for line in run("list").stdout.splitlines() if line.split()[0] == name)
    assert alias.lower() in line.partition("Also known as")[2].lower()
    result = compare("toy", quick=("--estimators", alias))
    assert result.exit_code == 2
    assert f"There is no estimator '{alias}': here it is {name}." in " ".join(result.stderr.split())


def test_another_name_is_explained_in_python_too() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'REINFORCE'; here it is ScoreFunction"):
        _ = sampleprop.REINFORCE  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"has no attribute 'Reinforced'$"):
        _ = sampleprop.Reinforced  # type: ignore[attr-defined]


def test_no_alias_is_taken_twice() -> None:
    names = [name.lower() for kind in sampleprop.REGISTER for name in (kind.__name__, *kind.aliases)]
    assert len(set(names)) == len(names)
