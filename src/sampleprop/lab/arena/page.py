"""The arena as one HTML file that needs no network and no other file; its script sorts and filters what is there."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from sampleprop.diagnostics.measuring.statistics import rounded
from sampleprop.lab.arena import rule, tables
from sampleprop.lab.arena.problems import PROBLEMS, SUITE
from sampleprop.lab.arena.records import Record
from sampleprop.lab.arena.rule import SIZES, Standing
from sampleprop.lab.arena.tables import Table
from sampleprop.lab.show.panels import BIASED, INK, MUTED, PALE, UNBIASED, logarithmic
from sampleprop.lab.show.plot import undress
from sampleprop.lab.show.style import STYLE
from sampleprop.lab.show.svg import inline

INCHES = 0.21  # for a line of a picture
ALLOWS = {
    "black box": "be called, and nothing else",
    "differentiable": "be differentiated at the outcomes too",
    "relaxed": "be called and differentiated between the outcomes too",
}
MORE = """
form { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: 1rem 0; font-size: .875rem; }
fieldset { border: 1px solid var(--pale); border-radius: 4px; padding: .25rem .75rem .5rem; }
label { margin-right: .75rem; white-space: nowrap; }
thead button { all: unset; cursor: pointer; font-weight: 600; }
thead button:focus-visible { outline: 2px solid var(--unbiased); }
th[aria-sort="ascending"] button::after { content: " ↑"; }
th[aria-sort="descending"] button::after { content: " ↓"; }
td.ratio { background: color-mix(in oklab, var(--page), var(--tint) var(--share)); }
"""
SCRIPT = """
for (const table of document.querySelectorAll("table.order")) {
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const value = (row, i) => {
    const text = row.cells[i].dataset.value ?? row.cells[i].textContent;
    return text === "" || text === "–" ? Infinity : isNaN(text) ? text : Number(text);
  };
  let sorted = heads.findIndex(head => head.dataset.key === "score"), up = true;
  const sort = () => {
    rows.sort((a, b) => {
      const x = value(a, sorted), y = value(b, sorted);
      const order = typeof x === "number" && typeof y === "number" ? x - y || 0 : String(x).localeCompare(String(y));
      return x === y ? 0 : up ? order : -order;
    });
    body.append(...rows);
    heads.forEach((head, i) => head.setAttribute("aria-sort", i !== sorted ? "none" : up ? "ascending" : "descending"));
  };
  heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
    up = i === sorted ? !up : true;
    sorted = i;
    sort();
  }));
  const filter = () => {
    const form = document.forms.filter, allowed = form.allows.value, families = new Set();
    for (const box of form.querySelectorAll("[name=family]")) if (box.checked) families.add(box.value);
    const levels = ["black box", "differentiable", "relaxed"], untrained = form.untrained.checked;
    const least = Number(form.least.value);
    heads.forEach((head, i) => {
      if (!head.dataset.family) return;
      const hidden = !families.has(head.dataset.family);
      head.hidden = hidden;
      for (const row of rows) row.cells[i].hidden = hidden;
    });
    for (const row of rows) {
      const data = JSON.parse(row.dataset.logs), kept = Object.keys(data).filter(name => families.has(FAMILY[name]));
      const mean = j => Math.exp(kept.reduce((sum, name) => sum + data[name][j], 0) / kept.length);
      row.querySelectorAll("[data-mean]").forEach(cell => {
        const found = kept.length ? mean(Number(cell.dataset.mean)) : NaN;
        cell.textContent = kept.length ? found.toPrecision(3) : "–";
        cell.dataset.value = kept.length ? found : "";
      });
      row.querySelector("[data-count]").textContent = kept.length;
      row.hidden = levels.indexOf(row.dataset.needs) > levels.indexOf(allowed) || kept.length < least
        || (!untrained && row.dataset.untrained === "yes");
    }
    sort();
    const whole = kept => kept === form.querySelectorAll("[name=family]").length;
    const mean = row => Number(row.querySelector("[data-mean]").dataset.value);
    const visible = rows.filter(row => !row.hidden).sort((a, b) => mean(a) - mean(b));
    visible.forEach((row, i) => row.cells[0].textContent = i + 1);
    for (const row of rows) {
      const cell = row.querySelector("[data-interval]");
      cell.textContent = whole(families.size) ? cell.dataset.interval : "–";
    }
  };
  document.forms.filter.addEventListener("input", filter);
}
"""


def page(records: Sequence[Record]) -> str:
    """The page of these files."""
    standings = rule.standings(records)
    names = [name for name in PROBLEMS if any(key.problem == name for record in records for key in record.cells)]
    families = list(dict.fromkeys(PROBLEMS[name].family for name in names))
    unbiased = [each for each in standings if each.competitor.group == "unbiased"]
    biased = [each for each in standings if each.competitor.group == "biased"]
    others = [tables.others(records), tables.published(records), tables.sensitivity(records)]
    others += [tables.coverage(records), tables.runs(records)]
    seeds = len({key.seed for record in records for key in record.cells})
    family_of = json.dumps({name: PROBLEMS[name].family for name in names})
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>sampleprop arena</title><style>{STYLE}{MORE}</style></head>",
            "<body><main><h1>Arena of gradient estimators</h1>",
            f'<p class="quiet">Suite {SUITE}: {len(names)} problems, seeds: {seeds}, up to three budgets. Each number '
            "is over that of the score function with its leave-one-out baseline, at the same budget, on the same "
            "problem, with the same seed: below 1 is better.</p>",
            _form(families),
            *_group("unbiased", unbiased, names, tables.order(records)),
            *_group("biased", biased, names, tables.biased(records)),
            *(_plain(table) for table in others if table.rows),
            f"<script>const FAMILY = {family_of};{SCRIPT}</script>",
            "</main></body></html>",
            "",
        ]
    )


def _form(families: Sequence[str]) -> str:
    allows = "".join(
        f'<label><input type="radio" name="allows" value="{value}"{" checked" if value == "relaxed" else ""}> {text}'
        "</label>"
        for value, text in ALLOWS.items()
    )
    boxes = "".join(
        f'<label><input type="checkbox" name="family" value="{name}" checked> {name}</label>' for name in families
    )
    return (
        f'<form name="filter"><fieldset><legend>My f can</legend>{allows}</fieldset>'
        f"<fieldset><legend>Problems</legend>{boxes}</fieldset>"
        '<fieldset><legend>Rows</legend><label><input type="checkbox" name="untrained" checked> untrained too</label>'
        f'<label>on at least <input type="number" name="least" min="1" value="1" style="width: 3rem"> '
        "problems</label></fieldset></form>"
    )


def _group(name: str, standings: Sequence[Standing], problems: Sequence[str], table: Table) -> list[str]:
    if not standings:
        return []
    biased = name == "biased"
    values = [rule.by_error(size) for size in SIZES] if biased else [rule.by_evaluations, rule.by_time]
    scores = (
        [f"error, {size} evaluations" for size in SIZES] if biased else ["variance × evaluations", "variance × time"]
    )
    heads = [
        _head("place", ""),
        _head("estimator", "", css="name"),
        _head(scores[0], "score"),
        _head("90 %", ""),
        _head(scores[1], ""),
        _head("memory", ""),
        _head("problems", ""),
        _head("f must", ""),
        *(_head(problem, "", PROBLEMS[problem].family) for problem in problems),
    ]
    body = "".join(_row(each, problems, values) for each in standings)
    region = f'<div class="scrolled" tabindex="0" role="region" aria-label="{html.escape(table.title)}">'
    return [
        f'<section aria-labelledby="{name}"><h2 id="{name}">{html.escape(table.title)}</h2>',
        f'<p class="quiet">{html.escape(table.note)} Columns of problems show {html.escape(scores[0])} there.</p>',
        f'<figure><div class="scrolled">{inline(_picture(standings, biased), name, f"{table.title}, as in the table")}'
        "</div></figure>",
        f'{region}<table class="order"><thead><tr>{"".join(heads)}</tr></thead><tbody>{body}</tbody></table></div>',
        "</section>",
    ]


def _row(each: Standing, problems: Sequence[str], values: Sequence[rule.Value]) -> str:
    facts = each.competitor.record.facts
    by_problem = [rule.by_problem(each.competitor, value) for value in values]
    logs = {name: [round(math.log(found[name]), 4) for found in by_problem] for name in by_problem[0]}
    means = [math.exp(sum(log[j] for log in logs.values()) / len(logs)) for j in range(len(values))]
    untrained = "yes" if facts["learns"] and not each.competitor.trained else "no"
    needs = {"black box": "be called", "differentiable": "have a slope", "relaxed": "exist between outcomes"}[
        facts["needs"]
    ]
    source = html.escape(facts["source"] or "", quote=True)
    cells = [
        f"<td>{'–' if each.rank is None else each.rank}</td>",
        f'<th scope="row" title="{source}">{html.escape(each.competitor.name)}</th>',
        f'<td data-mean="0" data-value="{means[0]:.6g}">{rounded(means[0], 3)}</td>',
        f'<td data-interval="{tables.interval(each)}">{tables.interval(each)}</td>',
        f'<td data-mean="1" data-value="{means[1]:.6g}">{rounded(means[1], 3)}</td>',
        f"<td>{rounded(each.memory, 2)}</td>",
        f"<td data-count>{each.problems}</td>",
        f"<td>{needs}</td>",
        *(_ratio(by_problem[0], problem) for problem in problems),
    ]
    return (
        f'<tr class="{each.competitor.group}" data-needs="{facts["needs"]}" data-untrained="{untrained}" '
        f"data-logs='{json.dumps(logs)}'>{''.join(cells)}</tr>"
    )


def _ratio(ratios: Mapping[str, float], problem: str) -> str:
    """A cell, tinted by how much better or worse than leave-one-out."""
    if problem not in ratios:
        return "<td></td>"
    ratio = ratios[problem]
    share = min(1.0, abs(math.log10(ratio)) / 2) * 60
    tint = "unbiased" if ratio < 1 else "biased"
    style = f"--tint: var(--{tint}); --share: {share:.0f}%"
    return f'<td class="ratio" style="{style}" data-value="{ratio:.6g}">{rounded(ratio, 2)}</td>'


def _head(text: str, key: str, family: str = "", css: str = "") -> str:
    data = f' data-key="{key}"' if key else ""
    data += f' data-family="{family}"' if family else ""
    data += f' class="{css}"' if css else ""
    return f'<th scope="col"{data}><button type="button">{html.escape(text)}</button></th>'


def _plain(table: Table) -> str:
    heads = "".join(
        f'<th scope="col"{_left(i, table)}>{html.escape(column)}</th>' for i, column in enumerate(table.columns)
    )
    body = "".join(
        "<tr>" + "".join(f"<td{_left(i, table)}>{html.escape(cell)}</td>" for i, cell in enumerate(row)) + "</tr>"
        for row in table.rows
    )
    return (
        f"<section><h2>{html.escape(table.title)}</h2><p class='quiet'>{html.escape(table.note)}</p>"
        f'<div class="scrolled" tabindex="0" role="region" aria-label="{html.escape(table.title)}"><table><thead><tr>'
        f"{heads}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )


def _left(i: int, table: Table) -> str:
    return ' style="text-align: left; white-space: normal"' if i in table.left else ""


def _picture(standings: Sequence[Standing], biased: bool) -> Any:
    """The scores with their intervals; for the biased both sizes, joined by a line."""
    from matplotlib.figure import Figure

    height = 0.9 + INCHES * len(standings)
    shape = Figure(figsize=(11, height), dpi=150, facecolor="white")
    axis = shape.add_axes((0.34, 0.55 / height, 0.64, 1 - 0.75 / height))
    heights = range(len(standings))
    shown = [
        value for each in standings for value in (*each.errors, *each.interval) if biased or value in each.interval
    ]
    logarithmic(axis, [value for value in shown if math.isfinite(value) and value > 0])
    axis.axvline(1, color=MUTED, lw=1, ls="--", zorder=1)
    for y, each in zip(heights, standings, strict=True):
        color = BIASED if biased else UNBIASED
        if biased:
            axis.plot(each.errors, [y, y], color=PALE, lw=1.6, zorder=2)
            axis.plot(each.errors[0], y, "o", color=color, ms=4.5, zorder=3)
            axis.plot(each.errors[1], y, "D", color=color, ms=4, mfc="none", zorder=3)
        else:
            axis.plot(each.interval, [y, y], color=color, lw=1.4, zorder=2)
            axis.plot(each.score, y, "o", color=color, ms=4.5, zorder=3)
    axis.set_yticks(
        list(heights), [each.competitor.name for each in standings], fontsize=8, color=INK, parse_math=False
    )
    axis.set_ylim(len(standings) - 0.4, -0.6)
    undress(axis, "x")
    below = (
        f"mean squared error over that of leave-one-out: dots {SIZES[0]}, diamonds {SIZES[1]} evaluations"
        if biased
        else "variance × evaluations over that of leave-one-out, with 90 % of the resamples"
    )
    axis.set_xlabel(below, loc="left", fontsize=8.5, color=MUTED)
    return shape
