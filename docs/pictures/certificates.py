"""Certificates: z of every comparison with an exact gradient, beside estimators that were broken on purpose."""

import math
import sys
from importlib import import_module
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pictures.measure import Data, measured
from pictures.style import BIASED, DASHED, INK, MUTED, UNBIASED, figure, grouped, panels, say
from sampleprop.certificates.trial import PILOT_REPLICATES, Trial

TESTS = Path(__file__).parents[2] / "tests"
REPLICATES = 20_000  # fewer than the tests take, which follow the variance
WIDTH, LINEAR, MOST = 0.2, 6.0, 3000.0  # of a bar; where the axis becomes logarithmic, and where it ends


def numbers(step: int = 1, replicates: int = REPLICATES) -> Data:
    """All z of every `step`-th certificate; then the largest z of each broken estimator, where all are wanted."""
    sys.path.insert(0, str(TESTS))
    checked = import_module("certificates.pairs")
    pairs = [(estimator, problem) for estimator, problem in checked.PAIRS if estimator.unbiased]
    found = []
    for estimator, problem in pairs[::step]:
        trial = Trial(estimator, problem, crc32(f"{estimator.label} {problem}".encode()))
        trial.pilot(PILOT_REPLICATES)
        mean, variance, count = trial.run(replicates)
        found.append(mean / (variance / count + trial.rounding.square()).sqrt())
    z = torch.cat(found)
    z = z[z.abs() > 3e-3]  # the others are exact: a sum over all states has no noise
    return {
        "certificates": len(pairs[::step]),
        "comparisons": len(z),
        "replicates": replicates,
        "threshold": round(checked.THRESHOLD, 1),
        "largest": round(z.abs().max().item(), 1),
        "mean of z squared": measured(z.square()),
        "z": [round(each, 2) for each in z.tolist()],
        "broken": broken() if step == 1 else [],
    }


def broken() -> list[float]:
    """The largest z of each estimator that `test_mutants.py` breaks."""

    test_mutants: Any = import_module("certificates.test_mutants")
    largest: list[float] = []
    original = test_mutants.certified

    def recording(estimator, problem, **options):  # type: ignore[no-untyped-def]
        certificate = original(estimator, problem, **options)
        if estimator.label != "Scaled()":  # the right one, beside those that are 3 % off
            largest.append(round(max(certificate.z.values()), 1))
        return certificate

    test_mutants.certified = recording
    file = str(TESTS / "certificates" / "test_mutants.py")
    assert pytest.main(["-q", "-n0", "-p", "no:cacheprovider", file]) == 0
    test_mutants.certified = original
    return sorted(largest)


def place(z: float) -> float:
    """Linear near zero, logarithmic beyond."""
    size = abs(z)
    return math.copysign(size if size <= LINEAR else LINEAR + 1.3 * math.log2(min(size, MOST) / LINEAR), z)


def draw(data: Data) -> Figure:
    """A histogram under the normal density; crosses for what was broken."""
    fig = figure(2.9)
    (ax,) = panels(fig, (1,))
    edges = np.arange(-4.2, 4.21, WIDTH)
    heights, _ = np.histogram(data["z"], edges)
    ax.bar(edges[:-1] + WIDTH / 2, heights, width=0.18, color=UNBIASED, alpha=0.85, lw=0)
    x = np.linspace(-4.5, 4.5, 300)
    ax.plot(x, len(data["z"]) * WIDTH * np.exp(-x * x / 2) / math.sqrt(2 * math.pi), color=INK, lw=1.6)
    top, limit = heights.max() * 1.12, data["threshold"]
    for side in (-1, 1):
        ax.plot([side * limit] * 2, [0, top * 0.5], color=MUTED, lw=1.2, ls=DASHED)
    spread = np.random.default_rng(0).uniform(0.05, 0.33, len(data["broken"])) * top
    ax.plot([place(z) for z in data["broken"]], spread, "x", color=BIASED, ms=6, mew=1.6)
    ax.set_ylim(0, top * 1.05)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    marks = (-limit, -3, 0, 3, limit, 30, 300, 3000)
    ax.set_xticks([place(z) for z in marks], [f"{z:g}".replace("-", "−") for z in marks])
    ax.set_xlim(-8.3, place(MOST) + 0.5)
    ax.set_xlabel("z: deviation from the exact gradient, in standard errors", loc="left")
    counted = f"{grouped(data['comparisons'])} comparisons\nof {data['certificates']} certificates"
    say(ax, -1.5, top * 0.86, counted, UNBIASED, linespacing=1.35, fontsize=9.5, ha="right")
    say(ax, 1.35, top * 0.66, "standard\nnormal", INK, linespacing=1.3)
    say(ax, limit + 0.25, top * 0.45, "rejected", MUTED)
    say(ax, -limit - 0.2, top * 0.45, "rejected", MUTED, ha="right")
    text = f"{len(data['broken'])} estimators that were\nbroken on purpose"
    say(ax, place(40.0), top * 0.5, text, BIASED, linespacing=1.35, fontsize=9.5)
    ax.set_title("Every estimator against the exact gradient")
    return fig
