"""Groups of answers with 0/1 rewards: what a standard deviation in the divisor follows, and what a baseline saves."""

from math import comb

import numpy as np
import torch
from matplotlib.figure import Figure

import sampleprop as sp
from pictures.measure import Data, Measured, scaled, variance
from pictures.style import BIASED, DASHED, MUTED, THIRD, UNBIASED, figure, panels, say, ticks

ANSWERS, PROMPTS, SIZES = 8, 32, (2, 4, 8, 16)
SUCCESS = [round(0.02 * i, 2) for i in range(1, 50)]


def weight(p: float, divided: bool) -> float:
    """The mean update of the log-odds of success over its exact value p (1 - p), by enumerating the successes."""
    total = 0.0
    for wins in range(1, ANSWERS):  # a group without a difference has no advantage
        chance = comb(ANSWERS, wins) * p**wins * (1 - p) ** (ANSWERS - wins)
        rewards = torch.cat([torch.ones(wins), torch.zeros(ANSWERS - wins)]).double()
        advantage = (
            (rewards - rewards.mean()) / rewards.std() if divided else rewards - sp.leave_one_out(rewards, dim=0)
        )
        total += chance * (advantage * (rewards - p)).mean().item()
    return total / (p * (1 - p))


def noise(size: int, kind: str, replicates: int) -> Measured:
    """The variance of one step's gradient for the prompts' log-odds, times the answers to a prompt."""
    torch.manual_seed(0)
    p = torch.distributions.Beta(1.0, 3.0).sample((PROMPTS,)).double()
    rewards = (torch.rand(replicates, PROMPTS, size, dtype=torch.float64) < p[:, None]).double()
    if kind == "shrinkage":
        base = torch.stack([sp.shrinkage(each, dim=1) for each in rewards])
    else:
        base = sp.leave_one_out(rewards, dim=2) if kind == "leave-one-out" else torch.zeros_like(rewards)
    gradient = ((rewards - base) * (rewards - p[:, None])).mean(-1)  # [replicates, prompts]
    return scaled(variance(gradient), size)


def numbers(replicates: int = 4000) -> Data:
    """Exact weights; measured variances."""
    ratio = [round(weight(p, True), 3) for p in SUCCESS]
    return {
        "answers": ANSWERS,
        "prompts": PROMPTS,
        "success": SUCCESS,
        "divided": ratio,
        "leave-one-out is exact": [round(weight(p, False), 3) for p in SUCCESS],
        "at 2 %": round(ratio[0], 1),
        "at 50 %": round(ratio[24], 1),
        "sizes": list(SIZES),
        "variance": {
            kind: [noise(size, kind, replicates) for size in SIZES]
            for kind in ("no baseline", "leave-one-out", "shrinkage")
        },
    }


def draw(data: Data) -> Figure:
    """A curve over the straight line where it should be; three lines."""
    fig = figure(2.6)
    left, right = panels(fig)
    left.plot(data["success"], data["divided"], color=BIASED)
    left.plot(data["success"], data["leave-one-out is exact"], color=UNBIASED)
    say(left, 0.5, data["at 50 %"] - 0.22, "divided by the standard deviation", BIASED, ha="center")
    say(left, 0.5, 0.7, "leave-one-out", UNBIASED, ha="center")
    left.set_ylim(0, max(data["divided"]) * 1.12)
    left.set_xlim(0, 1)
    ticks(left, "x", [0, 0.5, 1], ["0", "0.5", "1"])
    ticks(left, "y", [0, 1, 2, 3])
    left.set_title("Weight of a prompt")
    left.set_xlabel("its probability of success", loc="left")
    looks = {"no baseline": (MUTED, DASHED), "leave-one-out": (UNBIASED, "-"), "shrinkage": (THIRD, "-")}
    for kind, (color, style) in looks.items():
        values = np.array([each["mean"] for each in data["variance"][kind]])
        right.plot(data["sizes"], values, "o", ls=style, color=color, ms=4)
        say(
            right,
            17,
            values[-1] * {"no baseline": 1, "leave-one-out": 1.06, "shrinkage": 0.9}[kind],
            kind,
            color,
            fontsize=8.5,
        )
    right.set_xscale("log")
    right.set_ylim(0, 3.4)
    ticks(right, "y", [0, 1, 2, 3])
    right.set_xlim(1.8, 45)
    ticks(right, "x", data["sizes"])
    right.set_title("Variance × answers")
    right.set_xlabel("answers to a prompt", loc="left")
    return fig
