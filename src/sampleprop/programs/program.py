"""The decorator: a function that samples becomes one that returns its expected cost, with gradients."""

from __future__ import annotations

import difflib
import functools
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, overload

import torch
from torch import Generator, Tensor
from torch.utils import _pytree as pytree

from sampleprop import checks
from sampleprop.estimator import Estimator
from sampleprop.programs.apart import apart_runs
from sampleprop.programs.computed import Computed
from sampleprop.programs.coupled_replay import CoupledReplay
from sampleprop.programs.folding import Chosen, Folding, Key, Particles
from sampleprop.programs.site import Inside, Run, inherited

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

P = ParamSpec("P")
DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Setting:
    """How a program runs; see `program.using`."""

    estimator: Chosen = None
    generator: Generator | None = None
    particles: int | None = None
    apart: int | None = None
    process_group: ProcessGroup | None = None
    replay: CoupledReplay | None = None


class program(Generic[P]):
    r"""Turn a function that samples into a function that returns its expected cost, with gradients.

    Inside, at any depth of the call stack, `sample(dist)` draws a random variable and `charge(cost)` adds a cost. The
    tensor that the function returns is the last cost. Each variable is charged with the costs that come after it, and
    with no cost before it:

    .. math:: L = \mathbb{E}_{x_1}\big[c_1 + \mathbb{E}_{x_2 | x_1}[c_2 + \dots]\big]

    A call of `sample` is a site. A site must have the batch shape of the sites before it, and a cost the batch shape at
    its place. A site whose estimator draws one sample adds no dimension, so modules and loops need no change.

    A function or module that samples and is called inside is a part of the program. A *program* that is called inside
    is an inner expectation. Its sites belong to it alone, and the outer program sees its value as a tensor.
    `program.__wrapped__` is the plain function. Methods of modules can be programs.

    Branches and loops may depend on samples, if all rows of the batch take the same branch; see `using(apart=)`.

    Raises:
        TypeError: for a generator function, and for costs that are not tensors.
        ValueError: for a distribution or cost of another shape, for a variable with no cost after it, and for costs
            that are not finite.

    Example:
        >>> import torch, sampleprop as sp
        >>> from torch.distributions import Bernoulli
        >>> @sp.program
        ... def model(logit):
        ...     a = sp.sample(Bernoulli(logits=logit), sp.ScoreFunction(samples=4))     # [4, 3]
        ...     sp.charge(0.1 * a)
        ...     b = sp.sample(Bernoulli(logits=a - logit))                              # [4, 3]
        ...     return (a - b).square()
        >>> logit = torch.zeros(3, requires_grad=True)
        >>> model(logit).sum().backward()
    """

    def __init__(self, function: Callable[P, Tensor | None]) -> None:
        functools.update_wrapper(self, function)
        self.__wrapped__ = self._function = function
        self._setting = Setting()
        self._past = _Past()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        return self._run(None, args, kwargs)

    def sample(self, *args: P.args, **kwargs: P.kwargs) -> tuple[Tensor, dict[Key, Tensor]]:
        """Return the expected cost, and the detached samples of each site, for logging.

        The keys are the names of the sites, or their numbers if they have no names. A repeated name gets a count:
        "new", "new[1]", "new[2]".
        """
        if self._setting.apart is not None or self._setting.replay is not None:
            raise ValueError("sample needs one run of the program; got one with apart or CoupledReplay. Leave it out.")
        drawn: dict[Key, Tensor] = {}
        return self._run(drawn, args, kwargs), drawn

    def using(
        self,
        estimator: Chosen | CoupledReplay = None,
        *,
        generator: Generator | None = None,
        particles: int | None = None,
        apart: int | None = None,
        process_group: ProcessGroup | None = None,
    ) -> program[P]:
        r"""Return the same program with other settings. Settings that are not given stay as they are.

        Args:
            estimator: one for every site, or a dict from names of sites to estimators. They replace the estimators in
                the program. Or `CoupledReplay`. A name that no site has had so far is refused if it looks misspelled.
                Otherwise there is a warning, because the site may be reached in other calls.
            generator: the source of noise for its sites. Programs that are called inside draw from it too, unless they
                have one of their own.
            particles: K, at least 1, the number of independent copies. The first dimension of each tensor argument is
                the batch. It is repeated, so that the function sees [K \* B, ...] rows. The result is the mean over the
                copies, [B, ...]. Parameters and tensors without dimensions are not repeated. Pass other tensors without
                a batch through a closure. The baseline of a score function is the mean of the later costs of the other
                copies. At the first site, an estimator with `samples=K` draws the copies together.
            apart: K, at least 1, the number of runs, one after the other, each on its own path. The baseline of a site
                is the mean of the costs of the other runs from their site of the same number on. For score functions
                without a baseline of their own, and for pathwise and straight-through estimators.
            process_group: ranks that run the same program on the same batch elements. The baselines of score functions
                then use the samples of all ranks. Each rank returns the value and gradient of its own samples.

        Raises:
            TypeError: for an object that is not an estimator.
            ValueError: for numbers below 1, and for `apart` together with `particles` or `process_group`.
        """
        replay = estimator if isinstance(estimator, CoupledReplay) else None
        estimator = None if isinstance(estimator, CoupledReplay) else estimator
        given = estimator.values() if isinstance(estimator, dict) else () if estimator is None else (estimator,)
        for one in given:
            if not isinstance(one, Estimator):
                raise TypeError(f"using needs an estimator, or a dict of them by name; got {one!r:.80}.")
        for argument, value in (("particles", particles), ("apart", apart)):
            if value is not None:
                checks.samples("A program", value, argument=argument)
        now = self._setting
        setting = Setting(
            now.estimator if estimator is None else estimator,
            now.generator if generator is None else generator,
            now.particles if particles is None else particles,
            now.apart if apart is None else apart,
            now.process_group if process_group is None else process_group,
            now.replay if estimator is None and replay is None else replay,
        )
        if setting.apart is not None and (setting.particles is not None or setting.process_group is not None):
            raise ValueError(
                f"A program needs its copies in one batch or apart; got apart={setting.apart} together with particles "
                "or a process_group. Leave one of them out."
            )
        copies = (setting.particles, setting.apart, setting.process_group)
        if setting.replay is not None and any(copy is not None for copy in copies):
            raise ValueError(
                f"{setting.replay} runs the program again by itself; got it together with particles, apart or a "
                "process_group. Leave them out, and average several calls."
            )
        return self._with(self._function, setting, self._past)

    @overload
    def __get__(self, instance: None, owner: type) -> program[P]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> program[...]: ...

    def __get__(self, instance: object | None, owner: type) -> program[Any]:
        if instance is None:
            return self
        return self._with(functools.partial(self._function, instance), self._setting, self._past)  # type: ignore[arg-type]

    def __reduce__(self) -> str | tuple[Any, ...]:
        function, instance, bound = self._function, (), self._function
        if isinstance(bound, functools.partial):
            function, instance = bound.func, bound.args
        found = _found(function)
        if found is self:
            return function.__qualname__  # as functions are that stand in a module
        if isinstance(found, program) and found._function is function:
            return _again, (found, instance, self._setting)
        return program._with, (self._function, self._setting)

    @staticmethod
    def _with(function: Callable[..., Any], setting: Setting, past: _Past | None = None) -> program[Any]:
        # Not by `__init__`: `update_wrapper` would stop `torch.compile` at each bound method.
        other: program[Any] = object.__new__(program)
        other._function, other._setting, other.__wrapped__ = function, setting, function
        other._past = _Past() if past is None else past
        return other

    @property
    def setting(self) -> Setting:
        """How it runs, as `using` has set it."""
        return self._setting

    def under(self, run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run the function in a way of one's own: `run` is asked for every sample and told every cost."""
        with Inside(run):
            run.finish(self._function(*args, **kwargs))

    def _run(self, drawn: dict[Key, Tensor] | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        function, setting = self._function, self._setting
        generator = inherited() if setting.generator is None else setting.generator
        if setting.apart is not None:
            call = functools.partial(function, *args, **kwargs)
            result, names = apart_runs(call, setting.apart, setting.estimator, generator)
            self._past.require_names(setting.estimator, names)
            return result
        if setting.replay is not None:
            return setting.replay.estimate(functools.partial(function, *args, **kwargs), generator)
        particles = None
        if setting.particles is not None:
            args, kwargs, rows = repeated(args, kwargs, setting.particles)
            particles = Particles(setting.particles, rows)
        run = Folding(
            lambda: function(*args, **kwargs),
            setting.estimator,
            generator,
            particles,
            setting.process_group,
            drawn,
            Computed() if self._past.ran_again and not torch.compiler.is_dynamo_compiling() else None,
        )
        with Inside(run):
            run.run()
        if not torch.compiler.is_dynamo_compiling():
            self._past.ran_again = run.trace.started
            self._past.require_names(setting.estimator, run.names)
        return run.result()


class _Past:
    """What a program remembers of its calls, in all its settings.

    Attributes:
        ran_again: whether an estimator ran the function again in the last call: only then it is worth watching.
        names: of the variables that were drawn in calls with estimators by name.
        missed: names of estimators that were found in no call so far.
    """

    def __init__(self) -> None:
        self.ran_again = False
        self.names: set[str] = set()
        self.missed: set[str] = set()

    def require_names(self, chosen: Chosen, names: set[str]) -> None:
        """Say which estimators stand under names that no variable has had so far.

        Raises:
            ValueError: for a name that looks like another one misspelled. For others there is a warning, once, because
                the variable may be drawn in other calls.
        """
        if not isinstance(chosen, dict):
            return
        self.names |= names
        for name in chosen.keys() - self.names:
            drawn = ", ".join(map(repr, sorted(self.names))) or "none with a name"
            got = (
                f"using needs names of variables; got {name!r}, which no variable has had so far. Drawn were: {drawn}."
            )
            meant = _misspelled(name, self.names - chosen.keys())
            if meant is not None:
                raise ValueError(f"{got} Is it {meant!r}? If there is a variable {name!r} too, give both.")
            if name not in self.missed:
                self.missed.add(name)
                warnings.warn(
                    f"{got} If it is drawn in other calls, this is fine. A program inside has names of its own.",
                    stacklevel=4,
                )


def _misspelled(name: str, names: set[str]) -> str | None:
    """The name that was probably meant; None where none is near, or where they only differ in a number."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
    return near[0] if near and DIGITS.sub("", near[0]) != DIGITS.sub("", name) else None


def _again(decorated: program[Any], instance: tuple[Any, ...], setting: Setting) -> program[Any]:
    """A program of a module or class, bound and set as it was before it was pickled."""
    function = decorated._function
    return program._with(functools.partial(function, *instance) if instance else function, setting)


def _found(function: Callable[..., Any]) -> object:
    """What stands under the name of this function in its module; None where nothing does."""
    found: Any = sys.modules.get(getattr(function, "__module__", None) or "")
    for name in getattr(function, "__qualname__", "<none>").split("."):
        found = getattr(found, name, None)
    return found


def repeated(args: Any, kwargs: Any, particles: int) -> tuple[Any, Any, int]:
    """The arguments with the batch of each tensor K times, [B, ...] -> [K * B, ...], particle by particle; and B."""
    leaves, structure = pytree.tree_flatten((args, kwargs))
    found = [i for i, leaf in enumerate(leaves) if _has_batch(leaf)]
    sizes = {leaves[i].shape[0] for i in found}
    if len(sizes) != 1:
        got = f"first dimensions {_listed(args, kwargs)}" if sizes else "no tensor with one"
        fix = "what has no batch by a closure, functools.partial or a module" if sizes else "the batch as an argument"
        raise ValueError(
            f"A program with particles={particles} repeats the batch of its tensor arguments, their first dimension; "
            f"got {got}. Give {fix}."
        )
    for i in found:
        leaves[i] = leaves[i].expand(particles, *leaves[i].shape).flatten(0, 1)
    args, kwargs = pytree.tree_unflatten(leaves, structure)
    return args, kwargs, sizes.pop()


def _has_batch(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and not isinstance(leaf, torch.nn.Parameter) and leaf.dim() > 0


def _listed(args: Any, kwargs: Any) -> str:
    """The first dimension of each tensor argument, by its place or name."""
    named = [*((f"argument {i + 1}", value) for i, value in enumerate(args)), *kwargs.items()]
    sizes = [(name, [x.shape[0] for x in pytree.tree_leaves(value) if _has_batch(x)]) for name, value in named]
    return ", ".join(f"{name}: {', '.join(map(str, found))}" for name, found in sizes if found)
