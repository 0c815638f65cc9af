"""The choice of pixels of the examples: right gradients for the gates, and the right pixels where they are known.

Random tests have fixed seeds. A z-test fails at 5 standard errors, by chance once in 1.7 million; there are 12.
"""

import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

import sampleprop as sp

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))  # as Python does for a script

import feature_selection as example
from data import Data, Images

pytestmark = pytest.mark.slow

Z = 5.0
TELLING = [3, 10]


def _exclusive_or(count: int, generator: Generator) -> Images:
    """Noise of 4 × 4 pixels; the class is whether just one of two pixels is bright, of which neither alone tells
    anything."""
    images = torch.rand(count, 16, generator=generator)
    bright = images[:, TELLING] > 0.5
    images[:, TELLING] = bright.float()
    return Images(images, (bright[:, 0] != bright[:, 1]).long())


@pytest.fixture(scope="module")
def puzzle() -> Data:
    generator = Generator().manual_seed(0)
    return Data(_exclusive_or(1000, generator), _exclusive_or(500, generator), 4)


def _gradient(selector: example.Selector, data: Images, budget: float = 2.0) -> Tensor:
    return torch.autograd.grad(selector.loss(data.images, data.labels, budget), selector.logits)[0]


def _selector(estimator: sp.Estimator) -> example.Selector:
    torch.manual_seed(0)
    selector = example.Selector(6, estimator).double()
    torch.nn.init.normal_(selector.logits)
    with torch.no_grad():
        for parameter in selector.net.parameters():
            parameter.mul_(3)  # a classifier for which the gates matter
    return selector


@pytest.mark.parametrize("name", example.SUBSET_ESTIMATORS)
def test_exactly_two_gates_find_the_two_pixels_that_tell(name: str, puzzle: Data, tmp_path: Path) -> None:
    """Each of the two alone tells something here. (Of an exclusive or, few of the 120 pairs would tell anything.)"""
    training, held_out = (
        Images(part.images, (part.images[:, TELLING[0]] + 2 * part.images[:, TELLING[1]]).long())
        for part in (puzzle.training, puzzle.held_out)
    )
    data = Data(training, held_out, 4)
    chosen = example.train(name, 2, 0, data, 300, tmp_path / "run.pt", False, "k-subset")
    assert chosen.pixels.tolist() == TELLING


def test_exactly_as_many_gates_are_open_as_are_asked_for() -> None:
    seen = []
    selector = example.Selector(6, sp.ScoreFunction(3), 2)
    selector.net.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[0]))
    selector.loss(torch.ones(5, 6), torch.zeros(5, dtype=torch.int64), 0.0).backward()
    assert all((images.sum(-1) == 2).all() for images in seen)
    assert selector.logits.grad is not None
    assert selector.probabilities().sum() == pytest.approx(2)


@pytest.mark.parametrize("name", ["ScoreFunction", "DisARM"])
def test_gradient_of_the_gates(name: str) -> None:
    """Against all 64 ways to open six gates."""
    generator = Generator().manual_seed(0)
    data = Images(torch.rand(50, 6, dtype=torch.float64, generator=generator), torch.arange(50) % example.CLASSES)
    exact = _gradient(_selector(sp.Enumerate()), data)
    selector = _selector(example.ESTIMATORS[name]())
    found = torch.stack([_gradient(selector, data) for _ in range(300)])
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - exact) / error).abs().max() < Z
    p = selector.logits.detach().sigmoid()
    penalty = 2 * example.PRICE * (p.sum() - 2) * p * (1 - p)
    assert (error / (exact - penalty).abs().max()).max() < 0.05  # what could be seen: an error of a quarter


@pytest.mark.parametrize("name", example.ESTIMATORS)
def test_all_estimators_move_gates_and_classifier(name: str) -> None:
    selector = _selector(example.ESTIMATORS[name]())
    selector.loss(torch.rand(5, 6, dtype=torch.float64), torch.arange(5), 3.0).backward()
    assert all(0 < parameter.grad.abs().sum() < torch.inf for parameter in selector.parameters())


def test_the_budget_pulls_by_its_closed_form() -> None:
    selector = _selector(sp.Enumerate())
    data = Images(torch.rand(5, 6, dtype=torch.float64), torch.zeros(5, dtype=torch.int64))
    p = selector.logits.detach().sigmoid()
    difference = _gradient(selector, data, 1.0) - _gradient(selector, data, 4.0)
    torch.testing.assert_close(difference, 2 * example.PRICE * 3 * p * (1 - p))


def test_accuracy_is_that_behind_the_chosen_pixels() -> None:
    selector = example.Selector(4, sp.DisARM())
    selector.logits.data = torch.tensor([0.0, 3.0, -1.0, 2.0])
    assert selector.chosen(2).tolist() == [1, 3]
    images = torch.tensor([[0.9, 0.0, 0.9, 1.0], [0.9, 1.0, 0.9, 0.0]])
    selector.net = torch.nn.Linear(4, 2)  # to its first class for pixels 0, 1 and 2; to its second for pixel 3
    selector.net.weight.data = torch.tensor([[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    selector.net.bias.data.zero_()
    assert selector.accuracy(Images(images, torch.tensor([1, 0])), 2) == 1
    assert selector.accuracy(Images(images, torch.tensor([1, 0])), 4) == 0.5


# --- the choices --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["DisARM", "HardConcrete"])
def test_gates_find_pixels_that_tell_only_together(name: str, puzzle: Data, tmp_path: Path) -> None:
    chosen = example.train(name, 2, 0, puzzle, 400, tmp_path / "run.pt", resume=False)
    assert sorted(chosen.pixels.tolist()) == TELLING
    assert chosen.own == 1
    assert sorted(example.by_mutual_information(puzzle, 2, 0).pixels.tolist()) != TELLING


def test_worth(puzzle: Data) -> None:
    assert example.fresh_accuracy(puzzle, torch.tensor(TELLING), 0, 200) == 1
    assert example.fresh_accuracy(puzzle, torch.tensor([0, 1, 2, 3]), 0, 200) < 0.6


def test_held_out_images_choose_nothing(puzzle: Data, tmp_path: Path) -> None:
    """Their labels turned round change what a choice is worth, and no choice."""
    images, labels = puzzle.held_out
    turned = puzzle._replace(held_out=Images(images, 1 - labels))
    assert example.fresh_accuracy(turned, torch.tensor(TELLING), 0, 200) == 0
    first, second = (
        example.train("DisARM", 2, 0, data, 20, tmp_path / f"{i}.pt", resume=False)
        for i, data in enumerate((puzzle, turned))
    )
    assert first.own == pytest.approx(1 - second.own)
    states = (torch.load(tmp_path / f"{i}.pt", weights_only=True)["state"]["selector"] for i in range(2))
    torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.mark.parametrize("choose", [example.by_mutual_information, example.by_penalty])
def test_choices_without_gates(choose, puzzle: Data) -> None:
    """Of pixels that tell something each for itself."""
    images = puzzle.training.images
    labels = (images[:, [2, 7, 13]] > torch.tensor([0.5, 0.7, 0.3])).sum(1)
    data = puzzle._replace(training=Images(images, labels))
    assert sorted(choose(data, 3, 0).pixels.tolist()) == [2, 7, 13]


def test_by_chance_is_by_the_seed(puzzle: Data) -> None:
    choices = [example.by_chance(puzzle, 8, seed).pixels for seed in (0, 0, 1)]
    assert all(len(set(choice.tolist())) == 8 for choice in choices)
    assert [torch.equal(a, b) for a, b in pairwise(choices)] == [True, False]


# --- the script ---------------------------------------------------------------------------------------------------


def test_an_interrupted_run_ends_as_the_whole_one(
    puzzle: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "EVERY", 5)
    loss, budgets, last = example.Selector.loss, [], 12 + 8

    def interrupted(selector: example.Selector, images: Tensor, labels: Tensor, budget: float) -> Tensor:
        budgets.append(budget)
        if len(budgets) == last:
            raise KeyboardInterrupt
        return loss(selector, images, labels, budget)

    monkeypatch.setattr(example.Selector, "loss", interrupted)
    whole = example.train("ARMS", 2, 1, puzzle, 12, tmp_path / "whole.pt", resume=False)
    with pytest.raises(KeyboardInterrupt):
        example.train("ARMS", 2, 1, puzzle, 12, tmp_path / "part.pt", resume=False)
    resumed = example.train("ARMS", 2, 1, puzzle, 12, tmp_path / "part.pt", resume=True)
    assert budgets[last:] == budgets[5:12]  # from the last checkpoint on
    assert (budgets[0], budgets[11]) == (16, 2)  # from all pixels to those wanted
    assert resumed.pixels.tolist() == whole.pixels.tolist()
    assert resumed[1:] == whole[1:]


def test_the_digits_are_told_apart_by_fewer_pixels_than_chance_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the script: eight pixels that were chosen, against the mean of three random choices."""
    monkeypatch.setattr(example, "RANDOM_CHOICES", 3)
    arguments = ["--fast", "--steps", "200", "--estimator", "DisARM", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["feature_selection.py", *arguments])
    example.main()
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    worth = {row[1].strip(): float(row[2].split("±")[0]) for row in rows}
    assert list(worth) == ["DisARM", *example.CHOICES, "all pixels"]
    assert worth["DisARM"] > worth["at random"] + 10
    assert worth["all pixels"] > worth["DisARM"]
    assert (tmp_path / "feature_selection.png").read_bytes().startswith(b"\x89PNG")
