"""`Monitor` tells what `compare` measures and what was worked out by hand, and leaves the training as it was.

Seeds are fixed. A bias is real from z = 4 on: a false alarm once in 10 000 monitors.
"""

import copy
import importlib.util
import math
import pickle
import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Distribution,
    Independent,
    LogNormal,
    Normal,
    OneHotCategorical,
    TransformedDistribution,
)

import sampleprop as sp
from sampleprop.diagnostics import Monitor
from sampleprop.diagnostics.monitoring.running import Average, Drift

ALWAYS = ["bias", "bias along", "gradient variance", "signal to noise", "zero rows"]


def bits(batch: int = 6, size: int = 4) -> Distribution:
    logits = torch.linspace(-1, 1, batch * size, dtype=torch.float64).reshape(batch, size)
    return Independent(Bernoulli(logits=logits.requires_grad_()), 1)


def smooth(x: Tensor) -> Tensor:
    return (x.sum(-1) - 1.3).square() + x[..., 0] * x[..., -1] - x[..., -1]


def cubic(x: Tensor) -> Tensor:
    return smooth(x) + (x.sum(-1) - 2.2) ** 3


def steep(x: Tensor) -> Tensor:
    return (x - 0.3).square() * (1 + torch.arange(x.shape[-1]) / 10)


def watched(f: Callable[[Tensor], Tensor], dist: Distribution, estimator: Any, probes: int, **settings: Any) -> Monitor:
    monitor = Monitor(bias_every=1, decay=0.99, **settings)
    for _ in range(probes):
        monitor.probe(f, dist, estimator)
    return monitor


class TooLong(sp.ScoreFunction):
    """The gradient is half again too long."""

    def estimate(self, *args: Any, **kwargs: Any) -> Tensor:
        value = super().estimate(*args, **kwargs)
        return value + 0.5 * (value - value.detach())


class Broken(sp.ScoreFunction):
    """The gradient is not finite."""

    def estimate(self, *args: Any, **kwargs: Any) -> Tensor:
        value = super().estimate(*args, **kwargs)
        return value + math.inf * (value - value.detach())


def test_variance_signal_and_zeros_are_those_worked_out_by_hand() -> None:
    # One fair bit, f = 3b, one sample: the gradient is 3b (b - 1/2), 3/2 or 0, in each of 100 rows; mean 3/4, variance
    # 9/16, half of them zero. 200 probes of 2 × 100 rows: the standard error of each is 0.003.
    fair = Bernoulli(logits=torch.zeros(100, dtype=torch.float64, requires_grad=True))
    found = watched(lambda b: 3 * b, fair, sp.ScoreFunction(1), 200).averages()
    assert found["gradient variance"] == pytest.approx(9 / 16, abs=0.02)
    assert found["signal to noise"] == pytest.approx(1.0, abs=0.03)
    assert found["zero rows"] == pytest.approx(0.5, abs=0.02)
    assert abs(found["bias along"]) < 0.02
    assert found["bias z"] < 4
    exact = watched(lambda b: 3 * b, fair, sp.Enumerate(), 3).averages()
    assert exact["gradient variance"] == exact["zero rows"] == exact["bias"] == 0
    assert "signal to noise" not in exact  # infinite


def test_a_bias_is_seen_and_its_size_is_right() -> None:
    found = watched(smooth, bits(64), TooLong(8), 150).averages()
    assert found["bias z"] > 4
    assert found["bias along"] == pytest.approx(0.5, abs=0.1)
    assert found["bias"] == pytest.approx(0.5, abs=0.1)
    assert found["bias visible"] < 0.5
    right = watched(smooth, bits(64), sp.ScoreFunction(8), 150).averages()
    assert right["bias z"] < 4
    assert right["bias"] < 0.1


def test_more_samples_of_the_reference_see_smaller_biases() -> None:
    few, many = (
        watched(cubic, bits(), sp.StraightThrough(), 100, reference=reference).averages()
        for reference in (None, sp.ScoreFunction(64))
    )
    assert many["bias visible"] < 0.8 * few["bias visible"]
    assert few["bias z"] < 4 < many["bias z"]


def test_the_relaxation_gap_is_that_of_the_values() -> None:
    # f = b² on a fair bit: 1/2 for true samples, less for relaxed ones. Exact by enumeration: 2 states.
    fair = Bernoulli(logits=torch.zeros(50, dtype=torch.float64, requires_grad=True))
    found = watched(torch.square, fair, sp.GumbelSoftmax(temperature=1.0), 100).averages()
    # At temperature 1 the relaxed bit is uniform: E[u²] = 1/3. 10 000 values, standard deviation 0.3.
    assert found["relaxation gap"] == pytest.approx(1 / 3 - 1 / 2, abs=0.015)
    assert "relaxation gap" not in watched(torch.square, fair, sp.ScoreFunction(2), 2).averages()


def test_the_statistic_is_calm_under_no_bias_and_awake_under_one() -> None:
    """Of 2 000 unbiased series at most one has |z| above 4 (2e-5 each, were they normal); with a mean of one, all
    but few."""
    source = random.Random(0)
    alarms = seen = 0
    for _ in range(2000):
        calm, awake = Drift(Average()), Drift(Average())
        for i in range(30):
            scale = 0.95**i  # gradients shrink while a model trains
            noise = scale * source.gauss(0, 1) * (1 + source.gauss(0, 1))  # a product, with its tails
            calm.add(noise, 0.9)
            awake.add(noise + 2 * scale, 0.9)
        alarms += abs(calm.z) > 4
        seen += awake.z > 4
    assert alarms <= 1
    assert seen > 1500


def test_the_statistic_does_not_depend_on_the_unit_of_f() -> None:
    source = random.Random(1)
    one, thousand = Drift(Average()), Drift(Average())
    for _ in range(20):
        x = source.gauss(1, 1)
        one.add(x, 0.9)
        thousand.add(1000 * x, 0.9)
    assert thousand.z == pytest.approx(one.z)
    assert thousand.visible == pytest.approx(1000 * one.visible)


def test_the_first_call_probes_and_then_every_so_many() -> None:
    monitor, dist = Monitor(every=3, bias_every=1), bits()
    told = []
    for _ in range(7):
        monitor.expect(smooth, dist, sp.ScoreFunction(2))
        told.append(bool(monitor.metrics()))
    assert told == [True, False, False, True, False, False, True]
    assert monitor.probes == 3
    assert monitor.averages()
    with torch.no_grad():
        assert monitor.expect(smooth, dist, sp.ScoreFunction(2)).shape == (6,)
    assert monitor.calls == 7
    monitor.reset()
    assert monitor.averages() == {}


def test_the_reference_is_asked_now_and_then_only() -> None:
    calls = []

    def f(x: Tensor) -> Tensor:
        calls.append(len(x))
        return smooth(x)

    monitor, dist = Monitor(bias_every=2, reference=sp.ScoreFunction(5)), bits()
    for _ in range(3):
        monitor.probe(f, dist, sp.ScoreFunction(3))
    assert calls == [3, 3, 5, 5, 3, 3, 3, 3, 5, 5]  # as many points in a call as the training has


def test_the_keys_of_each_kind() -> None:
    monitor = Monitor(name="z", every=1, bias_every=1)
    monitor.expect(smooth, bits(), sp.GumbelSoftmax())
    assert set(monitor.metrics()) <= {f"z/{name}" for name in [*ALWAYS, "relaxation gap"]}
    assert all(type(number) is float for number in monitor.averages().values())
    for _ in range(10):
        monitor.expect(smooth, bits(), sp.GumbelSoftmax())
    assert {"z/bias z", "z/relaxation gap"} <= set(monitor.metrics())
    assert "11 probes" in repr(monitor)


def trained(monitor: Monitor | None, estimator: sp.Estimator) -> tuple[list[float], list[Tensor], Tensor]:
    """A small training with dropout and a learned baseline: losses, all parameters, and the random state after it."""
    torch.manual_seed(1)
    encoder, decoder = nn.Linear(5, 4), nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 1))
    x = torch.randn(7, 5)
    parameters = [*encoder.parameters(), *decoder.parameters(), *estimator.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        q = Independent(Bernoulli(logits=encoder(x)), 1)
        expect = sp.expect if monitor is None else monitor.expect
        loss = expect(lambda z: decoder(z).squeeze(-1).square(), q, estimator).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [p.detach().clone() for p in parameters], torch.get_rng_state()


@pytest.mark.parametrize(
    "make",
    [
        lambda: sp.ScoreFunction(2),
        lambda: sp.ScoreFunction(1, baseline=sp.MovingAverage()),
        lambda: sp.REBAR(),
        lambda: sp.GumbelSoftmax(),
    ],
)
def test_training_is_the_same_to_the_last_bit(make: Callable[[], sp.Estimator]) -> None:
    plain = trained(None, make().train())
    monitor, estimator = Monitor(every=2, bias_every=1), make().train()
    watched = trained(monitor, estimator)
    assert monitor.probes == 3
    assert watched[0] == plain[0]
    assert all(torch.equal(a, b) for a, b in zip(watched[1], plain[1], strict=True))
    assert torch.equal(watched[2], plain[2])
    assert all(module.training for module in estimator.modules())


def test_a_baseline_with_running_averages_does_not_see_the_probes() -> None:
    network = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Linear(3, 1), nn.Flatten(0))
    estimator = sp.ScoreFunction(1, baseline=sp.LearnedBaseline(network)).train()
    dist = Independent(Bernoulli(logits=torch.zeros(6, 4, requires_grad=True)), 1)
    before = copy.deepcopy(network.state_dict())
    monitor = Monitor()
    monitor.probe(smooth, dist, estimator, context=torch.randn(6, 5))
    assert monitor.probes == 1
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_modes_are_given_back_one_by_one_also_after_an_error() -> None:
    estimator = sp.ScoreFunction(1, baseline=sp.LearnedBaseline()).train()
    estimator.baseline.eval()
    before = {name: module.training for name, module in estimator.named_modules()}
    assert len(set(before.values())) == 2

    def failing(x: Tensor) -> Tensor:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        Monitor().probe(failing, bits(), estimator)
    assert {name: module.training for name, module in estimator.named_modules()} == before


@pytest.mark.parametrize(
    ("dist", "estimator"),
    [
        (Independent(Normal(torch.zeros(4, 3, requires_grad=True), 1.0), 1), sp.Pathwise(2)),
        (Normal(torch.zeros(4, requires_grad=True), torch.ones(4, requires_grad=True)), sp.Pathwise()),
        (Independent(Normal(torch.zeros(4, 3, requires_grad=True), 1.0), 1), sp.ImportanceWeighted(4)),
        (Independent(Normal(torch.zeros(4, 3, requires_grad=True), 1.0), 1), sp.StickingTheLanding(2)),
        (Independent(Bernoulli(logits=torch.zeros(3)), 1), sp.VIMCO(3)),
        (OneHotCategorical(logits=torch.tensor([0.0, 1.0, -math.inf], requires_grad=True)), sp.ScoreFunction(2)),
        (Independent(Bernoulli(logits=torch.zeros(2, 3, 14, requires_grad=True)), 1), sp.DisARM()),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_every_distribution_and_objective(dist: Distribution, estimator: sp.Estimator) -> None:
    monitor = Monitor(every=1, bias_every=1)
    event = len(dist.event_shape)
    for _ in range(10):
        monitor.expect(lambda x: -steep(x).sum(list(range(-event, 0))) if event else -steep(x), dist, estimator)
    assert monitor.averages()["bias z"] < 4
    assert monitor.averages()["gradient variance"] > 0


def test_saved_loaded_pickled_and_copied() -> None:
    monitor = watched(smooth, bits(), sp.GumbelSoftmax(), 12)
    monitor.calls = 5
    other = Monitor(decay=0.99, bias_every=1)
    other.load_state_dict(pickle.loads(pickle.dumps(monitor.state_dict())))
    for twin in (other, pickle.loads(pickle.dumps(monitor)), copy.deepcopy(monitor)):
        assert twin.calls == 5
        assert twin.averages() == monitor.averages()
        continued = copy.deepcopy(monitor)
        for each in (twin, continued):
            each.probe(smooth, bits(), sp.GumbelSoftmax())
        assert twin.averages() == continued.averages()
        assert twin.averages() != monitor.averages()


def test_a_probe_that_is_not_finite_is_left_out() -> None:
    monitor = Monitor(every=1)
    monitor.expect(smooth, bits(), Broken(2))
    assert (monitor.skipped, monitor.probes, monitor.metrics()) == (1, 0, {})

    def rarely(x: Tensor) -> Tensor:  # not where training looks
        return smooth(x) if len(x) == 2 else smooth(x).log()

    monitor.expect(rarely, bits(), sp.ScoreFunction(2))
    assert monitor.skipped == 2


def test_in_inference_mode_a_probe_can_be_asked_for() -> None:
    monitor, dist = Monitor(), bits()
    with torch.inference_mode():
        monitor.probe(smooth, dist, sp.ScoreFunction(2))
    assert monitor.metrics()["gradient variance"] > 0


def test_a_distribution_that_cannot_be_copied() -> None:
    """LogNormal as the normal distribution whose samples f takes to the power of e, with the same noise."""
    numbers = []
    for kind in (LogNormal, Normal):
        loc = torch.linspace(-0.5, 0.5, 6).reshape(2, 3).requires_grad_()
        monitor = Monitor(every=1, bias_every=1)
        for _ in range(12):
            dist = Independent(kind(loc, torch.ones(2, 3)), 1)
            monitor.expect(lambda x, kind=kind: (x if kind is LogNormal else x.exp()).sum(-1), dist, sp.Pathwise())
        numbers.append(monitor.averages())
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-4)
    assert numbers[0]["zero rows"] == 0


def test_compiled_steps_are_refused() -> None:
    monitor, dist = Monitor(), bits()
    step = torch.compile(lambda: monitor.expect(smooth, dist, sp.ScoreFunction(2)), fullgraph=True, backend="eager")
    with pytest.raises(torch._dynamo.exc.Unsupported, match="Monitor needs eager code"):
        step()
    with pytest.raises(RuntimeError, match="Monitor needs eager code"):
        torch.func.vmap(lambda x: monitor.expect(smooth, dist, sp.ScoreFunction(2)) + x, randomness="different")(
            torch.zeros(2, 6)
        )


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Monitor(every=0), ValueError, "every to be a whole number"),
        (lambda: Monitor(bias_every=1.5), ValueError, "bias_every to be a whole number"),
        (lambda: Monitor(decay=1.0), ValueError, r"inside \(0, 1\)"),
        (lambda: Monitor(reference=sp.GumbelSoftmax()), ValueError, "unbiased reference"),
        (lambda: Monitor(reference=sp.ScoreFunction), TypeError, "the class ScoreFunction"),
        (lambda: Monitor().expect(smooth, bits(), None), TypeError, "got None"),
        (lambda: Monitor().expect(smooth, bits(), sp.Pathwise()), TypeError, "Pathwise needs"),
        (lambda: Monitor(reference=sp.Pathwise()).probe(smooth, bits(), sp.DisARM()), TypeError, "Pathwise needs"),
        (lambda: Monitor(reference=sp.VIMCO()).probe(smooth, bits(), sp.DisARM()), TypeError, "objective mean"),
        (
            lambda: Monitor().probe(smooth, TransformedDistribution(Normal(torch.zeros(3), 1.0), []), sp.Pathwise()),
            TypeError,
            "tensors in it that require a gradient",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_an_f_bound_to_one_number_of_points_is_told_what_to_do() -> None:
    with pytest.raises(RuntimeError) as caught:
        Monitor().probe(lambda x: smooth(x.reshape(2, 6, 4)), bits(), sp.ScoreFunction(2))
    assert any("x.shape[0]" in note for note in caught.value.__notes__)


def test_lightning_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from sampleprop import lightning

    monkeypatch.setattr(lightning, "Callback", None)
    with pytest.raises(ImportError, match="sampleprop\\[lightning\\]"):
        lightning.LogMonitor(Monitor())


@pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="Lightning is not installed")
@pytest.mark.filterwarnings("ignore")
def test_lightning_logs_and_keeps_the_monitor(tmp_path: Any) -> None:
    import lightning.pytorch as pl

    from sampleprop.lightning import LogMonitor

    class Model(pl.LightningModule):
        def __init__(self, monitor: Monitor) -> None:
            super().__init__()
            self.encoder, self.monitor, self.estimator = nn.Linear(5, 4), monitor, sp.ScoreFunction(2)
            self.logged: list[dict[str, float]] = []

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            q = Independent(Bernoulli(logits=self.encoder(batch[0])), 1)
            return self.monitor.expect(smooth, q, self.estimator).mean()

        def log_dict(self, metrics: dict[str, float], *args: Any, **kwargs: Any) -> None:
            self.logged.append(dict(metrics))
            super().log_dict(metrics, *args, **kwargs)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(40, 5)), batch_size=4)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    monitor = Monitor(every=4, bias_every=1, name="z")
    model = Model(monitor)
    trainer = pl.Trainer(max_epochs=1, callbacks=[LogMonitor(monitor)], default_root_dir=tmp_path, **quiet)
    trainer.fit(model, data)
    assert len(model.logged) == monitor.probes == 3
    assert "z/gradient variance" in trainer.callback_metrics
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    again = Monitor(every=4, bias_every=1, name="z")
    more = pl.Trainer(max_epochs=2, callbacks=[LogMonitor(again)], default_root_dir=tmp_path, **quiet)
    more.fit(Model(again), data, ckpt_path=tmp_path / "kept.ckpt")
    assert (again.calls, again.probes) == (20, 5)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_forgotten_parameter_of_the_estimator_is_told_once(
    given: bool, training: bool, recwarn: pytest.WarningsRecorder
) -> None:
    warnings.simplefilter("always")
    logits = torch.zeros(3, requires_grad=True)
    estimator = sp.REBAR().train(training)
    optimizer = torch.optim.Adam([logits, *(estimator.parameters() if given else ())], lr=0.01)
    monitor = sp.Monitor(every=5)
    for _ in range(45):
        q = Independent(Bernoulli(logits=logits), 1)
        optimizer.zero_grad()
        monitor.expect(lambda x: (x - 0.4).square().sum(-1), q, estimator).backward()
        optimizer.step()
    told = [str(warning.message) for warning in recwarn]
    assert len(told) == int(training and not given)
    assert all("learns eta, log_temperature, which did not change in 20 calls" in text for text in told)
