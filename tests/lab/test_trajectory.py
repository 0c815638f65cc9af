"""The estimators along one path of φ."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Distribution,
    Gamma,
    Independent,
    Normal,
    OneHotCategorical,
    Uniform,
    constraints,
)

import sampleprop as sp
from sampleprop import diagnostics, families
from sampleprop.diagnostics.comparing.trajectory import path, trajectory
from sampleprop.lab.measure import problems, runs
from sampleprop.lab.measure.runs import Piece

F64 = torch.float64


class Odd(Normal):
    arg_constraints = {"shape": constraints.dependent(is_discrete=False, event_dim=0)}  # noqa: RUF012

    def __init__(self, shape: Tensor, validate_args: bool | None = None) -> None:
        self.shape = shape
        super().__init__(0.0, 1.0, validate_args=False)


def bits() -> tuple[Any, Distribution]:
    logits = torch.zeros(3, dtype=F64, requires_grad=True)
    target = torch.tensor([0.2, 0.4, 0.7], dtype=F64)
    return lambda b: (b - target).square().sum(-1), Independent(Bernoulli(logits=logits), 1)


def test_a_checkpoint_is_the_comparison_at_its_parameters() -> None:
    f, dist = bits()
    estimators = [sp.ScoreFunction(), sp.StraightThrough(), sp.REBAR()]
    settings: dict[str, Any] = {"budget": 6, "replicates": 128, "seed": 3, "train_steps": 2}
    found = trajectory(f, dist, estimators, checkpoints=3, steps=10, **settings)
    stops = list(path(f, dist, checkpoints=3, steps=10, seed=3))
    assert [checkpoint.step for checkpoint in found] == [stop.step for stop in stops] == [0, 5, 10]
    for checkpoint, stop in zip(found, stops, strict=True):
        alone = diagnostics.compare(f, stop.dist, estimators, **settings)
        assert _untimed(checkpoint.comparison) == _untimed(alone)
        assert checkpoint.value == stop.value
    assert _untimed(found[0].comparison) != _untimed(found[-1].comparison)


def test_the_variance_is_that_of_the_checkpoint() -> None:
    """Of two samples of one bit, worked out by hand.

    Within 5 of its own standard errors: for two checkpoints a false alarm once in a million seeds.
    """
    logit = torch.zeros((), dtype=F64, requires_grad=True)
    f = lambda b: 3 * b  # noqa: E731
    start, end = trajectory(
        f, Bernoulli(logits=logit), [sp.ScoreFunction()], checkpoints=2, steps=30, budget=2, replicates=4096
    )
    p_end = list(path(f, Bernoulli(logits=logit), checkpoints=2, steps=30))[-1].dist.mean.item()
    for checkpoint, p in ((start, 0.5), (end, p_end)):
        row = checkpoint.comparison.rows[0]
        # Two different samples give 3/2, two equal ones 0; p (1 - p) × 2 is the probability of the former.
        different = 2 * p * (1 - p)
        variance = 1.5**2 * different * (1 - different)
        assert row.label == "ScoreFunction()"
        assert abs(row.variance - variance) < 5 * row.variance_error
    assert end.value == pytest.approx(3 * p_end)
    assert end.value < start.value


@pytest.mark.parametrize("name", ["toy", "categorical", "normal", "poisson", "mixture"])
def test_the_path_leads_downhill_on_the_built_in_problems(name: str) -> None:
    problem = problems.find(name)()
    before = {key: p.detach().clone() for key, p in families.recognize(problem.dist).parameters.items()}
    stops = list(path(problem.f, problem.dist, checkpoints=3, steps=20))
    values = [stop.value for stop in stops]
    assert values == sorted(values, reverse=True)
    moved = families.recognize(stops[-1].dist).parameters
    assert all(not torch.equal(moved[key], p) for key, p in before.items())
    assert all(torch.equal(families.recognize(problem.dist).parameters[key], p) for key, p in before.items())


def test_a_step_is_one_of_adam_with_the_exact_gradient() -> None:
    """Adam's first step is rate × sign(gradient), by the logarithm of a scale."""
    loc = torch.tensor([1.0, -2.0], dtype=F64, requires_grad=True)
    scale = torch.tensor([0.5, 3.0], dtype=F64, requires_grad=True)
    f = lambda x: x.square().sum(-1)  # noqa: E731
    _, stop = path(f, Independent(Normal(loc, scale), 1), checkpoints=2, steps=1, rate=0.1)
    moved = families.recognize(stop.dist).parameters
    torch.testing.assert_close(moved["loc"], torch.tensor([0.9, -1.9], dtype=F64))
    torch.testing.assert_close(moved["scale"], scale.detach() * torch.tensor(-0.1, dtype=F64).exp())


def test_what_requires_no_gradient_stays() -> None:
    loc, scale = torch.ones(2, requires_grad=True), torch.full((2,), 0.5)
    *_, stop = path(lambda x: x.square().sum(-1), Independent(Normal(loc, scale), 1), checkpoints=2, steps=3)
    moved = families.recognize(stop.dist).parameters
    assert torch.equal(moved["scale"], scale)
    assert bool((moved["loc"] < loc).all())


def test_a_bound_goes_up() -> None:
    logits = torch.zeros(3, requires_grad=True)
    log_joint = torch.tensor([-1.0, -2.0, -4.0])

    def f(x: Tensor) -> Tensor:
        return (x * log_joint).sum(-1)

    start, end = trajectory(
        f, OneHotCategorical(logits=logits), [sp.VIMCO(4)], budget=4, checkpoints=2, steps=40, replicates=128
    )
    assert end.value > start.value


def test_parameters_stay_where_they_may_be() -> None:
    concentration = torch.tensor([0.3, 4.0], dtype=F64, requires_grad=True)
    dist = Independent(Gamma(concentration, torch.ones(2, dtype=F64)), 1)
    *_, stop = path(lambda x: x.sum(-1), dist, checkpoints=2, steps=30)
    assert bool((families.recognize(stop.dist).parameters["concentration"] > 0).all())


def test_the_loop_ends_with_an_interruption() -> None:
    f, dist = bits()

    def told(stage: str, done: int, total: int) -> None:
        if stage == "measuring" and done == 8:
            raise KeyboardInterrupt

    (only,) = trajectory(f, dist, [sp.ScoreFunction()], checkpoints=3, steps=10, replicates=128, progress=told)
    assert only.comparison.interrupted


def test_what_cannot_be_followed_is_refused() -> None:
    f, dist = bits()
    with pytest.raises(ValueError, match="at least 2 checkpoints"):
        trajectory(f, dist, [sp.ScoreFunction()], checkpoints=1)
    with pytest.raises(ValueError, match="5 checkpoints and 3 steps"):
        trajectory(f, dist, [sp.ScoreFunction()], steps=3)
    bounds = torch.zeros((), requires_grad=True), torch.ones((), requires_grad=True)
    with pytest.raises(ValueError, match="inside their bounds; got low"):
        list(path(lambda x: (x - 0.5).square(), Uniform(*bounds), rate=10.0))
    with pytest.raises(TypeError, match="shape of Odd, whose bounds"):
        next(path(torch.square, Odd(torch.ones((), requires_grad=True))))


def test_the_command_measures_along_the_path() -> None:
    settings = runs.Settings(("ScoreFunction",), budgets=(), replicates=128, trajectory=3)
    result = runs.measure(Piece("toy", 2), settings)
    assert [checkpoint.step for checkpoint in result.checkpoints] == [0, 50, 100]
    assert _untimed(result.checkpoints[0].comparison) == _untimed(replace(result.comparison, problem=""))


def _untimed(comparison: diagnostics.Comparison) -> list[object]:
    rows = sorted(comparison.rows, key=lambda row: row.label)
    return [replace(row, milliseconds=0.0, rank=None) for row in rows]
