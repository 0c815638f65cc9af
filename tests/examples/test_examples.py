"""The examples: their data, their checkpoints, and each script from the command line in its fast mode."""

import gzip
import itertools
import os
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

import sampleprop as sp

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))  # as Python does for a script: its neighbours are modules

import continuous_vae  # noqa: E402
import data  # noqa: E402
import discrete_vae  # noqa: E402
import gan  # noqa: E402
import training  # noqa: E402

pytestmark = pytest.mark.slow

# --- the data -----------------------------------------------------------------------------------------------------


def _idx(x: Tensor) -> bytes:
    """The IDX file of a uint8 tensor."""
    return bytes([0, 0, 8, x.dim()]) + struct.pack(f">{x.dim()}I", *x.shape) + bytes(x.flatten().tolist())


def _images(count: int, side: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, side, side), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, 10, (count,), generator=generator, dtype=torch.uint8)


def _write(folder: Path, packed: bool) -> dict[str, tuple[Tensor, Tensor]]:
    """A small data set of the published form; its images and labels by the prefix."""
    parts = {"train": _images(5), "t10k": _images(2)}
    for prefix, tensors in parts.items():
        for kind, x in zip(("images-idx3", "labels-idx1"), tensors, strict=True):
            path = folder / f"{prefix}-{kind}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(_idx(x)) if packed else _idx(x))
    return parts


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_folder(name: str, packed: bool, tmp_path: Path) -> None:
    parts = _write(tmp_path, packed)
    found = data.load(name, tmp_path)
    assert found.side == 3
    for part, prefix in ((found.training, "train"), (found.held_out, "t10k")):
        images, labels = parts[prefix]
        torch.testing.assert_close(part.images, images.flatten(1) / 255, rtol=0, atol=0)
        assert part.labels.dtype == torch.int64
        assert part.labels.tolist() == labels.tolist()


def test_idx_refusals(tmp_path: Path) -> None:
    path = tmp_path / "images"
    whole = _idx(_images(4)[0])
    damaged = {
        "magic number.*got 0x00000d03": b"\0\0\x0d\x03" + whole[4:],  # floats
        "magic number.*got 0x89504e47": b"\x89PNG" + whole[4:],
        "magic number.*got 0x$|magic number.*got 0x\\.": b"",
        "16 bytes of head; got 9": whole[:9],
        "52 bytes for shape \\[4, 3, 3\\]; got 51": whole[:-1],
        "52 bytes for shape \\[4, 3, 3\\]; got 53": whole + b"\0",
        "a whole gzip file": gzip.compress(whole)[:-9],
    }
    for message, content in damaged.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            data.read_idx(path)


def test_missing_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, packed=True)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="lacks t10k-labels-idx1-ubyte\\. Do this: put"):
        data.load("mnist", tmp_path)
    with pytest.raises(FileNotFoundError, match="mnist needs a folder"):
        data.load("mnist")
    monkeypatch.setattr(data, "FASHION_MNIST", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="apt install dataset-fashion-mnist"):
        data.load("fashion-mnist")
    with pytest.raises(ValueError, match="got 'letters'"):
        data.load("letters")


def test_mixed_files_are_refused(tmp_path: Path) -> None:
    _write(tmp_path, packed=False)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(_idx(_images(2, side=4)[0]))
    with pytest.raises(ValueError, match="images of one size"):
        data.load("mnist", tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(_idx(_images(3)[0]))
    with pytest.raises(ValueError, match=r"got \[3, 3, 3\].* and \[2\]"):
        data.load("mnist", tmp_path)


def test_digits() -> None:
    found = data.load()
    assert [x.shape for x in (*found.training, *found.held_out)] == [(1500, 64), (1500,), (297, 64), (297,)]
    images = torch.cat([found.training.images, found.held_out.images])
    assert (images.min(), images.max(), found.side) == (0, 1, 8)
    assert sorted(set(found.held_out.labels.tolist())) == list(range(10))
    # A division of the data, not a sample: no image is lost or in both parts.
    from sklearn.datasets import load_digits

    original = torch.tensor(load_digits().data / 16).float()
    assert images.sum(0).tolist() == original.sum(0).tolist()


# --- the training loop --------------------------------------------------------------------------------------------


class Walk:
    """A model that learns from noise: its numbers tell whether anything of its state was lost."""

    def __init__(self, path: Path, interrupted_at: int | None = None) -> None:
        torch.manual_seed(3)
        self.path, self.interrupted_at, self.steps = path, interrupted_at, 0
        self.model = nn.Linear(4, 1)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.1)

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.interrupted_at:
            raise KeyboardInterrupt
        self.optimizer.zero_grad()
        self.model(torch.randn(5, 4)).square().mean().backward()
        self.optimizer.step()

    def measure(self) -> dict[str, float]:
        return {"bias": self.model.bias.item(), "noise": torch.randn(()).item()}

    def train(self, steps: int, resume: bool = False, every: int = 5, **settings: object) -> training.History:
        state = {"model": self.model, "optimizer": self.optimizer}
        return training.train(
            "walk",
            self.step,
            self.measure,
            steps,
            every=every,
            state=state,
            path=self.path,
            settings=settings,
            resume=resume,
        )


def test_an_interrupted_training_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    whole = Walk(tmp_path / "whole.pt")
    history = whole.train(20)
    with pytest.raises(KeyboardInterrupt):
        Walk(tmp_path / "part.pt", interrupted_at=13).train(20)
    again = Walk(tmp_path / "part.pt")
    assert again.train(20, resume=True) == history
    assert again.steps == 10  # what came after the last measurement is done again
    assert torch.equal(again.model.weight, whole.model.weight)
    assert [row["step"] for row in history] == [0, 5, 10, 15, 20]
    assert len({row["bias"] for row in history}) == 5
    assert (
        len({row["noise"] for row in history}) == 1
    )  # measurements have the same noise, and take none of the training's
    rare = Walk(tmp_path / "rare.pt")
    rare.train(20, every=20)
    assert torch.equal(rare.model.weight, whole.model.weight)
    done = Walk(tmp_path / "part.pt")
    assert done.train(20, resume=True) == history
    assert done.steps == 0


def test_a_training_starts_anew_unless_it_is_to_resume(tmp_path: Path) -> None:
    first = Walk(tmp_path / "walk.pt").train(5)
    second = Walk(tmp_path / "walk.pt")
    assert second.train(5) == first
    assert second.steps == 5


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    Walk(tmp_path / "walk.pt").train(10, data="digits")
    with pytest.raises(ValueError, match=r"settings of the checkpoint.*digits.*got.*mnist"):
        Walk(tmp_path / "walk.pt").train(10, resume=True, data="mnist")
    with pytest.raises(ValueError, match=r"--steps 10 or more.*got 5"):
        Walk(tmp_path / "walk.pt").train(5, resume=True, data="digits")
    with pytest.raises(SystemExit, match="Leave --resume out"):  # a script says it in a line
        training.run(lambda: Walk(tmp_path / "walk.pt").train(5, resume=True, data="digits"))


def test_tables_and_errors() -> None:
    assert training.mean_and_error([1.0, 2.0, 3.0]) == "2.00 ± 0.58"
    assert training.mean_and_error([1.25]) == "1.25"
    assert training.table(("", "nats"), [("a", "-1"), ("bcd", "-10.5")]).splitlines() == [
        "|     |  nats |",
        "| --- | ----: |",
        "| a   |    -1 |",
        "| bcd | -10.5 |",
    ]


# --- the models ---------------------------------------------------------------------------------------------------


def _states(latents: tuple[int, ...]) -> Tensor:
    """All values of a few latents, [states, 1, *latents]."""
    if len(latents) == 1:
        return torch.tensor(list(itertools.product([0.0, 1.0], repeat=latents[0])))[:, None]
    classes = torch.tensor(list(itertools.product(range(latents[1]), repeat=latents[0])))
    return nn.functional.one_hot(classes, latents[1])[:, None].float()


@pytest.mark.parametrize("latents", [(5,), (2, 4)])
def test_bounds_of_the_discrete_vae(latents: tuple[int, ...]) -> None:
    """The loss is the ELBO, and the bound nears log p(x), both by enumeration.

    The bound lies below log p(x) by half the variance of a mean weight, and one image's estimate is off by the root of
    that: below 0.01 for these weights, so 0.05 is a false alarm at 5 standard errors.
    """
    torch.manual_seed(0)
    model = discrete_vae.VAE(64, latents, 128).requires_grad_(False)
    for parameter in model.encoder[2].parameters():
        parameter.mul_(5)  # far from the prior: a KL divergence that counts
    x = torch.rand(3, 64).round()
    q, z = model.posterior(x), _states(latents).expand(-1, 3, *latents)
    joint = model.log_likelihood(x, z) + model.prior(x).log_prob(z)  # [states, n]
    log_q = q.log_prob(z)
    elbo, evidence = (log_q.exp() * (joint - log_q)).sum(0), joint.logsumexp(0)
    assert (evidence - elbo).min() > 0.05
    torch.testing.assert_close(-model.negative_elbo(x, sp.Enumerate()), elbo, rtol=1e-5, atol=0)
    found, bound = training.bounds(model.log_weights, x, samples=4000)
    assert found == pytest.approx(elbo.mean().item(), abs=0.1)
    assert bound == pytest.approx(evidence.mean().item(), abs=0.05)


def test_bounds_are_exact_at_the_posterior_and_for_any_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """All weights are p(x) then, here as small as exp(-1e6)."""

    def log_weights(x: Tensor, k: int) -> Tensor:
        return (-1e6 * x.sum(-1)).expand(k, -1)

    images = torch.arange(1.0, 8.0)[:, None]
    for rows in (1, 300, 10**6):
        monkeypatch.setattr(training, "ROWS", rows)
        assert training.bounds(log_weights, images, samples=100) == pytest.approx((-4e6, -4e6), rel=1e-12)


def test_the_objectives_of_the_continuous_vae_agree() -> None:
    """The ELBO with its KL divergence in closed form and as one expectation: means within 5 standard errors."""
    torch.manual_seed(0)
    model = continuous_vae.VAE(64).double().requires_grad_(False)
    for parameter in model.encoder[2].parameters():
        parameter.mul_(8)  # as above
    x = torch.rand(1, 64, dtype=torch.float64).round().expand(4000, -1)
    losses = [model.loss(x, estimator, sp.expect) for estimator in (sp.Pathwise(1), sp.StickingTheLanding(1))]
    difference = losses[0].mean() - losses[1].mean()
    error = torch.stack([loss.var() / len(loss) for loss in losses]).sum().sqrt()
    assert abs(difference) < 5 * error
    kl = kl_divergence(model.posterior(x), model.prior(x)).mean()
    assert 7 * error < 0.1 * kl  # so that a tenth of the KL divergence is missed once in 40
    elbo = model.log_weights(x, 1).mean()  # of the table
    assert abs(elbo + losses[0].mean()) < 5 * error
    multisample = model.loss(x, sp.ImportanceWeighted(8), sp.expect)
    assert multisample.mean() < losses[0].mean() - 5 * error  # the better bound


def test_the_estimators_that_latents_take() -> None:
    """Each that takes them moves all parameters of the model; `LocalExpectation` would need 71 evaluations for
    classes."""
    refused = {}
    for latents, classes in discrete_vae.LATENTS.items():
        torch.manual_seed(0)
        model = discrete_vae.VAE(64, (10, *classes), 128)
        found = {name: discrete_vae.configured(name, model, 12) for name in discrete_vae.ESTIMATORS}
        refused[latents] = {name for name, estimator in found.items() if estimator is None}
        for estimator in filter(None, found.values()):
            _moves(model, model.negative_elbo(torch.rand(5, 64).round(), estimator))
    assert refused == {"bernoulli": {"CARMS"}, "categorical": {"DisARM", "ARMS", "LocalExpectation"}}


@pytest.mark.parametrize("name", continuous_vae.ESTIMATORS)
def test_the_estimators_of_the_continuous_vae(name: str) -> None:
    torch.manual_seed(0)
    model = continuous_vae.VAE(64)
    _moves(model, model.loss(torch.rand(5, 64).round(), continuous_vae.ESTIMATORS[name](4), sp.expect))


def _moves(model: nn.Module, loss: Tensor) -> None:
    model.zero_grad()
    loss.mean().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and 0 < gradient.abs().sum() < torch.inf for gradient in gradients)


def test_the_losses_of_generator_and_critic() -> None:
    """With a linear critic, and a generator that always draws the same bits, both by their formulas."""
    model = gan.GAN(4, discrete=True)
    last, drawn, weight = model.generator[-1], torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([0.5, -1.0, 2.0, 0.3])
    last.weight.data.zero_()
    last.bias.data = 80 * drawn - 40
    model.critic = nn.Linear(4, 1, bias=False)
    model.critic.weight.data = weight.unsqueeze(0)
    real = torch.tensor([[0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0]])
    torch.testing.assert_close(model.cost(drawn.expand(2, 3, 4)), -(drawn @ weight).sigmoid().log().expand(2, 3))
    loss = model.critic_loss(real)
    likelihood = (real @ weight).sigmoid().log().mean() + (1 - (drawn @ weight).sigmoid()).log()
    torch.testing.assert_close(loss, gan.PENALTY / 2 * weight.square().sum() - likelihood)
    loss.backward()
    assert all(parameter.grad is None for parameter in model.generator.parameters())


def test_neighbours_tell_samples_apart() -> None:
    """297 + 297 comparisons, in clusters of equal images: 50 ± 3.5 % for the same law; 17 % is a false alarm once in
    10⁶."""
    torch.manual_seed(0)
    bits = torch.rand(594, 8).round()
    assert gan.neighbours(bits[:297], bits[297:]) == pytest.approx((50, 50), abs=17)
    assert gan.neighbours(bits[:297], bits[297:] + 9) == (100.0, 100.0)
    assert gan.neighbours(torch.tensor([[0.0], [9.0]]), torch.tensor([[1.5], [2.0], [3.0]])) == (0.0, 100.0)


# --- the scripts --------------------------------------------------------------------------------------------------


def test_runs_from_the_command_line(tmp_path: Path) -> None:
    """In a process of its own, where every warning is an error; the tests below run the other scripts in this one."""
    script, out = EXAMPLES / "discrete_vae.py", tmp_path / "out"
    estimators = ["ScoreFunction", "PlainScoreFunction", "LocalExpectation", "GumbelSoftmax"]
    line = [sys.executable, "-W", "error", str(script), "--fast", "--out", str(out), "--estimator", *estimators]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert (out / "digits-bernoulli.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def _run(
    module: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> dict[str, dict[str, Any]]:
    """The checkpoints of the example's fast mode, by the names of their files."""
    monkeypatch.setattr(sys, "argv", ["example", "--fast", "--out", str(folder), *arguments])
    module.main()
    return {path.name: torch.load(path, weights_only=True) for path in folder.glob("*.pt")}


def test_categorical_latents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "--latents categorical --seeds 2 --steps 5 --estimator DisARM ReinMax"
    found = _run(discrete_vae, tmp_path, monkeypatch, *line.split())
    assert set(found) == {f"digits-categorical-ReinMax-{seed}.pt" for seed in (0, 1)}
    printed = capsys.readouterr().out
    assert "left out: DisARM" in printed
    assert "| ReinMax(samples=12) " in printed
    assert (tmp_path / "digits-categorical.png").exists()


def test_continuous_latents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table of comparison for each objective, and one of all."""
    _run(continuous_vae, tmp_path, monkeypatch, "--steps", "2", "--estimator", "Pathwise", "ImportanceWeighted")
    printed = capsys.readouterr().out
    assert printed.count("Gradient with respect to loc, scale") == 2
    assert [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("| ")][2:] == [
        "Pathwise(samples=8)",
        "ImportanceWeighted()",
    ]
    assert (tmp_path / "digits.png").exists()


@pytest.mark.parametrize(
    ("module", "line", "message"),
    [
        (discrete_vae, "--data mnist", "mnist needs a folder with its four IDX files; got none. Do this: put"),
        (discrete_vae, "--latents categorical --estimator ARMS", "need an estimator that takes both; got ARMS."),
        (continuous_vae, "--seeds 0", "argument --seeds: needs a whole number, at least 1; got '0'"),
        (gan, "--steps -3", "argument --steps: needs a whole number, at least 1; got '-3'"),
    ],
)
def test_refused_arguments(
    module: ModuleType, line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with pytest.raises(SystemExit):
        _run(module, tmp_path, monkeypatch, *line.split())
    assert message in capsys.readouterr().err


def test_an_interruption_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        training.run(main)
    assert ended.value.code == 130
    assert "with --resume" in capsys.readouterr().err


def test_discrete_gan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = _run(gan, tmp_path, monkeypatch, "--discrete", "--estimator", "StraightThroughGumbel", "DisARM")
    assert set(found) == {f"digits-bits-{name}-0.pt" for name in ("StraightThroughGumbel", "DisARM")}
    assert (tmp_path / "digits-bits.png").exists()
    assert "| training images " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        _run(gan, tmp_path, monkeypatch, "--discrete", "--estimator", "Pathwise")
    assert "bits pixels need some of StraightThroughGumbel" in capsys.readouterr().err


def test_the_critic_learns_from_its_own_loss_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one it stays as it was, whatever the generator's loss sends it."""
    monkeypatch.setattr(gan.GAN, "critic_loss", lambda model, real: 0 * model.critic(real).sum())
    (found,) = _run(gan, tmp_path, monkeypatch, "--estimator", "Pathwise", "--steps", "3").values()
    assert {path.name for path in tmp_path.glob("*.png")} == {"digits-gray.png", "digits-gray-curves.png"}
    torch.manual_seed(0)
    first = gan.GAN(64, discrete=False).state_dict()
    moved = {key for key, value in found["state"]["model"].items() if not torch.equal(value, first[key])}
    assert moved == {key for key in first if key.startswith("generator")}


@pytest.mark.parametrize(("module", "name"), [(discrete_vae, "DisARM"), (continuous_vae, "Pathwise")])
def test_images_are_binarized_and_held_out(
    module: ModuleType, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All pixels are gray but one, which is bright in the images for training and dark in the others."""
    parts = [torch.tensor([[mark, 0.5, 0.5, 0.5]]).expand(20, 4) for mark in (1.0, 0.0)]
    loaded = data.Data(*(data.Images(x, torch.zeros(20, dtype=torch.int64)) for x in parts), side=2)
    monkeypatch.setattr(data, "load", lambda name, folder: loaded)
    posterior, trained, measured = module.VAE.posterior, [], []

    def watched(model: nn.Module, x: Tensor) -> Distribution:
        (trained if torch.is_grad_enabled() else measured).append(x)
        return posterior(model, x)

    monkeypatch.setattr(module.VAE, "posterior", watched)
    _run(module, tmp_path, monkeypatch, "--estimator", name, "--steps", "3")
    assert all(((x == 0) | (x == 1)).all() for x in (*trained, *measured))
    assert all((x[:, 0] == 1).all() for x in trained)
    assert len(trained) >= 3
    # Training and held-out images before the first and after the last step; then the held-out ones for the table.
    assert [x[:, 0].unique().tolist() for x in measured] == [[1], [0], [1], [0], [0]]


@pytest.mark.parametrize(
    ("module", "name", "learned"),
    [(discrete_vae, "REBAR", {"eta", "log_temperature"}), (continuous_vae, "DoublyReparameterized", set())],
)
def test_examples_learn_and_resume(
    module: ModuleType, name: str, learned: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control variates, noise and monitors included: the checkpoints have the same numbers, bit by bit."""

    (whole,) = _run(module, tmp_path / "whole", monkeypatch, "--estimator", name, "--steps", "20").values()
    first, *_, last = whole["history"]
    assert last["training"] > first["training"] + 1  # nats
    (half,) = _run(module, tmp_path / "part", monkeypatch, "--estimator", name, "--steps", "10").values()
    before, after = (saved["state"].get("estimator", {}) for saved in (half, whole))
    assert {key for key in after if not torch.equal(before[key], after[key])} == learned
    (part,) = _run(module, tmp_path / "part", monkeypatch, "--estimator", name, "--steps", "20", "--resume").values()
    assert part["history"] == whole["history"]
    assert part["done"] == 20
    torch.testing.assert_close(part["state"], whole["state"], rtol=0, atol=0)
