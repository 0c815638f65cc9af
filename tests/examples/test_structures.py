"""The examples of structures: each learns what its way promises, and runs from the command line in its fast mode."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Generator

import sampleprop as sp

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))  # as Python does for a script

import jigsaw
import mixture_of_experts
import ranking
import shortest_path

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("example", [jigsaw, mixture_of_experts, ranking, shortest_path], ids=lambda x: x.__name__)
def test_runs_from_the_command_line_and_resumes(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = list(example.ESTIMATORS)[-3:]
    tables = []
    for options in ((), ("--resume",)):
        arguments = ["--fast", "--steps", "3", "--estimator", *names, "--out", str(tmp_path), *options]
        monkeypatch.setattr(sys, "argv", [f"{example.__name__}.py", *arguments])
        example.main()
        tables.append([line for line in capsys.readouterr().out.splitlines() if line.startswith("|")])
    assert [row.split("|")[1].strip().removesuffix(" (biased)") for row in tables[0][2:]] == names
    assert tables[0] == tables[1]
    (picture,) = tmp_path.glob("*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


# --- the mixture of experts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", mixture_of_experts.ESTIMATORS)
def test_router_and_experts_learn(name: str) -> None:
    torch.manual_seed(0)
    mixture = mixture_of_experts.Mixture(5, name)
    mixture.loss(torch.rand(6, 5), torch.arange(6)).backward()
    assert mixture.outer.grad is not None
    assert mixture.outer.grad.abs().sum() > 0
    assert (mixture.router.weight.grad is not None) == (name != "no router")
    weights = mixture.asked(torch.rand(6, 5))
    torch.testing.assert_close(weights.sum(-1), torch.ones(6))
    assert ((weights > 0).sum(-1) == mixture_of_experts.ASKED).all()


# --- the ranking --------------------------------------------------------------------------------------------------


def test_utility_by_hand() -> None:
    """Of one group, in which the best are 4, 3 and 2, with the gains 15, 7 and 3; patients 0 and 2 are of sex 2."""
    grades = torch.tensor([[4, 0, 3, 2, 1, 0, 0, 0, 0, 0]])
    features = torch.zeros(1, 10, 10)
    features[0, [0, 2], ranking.SEX] = 1
    group = ranking.Patients(features - 0.5, grades)
    best = 15 + 7 / 1.584962501 + 3 / 2
    lists = torch.tensor([[[0, 2, 3]], [[3, 0, 1]], [[1, 5, 6]]])  # [3 samples, 1 group, 3]
    wanted = torch.tensor([[1.0], [(3 + 15 / 1.584962501) / best - ranking.PRICE], [-2 * ranking.PRICE]])
    torch.testing.assert_close(ranking.utility(lists, group), wanted)


def test_likelihood_is_that_of_an_order_by_the_grades() -> None:
    torch.manual_seed(0)
    group = ranking.load()[0].groups(4)
    for name, least in (("ListMLE", 0.0), ("ListMLE@3", 0.0)):
        sorted_already = ranking.loss(name, None, 50.0 * group.grades, group)
        assert (ranking.loss(name, None, -50.0 * group.grades, group) > sorted_already + 10).all()
        assert (sorted_already >= least).all()


# --- the jigsaw ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tiles", [2, 3])
def test_cut_and_put_together_again(tiles: int) -> None:
    images = torch.arange(2 * 64.0).view(2, 64)
    whole = jigsaw.cut(images, 8, tiles)
    assert whole.sum() == images.sum()
    if tiles == 2:
        assert (
            whole[0, 1].tolist() == images[0].view(8, 8)[:4, 4:].flatten().tolist()
        )  # the second is right of the first
    mixed, place = jigsaw.shuffled(whole, Generator().manual_seed(0))
    assert not torch.equal(mixed, whole)
    assert torch.equal(place @ mixed, whole)
    costs = jigsaw.distances(mixed, whole)
    torch.testing.assert_close((place * costs).sum((-1, -2)), torch.zeros(2))


def test_the_exact_way_is_the_expectation() -> None:
    torch.manual_seed(0)
    whole = jigsaw.cut(torch.rand(3, 64), 8, 2)
    mixed, place = jigsaw.shuffled(whole)
    scores = torch.randn(3, 4, 4, requires_grad=True)
    exact = jigsaw.loss("marginals", None, scores, mixed, whole, place)
    listed = jigsaw.loss("", sp.Enumerate(), scores, mixed, whole, place)
    torch.testing.assert_close(exact, listed)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), scores)[0] for x in (exact, listed)))


def test_sinkhorn_is_doubly_stochastic() -> None:
    found = jigsaw.sinkhorn(torch.randn(2, 4, 4))
    torch.testing.assert_close(found.sum(-2), torch.ones(2, 4))
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 4), rtol=0, atol=1e-2)


# --- the shortest path --------------------------------------------------------------------------------------------


def test_paths_by_hand() -> None:
    """Straight along the diagonal; around a wall with a gap; and negative costs count as the least ones."""
    costs = torch.ones(3, 4, 4)
    costs[1, 1, :3] = 9
    costs[2, 0, 1] = costs[2, 1, 2] = -5
    paths = shortest_path.walked(costs).mode
    assert paths[0].tolist() == torch.eye(4).tolist()
    assert paths[1, 1].tolist() == [0, 0, 0, 1]
    assert float((paths[1] * costs[1]).sum()) == 6
    assert (paths[2, 0, 1], paths[2, 1, 2]) == (1, 1)


def test_the_solver_maximizes_and_is_deterministic() -> None:
    torch.manual_seed(0)
    costs = (0.2 + torch.rand(4, 4, 4)).requires_grad_()
    q = shortest_path.walked(costs)
    assert sp.check(lambda y: (y * costs.detach()).sum((-1, -2)), q, sp.PerturbedScore(8), replicates=200).ok
