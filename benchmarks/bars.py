"""Which bars of the project hold in a run."""

from cases import CASES
from report import SLOWER, Row, geometric_mean

# The most that a step on toy-1 may take of the other checkout's, with the default number of samples.
OF_BEFORE = {"ScoreFunction(2)": 0.94, "Pathwise": 0.97, "DisARM": 0.97, "GumbelSoftmax": 0.97}
COMMONEST = (
    *("ScoreFunction(1)", "ScoreFunction(2)", "ScoreFunction(4)"),
    *("DisARM", "ARM", "Pathwise", "GumbelSoftmax", "StraightThrough"),
)

EQUAL = 1.005  # at most 1, to two digits


def report(rows: list[Row]) -> str:
    lines = ["### Bars\n"]
    for what, holds, found in _bars(rows):
        lines.append(f"- {'holds' if holds else 'MISSED'}: {what}. {found}")
    return "\n".join(lines)


def _bars(rows: list[Row]) -> list[tuple[str, bool, str]]:
    by = {name: [r for r in rows if r["workload"] == name] for name in {r["workload"] for r in rows}}
    toys, vae, categorical = by.get("toy-1", []) + by.get("toy-1000", []), by.get("vae", []), by.get("categorical", [])
    found = []
    for where, mine, mean in (("toys", toys, 0.92), ("VAE step", vae, 0.94), ("categorical", categorical, 0.8)):
        if mine:
            found.append(_mean_above(where, mine, "naive", mean))
    found += _none_above("toys", toys, "naive", 1.5)
    many = [r for r in by.get("toy-1000", []) if r["samples"] == 128]
    found += _none_above("1,000 variables, 128 samples", many, "tight", 1.2)
    local = [r for r in by.get("toy-1000", []) if r["estimator"] == "LocalExpectation" and r["samples"] == 16]
    found += _none_above("LocalExpectation, 1,000 variables, 16 samples, time", local, "tight", EQUAL)
    found += _none_above("VAE step", vae, "naive", 1.05)
    found += _none_above("VAE step", [r for r in vae if r["estimator"] in COMMONEST], "tight", 1.12)
    found += _none_above("chain of 50", [r for r in by.get("chain", []) if "50 " in r["estimator"]], "naive", 1.2)
    compiled = [r for r in by.get("chain, compiled", []) if r["estimator"].startswith("bits")]
    found += _none_above("compiled chain of 50", compiled, "eager", 0.2)
    for where, limit in (("toy-1", 1.05), ("toy-1000", 1.05), ("vae", 1.02)):
        compiled = by.get(f"{where}, compiled", [])
        found += _none_above(f"{where}, compiled", [r for r in compiled if "naive" in r["ratios"]], "naive", limit)
        rebar = [r for r in compiled if r["estimator"].startswith("REBAR") and "tight" in r["ratios"]]
        found += _none_above(f"{where}, compiled", rebar, "tight", 1.3)
    peaks = by.get("memory", [])
    found += _none_above("peak memory at 4,096 samples", [r for r in peaks if r["samples"] == 4096], "naive", 1.05)
    local = [r for r in peaks if r["estimator"] == "LocalExpectation"]
    found += _none_above("LocalExpectation, 1,000 variables, 16 samples, memory", local, "tight", EQUAL)
    found += [
        ("import beyond torch's: at most 40 ms", r["ours"] <= 40, f"{r['ours']:.0f} ms") for r in by.get("import", [])
    ]
    return found + _bars_against([r for r in rows if "before" in r["ratios"]])


def _bars_against(rows: list[Row]) -> list[tuple[str, bool, str]]:
    """Rows that have a ratio to the other checkout."""
    found = []
    for workload in dict.fromkeys(r["workload"] for r in rows):
        mine = [r for r in rows if r["workload"] == workload]
        found.append(_mean_above(workload, mine, "before", 1.0))
        found += _none_above(workload, mine, "before", SLOWER)
    for r in rows:
        name, workload = r["estimator"], r["workload"]
        if workload == "toy-1" and name in OF_BEFORE and r["samples"] == CASES[name].samples:
            found += _none_above(f"toy-1, {name}", [r], "before", OF_BEFORE[name])
        if workload == "toy-1, compiled" and name == "ScoreFunction(2)":
            found += _none_above(f"{workload} {name}", [r], "tight", 1.09)
    return found


def _mean_above(where: str, rows: list[Row], yardstick: str, limit: float) -> tuple[str, bool, str]:
    mean = geometric_mean(_median(r, yardstick) for r in rows)
    return f"{where}: geometric mean at most {limit} of {yardstick}", mean <= limit, f"{mean:.3f}"


def _none_above(where: str, rows: list[Row], yardstick: str, limit: float) -> list[tuple[str, bool, str]]:
    """One bar; none without rows."""
    if not rows:
        return []
    above = sorted((r for r in rows if _median(r, yardstick) > limit), key=lambda r: -_median(r, yardstick))
    worst = max(rows, key=lambda r: _median(r, yardstick))
    named = ", ".join(f"{r['estimator']} ({r['samples']}) {_median(r, yardstick):.2f}" for r in above[:8])
    text = f"{len(above)} of {len(rows)} above: {named}" if above else f"worst {_median(worst, yardstick):.2f}"
    return [(f"{where}: none above {limit} of {yardstick}", not above, text)]


def _median(row: Row, yardstick: str) -> float:
    return float(row["ratios"][yardstick][1])
