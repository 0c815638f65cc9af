"""What the first run of a program computed, for further runs to take where they would compute the same again.

A run with a value in place of one variable computes much that does not depend on this value: all that comes before the
variable, and the parts of the cost that read earlier variables only. `Computed` watches the first run and keeps the
results of torch's functions, in order. A further run gets such a result if the same function is called again, at the
same place, with the same tensors, and if nobody has written into them or into the result since. So it gets what it
would have computed, and everything that it computes anew is passed on anew.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sampleprop.tracing import hooked

CONSTANTS = frozenset(
    (
        *(int, float, complex, bool, str, type(None), type(...), slice),
        *(torch.Size, torch.dtype, torch.device, torch.layout, torch.memory_format),
    )
)
# After one of these a tensor may change without a trace, or its graph may be gone. So may it after what returns
# something else than tensors and constants: hooks, nodes of the graph, arrays that share the memory.
_DATA: Any = Tensor.data
UNSAFE = frozenset(
    (
        *(torch.autograd.grad, torch.autograd.backward, Tensor.backward),
        *(Tensor.data_ptr, _DATA.__get__, _DATA.__set__),
    )
)
Operation = tuple[Any, Any, Any, int, Any, int]  # function, args, kwargs, their versions; result, its version


class Computed(TorchFunctionMode):
    """Watches the first run. It is on while the function runs, but not in `sample` and `charge`."""

    def __init__(self) -> None:
        super().__init__()
        self.part: list[Operation | None] = []  # since the last variable
        self.parts = [self.part]
        self.given: list[tuple[Tensor, int | None]] = []  # what the program got for each variable, and its version
        self.usable = sys.maxsize  # how many parts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Called for every operation of the program, so nothing else stands on this path.
        result = func(*args, **kwargs) if kwargs else func(*args)
        if torch.compiler.is_dynamo_compiling():  # a compiled part, which is traced with this mode on
            return result
        if not self.usable:
            return result
        operation = None
        if func in UNSAFE:
            self.usable = 0
        elif isinstance(result, Tensor):
            operation = self._operation(func, args, kwargs, result)
        elif type(result) not in CONSTANTS and not isinstance(result, list):
            if isinstance(result, tuple) and versions(result) is not None:
                operation = self._operation(func, args, kwargs, result)
            else:
                self.usable = 0
        self.part.append(operation)
        return result

    def _operation(self, func: Any, args: Any, kwargs: Any, result: Any) -> Operation | None:
        """What is kept of a call: nothing if it writes into an argument, or if checkpointing keeps nothing of it."""
        if (args and result is args[0]) or (kwargs and "out" in kwargs) or hooked():
            return None
        before = versions((args, *kwargs.values()) if kwargs else args)
        after = versions((result,))
        if before is None or after is None:
            return None
        kept = {name: _copied(x) for name, x in kwargs.items()} if kwargs else None
        return func, _copied(args), kept, before, result, after

    def drawn(self, value: Tensor) -> None:
        """A variable was drawn, and this is what the program got: the next part begins."""
        self.given.append((value, versions((value,))))
        self.part = []
        self.parts.append(self.part)

    def use_only(self, parts: int) -> None:
        """Give nothing of the later parts."""
        self.usable = min(self.usable, parts)

    def value(self, index: int) -> Tensor | None:
        """What the program got for this variable, unless it has written into it since."""
        if index >= min(self.usable, len(self.given)):
            return None
        value, version = self.given[index]
        return None if version is None or versions((value,)) != version else value

    def of(self, part: int) -> list[Operation | None]:
        """The operations of a part, where they may be used."""
        return self.parts[part] if part < min(self.usable, len(self.parts)) else []


def known(operation: Operation | None, func: Any, args: Any, kwargs: Any) -> Any:
    """The result of this operation, if it is that call; else None, and the result has to be computed."""
    if operation is None:
        return None
    its, its_args, its_kwargs, before, result, after = operation
    if its_args and args and its_args[0] is not args[0] and isinstance(args[0], Tensor):
        return None  # the same as below, for most of the calls
    if its != func or not _same(its_args, args) or not _same(its_kwargs, kwargs or None):
        return None
    if versions((args, *kwargs.values()) if kwargs else args) != before or versions((result,)) != after:
        return None
    return result


def versions(args: Any) -> int | None:
    """How often these tensors have been written into, in total; None where one does not tell, or is something else."""
    total = 0
    for x in args:
        kind = type(x)
        if kind is Tensor or isinstance(x, Tensor):
            if x.is_inference():
                return None
            total += x._version
        elif kind not in CONSTANTS:
            found = versions(x) if isinstance(x, tuple | list) else None
            if found is None:
                return None
            total += found
    return total


def _copied(x: Any) -> Any:
    """An argument, or all of them, for which lists are copied: the program may change them."""
    kind = type(x)
    return kind(map(_copied, x)) if kind is tuple or kind is list else x


def _same(kept: Any, given: Any) -> bool:
    """Whether these are the same tensors, and equal constants of the same type."""
    if kept is given:
        return True
    kind = type(kept)
    if kind is not type(given) or isinstance(kept, Tensor):
        return False
    if kind is tuple or kind is list:
        if len(kept) != len(given):
            return False
        return all(map(_same, kept, given))
    if kind is dict:
        return kept.keys() == given.keys() and all(_same(value, given[name]) for name, value in kept.items())
    return bool(kept == given)
