"""The looks of every picture: one palette, one width, one SVG that follows the reader's light or dark page.

Colour is meaning: teal is unbiased, or a sample; orange is biased; violet is a second thing beside teal; grey is the
rest; ink is f and the exact answer. In the SVG colours are CSS variables whose fallback is the light value. Pages set
the variables; a file that stands alone brings its own for both schemes.
"""

import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

INK, MUTED, PALE, PAGE = "#26323a", "#5b6a73", "#d5d9dc", "#ffffff"
UNBIASED, BIASED, THIRD = "#0f7b8a", "#c4541d", "#6a3fd0"
TINT, WARM = "#cfe5e8", "#f6dccd"
LIGHT = {
    "ink": INK,
    "muted": MUTED,
    "pale": PALE,
    "unbiased": UNBIASED,
    "biased": BIASED,
    "third": THIRD,
    "tint": TINT,
    "warm": WARM,
    "page": PAGE,
}
DARK = {
    "ink": "#e4eaee",
    "muted": "#a3b0b9",
    "pale": "#323c44",
    "unbiased": "#3fb6c6",
    "biased": "#f08a52",
    "third": "#8f8cff",
    "tint": "#1d4a52",
    "warm": "#57331f",
    "page": "#14191d",
}
WIDTH = 7.0  # inches: 700 pixels, the width of a page's text
SETTINGS: Any = {  # matplotlib types each key for itself
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "mathtext.fontset": "stix",
    "mathtext.default": "it",
    "svg.hashsalt": "sampleprop",
    "svg.fonttype": "path",
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": PALE,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "axes.linewidth": 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "figure.dpi": 100,
    "savefig.facecolor": "none",
    "lines.linewidth": 2,
    "xtick.color": PALE,
    "ytick.color": PALE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}
DOTTED, DASHED = (0, (2, 2)), (0, (4, 2))
matplotlib.rcParams.update(SETTINGS)


def figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure of the usual width, in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def panels(fig: Figure, widths: Sequence[float] = (1, 1), **options: Any) -> tuple[Axes, ...]:
    """Axes side by side, of these relative widths."""
    return tuple(fig.subplots(1, len(widths), width_ratios=widths, squeeze=False, **options)[0])


def bare(ax: Axes) -> None:
    """No ticks and no frame."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def rows(ax: Axes, names: Sequence[str], colors: Iterable[str] | None = None) -> None:
    """One grey line for each name, the first on top."""
    for i in range(len(names)):
        ax.axhline(i, color=PALE, lw=1, zorder=0)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    for label, color in zip(ax.get_yticklabels(), colors or [INK] * len(names), strict=True):
        label.set_color(color)


def ticks(ax: Axes, axis: str, values: Sequence[float], names: Sequence[str] | None = None) -> None:
    """A few round numbers, and nothing between them."""
    place = ax.set_xticks if axis == "x" else ax.set_yticks
    place(values, names or [f"{value:g}".replace("-", "−") for value in values])
    place([], minor=True)


def say(ax: Axes, x: float, y: float, text: str, color: str = INK, **options: Any) -> Text:
    """A label beside what it names; there are no boxes with legends."""
    look: dict[str, Any] = {"fontsize": 9, "ha": "left", "va": "center"}
    return ax.text(x, y, text, color=color, **(look | options))


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], color: str = THIRD, **options: Any) -> None:
    """From a point to a point."""
    look = {"arrowstyle": "-|>", "color": color, "lw": 1.6, "shrinkA": 2, "shrinkB": 0, "mutation_scale": 9} | options
    ax.annotate("", end, start, arrowprops=look)


def grouped(number: int) -> str:
    """A whole number with a comma before each three digits."""
    return f"{number:,}"


def svg(fig: Figure) -> str:
    """The figure as text: the same bytes for the same numbers."""
    stream = io.StringIO()
    fig.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    for name, value in LIGHT.items():
        text = re.sub(value, f"var(--sp-{name}, {value})", text, flags=re.IGNORECASE)
    # A hundredth of a point is enough, but not for the scale of a letter.
    text = re.sub(r"scale\([^)]*\)|-?\d+\.\d{3,}", _shortened, text)
    alone = f":root{{{_scheme(LIGHT)}}}@media (prefers-color-scheme:dark){{:root{{{_scheme(DARK)}}}}}"
    text = text.replace("<defs>", f"<style>{alone}</style>\n <defs>", 1).replace("<svg ", '<svg role="img" ', 1)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def _shortened(found: re.Match[str]) -> str:
    number = found[0]
    return number if number.startswith("scale") else f"{float(number):.2f}".rstrip("0").rstrip(".")


def _scheme(colors: dict[str, str]) -> str:
    return ";".join(f"--sp-{name}:{value}" for name, value in colors.items())
