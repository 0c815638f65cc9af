"""`CoupledReplay`: an exhaustive proof of its code, mistakes that the proof sees, and the published walk.

The z-tests compare at 4.9 standard errors, a false-alarm rate of 1e-6 for each number, below 1e-4 for this file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Geometric,
    Independent,
    NegativeBinomial,
    Normal,
    Poisson,
)

import sampleprop as sp
from programs import proofs
from programs.models import LIMIT, z
from sampleprop.families import recognize
from sampleprop.programs import coupled_replay, forced
from sampleprop.programs.coupled_replay import Jumps


@pytest.mark.parametrize("program", proofs.PROGRAMS, ids=lambda f: f.__name__)
def test_the_mean_over_all_noise_and_choices_is_exact(program):
    value, gradient, _ = proofs.mean(program)
    expected, exact = proofs.by_paths(program)
    assert abs(value - expected) < 1e-12
    torch.testing.assert_close(gradient, exact, rtol=1e-12, atol=1e-12)


# Mistakes, each a change of the code, and the programs by which it is seen.

MOVES, SAMPLE = coupled_replay.moves, coupled_replay._Alternative.sample


def one_noise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(coupled_replay, "stream", lambda seed, number, device: torch.Generator().manual_seed(seed % 2**31))


def changed_moves(change: Callable[[Any, Tensor, Jumps], Jumps]) -> Callable[[pytest.MonkeyPatch], None]:
    def apply(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(coupled_replay, "moves", lambda variables, x: change(variables, x, MOVES(variables, x)))

    return apply


def own_weight(variables: Any, x: Tensor, given: Jumps) -> Jumps:
    p = variables.probs.detach()
    return given._replace(weights=torch.where(x > 0.5, p, 1 - p).unsqueeze(-1) / 2)


def later_draws_copied(patch: pytest.MonkeyPatch) -> None:
    def sample(self: Any, variables: Any, estimator: Any, context: Any, name: Any) -> Tensor:
        index = self.position
        value = SAMPLE(self, variables, estimator, context, name)
        site = self.sites[index] if index < len(self.sites) else None
        alike = site is not None and site.value.shape == value.shape and bool((index > self.chosen).all())
        return site.value.clone() if alike else value

    patch.setattr(coupled_replay._Alternative, "sample", sample)


def changed_noise_used_again(patch: pytest.MonkeyPatch) -> None:
    """After the change, each site gets the noise of the one before it, by position."""

    def sample(self: Any, variables: Any, estimator: Any, context: Any, name: Any) -> Tensor:
        if bool((self.position > self.chosen).all()):
            source, number = self.source, self.position - 1
            self.source = lambda name, device: coupled_replay.stream(STREAMS[-1].seed, number, device)
            try:
                return SAMPLE(self, variables, estimator, context, name)
            finally:
                self.source = source
        return SAMPLE(self, variables, estimator, context, name)

    begin = coupled_replay._Streams.begin

    def noted(self: Any) -> Any:
        STREAMS[:] = [self]
        return begin(self)

    patch.setattr(coupled_replay._Streams, "begin", noted)
    patch.setattr(coupled_replay._Alternative, "sample", sample)


STREAMS: list[Any] = []
MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "one noise for all sites": one_noise,
    "the weight of the own outcome": changed_moves(own_weight),
    "the sign dropped": changed_moves(lambda v, x, given: given._replace(directions=given.directions.abs())),
    "the half forgotten": changed_moves(lambda v, x, given: given._replace(weights=2 * given.weights)),
    "one side only": changed_moves(
        lambda v, x, given: given._replace(weights=torch.where(x.unsqueeze(-1) > 0.5, given.weights, 0.0))
    ),
    "later draws copied": later_draws_copied,
    "noise used again": changed_noise_used_again,
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mistake_is_seen_by_a_wrong_number(mutant, monkeypatch):
    """Some programs show each mistake, so the search ends at the first one."""

    def error(program: proofs.Program) -> float:
        exact = proofs.by_paths(program)[1]
        with monkeypatch.context() as patch:
            MUTANTS[mutant](patch)
            return float((proofs.mean(program)[1] - exact).abs().max())

    programs = (proofs.with_if, proofs.with_while, proofs.with_names, proofs.with_normal_variables)
    assert any(error(program) > 5e-3 for program in programs)


def test_counts_are_right_over_successive_calls_of_one_generator():
    """200 calls of ten rows; a choice that shared its noise with the next call would be seen here and nowhere else."""

    @sp.program
    def model(t: Tensor) -> Tensor:
        a = sp.sample(Poisson(t[0].exp()))
        b = sp.sample(Binomial(3, logits=t[1] - 0.3 * a))
        c = sp.sample(Geometric(logits=1 + 0.2 * b + t[2]))
        d = sp.sample(NegativeBinomial(2.0, logits=t[3] - 2 + 0.1 * c))
        e = sp.sample(Categorical(logits=torch.stack([t[4], 0.1 * d.clamp_max(3), t[4] * 0], -1)))
        return (a - b).square() + 0.5 * c + 0.3 * d * e

    leaf = torch.tensor([-0.5, 0.3, 0.4, -0.4, 0.2], dtype=torch.float64)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    replayed = model.using(sp.CoupledReplay(2), generator=generator)
    few, many = (leaf.expand(rows, 5).T.clone().requires_grad_() for rows in (10, 200_000))
    found = [torch.autograd.grad(replayed(few).sum(), few)[0] for _ in range(200)]
    (scores,) = torch.autograd.grad(model.using(sp.ScoreFunction(None, baseline=sp.Constant(2.0)))(many).sum(), many)
    samples = torch.cat(found, 1).T
    error = (samples.var(0) / len(samples) + scores.var(1) / scores.shape[1]).sqrt()
    assert ((samples.mean(0) - scores.mean(1)).abs() / error).max() < LIMIT


def test_a_batch_and_noise_of_the_programs_own():
    """Rows are estimates of their own; dropout and torch's other noise are the same in both runs."""

    @sp.program
    def model(phi: Tensor) -> Tensor:
        a = sp.sample(Independent(Bernoulli(logits=phi), 1))
        h = nn.functional.dropout(a + 1, 0.5)
        b = sp.sample(Bernoulli(logits=h.sum(-1) - 1.5))
        return b * h[..., 0] + a.sum(-1) * torch.rand(len(phi), dtype=torch.float64)

    phi = torch.tensor([[0.3, -0.5]], dtype=torch.float64)
    rows = phi.expand(40_000, 2).clone().requires_grad_()
    torch.manual_seed(0)
    (found,) = torch.autograd.grad(model.using(sp.CoupledReplay(2))(rows).sum(), rows)
    (plain,) = torch.autograd.grad(model.using(particles=8)(rows).sum(), rows)
    error = (found.var(0) / len(rows) + plain.var(0) / len(rows)).sqrt()
    assert ((found.mean(0) - plain.mean(0)).abs() / error).max() < LIMIT
    assert len({torch.rand(1).item() for _ in range(3)}) == 3


WALK = {10: (1.48982, 0.62), 20: (3.00990, 1.28), 50: (7.55819, 3.27), 80: (12.10435, 5.23), 100: (15.13490, 6.65)}


@pytest.mark.slow
@pytest.mark.parametrize("steps", WALK)
def test_the_published_walk(steps):
    """Steps of 1 with probability exp(-X / p), else of -1, from p = 2n: d/dp of the mean square of the end.

    The bar is the standard deviation of the published pair in lock-step, and the exact derivative is known.
    """

    @sp.program
    def walk(p: Tensor) -> Tensor:
        x = torch.zeros_like(p)
        for _ in range(steps):
            up = (-x / p).exp().clamp(1e-12, 1 - 1e-12)
            x = x + 2 * sp.sample(Bernoulli(probs=up, validate_args=False)) - 1
        return x.square()

    torch.manual_seed(0)
    p = torch.full((20_000,), 2.0 * steps, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(walk.using(sp.CoupledReplay(2))(p).sum(), p)
    exact, most = WALK[steps]
    assert z(found, torch.tensor(exact, dtype=torch.float64)) < LIMIT
    assert float(found.std()) <= most


def test_entries_of_probability_zero_are_never_chosen():
    upto = torch.tensor([[0.0, 0.0, 0.5, 0.5, 1.0]])
    for u in (0.0, 0.25, 0.5, 0.75, 1.0 - 1e-7):
        chosen = int(sp.CoupledReplay().choose(upto, torch.tensor([[u]])))
        assert chosen == (2 if u < 0.5 else 4)


def test_where_nothing_can_move_nothing_moves():
    """A count that is certain has no neighbour, and a class of probability 0 must not be handed out."""
    seen: list[Tensor] = []

    @sp.program
    def model(t: Tensor) -> Tensor:
        x = sp.sample(Binomial(2, logits=t + 2000))
        y = sp.sample(Categorical(logits=torch.stack([t, torch.full_like(t, -torch.inf)])))
        seen.append(torch.stack([x, y.to(x)]))
        return x + y

    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(model.using(sp.CoupledReplay(3))(t), t)
    assert all(torch.equal(values, torch.tensor([2.0, 0.0], dtype=torch.float64)) for values in seen)
    assert len(seen) == 4
    assert slope == 0


def test_inversion_draws_the_distribution():
    torch.manual_seed(0)
    poisson, binomial = Poisson(torch.tensor([0.3, 5.0, 200.0])), Binomial(7, torch.tensor([0.2, 0.9]))
    for q in (poisson, binomial, NegativeBinomial(3.0, torch.tensor([0.5, 0.9]))):
        wide = q.expand((20_000, *q.batch_shape))
        x = coupled_replay._inverted(recognize(wide), torch.Generator().manual_seed(1))
        error = (q.variance / len(x)).sqrt()
        assert ((x.mean(0) - q.mean).abs() / error).max() < LIMIT
        assert ((x.var(0) / q.variance - 1).abs() < 0.1).all()


def test_rows_keep_their_draws_when_another_row_changes():
    """torch's own sampler of Poisson variables does not."""
    rates = torch.tensor([3.0, 20.0, 3.0, 7.0])
    moved = rates.clone()
    moved[0] = 0.01
    one, other = (
        coupled_replay._inverted(recognize(Poisson(r)), torch.Generator().manual_seed(4)) for r in (rates, moved)
    )
    assert torch.equal(one[1:], other[1:])


def test_what_cannot_be_replayed_is_refused():
    def refused(function: Callable[[Tensor], Any], message: str, error: type[Exception]) -> None:
        with pytest.raises(error, match=message):
            sp.program(function).using(sp.CoupledReplay())(torch.zeros(3, requires_grad=True))

    bits = lambda t: Bernoulli(logits=t)  # noqa: E731
    refused(lambda t: sp.sample(bits(t), sp.ScoreFunction(2)).sum(0), "needs sites without a dimension", ValueError)
    refused(lambda t: sp.sample(Normal(t, 1.0), sp.ScoreFunction(None)), "differentiates through continuous", TypeError)
    refused(lambda t: sp.sample(Normal(t, 1.0)).detach().round() + t * 0, "no path to x", RuntimeError)
    refused(lambda t: sp.sample(bits(t)) / 0, "needs finite costs", ValueError)
    refused(lambda t: None, "needs at least one cost", ValueError)
    refused(lambda t: 3.0, "returns and charges costs", TypeError)
    model = sp.program(lambda t: sp.sample(bits(t)))
    for more in ({"particles": 2}, {"apart": 2}):
        with pytest.raises(ValueError, match="runs the program again by itself"):
            model.using(sp.CoupledReplay(), **more)
    with pytest.raises(ValueError, match="one run of the program"):
        model.using(sp.CoupledReplay()).sample(torch.zeros(3))
    with pytest.raises(ValueError, match="whole number of alternatives, at least 1"):
        sp.CoupledReplay(0)
    t = torch.zeros(3, requires_grad=True)
    (slope,) = torch.autograd.grad(model.using(sp.CoupledReplay())(t).sum(), t, create_graph=True)
    with pytest.raises(RuntimeError, match="CoupledReplay estimates first derivatives only"):
        torch.autograd.grad(slope.sum(), t)


def test_without_gradients_the_program_runs_once():
    calls = []

    @sp.program
    def model(t: Tensor) -> Tensor:
        calls.append(1)
        return sp.sample(Bernoulli(logits=t))

    with torch.no_grad():
        model.using(sp.CoupledReplay(3))(torch.zeros(3, requires_grad=True))
    model.using(sp.CoupledReplay(3))(torch.zeros(3))
    assert len(calls) == 2
    model.using(sp.CoupledReplay(3))(torch.zeros(3, requires_grad=True))
    assert len(calls) == 6


def test_forced_replay_of_an_unlikely_program():
    """Paths of a probability below 1e-12 are cut, and their mass is told."""

    @sp.program
    def model(t: Tensor) -> Tensor:
        return sp.sample(Poisson(t.exp())) + sp.sample(Bernoulli(logits=t - 40))

    leaf = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    found = forced.exact(model, (leaf,), {}, (leaf,))
    assert found.missing < 1e-10
    torch.testing.assert_close(found.gradients[0], leaf.detach().exp(), rtol=1e-9, atol=1e-9)
    noisy = sp.program(lambda t: sp.sample(Bernoulli(logits=t)) + torch.rand(()))
    with pytest.raises(RuntimeError, match=r"whose only noise is that of sp.sample"):
        forced.exact(noisy, (leaf,), {}, (leaf,))
    with pytest.raises(TypeError, match="needs sites whose outcomes can be counted, at most 4096; got Normal"):
        forced.exact(sp.program(lambda t: sp.sample(Normal(t, 1.0))), (leaf,), {}, (leaf,))
    with pytest.raises(RuntimeError, match="needs at most 7 paths"):
        forced.exact(model, (leaf,), {}, (leaf,), limit=7)
