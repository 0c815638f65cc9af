"""How the risk of a flood depends on the fitted law of the sea's yearly maximum: a jump in the far tail.

The data are the highest sea levels of each year, 1923 to 1987, at Port Pirie in South Australia, as printed in Coles
(2001), "An introduction to statistical modeling of extreme values", example 1.1. A generalized extreme value law is
fitted to them by maximum likelihood. For a dyke at the level that is passed once in N years, wanted are the
derivatives, by the law's location μ, scale σ and shape ξ, of

- the exceedance probability P(x > crest);
- the expected yearly damage: a fixed cost once the dyke is overtopped, and more for each centimetre up to a limit.

Both costs jump at the crest. So `Pathwise` refuses the first, whose slope is zero wherever it exists, and is wrong for
the second, of whose jump it knows nothing. What sees the jump:

- score function: draws years; one in N of them says anything.
- importance sampling: draws from an exponential law above the crest, and weighs with the ratio of the densities, whose
  gradient is the one wanted. Every draw counts.

Both are held against the closed form: derivatives of the cumulative distribution function. What the derivatives are
for: with the covariance of the fit they tell how far the risk itself is known (the delta method). Run:

    python examples/extreme_values.py
    python examples/extreme_values.py --fast --estimator importance
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Size, Tensor
from torch.distributions import Exponential

import sampleprop as sp
import training
from sampleprop.distributions import GeneralizedExtremeValue
from sampleprop.distributions.quadrature import gauss_legendre

FIRST_YEAR = 1923
SEA_LEVELS = torch.tensor(  # metres, one for each year
    [
        *(4.03, 3.83, 3.65, 3.88, 4.01, 4.08, 4.18, 3.80, 4.36, 3.96, 3.98, 4.69, 3.85),
        *(3.96, 3.85, 3.93, 3.75, 3.63, 3.57, 4.25, 3.97, 4.05, 4.24, 4.22, 3.73, 4.37),
        *(4.06, 3.71, 3.96, 4.06, 4.55, 3.79, 3.89, 4.11, 3.85, 3.86, 3.86, 4.21, 4.01),
        *(4.11, 4.24, 3.96, 4.21, 3.74, 3.85, 3.88, 3.66, 4.11, 3.71, 4.18, 3.90, 3.78),
        *(3.91, 3.72, 4.00, 3.66, 3.62, 4.33, 4.55, 3.75, 4.08, 3.90, 3.88, 3.94, 4.33),
    ],
    dtype=torch.float64,
)
NAMES = ("location", "scale", "shape")
PERIODS = torch.tensor([10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000], dtype=torch.float64)  # years
TABLE_PERIOD = 10_000
OVERTOPPED, PER_METRE, DEEPEST = 1.0, 4.0, 1.5  # damage once the dyke is passed; for each metre above; metres counted
SAMPLES = 1_000  # for one estimate
ESTIMATES = 10_000
CHUNK = 25  # estimates for each crest at a time: what fits the cache is twice as fast


class Fit(NamedTuple):
    parameters: Tensor  # location, scale, shape
    covariance: Tensor  # [3, 3], of the estimates: the inverse of the observed information
    log_likelihood: float


def law(parameters: Tensor) -> GeneralizedExtremeValue:
    """The law with these parameters, [3, *batch]. It has probability 0 beyond its edge, where importance sampling
    may ask."""
    return GeneralizedExtremeValue(*parameters, validate_args=False)


def fit(maxima: Tensor) -> Fit:
    """Maximum likelihood, from the Gumbel law with the mean and the variance of the data."""

    def loss(parameters: Tensor) -> Tensor:
        return -law(parameters).log_prob(maxima).sum()

    scale = maxima.std() * math.sqrt(6) / math.pi
    parameters = torch.stack((maxima.mean() - 0.5772 * scale, scale, torch.zeros_like(scale))).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [parameters], max_iter=200, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(parameters)
        value.backward()
        return value

    optimizer.step(closure)
    found = parameters.detach()
    information = torch.autograd.functional.hessian(loss, found)
    if (
        found[2] <= -0.5 or torch.linalg.eigvalsh(information)[0] <= 0
    ):  # from -1/2 down the score's variance is infinite
        raise ValueError(
            f"The fit needs a maximum of the likelihood at a shape above -1/2; got none near {found.tolist()}. Take "
            f"more years."
        )
    return Fit(found, information.inverse(), -loss(found).item())


def return_level(parameters: Tensor, period: Tensor) -> Tensor:
    """The level that a year passes with probability 1 / period."""
    return law(parameters).icdf(1 - 1 / period)


def delta_method(slope: Tensor, fitted: Fit) -> Tensor:
    """To first order, the standard errors of quantities with these derivatives by the parameters, [3, n]: [n]."""
    return torch.einsum("in,ij,jn->n", slope, fitted.covariance, slope).sqrt()


def level_with_error(fitted: Fit, periods: Tensor) -> tuple[Tensor, Tensor]:
    """Return levels and their standard errors, [periods] each."""
    rows = fitted.parameters.unsqueeze(1).expand(3, len(periods)).clone().requires_grad_()
    level = return_level(rows, periods)
    (slope,) = torch.autograd.grad(level.sum(), rows)
    return level.detach(), delta_method(slope, fitted)


# --- the two costs and their closed forms -------------------------------------------------------------------------


def exceedance(x: Tensor, crest: Tensor) -> Tensor:
    return (x > crest).to(x.dtype)


def damage(x: Tensor, crest: Tensor) -> Tensor:
    return exceedance(x, crest) * (OVERTOPPED + PER_METRE * (x - crest).clamp(0, DEEPEST))


def exceedance_mean(parameters: Tensor, crest: Tensor) -> Tensor:
    return 1 - law(parameters).cdf(crest)


def damage_mean(parameters: Tensor, crest: Tensor) -> Tensor:
    """By parts: the jump counts P(x > crest), and each further metre the probability that the sea passes it too."""
    nodes, weights = gauss_legendre(40)
    further = exceedance_mean(parameters.unsqueeze(1), crest + DEEPEST * nodes.unsqueeze(1))  # [nodes, crests]
    return OVERTOPPED * exceedance_mean(parameters, crest) + PER_METRE * DEEPEST * (weights @ further)


Cost = Callable[[Tensor, Tensor], Tensor]
QUANTITIES: dict[str, tuple[Cost, Cost]] = {
    "exceedance": (exceedance, exceedance_mean),
    "damage": (damage, damage_mean),
}


def closed_form(quantity: str, parameters: Tensor, crests: Tensor) -> Tensor:
    """The derivatives, [3, crests]."""
    rows = parameters.unsqueeze(1).expand(3, len(crests)).clone().requires_grad_()
    return torch.autograd.grad(QUANTITIES[quantity][1](rows, crests).sum(), rows)[0]


# --- estimators: the mean cost for each batch element, with its gradient ------------------------------------------


def score_function(cost: Cost, parameters: Tensor, crests: Tensor, samples: int, generator: Generator) -> Tensor:
    """By log-probabilities. `sp.ScoreFunction` refuses this law: its edge moves with the parameters, and what enters
    or leaves there is no part of the score. Here nothing does: for a shape from -1/2 to 0 (`fit` sees to the former)
    the density falls to 0 at the edge, as the distance from it to the power of -1/ξ - 1; and the variance of the score
    is finite.
    """
    q = law(parameters)
    with torch.no_grad():
        x = q.draw(Size((samples,)), generator)  # [samples, estimates, crests]
    loss = sp.score_function_loss(q.log_prob(x), cost(x, crests), baseline="leave-one-out", group_dim=0, time_dim=None)
    return loss * x[0].numel()  # the sum over the batch in place of the mean


def importance(cost: Cost, parameters: Tensor, crests: Tensor, samples: int, generator: Generator) -> Tensor:
    """An expectation over a law of its own, in which the sea's law has become a part of the cost.

    Above a high crest the sea is nearly exponential. An exponential law with the same mean has the heavier tail if the
    shape is below 0, so that the ratio is bounded. Below the crest there is no cost, and no need to draw.
    """
    q = law(parameters)
    mean_excess = (q.scale + q.concentration * (crests - q.loc)) / (1 - q.concentration)
    proposal = Exponential(1 / mean_excess.detach())

    def weighted(excess: Tensor) -> Tensor:
        x = crests + excess
        return sp.importance_ratio(q.log_prob(x), proposal.log_prob(excess)) * cost(x, crests)

    return sp.expect(weighted, proposal, sp.ScoreFunction(samples), generator=generator).sum()


def pathwise(cost: Cost, parameters: Tensor, crests: Tensor, samples: int, generator: Generator) -> Tensor:
    """Refused where the cost is nothing but a jump; elsewhere wrong by what the jump contributes."""
    return sp.expect(lambda x: cost(x, crests), law(parameters), sp.Pathwise(samples), generator=generator).sum()


Estimate = Callable[[Cost, Tensor, Tensor, int, Generator], Tensor]
ESTIMATORS: dict[str, Estimate] = {"score": score_function, "importance": importance, "pathwise": pathwise}


class Found(NamedTuple):
    mean: Tensor  # [3, crests], over the estimates
    error: Tensor  # its standard error
    spread: Tensor  # the standard deviation of one estimate
    blind: Tensor  # [crests], the share of the estimates that are zero in every parameter


def measure(
    name: str, quantity: str, parameters: Tensor, crests: Tensor, count: int, samples: int, generator: Generator
) -> Found:
    """`count` independent estimates of the gradient, of `samples` evaluations of the cost each."""
    cost = QUANTITIES[quantity][0]
    total, squares, blind, done = 0.0, 0.0, 0.0, 0
    while done < count:
        size = min(CHUNK, count - done)
        rows = parameters.view(3, 1, 1).expand(3, size, len(crests)).clone().requires_grad_()
        value = ESTIMATORS[name](cost, rows, crests.expand(size, -1), samples, generator)
        (found,) = torch.autograd.grad(value, rows)  # [3, estimates, crests]
        total, squares, done = total + found.sum(1), squares + found.square().sum(1), done + size
        blind = blind + (found == 0).all(0).sum(0)
        print(f"\r{name}, {quantity}: {done} of {count} estimates", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    mean = total / count
    spread = ((squares / count - mean.square()) * count / (count - 1)).clamp_min(0).sqrt()
    return Found(mean, spread / math.sqrt(count), spread, blind / count)


def evaluations_for_a_percent(exact: Tensor, found: Found, samples: int) -> Tensor:
    """How often the cost must be evaluated for a standard error of 1 % of the gradient's length, [crests]; NaN if
    not seen."""
    variance = torch.where(found.blind < 1, found.spread.square().sum(0), math.nan)
    return samples * variance / (0.01**2 * exact.square().sum(0))


# --- report -------------------------------------------------------------------------------------------------------


def fit_report(fitted: Fit) -> str:
    errors = fitted.covariance.diagonal().sqrt().tolist()
    lines = [f"{len(SEA_LEVELS)} yearly maxima from {FIRST_YEAR} on, log-likelihood {fitted.log_likelihood:.4f}"]
    lines += [f"{n:8} {p:8.4f} ± {e:.4f}" for n, p, e in zip(NAMES, fitted.parameters.tolist(), errors, strict=True)]
    periods = torch.tensor([10, 100], dtype=torch.float64)
    for period, level, error in zip(periods, *level_with_error(fitted, periods), strict=True):
        low, high = level - 1.96 * error, level + 1.96 * error
        lines.append(f"{period:.0f}-year level {level:.3f} m, 95 % from {low:.3f} to {high:.3f}")
    return "\n".join(lines)


def derivatives(quantity: str, fitted: Fit, exact: Tensor, found: dict[str, Found]) -> str:
    """At one crest, with the standard error of the quantity itself that follows from them and the fit."""
    at = PERIODS.tolist().index(TABLE_PERIOD)
    rows = [("closed form", *(f"{x:.4e}" for x in exact[:, at].tolist()), f"{delta_method(exact, fitted)[at]:.3e}")]
    for name, f in found.items():
        cells = zip(f.mean[:, at].tolist(), f.error[:, at].tolist(), _z(f, exact)[:, at].tolist(), strict=True)
        error = f"{delta_method(f.mean, fitted)[at]:.3e}"
        rows.append((name, *(f"{m:.4e} ± {e:.0e}, z {z:.1f}" for m, e, z in cells), error))
    head = (f"{quantity}, {TABLE_PERIOD:,} years", *(f"by {name}" for name in NAMES), "error from the fit")
    return training.table(head, rows)


def costs(exact: Tensor, found: dict[str, Found], samples: int) -> str:
    """By the crest: evaluations for an accuracy of 1 %, estimates that saw nothing, and the largest of the three
    |z|."""
    head = ["crest, years", *(f"{name}: {what}" for name in found for what in ("for 1 %", "blind", "largest z"))]
    rows = []
    for i, period in enumerate(PERIODS.tolist()):
        row = [f"{period:,.0f}"]
        for f in found.values():
            needed = evaluations_for_a_percent(exact, f, samples)[i]
            row += [f"{needed:.1e}", f"{f.blind[i]:.0%}", f"{_z(f, exact)[:, i].abs().max():.1f}"]
        rows.append(row)
    return training.table(head, rows)


def _z(found: Found, exact: Tensor) -> Tensor:
    return (found.mean - exact) / found.error


def picture(fitted: Fit, exact: Tensor, found: dict[str, Found], samples: int, path: Path) -> None:
    """The fit with its confidence band; the estimates over the closed form; what an accuracy of 1 % costs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), dpi=120, layout="constrained")
    fits, ratios, needs = figure.subplots(1, 3)
    periods = torch.logspace(0.05, 3.5, 60, dtype=torch.float64)
    level, error = level_with_error(fitted, periods)
    count = len(SEA_LEVELS)
    seen = (count + 1) / torch.arange(count, 0, -1)  # the i-th of n in order is passed with probability 1 - i / (n + 1)
    fits.fill_between(periods, level - 1.96 * error, level + 1.96 * error, color="0.9", label="95 % (delta method)")
    fits.plot(periods, level, color="0.4", label="fitted law")
    fits.plot(seen, SEA_LEVELS.sort().values, "C0.", ms=4, label="Port Pirie, 1923-1987")
    fits.set(xscale="log", xlabel="years", ylabel="level passed once in so many years [m]", title="The fit")
    for i, (name, f) in enumerate(found.items()):
        offset = PERIODS * (1 + 0.15 * i)
        relative, bar = f.mean[2] / exact[2], 2 * f.error[2] / exact[2]
        ratios.errorbar(offset, relative, bar.abs(), fmt=f"C{i + 1}.", ms=4, lw=1, capsize=2, label=name)
        needs.plot(PERIODS, evaluations_for_a_percent(exact, f, samples), f"C{i + 1}.-", label=name)
    ratios.axhline(1, color="0.6", lw=1)
    ratios.set(xscale="log", ylim=(-0.5, 2.5), xlabel="return period of the crest [years]")
    ratios.set_title("expected damage by shape: estimate / exact, ± 2 errors", fontsize="medium")
    needs.set(xscale="log", yscale="log", xlabel="return period of the crest [years]")
    needs.set_title("evaluations for an error of 1 % of the gradient", fontsize="medium")
    for axes in (fits, ratios, needs):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def several(text: str) -> int:
    """An argument: what a standard error, or a baseline of the others, needs."""
    return training.count(text, least=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--estimator", choices=("all", *ESTIMATORS), default="all")
    parser.add_argument("--estimates", type=several, default=ESTIMATES, help="of each, for each crest")
    parser.add_argument("--samples", type=several, default=SAMPLES, help="years drawn for one estimate, at least 2")
    parser.add_argument("--fast", action="store_true", help="200 estimates")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, default=Path("sampleprop-out/extreme_values.png"))
    arguments = parser.parse_args()
    fitted = fit(SEA_LEVELS)
    print(fit_report(fitted))
    crests = return_level(fitted.parameters.unsqueeze(1), PERIODS)
    names = list(ESTIMATORS) if arguments.estimator == "all" else [arguments.estimator]
    count = 200 if arguments.fast else arguments.estimates
    generator = Generator().manual_seed(arguments.seed)
    measured = {}
    for quantity in QUANTITIES:
        found = {}
        for name in names:
            try:
                found[name] = measure(name, quantity, fitted.parameters, crests, count, arguments.samples, generator)
            except RuntimeError as refusal:
                print(f"\n{name}, {quantity}: refused. {refusal}")
        exact = closed_form(quantity, fitted.parameters, crests)
        print("", derivatives(quantity, fitted, exact, found), costs(exact, found, arguments.samples), sep="\n\n")
        measured[quantity] = exact, found
    picture(fitted, *measured["damage"], arguments.samples, arguments.picture)
    print(f"\nsaved {arguments.picture}")


if __name__ == "__main__":
    main()
