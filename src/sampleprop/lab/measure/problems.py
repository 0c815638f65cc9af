"""The problems of `sampleprop compare`: built-in ones, and functions in a file of the user's."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    Normal,
    OneHotCategorical,
    Poisson,
)
from torch.nn import functional

from sampleprop import families
from sampleprop.diagnostics.measuring.reference import Exact
from sampleprop.distributions.mixture_same_family import MixtureSameFamily
from sampleprop.estimators.score.score_function import ScoreFunction
from sampleprop.expectation import expect
from sampleprop.lab.measure import files
from sampleprop.lab.measure.mistakes import explain_file
from sampleprop.lab.measure.names import PROBLEMS

TRAINING_STEPS = 500
TRAINING_IMAGES = 1500
SHOWN = 16
RATE, YEARS = 0.02, 0.5  # of interest, and to expiry


@dataclass(frozen=True)
class Problem:
    """One expectation whose gradient is wanted.

    Attributes:
        title: one line, for the table and the plot.
        f: from points [k, *batch, *event] to costs [k, *batch].
        dist: p_φ.
        exact: the gradient with respect to the parameters of `dist`, where it is known in closed form.
        context: [*batch, ...], for learned baselines.
        budget: evaluations of f for one estimate, unless the command gives another number; None for the usual 16.
    """

    title: str
    f: Callable[[Tensor], Any]
    dist: Distribution
    exact: Exact | None = None
    context: Tensor | None = None
    budget: int | None = None


def find(name: str, *, seed: int = 0, t: float | None = None, dim: int | None = None) -> Callable[[], Problem]:
    """A function that makes the problem of this name, or the one that FILE.py:FUNCTION returns.

    Raises:
        ValueError: for an unknown problem, and for options that it does not have.
    """
    if name != "toy" and (t is not None or dim is not None):
        raise ValueError(f"--t and --dim belong to the problem toy; got them with {name}. Leave them out.")
    if name == "toy":
        return partial(toy, 0.45 if t is None else t, 6 if dim is None else dim)
    if name in BUILT_IN:
        return partial(BUILT_IN[name], seed)
    place = files.find_place(name, "PROBLEM")
    if place is None:
        raise ValueError(f"PROBLEM needs to be one of {', '.join(BUILT_IN)}, or FILE.py:FUNCTION; got {name!r}.")
    return partial(_from_file, place, seed)


def digits(seed: int = 0, latents: int = 10) -> Problem:
    """A briefly trained discrete VAE with Bernoulli latents, on the handwritten digits of scikit-learn.

    The gradient is that of the reconstruction cost with respect to the encoder's logits, for a batch of test images.
    The KL divergence to the prior is known in closed form and needs no estimator.
    """
    from sklearn.datasets import load_digits

    images = torch.tensor(load_digits().data / 16 > 0.5).float()  # [1797, 64]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        images = images[torch.randperm(len(images))]
        train, test = images[:TRAINING_IMAGES], images[TRAINING_IMAGES:]
        encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, latents))
        decoder = nn.Sequential(nn.Linear(latents, 64), nn.ReLU(), nn.Linear(64, 64))
        optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=3e-3)
        for _ in range(TRAINING_STEPS):
            x = train[torch.randint(len(train), (64,))]
            loss = _negative_elbo(encoder, decoder, x, 4)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            nats = float(_negative_elbo(encoder, decoder, test, 16))
    x = test[:SHOWN]
    for parameter in [*encoder.parameters(), *decoder.parameters()]:
        parameter.requires_grad_(False)
    dist = Independent(Bernoulli(logits=encoder(x).detach().requires_grad_()), 1)
    title = f"Digits: discrete VAE, {latents} Bernoulli latents, {SHOWN} test images (negative ELBO {nats:.1f} nats)"
    return Problem(title, _Reconstruction(decoder, x), dist, budget=20)


def toy(t: float = 0.45, dim: int = 6) -> Problem:
    """E[Σ (b - t)²] over independent fair bits: the test problem of REBAR and RELAX."""
    dist = Independent(Bernoulli(logits=torch.zeros(dim, requires_grad=True)), 1)
    return Problem(f"Toy: E[(b - {t:g})²], {dim} fair bits", lambda b: (b - t).square().sum(-1), dist)


def categorical(seed: int = 0) -> Problem:
    """Three one-hot variables with four classes each, coupled by a cost that is not a polynomial."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 3, 4, generator=generator, requires_grad=True)
    a, b = torch.randn(3, 4, generator=generator), torch.randn(3, 4, generator=generator)

    def f(x: Tensor) -> Tensor:
        first, second = (x * a).sum((-2, -1)), (x * b).sum((-2, -1))
        return (2 * first).sin() + (second - 0.5).square() + 1

    return Problem(
        "Categorical: 3 one-hot variables × 4 classes, batch of 4", f, Independent(OneHotCategorical(logits=logits), 1)
    )


def normal(seed: int = 0) -> Problem:
    """Eight normal variables with a quadratic cost; the parameters are means and scales."""
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(8, generator=generator, requires_grad=True)
    scale = (0.5 + torch.rand(8, generator=generator)).requires_grad_()
    return _quadratic("Normal: E[(a·x - 1)²], 8 variables, mean and scale", Normal(loc, scale), generator, 32)


def poisson(seed: int = 0) -> Problem:
    """Six Poisson counts with a quadratic cost; the rates go from 0.3 to 10."""
    generator = torch.Generator().manual_seed(seed)
    rate = torch.logspace(math.log10(0.3), 1, 6).requires_grad_()
    return _quadratic("Poisson: E[(a·x - 1)²], 6 counts, rates from 0.3 to 10", Poisson(rate), generator, 21)


def mixture(seed: int = 0) -> Problem:
    """Four mixtures of three normal distributions, with a quadratic cost; parameters are weights, means and scales."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 3, generator=generator, requires_grad=True)
    loc = (torch.tensor([-1.5, 0.0, 1.5]) + 0.5 * torch.randn(4, 3, generator=generator)).requires_grad_()
    scale = (0.5 + 0.5 * torch.rand(4, 3, generator=generator)).requires_grad_()
    dist = MixtureSameFamily(Categorical(logits=logits), Normal(loc, scale))
    return _quadratic("Mixture: E[(a·x - 1)²], 4 variables, 3 normal distributions each", dist, generator, None)


def digital_option(spot: float = 100.0, strike: float = 110.0, volatility: float = 0.2) -> Problem:
    """An option that pays 1 if a stock is above the strike in half a year, by Black and Scholes.

    Its f jumps and has derivative 0 elsewhere. The logarithm of the price is Normal(loc, scale), of

        loc = log spot + (rate - volatility² / 2) years,    scale = volatility √years,

    so that delta = ∂loc / spot and vega = √years (∂scale - scale ∂loc), where ∂loc and ∂scale are the gradient's two
    numbers.
    """
    loc = torch.tensor(math.log(spot) + (RATE - volatility**2 / 2) * YEARS, requires_grad=True)
    scale = torch.tensor(volatility * math.sqrt(YEARS), requires_grad=True)
    edge, discount = math.log(strike), math.exp(-RATE * YEARS)
    # E[f] = discount Φ(d), d = (loc - edge) / scale.
    d = (loc.detach() - edge) / scale.detach()
    slope = discount * (-d.square() / 2).exp() / math.sqrt(2 * math.pi) / scale.detach()

    def f(x: Tensor) -> Tensor:
        return discount * (x > edge).to(x.dtype)

    title = f"Digital option: 1 above {strike:g}, spot {spot:g}, volatility {volatility:g}, x is the log-price"
    return Problem(title, f, Normal(loc, scale), {"loc": slope, "scale": -d * slope})


def _quadratic(title: str, base: Distribution, generator: torch.Generator, budget: int | None) -> Problem:
    """(a·x - 1)² of independent variables, whose mean over x is (a·mean - 1)² + Σ a² variance."""
    a = torch.randn(base.batch_shape, generator=generator)

    def f(x: Tensor) -> Tensor:
        return ((x * a).sum(-1) - 1).square()

    parameters = families.recognize(base).parameters
    value = f(base.mean) + (a.square() * base.variance).sum(-1)
    exact = dict(zip(parameters, torch.autograd.grad(value, tuple(parameters.values())), strict=True))
    return Problem(title, f, Independent(base, 1), exact, budget=budget)


_MAKERS: tuple[Callable[[int], Problem], ...] = (
    digits,
    partial(digits, latents=200),
    lambda seed: toy(),
    categorical,
    normal,
    poisson,
    mixture,
    lambda seed: digital_option(),
)
BUILT_IN = dict(zip(PROBLEMS, _MAKERS, strict=True))


class _Reconstruction:
    """-log p(x | z) of a Bernoulli decoder: [k, batch, latents] -> [k, batch]."""

    def __init__(self, decoder: nn.Module, x: Tensor) -> None:
        self.decoder, self.x = decoder, x

    def __call__(self, z: Tensor) -> Tensor:
        pixels = self.decoder(z)  # [k, batch, 64]
        target = self.x.expand_as(pixels)
        costs: Tensor = functional.binary_cross_entropy_with_logits(pixels, target, reduction="none").sum(-1)
        return costs


def _negative_elbo(encoder: nn.Module, decoder: nn.Module, x: Tensor, samples: int) -> Tensor:
    q = Independent(Bernoulli(logits=encoder(x)), 1)
    prior = Independent(Bernoulli(logits=torch.zeros_like(q.base_dist.logits)), 1)
    reconstruction = expect(_Reconstruction(decoder, x), q, ScoreFunction(samples))
    return (reconstruction + torch.distributions.kl_divergence(q, prior)).mean()


def _from_file(place: files.Place, seed: int) -> Problem:
    with files.seed_noise(seed):
        make = place.load()
        if not callable(make):
            raise ValueError(f"PROBLEM {place} needs a function {place.name} in {place.path.name}; there is none.")
        with explain_file(place.path):
            result = make()
    if isinstance(result, Problem):
        return replace(result, f=_Guarded(result.f))
    if not (
        isinstance(result, tuple)
        and len(result) in (2, 3)
        and callable(result[0])
        and isinstance(result[1], Distribution)
    ):
        raise TypeError(
            f"PROBLEM {place} needs {place.name}() to return f, dist or f, dist, exact, with dist from "
            f"torch.distributions; got {result!r}."
        )
    return Problem(str(place), _Guarded(result[0]), *result[1:])


class _Guarded:
    """f of the user's file, whose prints go to standard error, and which does not end the command by `sys.exit`."""

    def __init__(self, f: Callable[[Tensor], Any]) -> None:
        self.f = f

    def __call__(self, points: Tensor) -> Any:
        with contextlib.redirect_stdout(sys.stderr):
            try:
                return self.f(points)
            except SystemExit as error:
                told = RuntimeError(f"f called sys.exit({error.code!r})")
                raise told.with_traceback(error.__traceback__) from None
