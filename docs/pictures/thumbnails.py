"""One small drawing for each example of the gallery, 16:10. They show what the example is about, and no numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from sklearn.datasets import load_digits

from pictures.style import BIASED, INK, MUTED, PAGE, PALE, THIRD, TINT, UNBIASED, bare, figure, panels, say

DIGITS = load_digits().images / 16  # [1797, 8, 8]


def canvas() -> tuple[Figure, Axes]:
    """Empty axes, 16 wide and 10 high, with y downwards."""
    fig = figure(2.0, width=3.2)
    (ax,) = panels(fig, (1,))
    bare(ax)
    ax.set_xlim(0, 16)
    ax.set_ylim(10, 0)
    ax.set_aspect("equal")
    return fig, ax


def image(ax: Axes, pixels: np.ndarray, x: float, y: float, size: float, color: str = INK) -> None:
    """Squares, as opaque as the pixels are bright."""
    step = size / len(pixels)
    for i, j in zip(*np.nonzero(pixels > 0.06), strict=True):
        look: dict[str, Any] = {"fc": color, "lw": 0, "alpha": float(round(pixels[i, j], 2))}
        ax.add_patch(Rectangle((x + j * step, y + i * step), step, step, **look))


def discrete_vae() -> Figure:
    """An image, bits, the image again."""
    fig, ax = canvas()
    image(ax, DIGITS[3], 0.3, 2.6, 4.8)
    image(ax, DIGITS[3], 10.9, 2.6, 4.8, UNBIASED)
    for k, bit in enumerate((1, 0, 0, 1, 1, 0, 1, 0, 0, 1)):
        look: dict[str, Any] = {"fc": UNBIASED if bit else PAGE, "ec": UNBIASED, "lw": 1.4}
        ax.add_patch(Rectangle((6.6 + 1.6 * (k % 2), 1.2 + 1.6 * (k // 2)), 1.1, 1.1, **look))
    return fig


def continuous_vae() -> Figure:
    """Digits on a plane of codes, over the circles of a normal density."""
    fig, ax = canvas()
    for radius in (4.6, 3.2, 1.7):
        ax.add_patch(Circle((8, 5), radius, fc=TINT, ec="none", alpha=0.4))
    for digit, (x, y) in zip((0, 1, 4, 7, 3), ((3.2, 3.4), (10.9, 1.3), (7, 4), (11.7, 5.6), (4.9, 7)), strict=True):
        image(ax, DIGITS[digit], x, y, 2.3)
    return fig


def cartpole() -> Figure:
    """A cart and its pole."""
    fig, ax = canvas()
    ax.plot([1, 15], [8.4, 8.4], color=MUTED, lw=1.4)
    ax.add_patch(Rectangle((5.9, 6.4), 4.2, 1.5, fc=INK, lw=0))
    for angle, alpha in ((0.5, 0.2), (0.3, 0.45), (0.12, 1.0)):
        ax.plot(
            [8, 8 + 6 * np.sin(angle)],
            [6.6, 6.6 - 6 * np.cos(angle)],
            color=UNBIASED,
            lw=5,
            alpha=alpha,
            solid_capstyle="round",
        )
    for x in (7, 9):
        ax.add_patch(Circle((x, 8), 0.42, fc=PAGE, ec=INK, lw=1.6))
    ax.annotate("", (13.4, 7.2), (10.5, 7.2), arrowprops={"arrowstyle": "-|>", "color": THIRD, "lw": 2})
    return fig


def digital_option() -> Figure:
    """A payoff with a jump over the density of prices."""
    fig, ax = canvas()
    x = np.linspace(0.5, 15.5, 200)
    ax.fill_between(x, 9, 9 - 5 * np.exp(-((x - 7) ** 2) / 9), color=TINT, lw=0)
    ax.plot([0.5, 8.6], [9, 9], color=INK, lw=2.4)
    ax.plot([8.6, 15.5], [1.6, 1.6], color=INK, lw=2.4)
    ax.plot([8.6, 8.6], [9, 1.6], color=BIASED, lw=1.8, ls=(0, (2, 2)))
    return fig


def extreme_values() -> Figure:
    """Yearly maxima, and a dyke that some of them pass."""
    fig, ax = canvas()
    heights = 2.2 - 1.25 * np.log(-np.log(np.random.default_rng(7).uniform(0.03, 0.985, 28)))
    for i, height in enumerate(heights):
        color = BIASED if height > 5.6 else UNBIASED
        ax.plot([1 + 0.5 * i] * 2, [9.2, 9.2 - height], color=color, lw=3.2, solid_capstyle="butt")
    ax.plot([0.6, 15], [3.6, 3.6], color=INK, lw=1.6, ls=(0, (4, 2)))
    return fig


def feature_selection() -> Figure:
    """A digit, and the few pixels that are looked at."""
    fig, ax = canvas()
    image(ax, DIGITS[8], 3.6, 0.6, 8.8, MUTED)
    step = 8.8 / 8
    for i, j in ((1, 3), (2, 5), (3, 2), (3, 4), (4, 3), (5, 2), (5, 5), (6, 4), (2, 2), (6, 6)):
        ax.add_patch(Rectangle((3.6 + j * step, 0.6 + i * step), step, step, fc="none", ec=UNBIASED, lw=2.2))
    return fig


def equal_time() -> Figure:
    """Bars of variance within bars of time."""
    fig, ax = canvas()
    for i, (time, noise) in enumerate(((3, 8.5), (5, 6.2), (9, 4.4), (13.5, 3.4))):
        ax.add_patch(Rectangle((1, 1 + 2.2 * i), time, 0.75, fc=PALE, lw=0))
        ax.add_patch(Rectangle((1, 1.85 + 2.2 * i), noise, 0.75, fc=UNBIASED, lw=0))
    return fig


def language_model() -> Figure:
    """Tokens, each with a choice of words and the one that was drawn."""
    fig, ax = canvas()
    chances = ((0.6, 0.25, 0.15), (0.2, 0.7, 0.1), (0.3, 0.3, 0.4), (0.1, 0.2, 0.7))
    for i, (column, drawn) in enumerate(zip(chances, (0, 1, 0, 2), strict=True)):
        for k, chance in enumerate(column):
            color = UNBIASED if k == drawn else PALE
            ax.add_patch(Rectangle((0.9 + 3.7 * i, 1.2 + 2.1 * k), 0.5 + 3.4 * chance, 1.3, fc=color, lw=0))
        say(ax, 0.9 + 3.7 * i, 8.6, f"token {i + 1}", MUTED, fontsize=8.5)
    return fig


def programs() -> Figure:
    """Two layers of bits above an image."""
    fig, ax = canvas()
    image(ax, DIGITS[5], 11, 2.8, 4.4, UNBIASED)
    layers = ((1.2, (1, 0, 1, 1)), (5.6, (0, 1, 1, 0, 1, 0)))
    for (x, bits), (after, following) in zip(layers, ((5.6, 6), (11, 4)), strict=True):
        for k in range(len(bits)):
            for j in range(following):
                y = 5.5 + 1.4 * (k - len(bits) / 2)
                ends = [y, 5.5 + (1.4 if after < 10 else 1.0) * (j - following / 2)]
                ax.plot([x + 0.9, after], ends, color=PALE, lw=0.9, zorder=0)
        for k, bit in enumerate(bits):
            look: dict[str, Any] = {"fc": UNBIASED if bit else PAGE, "ec": UNBIASED, "lw": 1.4}
            ax.add_patch(Rectangle((x, 5 + 1.4 * (k - len(bits) / 2)), 0.95, 0.95, **look))
    return fig


def mixture_of_experts() -> Figure:
    """Eight experts, of which two are asked."""
    fig, ax = canvas()
    image(ax, DIGITS[2], 0.6, 3, 4)
    for k in range(8):
        asked = k in (2, 5)
        ax.plot([4.8, 10.4], [5, 1.2 + 1.1 * k], color=UNBIASED if asked else PALE, lw=2.4 if asked else 1, zorder=0)
        ax.add_patch(Rectangle((10.4, 0.8 + 1.1 * k), 4.2, 0.8, fc=UNBIASED if asked else PALE, lw=0))
    return fig


def ranking() -> Figure:
    """Rows in an order, by what they are worth."""
    fig, ax = canvas()
    for i, worth in enumerate((9.5, 11.5, 7.2, 5.1, 3.6, 2.2)):
        say(ax, 1.2, 1.4 + 1.45 * i, str(i + 1), MUTED, fontsize=8.5)
        ax.add_patch(Rectangle((2.6, 0.9 + 1.45 * i), worth, 0.95, fc=UNBIASED if i < 3 else PALE, lw=0))
    return fig


def jigsaw() -> Figure:
    """Four pieces of a digit, and the digit."""
    fig, ax = canvas()
    pieces = [DIGITS[9][i : i + 4, j : j + 4] for i in (0, 4) for j in (0, 4)]
    for k, piece in enumerate((2, 0, 3, 1)):
        x, y = 0.8 + 3.3 * (k % 2), 1.8 + 3.3 * (k // 2)
        ax.add_patch(Rectangle((x, y), 2.9, 2.9, fc="none", ec=MUTED, lw=1))
        image(ax, pieces[piece], x, y, 2.9)
    ax.annotate("", (9.4, 5), (7.6, 5), arrowprops={"arrowstyle": "-|>", "color": THIRD, "lw": 2})
    image(ax, DIGITS[9], 9.8, 2.1, 5.8, UNBIASED)
    return fig


def shortest_path() -> Figure:
    """A grid of costs, and the cheapest way through it."""
    fig, ax = canvas()
    costs = np.random.default_rng(3).uniform(0.1, 0.9, (5, 8))
    way = ((0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (2, 3), (3, 3), (3, 4), (3, 5), (4, 5), (4, 6), (4, 7))
    for i in range(5):
        for j in range(8):
            look: dict[str, Any] = {"fc": MUTED, "lw": 0, "alpha": float(round(0.6 * costs[i, j], 2))}
            ax.add_patch(Rectangle((1.2 + 1.75 * j, 0.6 + 1.75 * i), 1.65, 1.65, **look))
    x, y = [2.02 + 1.75 * j for _, j in way], [1.42 + 1.75 * i for i, _ in way]
    ax.plot(x, y, color=UNBIASED, lw=4, solid_capstyle="round", solid_joinstyle="round")
    return fig


DRAWINGS: dict[str, Callable[[], Figure]] = {
    "discrete_vae": discrete_vae,
    "continuous_vae": continuous_vae,
    "cartpole": cartpole,
    "digital_option": digital_option,
    "extreme_values": extreme_values,
    "feature_selection": feature_selection,
    "equal_time": equal_time,
    "language_model": language_model,
    "programs": programs,
    "mixture_of_experts": mixture_of_experts,
    "ranking": ranking,
    "jigsaw": jigsaw,
    "shortest_path": shortest_path,
}
