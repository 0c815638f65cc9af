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

This page shows for which distributions, and for which parameters, an estimator is right. Each row is a class of
`torch.distributions`, or a class that Pyro adds. Each has five settings of its parameters, called **regimes**: the
smallest that float32 holds, small, ordinary, large, and the largest. Six estimators were tried on each; "default" is
`expect` without an estimator.

```{image} _static/laws-light.svg
:class: only-light
:alt: A grid of all distributions and estimators; each cell has five marks, one for each regime.
```
```{image} _static/laws-dark.svg
:class: only-dark
:alt: A grid of all distributions and estimators; each cell has five marks, one for each regime.
```

The cost $f$ is a ramp. It is 0 below the distribution's 30 % quantile and 1 above its 80 % quantile, with a straight
line between them. The exact $\\mathbb{E}[f]$ is an integral of the survival function, which scipy or a closed form
gives in float64. Its derivative comes from central differences.

- **●** right: value and gradient agree with the exact ones, $|z| < 6.5$ over {rows} replicates in float32. A further
  $10^{-3}$ is allowed for rounding, and {bias} for EvolutionStrategies, which is biased. The gradient is measured per
  unit of its parameter: one scale for a location, a factor of e for a positive parameter, 1 for a logit.
- **–** refused: an error says what the estimator needs, and what to do. The [reasons](#reasons-for-refusals) are below.
- **∞** not finite: the gradient has a NaN or an infinity. This happens where float32 cannot hold 1/scale².

Any other result, such as a finite number that is wrong, fails a test. One case is not tested: a location that is
$10^6$ scales or more away from 0. There float32 rounds the samples themselves by more than a tenth of the scale, so
use float64.

`python -m laws` in `tests/` writes this page. The data is in `laws.json` in the folder `docs`.
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
        parts.append(f":::{{dropdown}} The cells of {title} as words\n\n{_table(table, laws)}\n:::\n")
    parts.append(f"{SUBCLASSES}\n:::{{dropdown}} The methods of each class\n")
    parts.append("| | " + " | ".join(f"`{method}`" for method in METHODS) + " |\n|---" + "|---" * len(METHODS) + "|")
    parts[-1] += "".join(
        f"\n| {law.name} | " + " | ".join("–" if has(law.kind, m) else "" for m in METHODS) + " |" for law in TORCH
    )
    parts.append(f":::\n{MISSING}")
    parts.append("\n".join(f"- `{name}`: {reason}." for name, reason in sorted(LEFT_OUT.items())) + f"\n{REASONS}")
    parts.append("\n".join(f"- {reason}" for reason in _reasons(table)) + "\n")
    return "\n".join(parts)


SUBCLASSES = """
## Subclasses

A subclass may override one method and inherit the others. Its samples and its log-probabilities may then belong to
two different distributions. For each class in the table, a subclass that overrides only one method was tried in the
five regimes, with the six estimators. All of them refuse it (**–**). An empty cell is a method that the class does
not have.

A subclass that defines both `sample` and `log_prob` is accepted. If it defines `rsample`, it also needs
`has_rsample = True`.
"""

MISSING = """
## Distributions of Pyro that are not tested
"""

REASONS = """
## Reasons for refusals

The number in brackets says how often the message occurs in the sweep, and n stands for a number. Tensors in a message
are left out.
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
    names = "|".join(sorted({law.kind.__name__ for law in (*TORCH, *PYRO)}, key=len, reverse=True))
    for row in table.values():
        for name, verdicts in row.items():
            for verdict in verdicts:
                if verdict.kind == "refused":
                    reason = template(verdict.says)
                    reason = re.sub(rf"^({name}|ScoreFunction|Pathwise)\b", "*estimator*", reason)
                    reason = re.sub(rf"\b(got|(parameters|score|sample) of) ({names})\b", r"\1 *distribution*", reason)
                    reason = re.sub(r"tensor\(\[.*", "…", reason)
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
