"""Sums over the draws of a group, whose members are named by ids, on one rank or over several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.nn import functional

from sampleprop import parallel

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Groups(NamedTuple):
    """Which draws belong together."""

    number: Tensor  # [N], the number of each draw's group, the same number on every rank
    size: int  # more than every number; numbers that no draw has are groups without members
    process_group: ProcessGroup | None

    def sums(self, *xs: Tensor) -> tuple[Tensor, ...]:
        """The sums over each group, of all ranks in one collective: [N, ...] -> [size, ...]."""
        stacked = torch.stack(xs, -1)
        total = stacked.new_zeros(self.size, *stacked.shape[1:]).index_add(0, self.number, stacked)
        if self.process_group is not None:
            total = parallel.total(total, self.process_group)
        return total.unbind(-1)

    def spread(self, x: Tensor) -> Tensor:
        """What belongs to each draw's group: [size, ...] -> [N, ...]."""
        return x[self.number]


def by_ids(name: str, ids: Any, count: int, process_group: ProcessGroup | None) -> Groups:
    """The groups that `ids` name: of one rank, or of all ranks of the process group.

    Raises:
        ValueError: for ids that are not one int64 for each draw.
    """
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.shape != (count,):
        got = f"{ids.dtype} of shape {list(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
        raise ValueError(
            f"{name} needs groups as int64 ids, one for each of the {count} entries of dimension 0; got {got}. "
            "torch.as_tensor(numpy.unique(uid, return_inverse=True)[1]) makes them from strings."
        )
    if process_group is None:
        return Groups(_numbered(ids), count, None)
    parts = _gathered(ids, process_group)
    rank = distributed.get_rank(process_group)
    start = sum(len(part) for part in parts[:rank])
    everyone = _numbered(torch.cat(parts))
    return Groups(everyone[start : start + count], len(everyone), process_group)


def _numbered(ids: Tensor) -> Tensor:
    """The ids in the order of their size, counted from 0. No shape depends on the values, so that it compiles."""
    order = ids.argsort()
    new = (ids[order] != ids[order].roll(1)).long()  # the first is compared with the last
    number = new.cumsum(0) - new[:1]
    return torch.empty_like(number).scatter(0, order, number)


def _gathered(ids: Tensor, process_group: ProcessGroup) -> list[Tensor]:
    """The ids of each rank, which may have different numbers of them."""
    ranks = distributed.get_world_size(process_group)
    sizes = [ids.new_zeros(1) for _ in range(ranks)]
    distributed.all_gather(sizes, ids.new_tensor([len(ids)]), group=process_group)
    counts = [int(size) for size in sizes]
    parts = [ids.new_zeros(max(counts)) for _ in range(ranks)]
    distributed.all_gather(parts, functional.pad(ids, (0, max(counts) - len(ids))), group=process_group)
    return [part[:n] for part, n in zip(parts, counts, strict=True)]
