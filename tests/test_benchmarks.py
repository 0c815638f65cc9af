"""The yardsticks of the benchmarks are the estimators that they stand for, and the runner runs.

Gradients of both yardsticks are compared with the library's, and with exact ones where there are such, by z-tests of
the mean and of the mean square in float64. The false-alarm rate of all of them together is 1e-3.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import sampleprop as sp
from sampleprop.programs import forced

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import advice  # noqa: E402
import against  # noqa: E402
import bars  # noqa: E402
import belief_network  # noqa: E402
import chain  # noqa: E402
import layers  # noqa: E402
import report  # noqa: E402
import run  # noqa: E402
import scaling  # noqa: E402
from cases import CASES, KINDS, estimates  # noqa: E402
from workloads import toy  # noqa: E402

pytestmark = pytest.mark.slow

REPLICATES = 6_000
PARAMETERS = {
    "bits": torch.tensor([0.4, -0.9, 1.3], dtype=torch.float64),
    "one-hots": torch.tensor([[0.4, -0.9, 0.2], [1.0, 0.3, -0.5]], dtype=torch.float64),
    "outcomes": torch.tensor([0.7, -0.6, 0.1, 0.5, -0.2], dtype=torch.float64),
    "reals": torch.tensor([0.4, -0.9], dtype=torch.float64),
    "counts": torch.tensor([0.3, 0.9], dtype=torch.float64),
}
NAMED = [(name, kind) for name, case in CASES.items() for kind in case.kinds]
TESTS = 2 * 3 * len(NAMED) * 8  # yardsticks, statistics, and at most eight numbers each
COSTLIER = {"REBAR(coupled)": "naive mean square"}  # nobody couples by hand: the naive yardstick evaluates f once more
LIMIT = statistics.NormalDist().inv_cdf(1 - 1e-3 / TESTS / 2)


def cost(x: Tensor) -> Tensor:
    """Smooth, not separable and not quadratic."""
    flat = x.flatten(2)
    weights = torch.linspace(-1.1, 1.4, flat.shape[-1], dtype=x.dtype)
    return 0.7 + (flat * weights).sum(-1).sin() + 0.3 * (flat - 0.45).square().sum(-1)


def replicates(estimate, kind: str) -> tuple[Tensor, Tensor]:
    """Independent estimates: values, [replicates], and gradients, [replicates, parameters]."""
    parameter = PARAMETERS[kind].expand(REPLICATES, *PARAMETERS[kind].shape).clone().requires_grad_()
    value = estimate(parameter)
    value.sum().backward()
    return value.detach(), parameter.grad.flatten(1)


def tilted(estimator):
    """The estimator, with coefficients, critics and networks that are not zero."""
    for name in ("coefficient", "alpha", "beta"):
        number = getattr(estimator, name, None)
        if isinstance(number, Tensor):
            torch.nn.init.constant_(number, 0.3)
    for module in (getattr(estimator, "quadratic", None), getattr(estimator, "network", None)):
        if module is not None:
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.copy_(torch.linspace(0.3, -0.2, parameter.numel()).reshape(parameter.shape))
    return estimator


def yardsticks(name: str, kind: str):
    """The library, the naive and the tight yardstick: from the parameter to [*batch]."""
    case, kind_of = CASES[name], KINDS[kind]
    size = PARAMETERS[kind].numel()
    estimator, by_hand, tightest = (
        tilted(case.build(case.samples)),
        tilted(case.naive(size)),
        tilted(case.tight(size)),
    )
    return (
        estimator,
        lambda parameter: sp.expect(cost, kind_of.dist(parameter), estimator),
        lambda parameter: by_hand(kind_of.dist(parameter), cost, case.samples),
        lambda parameter: tightest(kind_of.tight, parameter, cost, case.samples),
    )


def agree(x: Tensor, y: Tensor) -> float:
    """The largest |z| of the difference of two means over dimension 0; y may be exact, with one row."""
    error = x.var(0) / len(x) + (y.var(0) / len(y) if len(y) > 1 else 0)
    same = (x.mean(0) - y.mean(0)).abs() < 1e-12  # an exact estimator has no error to divide by
    return torch.where(same, 0.0, (x.mean(0) - y.mean(0)) / error.sqrt()).abs().max().item()


@pytest.mark.parametrize(("name", "kind"), NAMED)
def test_both_yardsticks_have_the_estimators_law(name: str, kind: str) -> None:
    estimator, ours, by_hand, tightest = yardsticks(name, kind)
    value, gradient = replicates(ours, kind)
    _, naive_gradient = replicates(by_hand, kind)
    tight_value, tight_gradient = replicates(tightest, kind)
    exact = gradient
    if estimator.unbiased and estimator.objective == "mean" and kind in ("bits", "one-hots", "outcomes"):
        exact = replicates(lambda p: sp.expect(cost, KINDS[kind].dist(p), sp.Enumerate()), kind)[1][:1]
    found = {
        "naive mean": agree(naive_gradient, exact),
        "tight mean": agree(tight_gradient, exact),
        "naive mean square": agree(naive_gradient.square(), gradient.square()),
        "tight mean square": agree(tight_gradient.square(), gradient.square()),
        "tight value": agree(tight_value[:, None], value[:, None]),
    }
    found.pop(COSTLIER.get(name, ""), None)
    assert max(found.values()) < LIMIT, found


FLAT = (*layers.SLOWEST, "RELAX")


@pytest.mark.parametrize("name", FLAT)
def test_the_flat_functions_have_the_estimators_law(name: str) -> None:
    """Each layer of `layers.py`, on one variable."""
    workload = toy(layers.named(name)[0].kinds[0], 1)
    built = layers.layers(name, workload)
    phi = workload.parameter().detach().double().expand(REPLICATES, *workload.parameter().shape[1:])
    found = {}
    for layer in ("object", "checks", "path", "once", "recognition", "library"):
        parameter = phi.clone().requires_grad_()
        value = built[layer](parameter)
        value.sum().backward()
        found[layer] = value.detach()[:, None], parameter.grad
    limit = statistics.NormalDist().inv_cdf(1 - 1e-3 / (5 * (1 + 2 * 10) * len(FLAT)) / 2)
    value, gradient = found.pop("library")
    for layer, (theirs, by_parameter) in found.items():
        assert agree(theirs, value) < limit, layer
        assert agree(by_parameter, gradient) < limit, layer
        assert agree(by_parameter.square(), gradient.square()) < limit, layer


def own_gradients(estimator, estimate, kind: str, repeats: int) -> Tensor:
    """What the estimator's own parameters learn by, repeatedly, per replicate: [repeats, numbers]."""
    own = [p for p in vars(estimator).values() if isinstance(p, Tensor) and p.requires_grad]
    for module in (getattr(estimator, "quadratic", None), getattr(estimator, "network", None), estimator):
        own += list(module.parameters()) if isinstance(module, torch.nn.Module) else []
    own = list({id(p): p for p in own}.values())
    found = []
    for _ in range(repeats):
        for parameter in own:
            parameter.grad = None
        parameter = PARAMETERS[kind].expand(3000, *PARAMETERS[kind].shape).clone().requires_grad_()
        estimate(parameter).sum().backward()
        found.append(torch.cat([p.grad.flatten().double() for p in own]) / 3000)
    return torch.stack(found)


@pytest.mark.parametrize("name", ["REBAR", "RELAX", "DoubleCV", "RODEO", "LAX"])
def test_both_yardsticks_learn_by_the_same_gradients(name: str) -> None:
    case, kind = CASES[name], CASES[name].kinds[0]
    size = PARAMETERS[kind].numel()
    by_hand, tightest = tilted(case.naive(size)), tilted(case.tight(size))
    dist, family = KINDS[kind]
    slow = own_gradients(by_hand, lambda p: by_hand(dist(p), cost, case.samples), kind, 60)
    fast = own_gradients(tightest, lambda p: tightest(family, p, cost, case.samples), kind, 60)
    assert slow.shape == fast.shape
    assert slow.abs().sum() > 0
    assert (
        agree(slow, fast) < statistics.NormalDist().inv_cdf(1 - 1e-3 / 5 / 100 / 2) + 0.5
    )  # 60 repeats: a little more for t


@pytest.mark.parametrize("kind", ["bits", "one-hots"])
@pytest.mark.parametrize("name", ["REBAR", "REBAR(coupled)"])
def test_the_yardstick_that_compiles_is_the_other_one(name: str, kind: str) -> None:
    case, family, size = CASES[name], KINDS[kind].tight, PARAMETERS[kind].numel()
    assert case.compiled is not None
    found = []
    for yardstick in (case.tight(size), case.compiled(size)):
        estimate = lambda p, yardstick=yardstick: yardstick(family, p, cost, 2)  # noqa: E731
        if found:
            estimate = torch.compile(estimate, fullgraph=True, backend="aot_eager")
        leaf = PARAMETERS[kind].expand(5, *PARAMETERS[kind].shape).clone().requires_grad_()
        torch.manual_seed(0)
        value = estimate(leaf)
        value.mean().backward()
        found.append((value.detach(), leaf.grad, *(number.grad for number in yardstick.parameters())))
    torch.testing.assert_close(*found)


def network_by_hand(kind=belief_network.ByHand):
    """A small belief network, its step by hand, and an image in double precision."""
    torch.manual_seed(0)
    coupled = kind is belief_network.Flat
    network = belief_network.Network(3, 2, lambda pixels: sp.REBAR(None, coupled=coupled, mean_field=True)).double()
    by_hand = kind(network, 3).double()
    return network, by_hand, torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("kind", [belief_network.ByHand, belief_network.Flat])
def test_the_belief_network_by_hand_has_the_exact_gradient(kind) -> None:
    """200 batches of 400 rows; every parameter of the model, against every path."""
    network, by_hand, x = network_by_hand(kind)
    found = []
    for _ in range(200):
        for parameter in network.model():
            parameter.grad = None
        by_hand.backward(x.expand(400, -1))
        found.append(torch.cat([p.grad.flatten() for p in network.model() if p.grad is not None]))
    exact = forced.exact(network.negative_elbo, (x.unsqueeze(0),), {}, network.model()).gradients
    gradients = torch.cat([gradient.flatten() for gradient in exact])
    limit = statistics.NormalDist().inv_cdf(1 - 1e-3 / gradients.numel() / 2) + 0.3  # 200 batches: a little more for t
    assert agree(torch.stack(found), gradients[None]) < limit


@pytest.mark.parametrize("kind", [belief_network.ByHand, belief_network.Flat])
def test_the_belief_network_by_hand_learns_as_the_program_does(kind) -> None:
    """η and the temperatures, by the same gradients; the baselines of the two are different modules."""
    network, by_hand, x = network_by_hand(kind)
    for layer, estimator in zip(by_hand.layers, network.estimators, strict=True):
        layer.baseline = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Flatten(0)).double()
        estimator.baseline = sp.LearnedBaseline(layer.baseline)
    ours = [p for e in network.estimators for p in (e.eta, e.log_temperature)]
    theirs = [p for layer in by_hand.layers for p in (layer.eta, layer.log_temperature)]
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for _ in range(200):
        loss = network.negative_elbo(x.expand(400, -1)).mean()
        found[0].append(torch.stack(torch.autograd.grad(loss, ours)))
        by_hand.backward(x.expand(400, -1))
        found[1].append(torch.stack([p.grad.clone() for p in theirs]))
    limit = statistics.NormalDist().inv_cdf(1 - 1e-3 / 4 / 2) + 0.3
    assert agree(torch.stack(found[0]), torch.stack(found[1])) < limit
    assert torch.stack(found[1]).mean(0).abs().min() > 1e-4


def test_the_belief_network_is_trained_both_ways(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(belief_network, "REPEATS", 20)
    options = ["--data", "digits", "--steps", "2", "--seeds", "3", "--width", "4", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["belief_network.py", *options])
    belief_network.main()
    printed = capsys.readouterr().out
    assert printed.count("| 3 | ") == 2
    assert "MISSED" in printed or "All goals are met" in printed
    monkeypatch.setattr(sys, "argv", ["belief_network.py", *options, "--time", "3"])
    belief_network.main()
    assert "| flat | " in capsys.readouterr().out


def test_the_runner_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    command = ["--workloads", "toy-1", "categorical", "--only", "ScoreFunction(2)", "GumbelSoftmax", "--rounds", "5"]
    written = tmp_path / "run.json"
    done = subprocess.run(
        [
            sys.executable,
            str(BENCHMARKS / "run.py"),
            *command,
            "--seconds",
            "0.1",
            "--against",
            str(BENCHMARKS.parent),
            "--check-bars",
            "--json",
            str(written),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "| GumbelSoftmax | 16 |" in done.stdout
    assert "toys: geometric mean at most 0.92 of naive" in done.stdout
    assert "categorical: geometric mean at most 1.0 of before" in done.stdout
    assert "| toy-1 | 6 | " in done.stdout
    rows = json.loads(written.read_text())["rows"]
    assert {row["workload"] for row in rows} == {"toy-1", "categorical"}
    assert all("before" in row["ratios"] for row in rows)
    assert all(first <= middle <= third for row in rows for first, middle, third in row["ratios"].values())


@pytest.fixture(scope="module")
def before():
    """The package of this very checkout, loaded as that of another one."""
    return against.load(BENCHMARKS.parent)


def test_the_other_checkout_shares_no_module_with_ours(before) -> None:
    assert before.check is not sp.check  # imported late, by a name in a string
    loaded = [module for name, module in sys.modules.items() if name.partition(".")[0] == against.BEFORE]
    assert len(loaded) > 50
    origins = {getattr(value, "__module__", None) or "" for module in loaded for value in vars(module).values()}
    assert against.BEFORE + ".expectation" in origins
    assert not [origin for origin in origins if origin.partition(".")[0] == against.OURS]


@pytest.mark.parametrize("name", CASES)
def test_the_other_checkout_builds_the_same_configuration(before, name: str) -> None:
    case = CASES[name]
    ours, theirs = case.build(case.samples), case.build(case.samples, before)
    assert isinstance(theirs, before.Estimator)
    assert repr(theirs) == repr(ours)


def test_the_other_checkouts_step_is_timed_on_the_same_problem(before) -> None:
    workload = toy("bits", 3)
    found = estimates(CASES["DisARM"], "bits", 2, workload, before)
    gradients = {}
    for key in ("ours", "before"):
        torch.manual_seed(0)
        workload.step(found[key])
        gradients[key] = workload.trained[0].grad
    assert torch.equal(gradients["ours"], gradients["before"])


def test_the_other_checkouts_chains_are_its_own(before, monkeypatch) -> None:
    monkeypatch.setattr(chain, "LENGTHS", (2,))
    earlier = against.load_benchmark(before, BENCHMARKS.parent, "chain")
    assert isinstance(earlier.bits, before.program)
    assert not isinstance(earlier.bits, sp.program)
    rows = list(chain.measured(run.interleaved, run.row, 5, 0.1, earlier))
    assert [set(row["ratios"]) for row in rows] == [{"naive", "before"}] * 2


def test_a_folder_without_the_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--against needs a checkout of the project"):
        against.load(tmp_path)


def test_compiled_chains_are_timed_beside_both_yardsticks(monkeypatch) -> None:
    monkeypatch.setattr(chain, "COMPILED_LENGTH", 2)

    def once(steps, rounds, seconds):
        return {key: [1.0, 2.0, 3.0] for key in steps}

    rows = list(chain.compiled(once, run.row, 3, 1.0, backend="aot_eager"))
    assert [row["estimator"] for row in rows] == ["bits, 2 variables", "reals, 2 variables"]
    assert [set(row["ratios"]) for row in rows] == [{"naive", "eager", "tight"}, {"naive", "eager"}]


def measured(name: str, workload: str, samples: int, **ratios: float):
    """A row of a run in which all rounds were alike."""
    ratios = {"naive": 1.0, "tight": 1.0, "tight and object": 1.0} | ratios
    quartiles = {key: [ratio] * 3 for key, ratio in ratios.items()}
    return {"estimator": name, "workload": workload, "samples": samples, "ratios": quartiles}


def test_rows_slower_than_the_other_checkouts_are_named() -> None:
    rows = [measured("DisARM", "toy-1", 2, before=0.9), measured("DisARM", "toy-1", 16, before=1.1)]
    rows.append(measured("DisARM", "vae", 2, before=1.04))
    text = report.against([*rows, measured("bits, 3 variables", "chain", 1)])
    assert "| toy-1 | 2 | 0.995 | DisARM (16) 1.10 |" in text
    assert "| vae | 1 | 1.040 | none |" in text
    assert "chain" not in text


@pytest.mark.parametrize(
    ("row", "bar"),
    [
        (("DisARM", "vae", 2, {"before": 1.01}), "vae: geometric mean at most 1.0 of before"),
        (("DisARM", "vae", 2, {"before": 1.06}), "vae: none above 1.05 of before"),
        (("ScoreFunction(2)", "toy-1", 2, {"before": 0.95}), "toy-1, ScoreFunction(2): none above 0.94 of before"),
        (("Pathwise", "toy-1", 1, {"before": 0.98}), "toy-1, Pathwise: none above 0.97 of before"),
        (
            ("ScoreFunction(2)", "toy-1, compiled", 2, {"before": 1, "tight": 1.1}),
            "toy-1, compiled ScoreFunction(2): none above 1.09 of tight",
        ),
    ],
)
def test_bars_against_the_other_checkout(row, bar: str) -> None:
    name, workload, samples, ratios = row
    assert f"MISSED: {bar}" in bars.report([measured(name, workload, samples, **ratios)])
    assert f"holds: {bar}" in bars.report([measured(name, workload, samples, before=0.9)])
    assert "before" not in bars.report([measured(name, workload, samples)])


@pytest.mark.parametrize(("eager", "verdict"), [(0.19, "holds"), (0.3, "MISSED")])
def test_the_bar_of_the_compiled_chain(eager: float, verdict: str) -> None:
    row = measured("bits, 50 variables", "chain, compiled", 1, eager=eager)
    assert f"{verdict}: compiled chain of 50: none above 0.2 of eager" in bars.report([row])


@pytest.mark.parametrize("panel", scaling.PANELS)
def test_each_line_of_a_panel_takes_a_step_of_every_kind_of_size(panel: str) -> None:
    sizes, lines = scaling.PANELS[panel]
    for size in sizes[:2]:
        found = scaling.steps(lines, size)
        assert list(found) == ["f alone", *lines]
        for step in found.values():
            step()


def test_a_step_with_too_many_points_is_left_out() -> None:
    assert "LocalExpectation" not in scaling.steps(scaling.PANELS["variables"][1], 10_000)


def test_both_forms_of_each_piece_of_advice_run() -> None:
    for _, slow, fast in advice.pairs(compile_too=False):
        slow()
        fast()
