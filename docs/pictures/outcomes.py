"""What a training ended with: dots with standard errors, from the tables of the pages of results.

Each entry of `TABLES` is a picture, named `outcomes-` and its key.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from pictures.measure import Data
from pictures.style import BIASED, INK, MUTED, PALE, UNBIASED, figure, panels, rows, ticks

PAGES = Path(__file__).parents[1] / "results"
NUMBER = re.compile(r"(-?[\d.]+(?:e[+-]?\d+)?)(?: ± ([\d.]+))?")
ERRORS = "± 2 standard errors"


class Panel(NamedTuple):
    """What is shown of one column of a table."""

    column: str
    title: str
    label: str  # below the axis
    ticks: Sequence[float]
    logarithmic: bool = False


@dataclass(frozen=True)
class Table:
    """A table of a page, and the picture that is drawn of it: a row for each method, a panel for each column shown."""

    page: str
    panels: tuple[Panel, ...]
    height: float  # inches
    heading: str = "# "  # it is the first table below this
    grey: tuple[str, ...] = ()  # methods that estimate no gradient
    drop: tuple[str, ...] = ()  # methods that are not shown

    def numbers(self) -> Data:
        """The rows in the order of the table. A number without "±" has no error."""
        text = (PAGES / f"{self.page}.md").read_text(encoding="utf-8")
        lines = text[text.index("\n| ", text.index(self.heading)) :].strip().splitlines()
        table = itertools.takewhile(lambda line: line.startswith("|"), lines)
        head, _, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in table)
        found = []
        for cells in body:
            row = dict(zip(head, cells, strict=True))
            name, biased, _ = cells[0].partition(" (biased)")
            if name in self.drop:
                continue
            bias = row.get("bias", "<")
            shown: Data = {"name": _short(name), "biased": bool(biased) or not bias.startswith("<")}
            shown["bias"] = "" if bias.startswith("<") else bias
            for panel in self.panels:
                number = NUMBER.match(row[panel.column])
                assert number, row
                shown[panel.column] = {"at": float(number[1]), "error": float(number[2] or 0)}
            found.append(shown)
        return {"rows": found}

    def draw(self, data: Data) -> Figure:
        """A dot for each number, with a line of two standard errors to both sides; the bias stands at the right."""
        fig = figure(self.height)
        axes = panels(fig, [1.5, *[1] * (len(self.panels) - 1)], sharey=True)
        found = data["rows"]
        rows(axes[0], [row["name"] for row in found], [self._color(row, INK) for row in found])
        for ax, panel in zip(axes, self.panels, strict=True):
            for i, row in enumerate(found):
                color, at, error = self._color(row, UNBIASED), row[panel.column]["at"], row[panel.column]["error"]
                ax.axhline(i, color=PALE, lw=1, zorder=0)
                ax.plot([at - 2 * error, at + 2 * error], [i, i], color=color, lw=2, solid_capstyle="butt")
                ax.plot(at, i, "o", color=color, ms=6.5)
            if panel.logarithmic:
                ax.set_xscale("log")
            ax.margins(x=0.08)
            ticks(ax, "x", panel.ticks)
            ax.spines["left"].set_visible(False)
            ax.tick_params(axis="y", length=0)
            ax.set_title(panel.title)
            ax.set_xlabel(panel.label, loc="left")
        if any(row["bias"] for row in found):
            right, place = axes[-1], axes[-1].get_yaxis_transform()
            right.text(1.2, 1.035, "bias", color=BIASED, transform=right.transAxes, ha="right", fontsize=8.5)
            for i, row in enumerate(found):
                right.text(1.2, i, row["bias"], color=BIASED, ha="right", va="center", fontsize=8.5, transform=place)
        return fig

    def _color(self, row: Data, unbiased: str) -> str:
        if row["name"] in self.grey:
            return MUTED
        return BIASED if row["biased"] else unbiased


def _short(name: str) -> str:
    name = re.sub(r"\(.*baseline=Constant\(0\)\)", ", no baseline", name)
    return re.sub(r"\((samples=\d+)?\)", "", name)


def _elbo(ends: Sequence[float], variances: Sequence[float], label: str) -> tuple[Panel, Panel]:
    return (
        Panel("ELBO, held out", "Held-out ELBO", label, ends),
        Panel("variance in training", "Variance", "of a gradient in training", variances, logarithmic=True),
    )


TABLES = {
    "belief_network": Table(
        "programs",
        (
            Panel("ELBO, held out", "Held-out ELBO", f"nats, {ERRORS}", (-26.8, -26.6, -26.4)),
            Panel("log variance", "Variance", "natural logarithm", (-10, -8, -6)),
            Panel("ms for a step", "Time", "ms for a step", (1, 3, 5)),
        ),
        2.3,
    ),
    "belief_network_fashion": Table(
        "programs",
        (
            Panel("ELBO, held out", "Held-out ELBO", "nats, one seed", (-280, -275, -270)),
            Panel("log variance", "Variance", "natural logarithm", (-6, -4, -2)),
        ),
        2.3,
        "### On Fashion-MNIST",
    ),
    "cartpole": Table(
        "cartpole",
        (
            Panel("return at the end", "Return at the end", ERRORS, (100, 300, 500)),
            Panel("thousand steps played", "Steps until solved", "thousands", (0, 200, 400)),
            Panel("noise", "Noise", "in squared gradients", (1, 10), logarithmic=True),
        ),
        2.7,
    ),
    "continuous_vae": Table("continuous_vae", _elbo((-25.5, -24.5, -23.5), (1, 100), f"nats, {ERRORS}"), 2.5),
    "discrete_vae": Table(
        "discrete_vae", _elbo((-25, -24.5, -24, -23.5), (0.1, 1, 10, 100), f"nats after 2,000 steps, {ERRORS}"), 3.35
    ),
    "categories": Table(
        "discrete_vae",
        _elbo((-27, -26, -25, -24), (1, 10, 100), f"nats after 1,000 steps, {ERRORS}"),
        2.9,
        "## Ten variables of eight classes",
    ),
    "fashion_mnist": Table(
        "discrete_vae",
        _elbo((-251, -250, -249), (1, 10, 100), "nats, one seed"),
        2.5,
        "## A hundred bits",
    ),
    "feature_selection": Table(
        "feature_selection",
        (
            Panel("5", "5 pixels", f"accuracy, %, {ERRORS}", (40, 50, 60, 70)),
            Panel("10", "10 pixels", "accuracy, %", (60, 70, 80, 90)),
            Panel("20", "20 pixels", "accuracy, %", (80, 85, 90, 95)),
        ),
        3.5,
        grey=("at random", "mutual information", "L1 penalty"),
        drop=("all pixels",),
    ),
    "jigsaw": Table(
        "jigsaw",
        (
            Panel("images solved, %", "Jigsaws solved", f"% of held-out images, {ERRORS}", (80, 85, 90)),
            Panel("tiles in place, %", "Tiles in place", "%", (90, 92, 94)),
        ),
        2.3,
        grey=("likelihood",),
    ),
    "language_model": Table(
        "language_model",
        (Panel("at the end", "Mean reward at the end", f"exact, {ERRORS}; arm B pays 1, arm A 3", (1, 2, 3)),),
        1.9,
    ),
    "mixture_of_experts": Table(
        "mixture_of_experts",
        (
            Panel("accuracy, %", "Accuracy", f"% of held-out images, {ERRORS}", (80, 85, 90, 95)),
            Panel("busiest expert, %", "Busiest expert", "% of all requests", (12.5, 15, 20)),
        ),
        2.3,
        grey=("no router",),
    ),
    "ranking": Table(
        "ranking",
        (
            Panel("utility, %", "Utility", f"% of held-out lists, {ERRORS}", (66, 70, 74, 78)),
            Panel("missing in 100 lists", "Missing from the quota", "patients in 100 lists", (0, 20, 40, 60)),
        ),
        2.3,
        grey=("ListMLE", "ListMLE@3"),
    ),
    "shortest_path": Table(
        "shortest_path",
        (
            Panel("above the best path, %", "Excess cost", f"% above the best path, {ERRORS}", (9, 10, 11, 12)),
            Panel("maps with the best path, %", "Best paths", "% of held-out maps", (15, 20, 25)),
        ),
        1.9,
        grey=("regression",),
    ),
}
