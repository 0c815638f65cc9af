"""Which bars of the project hold in a run."""

from cases import CASES
from report import SLOWER, Row, geometric_mean

# The most that a step on toy-1 may take of the other checkout's, with the default number of samples.
OF_BEFORE = {"ScoreFunction(2)": 0.94, "Pathwise": 0.97, "DisARM": 0.97, "GumbelSoftmax": 0.97}


def report(rows: list[Row]) -> str:
    lines = ["### Bars\n"]
    for what, holds, found in _bars(rows):
        lines.append(f"- {'holds' if holds else 'MISSED'}: {what}. {found}")
    return "\n".join(lines)


def _bars(rows: list[Row]) -> list[tuple[str, bool, str]]:
    toys = [r for r in rows if r["workload"] in ("toy-1", "toy-1000")]
    vae = [r for r in rows if r["workload"] == "vae"]
    found = []
    if toys:
        mean = geometric_mean(_median(r, "naive") for r in toys)
        found.append(("toys: geometric mean at most 0.9 of naive", mean <= 0.9, f"{mean:.2f}"))
        found.append(_none_above("toys", toys, "tight", 1.15))
        found.append(_none_above("toys", toys, "tight and object", 1.15))
    if vae:
        found.append(_none_above("VAE step", vae, "naive", 1.02))
    for name, limit in (("REBAR(coupled)", 0.6), ("RELAX", 0.7)):
        found += [_none_above(f"VAE step, {name}", [r], "naive", limit) for r in vae if r["estimator"] == name]
    chains = [r for r in rows if r["workload"] == "chain" and "50 " in r["estimator"]]
    if chains:
        found.append(_none_above("chain of 50", chains, "naive", 1.2))
    chains = [r for r in rows if r["workload"] == "chain, compiled" and r["estimator"].startswith("bits")]
    if chains:
        found.append(_none_above("compiled chain of 50", chains, "eager", 0.2))
    compiled = [r for r in rows if r["workload"].endswith("compiled")]
    for yardstick in ("naive", "tight"):
        taken = [r for r in compiled if yardstick in r["ratios"]]
        if taken:
            found.append(_none_above("compiled", taken, yardstick, 1.03))
    memory = [r for r in rows if r["workload"] == "memory"]
    for yardstick in ("naive", "tight"):
        if memory:
            found.append(_none_above("peak memory at 4,096 samples", memory, yardstick, 1.1))
    for r in rows:
        if r["workload"] == "import":
            found.append(("import beyond torch's: under 50 ms", r["ours"] < 50, f"{r['ours']:.0f} ms"))
    return found + _bars_against([r for r in rows if "before" in r["ratios"]])


def _bars_against(rows: list[Row]) -> list[tuple[str, bool, str]]:
    """Rows that have a ratio to the other checkout."""
    found = []
    for workload in dict.fromkeys(r["workload"] for r in rows):
        mine = [r for r in rows if r["workload"] == workload]
        mean = geometric_mean(_median(r, "before") for r in mine)
        found.append((f"{workload}: geometric mean at most 1.00 of before", mean <= 1, f"{mean:.3f}"))
        found.append(_none_above(workload, mine, "before", SLOWER))
    for r in rows:
        name, workload = r["estimator"], r["workload"]
        if workload == "toy-1" and name in OF_BEFORE and r["samples"] == CASES[name].samples:
            found.append(_none_above(f"toy-1, {name}", [r], "before", OF_BEFORE[name]))
        if workload == "toy-1, compiled" and name == "ScoreFunction(2)":
            found.append(_none_above(f"{workload} {name}", [r], "tight", 1.09))
    return found


def _none_above(where: str, rows: list[Row], yardstick: str, limit: float) -> tuple[str, bool, str]:
    above = sorted((r for r in rows if _median(r, yardstick) > limit), key=lambda r: -_median(r, yardstick))
    worst = max(rows, key=lambda r: _median(r, yardstick))
    named = ", ".join(f"{r['estimator']} ({r['samples']}) {_median(r, yardstick):.2f}" for r in above[:8])
    text = f"{len(above)} of {len(rows)} above: {named}" if above else f"worst {_median(worst, yardstick):.2f}"
    return f"{where}: none above {limit} of {yardstick}", not above, text


def _median(row: Row, yardstick: str) -> float:
    return float(row["ratios"][yardstick][1])
