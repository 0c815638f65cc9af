"""Gumbel-max: noise on the logits, the largest wins; the winners have the probabilities of the softmax."""

import torch
from matplotlib.figure import Figure

import sampleprop as sp
from pictures.measure import Data, measured, points
from pictures.style import INK, MUTED, PAGE, PALE, THIRD, TINT, UNBIASED, bare, figure, grouped, panels, rows, say

PHI = torch.tensor([1.2, 0.5, 0.0, -0.6, -1.2])
NAMES = "ABCDE"
GROUND, WIDE = -3.2, 6.6  # where the bars begin; from one draw to the next


def numbers(draws: int = 4000) -> Data:
    """How often each class won, and the noise of three draws with different winners."""
    winners = sp.gumbel_max(PHI.expand(draws, -1))
    noise = -torch.log(-torch.log(torch.rand(200, 5)))
    won = (PHI + noise).argmax(-1)
    shown = [int((won == winner).nonzero()[0]) for winner in (0, 2, 1)]
    return {
        "draws": draws,
        "noise": points(noise[shown]),
        "frequencies": [measured(winners[:, k]) for k in range(5)],
        "probabilities": [round(p, 4) for p in PHI.softmax(0).tolist()],
    }


def draw(data: Data) -> Figure:
    """Three draws, and the frequencies of many."""
    fig = figure(2.6)
    left, right = panels(fig, (1.75, 1))
    for i, noise in enumerate(data["noise"]):
        totals = PHI + torch.tensor(noise)
        winner = int(totals.argmax())
        for k in range(5):
            x, total, wins = i * WIDE + k, totals[k].item(), k == winner
            left.bar(x, PHI[k].item() - GROUND, bottom=GROUND, color=PALE, width=0.72)
            left.plot([x, x], [PHI[k].item(), total], color=THIRD, lw=2.2)
            fill, size = (UNBIASED, 8) if wins else (PAGE, 5)
            left.plot(x, total, "o", color=fill, ms=size, mec=UNBIASED, mew=1.4, zorder=4)
            weight, color = ("bold", UNBIASED) if wins else ("normal", MUTED)
            say(left, x, GROUND - 0.42, NAMES[k], color, ha="center", fontweight=weight)
        left.plot([i * WIDE - 0.45, i * WIDE + 4.45], [GROUND, GROUND], color=MUTED, lw=1)
    say(left, -0.4, 4.6, r"grey: logit $\varphi_k$", MUTED)
    say(left, 6.2, 4.6, "line: noise $G_k$", THIRD)
    say(left, 12.8, 4.6, "full: the largest wins", UNBIASED)
    left.set_ylim(GROUND - 0.8, 5.1)
    left.set_xlim(-0.7, 18)
    bare(left)
    left.set_title("Three draws")
    rows(right, NAMES, [INK] * 5)
    right.barh(range(5), data["probabilities"], color=TINT, height=0.66)
    found = [each["mean"] for each in data["frequencies"]]
    errors = [2 * each["error"] for each in data["frequencies"]]
    right.errorbar(found, range(5), xerr=errors, fmt="o", color=UNBIASED, ms=5, lw=1.6)
    right.set_title(f"{grouped(data['draws'])} draws")
    right.set_xlabel("bar: softmax;  dot: frequency", loc="left")
    return fig
