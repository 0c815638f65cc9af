"""What the examples share: their arguments, a training loop that can be interrupted, bounds on held-out data, tables
and curves."""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

import data
import sampleprop as sp

R = TypeVar("R")
History = list[dict[str, float]]  # what was measured, with its "step"
ROWS = 40_000  # samples times images that `bounds` evaluates at once


class Stateful(Protocol):
    """A module, an optimizer, a `Monitor`, or an environment of yours that can tell and take its state."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any, /) -> Any: ...


def parser(
    name: str, description: str | None, estimators: Iterable[str], *, images: bool = True
) -> argparse.ArgumentParser:
    """The arguments that all examples have; add those of your own. `steps` is None unless given.

    Args:
        name: of the example; its files go to sampleprop-out/NAME unless --out says otherwise.
        description: the example's docstring.
        estimators: the names that --estimator takes, besides "all".
        images: whether there are --data and --folder.
    """
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--estimator", nargs="+", choices=("all", *estimators), default=["all"], metavar="NAME",
                        help=f"all, or some of {', '.join(estimators)}")  # fmt: skip
    if images:
        result.add_argument("--data", choices=data.NAMES, default="digits")
        result.add_argument("--folder", type=Path, help="where the IDX files of the data are")
    result.add_argument("--seed", type=int, default=0, help="the first one")
    result.add_argument("--seeds", type=count, default=1, help="how many runs of each, for standard errors")
    result.add_argument("--steps", type=count, help="of the optimizer")
    result.add_argument(
        "--fast", action="store_true", help="seconds in place of minutes: few steps, no result worth having"
    )
    result.add_argument(
        "--out", type=Path, default=Path("sampleprop-out") / name, help="folder of pictures and checkpoints"
    )
    result.add_argument("--resume", action="store_true", help="go on from the checkpoints in --out")
    return result


def count(text: str, least: int = 1) -> int:
    """An argument that is a number of things."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"needs a whole number, at least {least}; got {text!r}")
    return int(text)


def load(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> data.Data:
    """What --data and --folder ask for; where it is not there, the script ends by saying how to get it."""
    try:
        return data.load(arguments.data, arguments.folder)
    except (FileNotFoundError, ValueError) as refusal:
        parser.error(str(refusal))


class OtherSettings(ValueError):
    """A checkpoint that does not fit the arguments."""


def run(main: Callable[[], None]) -> None:
    """Run a script of trainings, which may be interrupted."""
    try:
        main()
    except KeyboardInterrupt:
        print("Interrupted. The same command with --resume goes on from the last measurement.", file=sys.stderr)
        sys.exit(130)  # as shells have it
    except OtherSettings as refusal:
        sys.exit(str(refusal))


def chosen(arguments: argparse.Namespace, estimators: Iterable[str]) -> list[str]:
    """The names that --estimator asks for, in the order of the register."""
    return [name for name in estimators if "all" in arguments.estimator or name in arguments.estimator]


def seeds(arguments: argparse.Namespace) -> range:
    """The seeds that --seed and --seeds ask for."""
    return range(arguments.seed, arguments.seed + arguments.seeds)


def each(arguments: argparse.Namespace, names: Iterable[str], one: Callable[[str, int], R]) -> dict[str, list[R]]:
    """What `one(name, seed)` returns, for each of the estimators and each seed."""
    return {name: [one(name, seed) for seed in seeds(arguments)] for name in names}


def train(
    label: str,
    step: Callable[[], None],
    measure: Callable[[], dict[str, float]],
    steps: int,
    *,
    every: int,
    state: Mapping[str, Stateful],
    path: Path,
    settings: Mapping[str, Any],
    resume: bool = False,
) -> History:
    """Call `step` as often as asked for, and `measure` before the first, after each `every`-th and after the last one.

    After each measurement all is saved: an interrupted run loses at most `every` steps, and gives the numbers of one
    that was not interrupted. Measurements have noise of their own, always the same, and leave the training's alone.

    Args:
        label: for the progress bar.
        step: one step of the optimizer. Its noise has to come from torch's global generator.
        measure: what to put into the history; without gradients.
        steps: how many in all, those before an interruption included.
        every: steps from one measurement to the next.
        state: all that a step changes.
        path: of the checkpoint.
        settings: what else the numbers depend on; a checkpoint of other settings is refused.
        resume: go on from the checkpoint, if there is one.

    Raises:
        ValueError: for a checkpoint of other settings, or of more steps.
    """
    done, history = 0, []
    if resume and path.exists():
        done, history = _load(path, state, dict(settings), steps)
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task(label, total=steps, completed=done)
        while True:
            if (done % every == 0 or done == steps) and (not history or history[-1]["step"] < done):
                with torch.random.fork_rng(devices=[]), torch.no_grad():
                    torch.manual_seed(0)
                    history.append({"step": done} | measure())
                _save(path, done, history, state, dict(settings))
            if done == steps:
                return history
            step()
            done += 1
            progress.update(bar, completed=done)


@torch.no_grad()
def outcome(
    log_weights: Callable[[Tensor, int], Tensor], held_out: Tensor, history: History, monitor: sp.Monitor, *, fast: bool
) -> dict[str, float]:
    """The numbers at the end of an autoencoder's training: ELBO and bound of held-out images, with noise that is
    always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        elbo, bound = bounds(log_weights, held_out, 50 if fast else 1000)
    variance = monitor.averages()["gradient variance"]
    return {"training": history[-1]["training"], "elbo": elbo, "bound": bound, "variance": variance}


def bounds(log_weights: Callable[[Tensor, int], Tensor], images: Tensor, samples: int = 1000) -> tuple[float, float]:
    """The ELBO and the importance-weighted bound of `samples` samples, in nats for an image.

    Args:
        log_weights: from images [n, pixels] and k to log p(x, z) - log q(z | x) at k true samples of q, [k, n].
        images: [N, pixels].
        samples: K, at least 1.
    """
    elbo, bound = 0.0, 0.0
    for x in images.split(max(1, ROWS // samples)):
        log_w = log_weights(x, samples).double()  # [samples, n]
        elbo += float(log_w.mean(0).sum())
        bound += float(sp.importance_weighted_bound(log_w).sum())  # by logsumexp: weights themselves would be 0
    return elbo / len(images), bound / len(images)


def mean_and_error(values: Sequence[float]) -> str:
    """The mean over seeds with its standard error, if there is more than one."""
    mean = f"{statistics.fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values) / math.sqrt(len(values)):.2f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, aligned to be read as it is."""
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    rule = [f"{'-' * (width - 1)}{'-' if i == 0 else ':'}" for i, width in enumerate(widths)]
    padded = [[cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
              for line in lines]  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]])


def curves(
    path: Path, histories: Mapping[str, Sequence[History]], panels: Mapping[str, str], dashed: Sequence[str]
) -> None:
    """Save learning curves: a line for each name, the mean over seeds; a panel for each measured key, with its title.

    Args:
        path: of the picture.
        histories: by name, one for each seed, all measured at the same steps.
        panels: titles by key.
        dashed: names whose lines are dashed.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    colors = colormaps["tab20" if len(histories) > 10 else "tab10"].colors
    figure = Figure(figsize=(5 * len(panels) + 2.6, 4.2), dpi=100, layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for color, (name, runs) in zip(colors, histories.items(), strict=False):
            means = [(row[0]["step"], statistics.fmean(r[key] for r in row)) for row in zip(*runs, strict=True)]
            axes.plot(
                *zip(*means[1:], strict=True), color=color, ls="--" if name in dashed else "-", lw=1.3, label=name
            )
        axes.set(title=title, xlabel="steps")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize="small"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _save(path: Path, done: int, history: History, state: Mapping[str, Stateful], settings: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")  # replaced at once: there is never half a checkpoint under the name
    states = {name: x.state_dict() for name, x in state.items()}
    torch.save(
        {"done": done, "history": history, "state": states, "settings": settings, "noise": torch.get_rng_state()}, part
    )
    os.replace(part, path)


def _load(path: Path, state: Mapping[str, Stateful], settings: dict[str, Any], steps: int) -> tuple[int, History]:
    saved = torch.load(path, weights_only=True)
    if saved["settings"] != settings:
        raise OtherSettings(
            f"--resume needs the settings of the checkpoint {path}, {saved['settings']}; got {settings}. Give the same "
            "arguments, or another --out."
        )
    if saved["done"] > steps:
        raise OtherSettings(
            f"--resume needs --steps {saved['done']} or more, as {path} has; got {steps}. Leave --resume out."
        )
    for name, x in state.items():
        x.load_state_dict(saved["state"][name])
    torch.set_rng_state(saved["noise"])
    return saved["done"], saved["history"]
