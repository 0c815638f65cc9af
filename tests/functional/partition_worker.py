"""Run by torchrun on two ranks: draws in ragged groups, torn over the ranks and cut into micro-batches.

Each line that is printed by rank 0 is a name and the largest difference from what one process finds with all draws.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup

import sampleprop as sp

DRAWS, TIME = 14, 4
SPLITS = ((5, 9), (14, 0))  # draws of each rank
IDS = torch.tensor([7, 2, 2, 9, 7, 4, 4, 9, 2, 4, 7, 9, 9, 2])


def data() -> dict[str, Tensor]:
    """The same on each rank; one draw is masked whole."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([1, 4, 2, 3, 0, 4, 1, 2, 2, 3, 4, 1, 3, 2])
    mask = torch.arange(TIME) < lengths.unsqueeze(1)
    drawn = mask & (torch.rand(DRAWS, TIME, generator=generator) < 0.8)
    noise = torch.randn(3, DRAWS, TIME, dtype=torch.float64, generator=generator)
    costs = torch.where(mask, noise[0], 0)
    return {"mask": mask, "drawn": drawn, "costs": costs, "features": noise[1], "old": noise[1] * 0.5 + 0.02 * noise[2]}


def loss(
    phi: Tensor, rows: slice, d: dict[str, Tensor], base: dict[str, Tensor], divisors: Any, normalize: Any
) -> Tensor:
    """What a trainer sums over its micro-batches."""
    x = {name: value[rows] for name, value in d.items()}
    log_prob = phi[0] * x["features"] - (phi[1] + x["features"]).square() / 7
    ratio = sp.importance_ratio(log_prob, x["old"], mask=x["drawn"])
    weight = base["whitened"][rows]
    clipped = torch.maximum(ratio * weight, ratio.clamp(0.8, 1.28) * weight)
    options: dict[str, Any] = {"time_dim": 1, "normalize": normalize}
    exists, drawn = divisors
    two: dict[str, Any] = options | {"mask": x["mask"], "drawn": x["drawn"], "divisor": exists}
    weights = base["shrunk"][rows].unsqueeze(1).expand(-1, TIME)
    return (
        sp.score_function_loss(log_prob, x["costs"], baseline=base["others"][rows], **two)
        + sp.aggregate(clipped, x["drawn"], divisor=drawn, **options)
        + sp.score_function_loss(log_prob, weights, as_weights=True, **two)
    )


def baselines(d: dict[str, Tensor], ids: Tensor, group: ProcessGroup | None) -> dict[str, Tensor]:
    alive = d["mask"].any(1)
    cost = d["costs"].sum(1)
    lengths = d["drawn"].sum(1).double()
    return {
        "others": sp.leave_one_out(cost, mask=alive, groups=ids, weight=lengths, process_group=group),
        "shrunk": sp.shrinkage(cost, mask=alive, groups=ids, process_group=group),
        "whitened": sp.whiten(sp.reward_to_go(d["costs"], dim=1), d["drawn"], process_group=group),
    }


def divisors(d: dict[str, Tensor], normalize: Any, group: ProcessGroup | None, averaged: bool) -> tuple[Tensor, Tensor]:
    # Of the tokens, those that were drawn; of the draws, those that exist.
    first = d["drawn"] if normalize == "tokens" else d["mask"]
    return tuple(  # type: ignore[return-value]
        sp.count(m, time_dim=1, normalize=normalize, process_group=group, averaged=averaged)
        for m in (first, d["drawn"])
    )


def run(normalize: Any, averaged: bool, ranks: tuple[int, int]) -> float:
    group, rank = distributed.group.WORLD, distributed.get_rank()
    everything = data()
    phi = torch.tensor([0.7, -0.3], dtype=torch.float64, requires_grad=True)
    whole = loss(
        phi, slice(0, DRAWS), everything, baselines(everything, IDS, None), divisors(everything, normalize, None, True),
        normalize,
    )  # fmt: skip
    (expected,) = torch.autograd.grad(whole, phi)

    start, count = sum(ranks[:rank]), ranks[rank]
    mine = {name: x[start : start + count] for name, x in everything.items()}
    base = baselines(mine, IDS[start : start + count], group)
    by = divisors(mine, normalize, group, averaged)
    value, gradient = torch.zeros((), dtype=torch.float64), torch.zeros_like(phi)
    for first in range(0, count, 2):
        rows = slice(first, min(first + 2, count))
        if not bool(mine["mask"][rows].any()):
            continue
        part = loss(phi, rows, mine, base, by, normalize)
        value += part.detach()
        gradient += torch.autograd.grad(part, phi)[0]
    sums = torch.cat([value.view(1), gradient.detach()])
    distributed.all_reduce(sums)
    sums = sums / len(ranks) if averaged else sums  # as wrappers do, some averaging and some not
    return float((sums - torch.cat([whole.detach().view(1), expected])).abs().max())


def main() -> None:
    distributed.init_process_group("gloo")
    found = {
        f"{normalize}, {'averaged' if averaged else 'summed'}, {ranks}": run(normalize, averaged, ranks)
        for normalize in ("draws", "tokens", "length")
        for averaged in (True, False)
        for ranks in SPLITS
    }
    if distributed.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")
    distributed.destroy_process_group()
    gc.collect()  # cycles hold the group: its threads must be gone before the interpreter is


if __name__ == "__main__":
    main()
