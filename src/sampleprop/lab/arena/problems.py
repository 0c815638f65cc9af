"""The standard suite: the problems of the arena, with their budgets, and the exact variances that are known.

`SUITE` is its number. It is raised when a change moves a number of any problem: results of two suites are never mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Independent
from torch.nn import functional

from sampleprop.distributions.k_subset import KSubset
from sampleprop.estimators.score.score_function import ScoreFunction
from sampleprop.expectation import expect
from sampleprop.lab.measure import problems as built_in
from sampleprop.lab.measure.problems import Problem
from sampleprop.programs.program import program
from sampleprop.programs.site import charge, sample

SUITE = 1
Family = Literal["bits", "toys", "classes", "counts", "continuous", "structures", "programs", "images"]
Allows = Literal["black box", "differentiable", "relaxed"]

SIMPLE_SEEDS = (1234, 1067, 9198, 9453, 6240, 7044, 1755, 7898, 3131, 1277)
PROBABILITIES = (0.05, 0.2, 0.5, 0.8, 0.95)
PIXELS, LATENTS, SHOWN = 28, 32, 4
STEPS = (10, 100, 500)


class Model(NamedTuple):
    """A program and its arguments, in place of a `Problem`."""

    title: str
    run: program[...]
    args: tuple[Tensor, ...]


def unknown(budget: int) -> dict[str, float]:
    """No variance is known at any budget."""
    return {}


@dataclass(frozen=True)
class Entry:
    """A problem of the suite.

    Attributes:
        make: the problem, from a seed. Each seed is another instance, unless the problem has no randomness.
        family: what is measured in common; a family is left out as a whole where the sensitivity of the order is shown.
        allows: what f allows: calls at points of the support; its slope there; or calls and slopes between them too.
        budgets: evaluations of f for one estimate, in ascending order.
        replicates: independent estimates for each row.
        reference: evaluations of f in the long run, where the gradient is neither known nor enumerated.
        exact: the exact variances of some estimators by label, from a budget; empty where none are known.
    """

    make: Callable[[int], Problem | Model]
    family: Family
    allows: Allows
    budgets: tuple[int, ...] = (4, 16, 64)
    replicates: int = 1024
    reference: int = 2**20
    exact: Callable[[int], Mapping[str, float]] = unknown


def relax_toy(t: float) -> Problem:
    """E[(b - t)²] of one fair bit, the toy of REBAR and RELAX, in float64."""
    logits = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    return Problem(
        f"RELAX's toy: E[(b - {t:g})²] of one fair bit", _squares(t), Independent(Bernoulli(logits=logits), 1)
    )


def double_cv_toy(bits: int = 200, t: float = 0.499) -> Problem:
    """E[|b - t|² / D] of D fair bits, the toy of Double CV, in float64."""
    logits = torch.zeros(bits, dtype=torch.float64, requires_grad=True)
    dist = Independent(Bernoulli(logits=logits), 1)
    slope = torch.full_like(logits, (1 - 2 * t) / bits / 4)  # p (1 - p) times what a bit changes
    f = _squares(t)
    return Problem(
        f"Double CV's toy: E[|b - {t:g}|² / D] of {bits} fair bits", lambda b: f(b) / bits, dist, slope.detach()
    )


def one_bit(t: float = 0.45) -> Problem:
    """E[(b - t)²] of one bit, side by side for five probabilities, as in the study of ARMS."""
    p = torch.tensor(PROBABILITIES, dtype=torch.float64)
    dist = Bernoulli(logits=torch.logit(p).requires_grad_())
    shown = ", ".join(map(str, PROBABILITIES))
    return Problem(f"ARMS' single bit: E[(b - {t:g})²], p = {shown}", lambda b: (b - t).square(), dist)


def simple_toy() -> Problem:
    """E[|x - b|²] of 5 of 10 items, SIMPLE's toy with its ten seeds side by side, each in units of its gradient."""
    from numpy.random import RandomState

    drawn = [(state.randn(10), abs(state.randn(10))) for state in map(RandomState, SIMPLE_SEEDS)]
    logits, targets = (torch.tensor([list(pair[i]) for pair in drawn], dtype=torch.float64) for i in (0, 1))

    def f(x: Tensor) -> Tensor:
        return (x - targets).square().sum(-1)

    dist = KSubset(logits.requires_grad_(), 5)
    states = dist.enumerate_support()  # [252, seeds, items]
    value = (dist.log_prob(states).exp() * f(states)).sum()
    units = torch.autograd.grad(value, logits)[0].norm(dim=-1)  # [seeds]
    return Problem("SIMPLE's toy: E[|x - b|²] of 5 of 10 items, ten seeds", lambda x: f(x) / units, dist)


def policy(seed: int) -> Problem:
    """Eight prompts with sixteen answers each, of which some are right: minus the rate of right answers."""
    generator = torch.Generator().manual_seed(seed)
    logits = (1.5 * torch.randn(8, 16, generator=generator)).requires_grad_()
    right = torch.rand(8, 16, generator=generator) < torch.linspace(0.1, 0.7, 8)[:, None]
    right[:, 0], right[:, 1] = True, False
    prompts = torch.arange(8)

    def f(x: Tensor) -> Tensor:
        return -right[prompts, x].to(logits.dtype)

    return Problem("Policy: 8 prompts, 16 answers each, reward 0 or 1", f, Categorical(logits=logits))


def layers(seed: int) -> Model:
    """Two layers of four bits each, the second drawn given the first, under a network: 256 paths."""
    generator = torch.Generator().manual_seed(seed)
    bias = torch.randn(4, generator=generator).requires_grad_()
    weight = torch.randn(4, 4, generator=generator).requires_grad_()
    first, second = torch.randn(4, 8, generator=generator), torch.randn(8, generator=generator)

    @program
    def two_layers(bias: Tensor, weight: Tensor) -> Tensor:
        hidden = sample(Independent(Bernoulli(logits=bias), 1))
        charge(0.1 * hidden.sum(-1))
        shown = sample(Independent(Bernoulli(logits=(hidden - 0.5) @ weight), 1))
        return (shown @ first).tanh() @ second

    return Model("Program: two layers of 4 bits, a network above them", two_layers, (bias, weight))


def images(stop: int, seed: int) -> Problem:
    """A discrete autoencoder of 28 × 28 pixels after some steps of its training; the digits are enlarged from 8 × 8.

    The gradient is that of the reconstruction cost with respect to the encoder's logits, for four test images.
    """
    x, logits, decoder = _trained(seed)[stop]

    def f(z: Tensor) -> Tensor:
        pixels = decoder(z)  # [k, images, pixels]
        return functional.binary_cross_entropy_with_logits(pixels, x.expand_as(pixels), reduction="none").sum(-1)

    title = f"Images: autoencoder of 28 × 28 pixels, {LATENTS} bits, {SHOWN} images, after {stop} steps"
    return Problem(title, f, Independent(Bernoulli(logits=logits.clone().requires_grad_()), 1))


@cache
def _trained(seed: int) -> dict[int, tuple[Tensor, Tensor, nn.Module]]:
    """Test images, the encoder's logits of them and the decoder, at each stop of one training."""
    import copy

    from sklearn.datasets import load_digits

    small = torch.tensor(load_digits().images / 16).float()[:, None]  # [1797, 1, 8, 8]
    pixels = functional.interpolate(small, size=(PIXELS, PIXELS), mode="bilinear").flatten(1).clamp(0, 1)
    found: dict[int, tuple[Tensor, Tensor, nn.Module]] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pixels = pixels[torch.randperm(len(pixels))]
        train, test = pixels[:1500], pixels[1500 : 1500 + SHOWN]
        encoder = nn.Sequential(nn.Linear(PIXELS**2, 128), nn.ReLU(), nn.Linear(128, LATENTS))
        decoder = nn.Sequential(nn.Linear(LATENTS, 128), nn.ReLU(), nn.Linear(128, PIXELS**2))
        optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=2e-3)
        for step in range(1, max(STEPS) + 1):
            x = train[torch.randint(len(train), (32,))]
            loss = _reconstruction(encoder, decoder, x).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step in STEPS:
                frozen = copy.deepcopy(decoder).requires_grad_(False)
                found[step] = (test, encoder(test).detach(), frozen)
    return found


def _reconstruction(encoder: nn.Module, decoder: nn.Module, x: Tensor) -> Tensor:
    """The expected cost of a training step, [batch]."""

    def cost(z: Tensor) -> Tensor:
        pixels = decoder(z)
        return functional.binary_cross_entropy_with_logits(pixels, x.expand_as(pixels), reduction="none").sum(-1)

    return expect(cost, Independent(Bernoulli(logits=encoder(x)), 1), ScoreFunction(4))


def _squares(t: float) -> Callable[[Tensor], Tensor]:
    return lambda b: (b - t).square().sum(-1)


def _built_in(name: str) -> Callable[[int], Problem]:
    return lambda seed: built_in.find(name, seed=seed)()


def exact_of_bits(probabilities: tuple[float, ...], t: float, budget: int) -> dict[str, float]:
    """The variances of E[(b - t)²] of single bits, summed over them.

    With p = σ(φ), s = p (1 - p), q = min(p, 1 - p), D = f(1) - f(0) = 1 - 2t, n evaluations and m = n / 2 pairs:

        score function       (s [(1 - p) f(1)² + p f(0)²] - (s D)²) / n
        leave-one-out        D² s [1 - s (4n - 6) / (n - 1)] / n
        ARM                  (2/3 D² [1/8 - (1/2 - q)³] - (D q (1 - q))²) / m
        DisARM               D² q (1 - q)² (1/2 - q) / m
    """
    n, m, difference = budget, budget / 2, 1 - 2 * t
    at_one, at_zero = (1 - t) ** 2, t**2
    sums = dict.fromkeys(("plain", "leave-one-out", "arm", "disarm"), 0.0)
    for p in probabilities:
        s, q = p * (1 - p), min(p, 1 - p)
        sums["plain"] += (s * ((1 - p) * at_one**2 + p * at_zero**2) - (s * difference) ** 2) / n
        sums["leave-one-out"] += difference**2 * s * (1 - s * (4 * n - 6) / (n - 1)) / n
        arm = 2 * difference**2 / 3 * (1 / 8 - (0.5 - q) ** 3) - (difference * q * (1 - q)) ** 2
        sums["arm"] += arm / m
        sums["disarm"] += difference**2 * q * (1 - q) ** 2 * (0.5 - q) / m
    return _labelled(sums, n)


def exact_of_double_cv(budget: int, bits: int = 200, t: float = 0.499) -> dict[str, float]:
    """The variances of E[|b - t|² / D] of D fair bits, for each pair of samples; pairs are independent.

    With d = (1 - 2t) / D and s = q (1 - q) = 1/4 for p = q = 1/2, for one pair and one bit:

        leave-one-out        d²/4 [2 s + 4 s² (D - 1)] - (d s)²
        DisARM               d²/4 (1 - q)² [2 q + 4 q² (D - 1)] - (d s)²
    """
    d, s, q = (1 - 2 * t) / bits, 0.25, 0.5
    of_pair = d**2 / 4 * (2 * s + 4 * s**2 * (bits - 1)) - (d * s) ** 2
    disarm = d**2 / 4 * (1 - q) ** 2 * (2 * q + 4 * q**2 * (bits - 1)) - (d * s) ** 2
    sums = {"disarm": bits * disarm / (budget / 2)}
    if budget == 2:
        sums["leave-one-out"] = bits * of_pair
    return _labelled(sums, budget)


def _labelled(sums: Mapping[str, float], samples: int) -> dict[str, float]:
    """By the label that the estimator has at this number of samples."""
    inside = "" if samples == 2 else f"samples={samples}"
    labels = {
        "plain": f"ScoreFunction({', '.join(filter(None, (inside, 'baseline=Constant(0)')))})",
        "leave-one-out": f"ScoreFunction({inside})",
        "arm": f"ARM({inside})",
        "disarm": f"DisARM({inside})",
    }
    return {labels[name]: value for name, value in sums.items()}


def exact_of_simple(budget: int) -> dict[str, float]:
    """By enumeration of the 252 subsets, for two samples: the mean over the seeds, times their number."""
    return {"ScoreFunction()": 8.65 * len(SIMPLE_SEEDS)} if budget == 2 else {}


PROBLEMS: Mapping[str, Entry] = {
    "relax-45": Entry(
        lambda seed: relax_toy(0.45), "toys", "relaxed", (2, 4, 16), 16384, exact=partial(exact_of_bits, (0.5,), 0.45)
    ),
    "relax-499": Entry(
        lambda seed: relax_toy(0.499), "toys", "relaxed", (2, 4, 16), 16384, exact=partial(exact_of_bits, (0.5,), 0.499)
    ),
    "one-bit": Entry(
        lambda seed: one_bit(), "toys", "relaxed", (2, 4, 16), 16384, exact=partial(exact_of_bits, PROBABILITIES, 0.45)
    ),
    "categorical": Entry(_built_in("categorical"), "classes", "relaxed", (4, 16, 64)),
    "policy": Entry(policy, "classes", "black box", (4, 16, 64)),
    "counts": Entry(_built_in("poisson"), "counts", "relaxed", (4, 16, 64), 4096),
    "normal": Entry(_built_in("normal"), "continuous", "differentiable", (4, 16, 64)),
    "mixture": Entry(_built_in("mixture"), "continuous", "differentiable", (4, 16, 64)),
    "digital-option": Entry(_built_in("digital-option"), "continuous", "black box", (4, 16, 64), 8192),
    "subset": Entry(_built_in("subset"), "structures", "relaxed", (4, 16, 64)),
    "simple": Entry(lambda seed: simple_toy(), "structures", "relaxed", (2, 4, 16), 2048, exact=exact_of_simple),
    "ranking": Entry(_built_in("ranking"), "structures", "black box", (4, 16, 64)),
    "chain": Entry(_built_in("chain"), "structures", "relaxed", (4, 16, 64)),
    "double-cv": Entry(lambda seed: double_cv_toy(), "toys", "relaxed", (2, 16, 64), 2048, exact=exact_of_double_cv),
    "layers": Entry(layers, "programs", "relaxed", (4, 16, 64), 512),
    "digits": Entry(_built_in("digits"), "bits", "relaxed", (6, 20, 60), 512),
    "images-10": Entry(partial(images, STEPS[0]), "images", "relaxed", (4, 16, 64), 256, 2**19),
    "images-100": Entry(partial(images, STEPS[1]), "images", "relaxed", (4, 16, 64), 256, 2**19),
    "images-500": Entry(partial(images, STEPS[2]), "images", "relaxed", (4, 16, 64), 256, 2**19),
    "digits-200": Entry(_built_in("digits-200"), "bits", "relaxed", (6, 32, 208), 256, 2**20),
}

# How many seeds some cells have, where it is not all: RODEO's network looks at each pair of samples. At 208 evaluations
# of digits-200 these are 104 samples of 16 × 200 bits, and one seed would take fifty minutes, five times as long as all
# other estimators on this problem together.
FEWER_SEEDS: Mapping[tuple[str, str, int], int] = {  # entrant, problem, budget
    ("RODEO", "digits-200", 208): 0,
    ("RODEO", "digits-200", 32): 2,
    ("RODEO", "double-cv", 64): 2,
}
