"""The documentation's page, its data and its picture, from a run of the sweep."""

from __future__ import annotations

import json
import re
from pathlib import Path

from laws.pyro_table import LEFT_OUT, PYRO
from laws.subclasses import METHODS, has
from laws.sweep import ESTIMATORS, Verdict
from laws.table import REGIMES, TORCH, Law

DOCS = Path(__file__).parents[2] / "docs"
PAGE, DATA = DOCS / "laws.md", DOCS / "laws.json"
PICTURES = {theme: DOCS / "_static" / f"laws-{theme}.svg" for theme in ("light", "dark")}
Table = dict[str, dict[str, list[Verdict]]]  # by law and estimator, one for each regime
MARKS = {"right": "●", "refused": "–", "not finite": "∞"}

HEAD = """# Every distribution

Every class of `torch.distributions`, and of those that Pyro adds, in five regimes of its parameters: the smallest that
float32 holds, small, ordinary, large, and the largest. Six estimators on each. Written by `python -m laws` in `tests/`;
the data is in `laws.json` beside this page.

```{image} _static/laws-light.svg
:class: only-light
:alt: A grid of all distributions and estimators; each cell has five marks, one for each regime.
```
```{image} _static/laws-dark.svg
:class: only-dark
:alt: A grid of all distributions and estimators; each cell has five marks, one for each regime.
```

f is a ramp, 0 below the distribution's 30 % quantile and 1 above its 80 % quantile. E[f] is an integral of the survival
function, which scipy or a closed form gives in float64; its derivative comes from central differences.

- **●** right: value and gradient agree with that, |z| < 6.5 over {rows} replicates in float32, with an allowance of
  10⁻³ for rounding ({bias} for EvolutionStrategies, which is biased). A gradient is counted per step of its parameter:
  one scale for a location, a factor of e for a positive parameter, 1 for a logit.
- **–** refused, by an error that says who needs what and what to do. The reasons are listed below.
- **∞** not finite: the gradient has a NaN or an infinity, which shows. It happens where float32 does not hold 1/scale².

No cell is silent: a wrong finite number fails the test. Not in the sweep: a location that is 10⁶ scales or more away
from 0, where float32 rounds the samples themselves by more than a tenth of the scale. Use float64 there.
"""


def save(table: Table) -> None:
    """Write the data."""
    rows = {
        law: {name: [list(verdict) for verdict in verdicts] for name, verdicts in row.items()}
        for law, row in table.items()
    }
    DATA.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def load() -> Table:
    """The data of the last run."""
    rows = json.loads(DATA.read_text())
    return {
        law: {name: [Verdict(*verdict) for verdict in verdicts] for name, verdicts in row.items()}
        for law, row in rows.items()
    }


def template(says: str) -> str:
    """A refusal's message with n for every number."""
    return re.sub(r"-?\b\d+(\.\d+)?(e[+-]?\d+)?%?", "n", " ".join(says.split()))


def render(table: Table, rows: int, bias: float) -> str:
    """The page."""
    parts = [HEAD.replace("{rows}", f"{rows:,}").replace("{bias}", f"{bias:g}")]
    for title, laws in (("torch.distributions", TORCH), ("Pyro", PYRO)):
        parts.append(f"## {title}\n")
        parts.append(_table(table, laws))
    parts.append(SUBCLASSES)
    parts.append("| | " + " | ".join(f"`{method}`" for method in METHODS) + " |\n|---" + "|---" * len(METHODS) + "|")
    parts[-1] += "".join(
        f"\n| {law.name} | " + " | ".join("–" if has(law.kind, m) else "" for m in METHODS) + " |" for law in TORCH
    )
    parts.append("\n## What is left out of Pyro\n")
    parts.append("\n".join(f"- `{name}`: {reason}." for name, reason in sorted(LEFT_OUT.items())) + "\n")
    parts.append("## Why it was refused\n")
    parts.append("\n".join(f"- {reason}" for reason in _reasons(table)) + "\n")
    return "\n".join(parts)


SUBCLASSES = """
## Subclasses

A subclass that overrides one of these methods and inherits the others contradicts itself: its samples and its
log-probabilities may belong to two distributions. Each of these was tried in the five regimes with the six estimators,
and all refuse it (**–**); an empty cell is a method that the class does not have. A subclass that defines both `sample`
and `log_prob` is taken at its word, and an `rsample` needs `has_rsample = True` beside it.
"""


def _table(table: Table, laws: list[Law]) -> str:
    lines = ["| | " + " | ".join(ESTIMATORS) + " |", "|---" * (len(ESTIMATORS) + 1) + "|"]
    for law in laws:
        cells = ("".join(MARKS[verdict.kind] for verdict in table[law.name][name]) for name in ESTIMATORS)
        lines.append(f"| {law.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _reasons(table: Table) -> list[str]:
    """The distinct refusals, the commonest first, without the names of laws and estimators."""
    found: dict[str, int] = {}
    names = sorted({law.kind.__name__ for law in (*TORCH, *PYRO)}, key=len, reverse=True)
    for row in table.values():
        for name, verdicts in row.items():
            for verdict in verdicts:
                if verdict.kind == "refused":
                    reason = template(verdict.says).replace(name, "*estimator*", 1)
                    reason = re.sub(r"got (" + "|".join(names) + r")\b", "got *distribution*", reason)
                    found[reason] = found.get(reason, 0) + 1
    return [f"({count}) {reason}" for reason, count in sorted(found.items(), key=lambda item: (-item[1], item[0]))]


COLORS = {
    "light": {"page": "#ffffff", "ink": "#26323a", "right": "#0f7b8a", "refused": "#b9c1c6", "not finite": "#c4541d"},
    "dark": {"page": "#14191d", "ink": "#e4eaee", "right": "#3fb6c6", "refused": "#4a5660", "not finite": "#f08a52"},
}
ROW, LEFT, COLUMN, TOP = 15, 300, 108, 66


def picture(table: Table, theme: str) -> str:
    """The sweep as an SVG: a row for each law, five squares for each estimator, from the smallest to the largest."""
    color = COLORS[theme]
    laws = [law.name for law in (*TORCH, *PYRO) if law.name in table]
    width, height = LEFT + COLUMN * len(ESTIMATORS) + 10, TOP + ROW * len(laws) + 14
    font = "font-family='system-ui, DejaVu Sans, sans-serif'"
    lines = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' {font} font-size='11' role='img' "
        f"aria-label='All distributions and estimators; right, refused or not finite in five regimes'>",
        f"<rect width='{width}' height='{height}' fill='{color['page']}'/>",
    ]
    for i, (kind, words) in enumerate((("right", "right"), ("refused", "refused"), ("not finite", "not finite"))):
        lines.append(_square(LEFT + 110 * i, 8, color[kind], words))
        lines.append(f"<text x='{LEFT + 16 + 110 * i}' y='17' fill='{color['ink']}'>{words}</text>")
    regimes = " · ".join(REGIMES)
    lines.append(f"<text x='{LEFT}' y='34' fill='{color['ink']}' font-size='10'>left to right: {regimes}</text>")
    for j, name in enumerate(ESTIMATORS):
        x = LEFT + COLUMN * j
        lines.append(f"<text x='{x}' y='{TOP - 8}' fill='{color['ink']}' font-size='10'>{name}</text>")
    for i, law in enumerate(laws):
        y = TOP + ROW * i
        lines.append(f"<text x='{LEFT - 8}' y='{y + 10}' text-anchor='end' fill='{color['ink']}'>{law}</text>")
        for j, name in enumerate(ESTIMATORS):
            for r, verdict in enumerate(table[law][name]):
                label = f"{law}, {name}, {REGIMES[r]}: {verdict.kind}"
                lines.append(_square(LEFT + COLUMN * j + 14 * r, y, color[verdict.kind], label))
    return "\n".join([*lines, "</svg>", ""])


def _square(x: int, y: int, color: str, title: str) -> str:
    return f"<rect x='{x}' y='{y}' width='11' height='11' rx='2' fill='{color}'><title>{title}</title></rect>"
