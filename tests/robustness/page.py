"""The documentation's page: the matrix as tables, from the verdicts of a run."""

from __future__ import annotations

import re
from pathlib import Path

from robustness import costs, functions, logits, precision, sizes, transforms
from robustness.matrix import CONDITIONS, Condition, Verdict
from robustness.subject import Subject

PAGE = Path(__file__).parents[2] / "docs" / "robustness.md"
GROUPS = (logits, precision, sizes, costs, functions, transforms)
Table = dict[tuple[str, str], Verdict]  # by estimator and condition

HEAD = """# Robustness

This page shows what each estimator does under conditions that have caused wrong gradients without an error. Each row
is an estimator in its default configuration, with the first kind of variable that it accepts. Estimators that accept
structures have a second row with one of these: subsets, rankings, chains, trees or matchings. Each column is a
condition. A cell is a link to the message of a refusal, or to the section that says how the result was compared.

```{cells}
```

- **right**: the result was compared with an exact value, or with an identity that a wrong result would violate. The
  sections below say which.
- **refused**: an error says what the estimator needs, and what to do.
- **n/a**: the condition does not apply to this estimator, for the reason that is given.
- **skipped**: the condition needs a machine that was not available.

Any other result fails a test. `python -m robustness` in `tests/` writes this page, and the tests in `tests/robustness/`
run each cell and compare it with the page. In the messages, n stands for a number.
"""


def template(verdict: Verdict, subject: str) -> str:
    """What a verdict says, without the estimator's name and with n for every number."""
    says = re.sub(rf"\b{subject}\b(?!\((?!allow_))", "*estimator*", verdict.says)
    says = re.sub(r"(\[\d*(, \d+)*\])|(?<![\w±])-?\d+(\.\d+)?\b(?!\))", lambda found: "[n]" if found[1] else "n", says)
    return " ".join(says.replace("|", "\\|").split())


def render(table: Table, subjects: list[Subject]) -> str:
    """The page."""
    parts = [HEAD]
    for group in GROUPS:
        title, _, subtitle = (group.__doc__ or "").partition(": ")
        conditions = [one for one in CONDITIONS if one.group == title]
        parts.append(f"## {title}: {subtitle}\n")
        notes: list[str] = []
        parts.append(":::{dropdown} The cells as words\n")
        for start in range(0, len(conditions), 6):
            parts.append(_table(conditions[start : start + 6], table, subjects, notes))
        parts.append(":::\n")
        parts.append("\n".join(f"- *{one.name}.* {one.established}" for one in conditions) + "\n")
        if notes:
            parts.append("\n".join(f"{number}. {note}" for number, note in enumerate(notes, 1)) + "\n")
    return "\n".join(parts)


def _table(conditions: list[Condition], table: Table, subjects: list[Subject], notes: list[str]) -> str:
    lines = ["| | " + " | ".join(one.name for one in conditions) + " |", "|---" * (len(conditions) + 1) + "|"]
    for subject in subjects:
        cells = [_cell(table[str(subject), one.name], subject.name, notes) for one in conditions]
        lines.append(f"| {subject} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(verdict: Verdict, subject: str, notes: list[str]) -> str:
    if not verdict.says:
        return verdict.kind
    note = template(verdict, subject)
    if note not in notes:
        notes.append(note)
    return f"{verdict.kind} ({notes.index(note) + 1})"


def documented() -> dict[tuple[str, str], tuple[str, str]]:
    """What the page says of each cell: the kind, and the words it leads to."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        notes = dict(re.findall(r"^(\d+)\. (.*)$", section, re.MULTILINE))
        for block in re.findall(r"^\| \| .*\n(?:\|.*\n)+", section, re.MULTILINE):
            header, _, *rows = (re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines())
            for name, *cells in rows:
                for condition, cell in zip(header[1:], cells, strict=True):
                    kind, _, number = cell.strip().partition(" (")
                    found[name.strip(), condition.strip()] = kind, notes.get(number.rstrip(")"), "")
    return found
