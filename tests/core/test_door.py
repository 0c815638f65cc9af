"""What `propose` and `combine` check and hand on, once for all estimators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Optional, Union

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Categorical, Independent, Normal, OneHotCategorical, Uniform

import sampleprop as sp
from kinds import BITS, CLASSES, NORMAL, POISSON, SOLUTIONS, cost, theta
from sampleprop.costs import Costs, Group
from sampleprop.families import Bernoullis, OneHots, Other, Variables


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event]
    probes: Tensor | None = None


class Spy(sp.Estimator[Variables, Draw]):
    """Keeps what `estimate` is given."""

    unbiased, exact_forward, needs = True, True, "black box"
    can_drop = True

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Costs] = []

    def draw(self, variables: Variables, generator: Generator | None) -> Draw:
        return Draw(variables.sample(2, generator))

    def estimate(self, variables: Variables, draw: Draw, costs: Costs) -> Tensor:
        self.told.append(costs)
        return costs.mean()


class GroupedSpy(Spy):
    grouped = True


def test_combine_hands_on_what_it_was_given() -> None:
    spy, dist, context, f = Spy(), BITS.dist(BITS.phi(5)), torch.ones(5, 2), lambda x: x.sum(-1)
    points, costs, keep = torch.zeros(2, 5, 3), torch.zeros(2, 5, dtype=torch.bfloat16), torch.ones(2, 5) > 0
    probe_costs = torch.zeros(3, 5, requires_grad=True)
    draw = Draw(points, torch.ones(3, 5, 3))
    spy.combine(dist, draw, costs, probe_costs=probe_costs, relaxed_f=f, context=context, keep=keep)
    (told,) = spy.told
    assert told.points.dtype == torch.float32
    assert told.probes.shape == (3, 5)
    assert not told.probes.requires_grad
    torch.testing.assert_close(told.f(draw.probes), f(draw.probes))
    assert told.context is context
    assert told.keep is keep


@pytest.mark.parametrize("spy", [Spy(), GroupedSpy()], ids=str)
def test_only_a_grouped_estimator_is_handed_the_group(spy: Spy) -> None:
    dist = BITS.dist(BITS.phi(5))
    group = Group(dim=-1)
    spy.combine(dist, spy.propose(dist), torch.zeros(2, 5), group=group)
    assert spy.told[-1].group is (group if spy.grouped else None)


def test_expect_hands_on_the_context_and_the_mask() -> None:
    spy, context = Spy(), torch.ones(5, 2)

    def f(x: Tensor) -> Tensor:
        return torch.where(torch.arange(2).unsqueeze(1) == 0, torch.nan, 1.0).expand(2, 5)

    sp.expect(f, BITS.dist(BITS.phi(5)), spy, context=context, nonfinite="drop")
    (told,) = spy.told
    assert told.context is context
    assert told.keep is not None
    assert torch.equal(told.keep, torch.tensor([[False], [True]]).expand(2, 5))


def test_points_of_another_event_are_refused_though_the_costs_would_fit() -> None:
    dist = BITS.dist(BITS.phi(5))
    with pytest.raises(ValueError, match=r"Spy needs points .* = \[k, 5, 3\] for this distribution; got \[2, 5, 4\]"):
        Spy().combine(dist, Draw(torch.zeros(2, 5, 4)), torch.zeros(2, 5))
    probed = Draw(torch.zeros(2, 5, 3), torch.zeros(1, 5, 4))
    with pytest.raises(ValueError, match=r"Spy needs points .* = \[k, 5, 3\] for this distribution; got \[1, 5, 4\]"):
        Spy().combine(dist, probed, torch.zeros(2, 5), probe_costs=torch.zeros(1, 5))


@pytest.mark.parametrize(
    ("keep", "got"),
    [
        (torch.ones(2, 5), r"\[2, 5\], torch\.float32"),
        (torch.ones(5) > 0, r"\[5\], torch\.bool"),
        (torch.ones(2, 1) > 0, r"\[2, 1\], torch\.bool"),
    ],
    ids=["numbers", "without samples", "to be broadcast"],
)
def test_a_mask_of_another_kind_is_refused(keep: Tensor, got: str) -> None:
    dist, estimator = BITS.dist(BITS.phi(5)), sp.ScoreFunction()
    draw = estimator.propose(dist)
    needed = r"ScoreFunction needs keep of the costs' shape, .* = \[2, 5\], and bool"
    with pytest.raises(ValueError, match=rf"{needed}; got {got}"):
        estimator.combine(dist, draw, torch.zeros(2, 5), keep=keep)


WITHOUT_DROP = [estimator for kind in sp.REGISTER if not (estimator := kind()).can_drop]


@pytest.mark.parametrize("estimator", WITHOUT_DROP, ids=str)
def test_an_estimator_that_cannot_drop_takes_no_mask(estimator: sp.Estimator[Any, Any]) -> None:
    dist = next(
        dist
        for kind in (BITS, CLASSES, NORMAL, POISSON, SOLUTIONS)
        if estimator.refusal(dist := kind.dist(kind.phi(5))) is None
    )
    draw = estimator.propose(dist)
    costs = torch.zeros(draw.points.shape[:2])
    wanted = f"{estimator.name} needs every cost"
    with pytest.raises(ValueError, match=wanted):
        estimator.combine(dist, draw, costs, keep=costs == 0)
    with pytest.raises(ValueError, match=wanted):
        sp.expect(lambda x: cost(x, theta(), len(dist.event_shape)), dist, estimator, nonfinite="drop")


@pytest.mark.parametrize(
    ("estimator", "dist", "message"),
    [
        (sp.ScoreFunction(), Uniform(torch.zeros(5), torch.ones(5)), "needs a support that does not move"),
        (sp.Pathwise(), Bernoulli(torch.full((5,), 0.5)), "needs a continuous distribution"),
        (sp.DisARM(), OneHotCategorical(torch.ones(5, 2)), "needs Bernoulli; got OneHotCategorical"),
        (sp.ARM(), "q", r"needs a torch\.distributions object; got str"),
    ],
    ids=str,
)
def test_both_halves_refuse_what_refusal_refuses(estimator: sp.Estimator[Any, Any], dist: Any, message: str) -> None:
    refusal = estimator.refusal(dist)
    assert refusal is not None
    points = torch.zeros(2, 5)
    draw = estimator.propose(Bernoulli(points[0]) if estimator.takes == (Bernoullis,) else Normal(points[0], 1.0))
    for refused in (lambda: estimator.propose(dist), lambda: estimator.combine(dist, draw, points)):
        with pytest.raises(TypeError, match=f"{estimator.name} {message}") as caught:
            refused()
        assert str(caught.value) == refusal


@pytest.mark.parametrize("question", [sp.DisARM().evaluations, sp.DisARM().order], ids=lambda q: q.__name__)
def test_facts_about_a_distribution_of_another_kind_are_refused(question: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="DisARM needs Bernoulli; got Normal"):
        question(Normal(torch.zeros(5), 1.0))
    with pytest.raises(TypeError, match=r"DisARM needs a torch\.distributions object; got Tensor"):
        question(torch.zeros(5))


@pytest.mark.parametrize("estimator", [sp.ScoreFunction(), sp.LocalExpectation(), sp.Enumerate()], ids=str)
def test_propose_names_a_row_without_a_possible_class(estimator: sp.Estimator[Any, Any]) -> None:
    logits = torch.zeros(4, 3)
    logits[2] = -torch.inf
    with pytest.raises(ValueError, match=rf"{estimator.name} needs at least one possible class.* at index \[2\]"):
        estimator.propose(Categorical(logits=logits, validate_args=False))


# ruff: noqa: UP007, UP045  the older spellings of a union are what is tested
@pytest.mark.parametrize("both", [Bernoullis | OneHots, Union[Bernoullis, OneHots]], ids=str)
def test_a_union_of_kinds_is_read_in_either_spelling(both: Any) -> None:
    class Mine(Spy, sp.Estimator[both, Draw]):
        pass

    assert Mine.takes == (Bernoullis, OneHots)
    assert "got Normal" in str(Mine().refusal(Normal(0.0, 1.0)))


@pytest.mark.parametrize("argument", ["Bernoullis", Optional[Bernoullis], int], ids=str)
def test_another_type_argument_is_refused(argument: Any) -> None:
    with pytest.raises(TypeError, match=r"Mine needs a kind of variables and a NamedTuple as type arguments; got"):

        class Mine(sp.Estimator[argument, Draw]):
            pass


def test_an_estimator_may_take_all_but_the_discrete_families() -> None:
    class Mine(Spy, sp.Estimator[Other, Draw]):
        pass

    assert Mine().refusal(Normal(0.0, 1.0)) is None
    refusal = Mine().refusal(Independent(Bernoulli(torch.full((2,), 0.5)), 1))
    assert str(refusal).startswith("Mine needs a distribution other than Bernoulli, OneHotCategorical and Categorical;")
