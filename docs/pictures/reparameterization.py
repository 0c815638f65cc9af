"""Samples that move with φ: by a formula, by the distribution function, and past a jump that nobody sees."""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import gamma
from torch import Tensor
from torch.distributions import Normal

import sampleprop as sp
from pictures.measure import AnyEstimator, Data, gradients, measured
from pictures.style import BIASED, DOTTED, INK, MUTED, TINT, UNBIASED, arrow, bare, figure, panels, say

MEAN, JUMP = -0.4, 0.5
SMALL: dict[str, Any] = {"mutation_scale": 8, "lw": 1.5}


def step(x: Tensor) -> Tensor:
    """1 above the jump; the second term gives it a path to x, along which it is constant."""
    return torch.where(x > JUMP, 1.0, 0.0) + 0 * x


def numbers(replicates: int = 1_000_000) -> Data:
    """The derivative of P(x > 0.5) with respect to the mean of a standard normal variable."""

    def mean_gradient(estimator: AnyEstimator) -> Data:
        return measured(gradients(step, lambda mean: Normal(mean, 1.0), torch.tensor(MEAN), estimator, replicates))

    right = Normal(MEAN, 1.0).log_prob(torch.tensor(JUMP)).exp().item()
    return {
        "exact": round(right, 4),
        "score function": mean_gradient(sp.ScoreFunction(1)),
        "pathwise": mean_gradient(sp.Pathwise()),
    }


def density(x: Tensor, mean: float, scale: float) -> Tensor:
    """Of a normal variable."""
    found: Tensor = Normal(mean, scale).log_prob(x).exp()
    return found


def draw(data: Data) -> Figure:
    """Three sketches with arrows for the derivative of the sample."""
    fig = figure(2.65)
    formula, implicit, jump = panels(fig, (1, 1, 1))
    x = torch.linspace(-4, 4, 400)
    formula.fill_between(x, 0, density(x, 0, 0.9), color=TINT, lw=0)
    formula.plot(x, density(x, 0, 1.5), color=UNBIASED, lw=1.6)
    for noise in (-1.65, -1.0, -0.45, 0.45, 1.0, 1.65):
        height = density(torch.tensor(0.9 * noise), 0, 0.9).item() * 0.55
        arrow(formula, (0.9 * noise, height), (1.5 * noise, height), **SMALL)
        formula.plot(0.9 * noise, height, "o", color=UNBIASED, ms=4.5)
    formula.set_title("A formula")
    formula.set_xlabel(r"$x=\mu+\sigma\epsilon$;  $\partial x/\partial\sigma=\epsilon$", loc="left", fontsize=11)
    formula.set_ylim(0, 0.5)

    grid = np.linspace(1e-3, 8, 300)
    implicit.plot(grid, gamma.cdf(grid, 2.0), color=UNBIASED, lw=1.8)
    implicit.plot(grid, gamma.cdf(grid, 3.2), color=UNBIASED, lw=1.8, alpha=0.45)
    for height in (0.15, 0.35, 0.55, 0.75, 0.9):
        start, end = gamma.ppf(height, 2.0), gamma.ppf(height, 3.2)
        implicit.plot([0, start], [height, height], color=MUTED, lw=0.9, ls=DOTTED)
        arrow(implicit, (start, height), (end, height), **SMALL)
        implicit.plot(start, height, "o", color=UNBIASED, ms=4.5)
    implicit.set_ylim(0, 1.02)
    implicit.set_xlim(0, 8)
    implicit.set_title("No formula")
    implicit.set_xlabel(r"$\partial x/\partial\varphi=-\,\partial_\varphi F/p_\varphi$", loc="left", fontsize=11)
    say(implicit, 3.0, 0.22, r"$F_\varphi(x)$ moves;", MUTED, fontsize=10)
    say(implicit, 3.0, 0.1, "its height stays", MUTED)

    jump.fill_between(x, 0, 1.3 * density(x, MEAN, 1), color=TINT, lw=0)
    jump.plot([-5.4, JUMP], [0.12, 0.12], color=INK, lw=1.8)
    jump.plot([JUMP, 4], [0.92, 0.92], color=INK, lw=1.8)
    jump.plot([JUMP, JUMP], [0.12, 0.92], color=BIASED, lw=1.4, ls=DOTTED)
    for at in (-1.8, -0.9, -0.1, 1.2):
        height = 0.92 if at > JUMP else 0.12
        arrow(jump, (at, height), (at + 0.8, height), **SMALL)
        jump.plot(at, height, "o", color=UNBIASED, ms=4.5)
    say(jump, 1.0, 0.8, "$f$", fontsize=13)
    jump.set_title("A jump is not seen")
    jump.set_xlabel("derivative with respect to the mean", loc="left")
    say(jump, -5.5, 0.95, f"exact {data['exact']:.2f}", INK)
    say(jump, -5.5, 0.82, f"score function {data['score function']['mean']:.2f}", UNBIASED)
    say(jump, -5.5, 0.69, f"pathwise {data['pathwise']['mean']:.0f}", BIASED, fontweight="bold")
    jump.set_ylim(0, 1.1)
    jump.set_xlim(-5.6, 4.1)
    for ax in (formula, implicit, jump):
        bare(ax)
        ax.axhline(0, color=MUTED, lw=1)
    return fig
