"""Ten estimators after one training: held-out ELBO with standard errors, from the table of the page's results."""

from pathlib import Path

from matplotlib.figure import Figure

from pictures.measure import Data
from pictures.style import BIASED, INK, PALE, UNBIASED, figure, panels, rows, ticks

PAGE = Path(__file__).parents[1] / "results" / "discrete_vae.md"


def numbers() -> Data:
    """The first table of the page "Discrete VAE"."""
    text = PAGE.read_text(encoding="utf-8").partition("## Ten bits")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if " ± " in line]
    found = []
    for name, _, held_out, _, variance, _, bias in cells:
        mean, _, error = held_out.partition(" ± ")
        found.append(
            {
                "name": name.replace("(samples=12, baseline=Constant(0))", ", no baseline").partition("(")[0],
                "elbo": float(mean),
                "error": float(error),
                "variance": float(variance),
                "bias": None if bias.startswith("<") else bias,
            }
        )
    return {"rows": sorted(found, key=lambda row: -row["elbo"])}


def draw(data: Data) -> Figure:
    """Two columns of dots over the same rows; the bias stands at the right."""
    fig = figure(3.35)
    left, right = panels(fig, (1.5, 1), sharey=True)
    found = data["rows"]
    rows(left, [row["name"] for row in found], [BIASED if row["bias"] else INK for row in found])
    for i, row in enumerate(found):
        color = BIASED if row["bias"] else UNBIASED
        right.axhline(i, color=PALE, lw=1, zorder=0)
        ends = [row["elbo"] - 2 * row["error"], row["elbo"] + 2 * row["error"]]
        left.plot(ends, [i, i], color=color, lw=2, solid_capstyle="butt")
        left.plot(row["elbo"], i, "o", color=color, ms=6.5)
        right.plot(row["variance"], i, "o", color=color, ms=6.5)
        if row["bias"]:
            place = right.get_yaxis_transform()
            right.text(1.2, i, row["bias"], color=BIASED, ha="right", va="center", fontsize=8.5, transform=place)
    right.spines["left"].set_visible(False)
    right.tick_params(axis="y", length=0)
    ticks(left, "x", [-25, -24.5, -24, -23.5])
    left.set_title("Held-out ELBO")
    left.set_xlabel("nats after 2000 steps, ± 2 standard errors", loc="left")
    right.set_xscale("log")
    right.set_xlim(0.06, 330)
    ticks(right, "x", [0.1, 1, 10, 100])
    right.set_title("Variance")
    right.set_xlabel("in training, by the logits", loc="left")
    right.text(1.2, 1.035, "bias", color=BIASED, transform=right.transAxes, ha="right", fontsize=8.5)
    return fig
