"""`check` and `compare` of programs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal, OneHotCategorical

import sampleprop as sp
from programs.models import LEAVES, two_levels
from sampleprop.diagnostics.measuring import programs


def leaves() -> list[Tensor]:
    return [leaf.clone().requires_grad_() for leaf in LEAVES]


def names(result: sp.diagnostics.Check) -> list[str]:
    return [finding.name for finding in result.findings]


def said(result: sp.diagnostics.Check) -> str:
    return repr(result)


@pytest.mark.parametrize(
    "model",
    [
        two_levels(None, None),
        two_levels(sp.REBAR(None), sp.DisARM()),
        two_levels(sp.Enumerate(), sp.ScoreFunction(2)),
        two_levels(None, None).using(sp.CoupledReplay(2)),
    ],
    ids=["default", "mixed", "with dimensions", "replay"],
)
def test_a_right_program_is_found_right(model):
    before = torch.get_rng_state()
    result = sp.check(model, leaves(), replicates=512)
    assert result.ok, said(result)
    assert not result.findings
    assert "exact, by 16 paths" in said(result)
    assert "no bias of the gradient of all parameters was seen" in said(result)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_wrong_estimator_is_found():
    class Doubled(sp.ScoreFunction):
        def estimate(self, variables, draw, costs):
            value = super().estimate(variables, draw, costs)
            return value + (value - value.detach())

    result = sp.check(two_levels(Doubled(2), None), leaves(), replicates=512)
    assert result.ok is False
    assert names(result) == ["wrong gradient"]


def test_a_biased_estimator_is_told_from_a_wrong_one():
    model = sp.program(lambda x: sp.sample(Bernoulli(logits=x), sp.StraightThrough()).pow(4))
    result = sp.check(model, (torch.tensor(2.0, dtype=torch.float64, requires_grad=True),), replicates=512)
    assert result.ok is True
    assert names(result) == ["biased gradient"]
    assert "because StraightThrough is biased for most f" in said(result)


def test_a_jump_in_a_variable_that_is_differentiated_through_is_found():
    @sp.program
    def jumping(mean: Tensor) -> Tensor:
        z = sp.sample(Normal(mean, 1.0))
        b = sp.sample(Bernoulli(logits=z * 0.1))
        return (z > 0).double() * 2 + z + b

    result = sp.check(jumping, (torch.tensor(0.3, dtype=torch.float64, requires_grad=True),), replicates=1024)
    assert names(result) == ["wrong gradient"]
    assert "a long run of ScoreFunction" in said(result)
    assert "Look for a jump" in said(result)


def rare(estimator: sp.Estimator | None = None) -> sp.program:
    """Two bits; together they are 1 once in a million times, and that is where nearly all of the cost is."""

    @sp.program
    def model(x: Tensor) -> Tensor:
        a = sp.sample(Bernoulli(logits=x - 7), estimator)
        b = sp.sample(Bernoulli(logits=x + a - 8), estimator)
        return a + b + 1e6 * a * b

    return model


def test_paths_too_rare_to_be_drawn_count_as_noise():
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    result = sp.check(rare(), (x,), replicates=512)
    assert result.ok, said(result)
    assert result.bias is not None
    assert result.bias.visible > 1
    assert "the noise would have hidden a gradient twice as long" in said(result)


def test_paths_that_are_evaluated_by_design_do_not():
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    result = sp.check(rare(sp.Enumerate()), (x,), replicates=128)
    assert result.ok, said(result)
    assert result.bias is not None
    assert result.bias.visible < 1e-3


def test_the_variance_of_rare_paths_is_that_of_the_score_function(monkeypatch):
    """Where no path is rare but all are called so, it is the variance of the mean that the replicates have."""
    model = two_levels(None, None)
    runs = programs.Runs(model, leaves())
    reference = runs.reference(4096, torch.Generator().manual_seed(0))
    measured = runs.measured(model, 4096, torch.Generator().manual_seed(1))
    assert reference.unseen(measured) == (0.0, 0.0, 0.0)
    monkeypatch.setattr(programs, "FEW", math.inf)
    unseen = reference.unseen(measured)
    value = runs.reference(32, torch.Generator()).exact.value
    centered = sp.program(lambda *args: model.__wrapped__(*args) - value)
    expected = runs.measured(centered, 4096, torch.Generator().manual_seed(1)).variance()[0] / 4096
    assert abs(unseen.gradient / expected - 1) < 0.1
    assert unseen.along > 0
    assert unseen.value > 0


def test_dead_samples_are_found():
    @sp.program
    def dead(phi: Tensor) -> Tensor:
        a = sp.sample(Bernoulli(logits=phi))
        return a + Bernoulli(logits=phi).sample() + torch.bernoulli(phi.sigmoid()) + Normal(phi, 1.0).rsample()

    phi = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    result = sp.check(dead, (phi,), replicates=128)
    assert result.ok is False
    assert "torch.bernoulli was called with parameters that require a gradient" in said(result)
    assert "Use sp.sample(dist)" in said(result)
    assert "other noise" in names(result)


def test_noise_of_the_program_and_of_other_libraries():
    numbers = iter(range(100_000))
    phi = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    dropout = sp.program(lambda x: nn.functional.dropout(sp.sample(Bernoulli(logits=x)) + 1, 0.5))
    result = sp.check(dropout, (phi,), replicates=512)
    assert names(result) == ["other noise"]
    assert result.ok
    stateful = sp.program(lambda x: sp.sample(Bernoulli(logits=x)) + next(numbers) % 7)
    assert "random cost" in names(sp.check(stateful, (phi,), replicates=128))


def test_rows_that_mix_are_found():
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(3).double()

    @sp.program
    def mixing(x: Tensor) -> Tensor:
        b = sp.sample(Independent(Bernoulli(logits=x), 1))
        return norm(b + x).square().sum(-1)

    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert "rows mix" in names(sp.check(mixing, (x,), replicates=128))
    norm.eval()
    result = sp.check(mixing, (x,), replicates=256)
    assert result.ok, said(result)
    assert "the cost of a row depends on its own samples only" in said(result)


def test_what_cannot_be_checked_is_said():
    phi = torch.zeros(2, 3, requires_grad=True)
    large = sp.program(lambda x: sp.sample(Independent(Bernoulli(logits=x), 1), sp.ScoreFunction(2)).sum(-1))
    result = sp.check(large, (phi.repeat(1, 6),), replicates=128)  # 2 ** 18 states, and a dimension
    assert result.ok is None
    assert "the gradient; the reference is none" in said(result)
    failing = sp.program(lambda x: sp.sample(Bernoulli(logits=x)).sum() / 0)
    assert names(sp.check(failing, (phi,), replicates=128)) == ["fails"]
    with pytest.raises(TypeError, match=r"check of a program needs its arguments as a tuple, and no estimator"):
        sp.check(large, (phi,), sp.REBAR())
    assert "needs tensors that require a gradient" in said(sp.check(large, (phi.detach(),), replicates=128))


def routed() -> tuple[sp.program, tuple[Tensor, ...], nn.Module]:
    torch.manual_seed(0)
    router, experts = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()

    @sp.program
    def route(x: Tensor) -> Tensor:
        choice = sp.sample(OneHotCategorical(logits=router(x)), name="route")
        gate = sp.sample(Bernoulli(logits=x[:, 0]), name="gate")
        return ((choice * experts(x)).sum(-1).tanh() * (1 + gate) - 0.4).square()

    return route, (torch.randn(3, 4, dtype=torch.float64),), nn.ModuleList([router, experts])


def test_estimators_are_compared_at_a_site():
    model, args, module = routed()
    estimators = [
        sp.ScoreFunction(None),
        sp.REBAR(None),
        sp.StraightThrough(),
        sp.GumbelSoftmax(),
        sp.DisARM(),
        sp.CoupledReplay(2),
    ]
    table = sp.compare(model, args, estimators, site="route", replicates=256, train_steps=20)
    rows = {row.name: row for row in table.rows}
    assert table.reference == "exact, by 6 paths"
    assert set(rows) == {"ScoreFunction", "REBAR", "StraightThrough", "GumbelSoftmax", "CoupledReplay"}
    assert [skipped.label for skipped in table.skipped] == ["DisARM()"]
    assert rows["CoupledReplay"].evaluations == 3
    assert rows["REBAR"].trained == 20
    assert {rows["ScoreFunction"].group, rows["REBAR"].group, rows["CoupledReplay"].group} == {"unbiased"}
    assert rows["StraightThrough"].group != "unbiased"
    assert rows["REBAR"].variance < rows["ScoreFunction"].variance
    assert all(parameter.grad is None for parameter in module.parameters())
    assert "route" in repr(table)


def test_a_site_that_is_not_there_is_refused():
    model, args, _ = routed()
    with pytest.raises(ValueError, match=r"got 'rout', and the names are \['gate', 'route'\]"):
        sp.compare(model, args, [sp.ScoreFunction(None)], site="rout", replicates=128)
    with pytest.raises(TypeError, match="compare needs estimators, or CoupledReplay; got 'x'"):
        sp.compare(model, args, ["x"], replicates=128)
    with pytest.raises(TypeError, match="needs its arguments as a tuple"):
        sp.compare(model, args[0], [sp.ScoreFunction(None)], replicates=128)
