"""Every cell of the table of methods, verified numerically over the register.

Random tests use fixed seeds; a test raises a false alarm with probability 1e-6 (forward law) or 4e-7 (bias).
"""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import Function
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal, OneHotCategorical

from sampleprop import families
from sampleprop.distributions.gumbel_max import gumbel_max
from sampleprop.estimator import Estimator
from sampleprop.estimators import REGISTER
from sampleprop.expectation import expect
from sampleprop.lab.show import table
from variants import CONFIGURATIONS

ROWS = 40_000
FALSE_ALARM = 1e-6
Z_UNBIASED = 5.1
Z_BIASED = 7.0
UNFOLLOWED = "needs a cost that is differentiable in x|Can't call numpy"

METHODS = {method.name: method for method in table.methods()}
KINDS: dict[str, type[Estimator[Any, Any]]] = {kind().name: kind for kind in REGISTER}
FAMILIES = ("Bernoulli", "one-hot", "categorical", "continuous")
TAKEN = [(name, family) for name in KINDS for family in METHODS[name].takes if family in FAMILIES]
REFUSED = [(name, family) for name in KINDS for family in FAMILIES if family not in METHODS[name].takes]
FIRST = [
    (name, next(family for family in FAMILIES if family in METHODS[name].takes)) for name, _ in dict(TAKEN).items()
]

# What is asked of E[f] by sampling here, bounds and counts are asked in test_certificates.py.
MEAN = [pair for pair in TAKEN if KINDS[pair[0]]().objective == "mean"]

LOGITS = torch.tensor([0.6, -0.8, 0.3], dtype=torch.float64)
SCALE = torch.tensor([0.7, 1.2, 0.9], dtype=torch.float64)
WEIGHTS = torch.tensor([1.0, -2.0, 1.5], dtype=torch.float64)


def _dist(family: str, parameter: Tensor) -> Distribution:
    if family == "Bernoulli":
        return Independent(Bernoulli(logits=parameter), 1)
    if family == "one-hot":
        return OneHotCategorical(logits=parameter)
    if family == "categorical":
        return Categorical(logits=parameter)
    return Independent(Normal(parameter, SCALE), 1)


def _leaf(*batch: int) -> Tensor:
    return LOGITS.expand(*batch, 3).clone().requires_grad_()


def _vector(points: Tensor, family: str) -> Tensor:
    """Points as vectors: integers become what a one-hot vector would be."""
    return torch.nn.functional.one_hot(points, 3).double() if family == "categorical" else points


def _cost(family: str) -> Any:
    """Smooth, defined everywhere, and no polynomial."""
    return lambda points: (_vector(points, family) @ WEIGHTS).sin() + (0.5 * _vector(points, family) @ WEIGHTS).exp()


def _mean(family: str, parameter: Tensor) -> Tensor:
    """The expectation of `_cost`, differentiable."""
    dist = _dist(family, parameter)
    if family != "continuous":
        variables = families.recognize(dist)
        support = variables.support().reshape(-1, *(1,) * (parameter.dim() - 1), *dist.event_shape)
        return (variables.log_prob(support).exp() * _cost(family)(support)).sum(0)
    location, variance = parameter @ WEIGHTS, (SCALE * WEIGHTS).square().sum()
    return location.sin() * (-variance / 2).exp() + (location / 2 + variance / 8).exp()


def _off_support(points: Tensor, family: str) -> bool:
    vector = _vector(points, family)
    whole = bool(((vector == 0) | (vector == 1)).all())
    return not whole or (family == "one-hot" and bool((vector.sum(-1) != 1).any()))


@pytest.mark.parametrize(("name", "family"), REFUSED)
def test_what_the_table_does_not_list_is_refused(name: str, family: str) -> None:
    with pytest.raises(TypeError, match=name):
        expect(_cost(family), _dist(family, _leaf()), KINDS[name]())


@pytest.mark.parametrize(("name", "family"), MEAN)
def test_follows_the_exact_distribution_forward(name: str, family: str) -> None:
    """The value of the estimate, for indicators of the states as f, has the probabilities as means, by chi-square."""
    torch.manual_seed(0)
    f, means, on_support = _probes(family)
    estimator = KINDS[name]().eval()
    columns = len(means)
    dist = _dist(family, _leaf(ROWS, columns))
    values = expect(f, dist, estimator).detach()  # [rows, columns]
    z = (values.mean(0) - means) / (values.var(0) / ROWS + 1e-24).sqrt()
    p = torch.special.gammaincc(torch.tensor(columns / 2), z.square().sum() / 2)
    points = estimator.propose(dist).points.detach()
    assert (float(p) > FALSE_ALARM and on_support(points)) == METHODS[name].exact_forward


def _probes(family: str) -> tuple[Any, Tensor, Any]:
    """f with one column for each probe, the mean of each, and whether points are possible samples."""
    if family == "continuous":
        frequencies = torch.tensor([[1.0, 0, 0], [0, 2.0, 0], [0.5, -0.5, 1.0], [0, 0, 3.0]], dtype=torch.float64)
        means = (frequencies @ LOGITS + 0.3).cos() * (-(frequencies * SCALE).square().sum(-1) / 2).exp()
        return lambda x: ((x * frequencies).sum(-1) + 0.3).cos(), means, lambda x: bool(x.isfinite().all())
    variables = families.recognize(_dist(family, LOGITS))
    states = _vector(variables.support(), family)  # [states, 3]
    means = variables.log_prob(variables.support()).exp()

    def indicators(points: Tensor) -> Tensor:
        """1 at the column's state, 0 at the others, and a polynomial in between."""
        x = _vector(points, family)
        matches = states * x + (1 - states) * (1 - x)
        return matches.prod(-1) if family == "Bernoulli" else (states * x).sum(-1)

    return indicators, means, lambda points: not _off_support(points, family)


@pytest.mark.parametrize(("name", "family"), TAKEN)
def test_gives_a_gradient_for_phi(name: str, family: str) -> None:
    torch.manual_seed(0)
    parameter = _leaf(64)
    expect(_cost(family), _dist(family, parameter), KINDS[name]()).sum().backward()
    assert METHODS[name].differentiable
    assert parameter.grad is not None
    assert bool(parameter.grad.isfinite().all())
    assert bool((parameter.grad != 0).any())


@pytest.mark.parametrize("name", list(dict(MEAN)))
def test_unbiased_or_not(name: str) -> None:
    z = max(_largest_z(name, family) for family in METHODS[name].takes if family in FAMILIES)
    low, high = (0.0, Z_UNBIASED) if METHODS[name].unbiased else (Z_BIASED, math.inf)
    assert low <= z < high


def _largest_z(name: str, family: str) -> float:
    torch.manual_seed(0)
    parameter, exact = _leaf(ROWS), _leaf()
    estimator = CONFIGURATIONS[KINDS[name]][0]  # of those that smooth, one that does so visibly
    expect(_cost(family), _dist(family, parameter), estimator.eval()).sum().backward()
    _mean(family, exact).backward()
    gradients = parameter.grad
    z = (gradients.mean(0) - exact.grad) / (gradients.var(0) / ROWS + 1e-24).sqrt()
    return float(z.abs().max())


@pytest.mark.parametrize(("name", "family"), [pair for pair in TAKEN if METHODS[pair[0]].needs == "black box"])
def test_needs_no_derivative_of_f(name: str, family: str) -> None:
    torch.manual_seed(0)
    parameter = _leaf(64)
    expect(_black_box(family), _dist(family, parameter), KINDS[name]()).sum().backward()
    assert bool((parameter.grad != 0).any())


@pytest.mark.parametrize(("name", "family"), [pair for pair in TAKEN if METHODS[pair[0]].needs != "black box"])
def test_needs_the_derivative_of_f(name: str, family: str) -> None:
    with pytest.raises((RuntimeError, TypeError), match=UNFOLLOWED):
        expect(_black_box(family), _dist(family, _leaf(64)), KINDS[name]())


def _black_box(family: str) -> Any:
    """The cost in numpy: nothing of it reaches autograd."""
    return lambda points: torch.from_numpy(_cost(family)(points).detach().numpy())


@pytest.mark.parametrize(("name", "family"), [pair for pair in TAKEN if pair[1] != "continuous"])
def test_calls_f_between_the_points_only_where_it_says_so(name: str, family: str) -> None:
    torch.manual_seed(0)
    seen = []

    def f(points: Tensor) -> Tensor:
        seen.append(_off_support(points.detach(), family))
        return _cost(family)(points)

    expect(f, _dist(family, _leaf(64)), KINDS[name]()).sum().backward()
    assert any(seen) == (METHODS[name].needs == "relaxed")


class _Counted(Function):
    """Hands points on, and counts them in both directions."""

    generate_vmap_rule = True
    forwards = 0
    backwards = 0

    @staticmethod
    def forward(points: Tensor) -> Tensor:
        _Counted.forwards += points.shape[0]
        return points.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        _Counted.backwards += gradient.shape[0]
        return gradient


@pytest.mark.parametrize(("name", "family"), FIRST)
def test_counts_the_evaluations(name: str, family: str) -> None:
    torch.manual_seed(0)
    _Counted.forwards = _Counted.backwards = 0
    zeros = torch.zeros(table.SIZE, requires_grad=True)
    dist = Independent(Normal(zeros, 1.0), 1) if family == "continuous" else _dist(family, zeros)

    def f(points: Tensor) -> Tensor:
        counted = _Counted.apply(points)
        return (counted if family == "categorical" else counted.square().sum(-1)).sin()

    expect(f, dist, KINDS[name]().eval()).backward()  # what a control variate learns from is its own
    assert (_Counted.forwards, _Counted.backwards) == METHODS[name].evaluations


@pytest.mark.parametrize(("name", "family"), FIRST)
def test_learns_what_it_says(name: str, family: str) -> None:
    torch.manual_seed(0)
    estimator = KINDS[name]().train()
    expect(_cost(family), _dist(family, _leaf(64)), estimator).sum().backward()
    learning = [n for n, p in estimator.named_parameters() if p.grad is not None]
    assert tuple(dict.fromkeys(n.partition(".")[0] for n in learning)) == METHODS[name].learns


@pytest.mark.parametrize(("name", "family"), [pair for pair in FIRST if METHODS[pair[0]].order == 1])
def test_refuses_the_second_derivative(name: str, family: str) -> None:
    torch.manual_seed(0)
    parameter = _leaf(4)
    value = expect(_cost(family), _dist(family, parameter), KINDS[name]())
    (gradient,) = torch.autograd.grad(value.sum(), parameter, create_graph=True)
    with pytest.raises(RuntimeError, match=name):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("name", "family"),
    [pair for pair in [pair for pair in FIRST if pair in MEAN] if math.isinf(METHODS[pair[0]].order)],
)
def test_has_the_second_derivative(name: str, family: str) -> None:
    """By z-test along one direction, as in the test of the bias."""
    torch.manual_seed(0)
    parameter, exact = _leaf(ROWS), _leaf()
    value = expect(_cost(family), _dist(family, parameter), KINDS[name]())
    (gradient,) = torch.autograd.grad(value.sum(), parameter, create_graph=True)
    (second,) = torch.autograd.grad((gradient @ WEIGHTS).sum(), parameter)
    (gradient,) = torch.autograd.grad(_mean(family, exact), exact, create_graph=True)
    (expected,) = torch.autograd.grad(gradient @ WEIGHTS, exact)
    z = (second.mean(0) - expected) / (second.var(0) / ROWS + 1e-24).sqrt()
    assert float(z.abs().max()) < Z_UNBIASED


def test_gumbel_max_is_exact_and_has_no_derivative() -> None:
    torch.manual_seed(0)
    counts = gumbel_max(LOGITS.expand(ROWS, 3)).sum(0)
    expected = LOGITS.softmax(0) * ROWS
    p = torch.special.gammaincc(torch.tensor(1.0), ((counts - expected).square() / expected).sum() / 2)
    assert (float(p) > FALSE_ALARM) == table.GUMBEL_MAX.exact_forward
    with pytest.raises(RuntimeError, match="no derivative"):
        gumbel_max(_leaf()).sum().backward()
    assert not table.GUMBEL_MAX.differentiable


def test_every_estimator_has_a_row_of_all_columns() -> None:
    lines = table.markdown().splitlines()
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:-1]] == list(KINDS)
    assert {len(re.findall(r"\|", line)) for line in lines} == {len(table.HEADINGS) + 1}


def test_write_and_check(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    assert not table.current(page)
    table.write(page)
    assert table.current(page)
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith(f"{table.END}\nafter\n")
    page.write_text("no markers")
    with pytest.raises(ValueError, match="table:begin"):
        table.write(page)
