"""The ordinary run of a program: each variable is drawn as its estimator does, and what follows it is noted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor
from torch.distributions import TransformedDistribution

from sampleprop import checks, parallel
from sampleprop.costs import Group
from sampleprop.estimator import Estimator
from sampleprop.estimators.score.score_function import ScoreFunction
from sampleprop.estimators.through_points import Draw as Through
from sampleprop.estimators.through_points import ThroughPoints
from sampleprop.families import Variables, recognize, with_parameters
from sampleprop.programs.computed import Computed
from sampleprop.programs.fold import Node, fold, refuse_nonfinite, total
from sampleprop.programs.rest import Rest, Trace
from sampleprop.programs.site import Again, Run, default
from sampleprop.programs.streams import saved
from sampleprop.tracing import inspectable

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Chosen = Estimator[Any, Any] | dict[str, Estimator[Any, Any]] | None
Key = int | str
PER_ROW = 'Give one cost for each row: the losses of torch do with reduction="none".'


@dataclass(frozen=True)
class Particles:
    """K copies of the program as rows of its batch, [K * rows, ...], particle by particle."""

    count: int
    rows: int


@dataclass
class Folding(Run):
    """Draws as the estimators do, and folds what was charged.

    Attributes:
        call: runs the function once more, for estimators that evaluate f themselves.
        chosen: estimators to put in place of those that the program names.
        generator: the source of all noise, also of programs that are called inside.
        particles: the copies that the rows of the batch hold.
        process_group: the ranks that hold further copies.
        drawn: what each site gave, by its name or number, if that is asked for.
        mode: what watches the run, where the function is expected to run again.
    """

    call: Callable[[], Any]
    chosen: Chosen = None
    generator: Generator | None = None
    particles: Particles | None = None
    process_group: ProcessGroup | None = None
    drawn: dict[Key, Tensor] | None = None
    mode: Computed | None = None
    nodes: list[Node] = field(default_factory=list)
    before: list[Tensor] = field(default_factory=list)  # costs that no variable is charged for
    names: set[str] = field(default_factory=set)  # of the variables, where estimators are chosen by name

    def __post_init__(self) -> None:
        self.attached = torch.is_grad_enabled()
        self.trace = Trace(self.call, self.nodes, self.mode)

    def run(self) -> None:
        """Call the function."""
        if self.mode is None:
            returned = self.call()
        else:
            with self.mode:
                returned = self.call()
        self.finish(returned)
        if self.trace.started:
            self.trace.end()

    def sample(
        self, variables: Variables, estimator: Estimator[Any, Any] | None, context: Tensor | None, name: str | None
    ) -> Tensor:
        if self.attached and not torch.is_grad_enabled():
            raise RuntimeError(
                "sp.sample needs gradients on where its program began with them; got torch.no_grad(), as in a "
                "reentrant checkpoint, so the gradient would be zero. Use dist.sample(), or use_reentrant=False."
            )
        if name is not None and isinstance(self.chosen, dict):
            self.names.add(name)
        estimator = chosen_at(self.chosen, variables, estimator, name)
        batch = self._check(variables, estimator)
        dimension = estimator.adds_dimension(variables)
        if dimension and estimator.samples is None:
            raise ValueError(
                f"{estimator.label} evaluates f at several points, which need a dimension; got samples=None. Give a "
                "number."
            )
        if dimension and self.particles is not None:
            node, value = self._together(variables, estimator)
        else:
            node, value = self._drawn(variables, estimator, dimension, batch)
        if context is not None:
            node.context = context
        if not self.nodes and self.process_group is not None and not torch.compiler.is_dynamo_compiling():
            parallel.check_streams(self.generator, process_group=self.process_group, device=value.device)
        if self.trace.started:
            self.trace.note(node, variables)
        if self.drawn is not None:
            self.drawn[_key(self.drawn, name, len(self.nodes))] = _logged(node)
        self.nodes.append(node)
        if self.mode is not None:
            self.mode.drawn(value)
        return value

    def charge(self, cost: Any) -> None:
        require_cost(cost)
        if self.nodes:
            node = self.nodes[-1]
            if cost.shape != node.batch:
                raise ValueError(
                    f"A cost after {node.estimator.name} needs the batch shape at its place, {list(node.batch)}; "
                    f"got {list(cost.shape)}. {self._shape_fix(cost.shape, node)}"
                )
            node.costs.append(cost)
            return
        before = self.before
        if before and cost.shape != before[0].shape:
            raise ValueError(
                f"Costs before the first variable need one shape; got {list(before[0].shape)} and {list(cost.shape)}. "
                "Nothing is broadcast."
            )
        before.append(cost)

    def recorded(
        self, variables: Variables, estimator: Estimator[Any, Any] | None, context: Tensor | None, name: str | None
    ) -> tuple[Tensor, Again]:
        index, generator = len(self.nodes), self.generator
        state = None if generator is None else generator.get_state()
        before = saved()
        value = self.sample(variables, estimator, context, name)
        after, node = saved(), self.nodes[-1]

        def again(variables: Variables) -> Tensor:
            # If torch's state is what it was, the checkpoint has put it back, and what follows must find it moved on.
            # If not, it is left as it is.
            now = saved()
            try:
                if not node.draw.points.requires_grad:
                    return node.value.clone()
                if self.trace.started and index >= self.trace.first:
                    return _redrawn(node, variables, self.trace.stream(index))
                before.put_back()
                return _redrawn(node, variables, _with_state(generator, state))
            finally:
                (after if now.same(before) else now).put_back()

        return value, again

    def result(self) -> Tensor:
        """[*batch], the expected cost."""
        before, particles = self.before, self.particles
        costs = [*before, *(cost for node in self.nodes for cost in node.costs)]
        compiled = torch.compiler.is_dynamo_compiling()
        chains = all(node.chain is not None for node in self.nodes)  # whose value is the sum of all costs
        if not (compiled or chains):
            refuse_nonfinite(costs)
        first = self.nodes[0] if self.nodes else None
        together = first is not None and first.together is not None
        after = fold(self.nodes, self._group())
        if particles is not None:
            self._require_rows(before)
            before = [self._mean(cost) for cost in before]
            after = after if after is None or together else self._mean(after)
        result = in_all(before, after)
        if chains and not (compiled or (inspectable(result) and checks.surely_finite(result))):
            refuse_nonfinite(costs)
        return result

    def _group(self) -> Group | None:
        if not self.nodes or (self.particles is None and self.process_group is None):
            return None
        if self.particles is None:
            return Group(process_group=self.process_group)
        return Group(-len(self.nodes[0].batch), self.process_group, self.particles.count)

    def _mean(self, cost: Tensor) -> Tensor:
        """The mean over the particles, [K * rows, ...] -> [rows, ...]."""
        assert self.particles is not None
        return cost.reshape(self.particles.count, self.particles.rows, *cost.shape[1:]).mean(0)

    def _shape_fix(self, shape: torch.Size, node: Node) -> str:
        """What to do about a cost of another shape than that of the batch after this variable."""
        rows = len(node.batch) - node.dimension
        if not shape and rows:
            if self.particles is not None:
                return PER_ROW
            return f"{PER_ROW} If the rows are parts of one draw, wrap the distribution: Independent(dist, {rows})."
        extra = len(node.batch) - len(shape)
        if shape and extra > 0 and shape == node.batch[: len(shape)]:
            return (
                f"If the last dimensions are parts of one draw, wrap the distribution: Independent(dist, {extra}). "
                "Otherwise keep them: nothing is broadcast."
            )
        return "Sum over the event, keep the dimension that samples=K adds on the left; nothing is broadcast."

    def _check(self, variables: Variables, estimator: Estimator[Any, Any]) -> torch.Size:
        """Refuse what cannot stand at this place; return its batch shape."""
        refusal = estimator.refusal_of(variables)
        if refusal is not None:
            raise TypeError(refusal)
        if estimator.objective != "mean":
            raise TypeError(
                f"A program needs estimators of the mean cost; got {estimator.label}, which estimates another "
                f"objective, {estimator.objective}. Use it in sp.expect, or ScoreFunction or Pathwise here."
            )
        batch = variables.dist.batch_shape
        if self.nodes and batch != self.nodes[-1].batch:
            raise ValueError(
                f"{estimator.name} needs a distribution of the batch shape {list(self.nodes[-1].batch)}, which the "
                f"variables before it have; got {list(batch)}. Build it from them, or use "
                f"dist.expand({list(self.nodes[-1].batch)}), or Independent to make dimensions part of one draw."
            )
        particles = self.particles
        if particles is not None and batch[:1] != (particles.count * particles.rows,):
            raise ValueError(
                f"{estimator.name} in a program with particles={particles.count} needs a distribution whose batch "
                f"begins with the {particles.count * particles.rows} rows of the repeated arguments; got "
                f"{list(batch)}. Compute its parameters from the arguments, or use dist.expand."
            )
        checks.possible(estimator.name, variables)
        return batch

    def _drawn(
        self, variables: Variables, estimator: Estimator[Any, Any], dimension: bool, batch: torch.Size
    ) -> tuple[Node, Tensor]:
        if estimator.calls_f:
            self._begin(variables, estimator)
        generator = self.trace.generator(self.generator)
        attached = None if dimension else estimator.one(variables, generator)
        if attached is not None:
            # Now, because a further draw from the same transforms takes the place of this one in their caches.
            transformed = isinstance(variables.base, TransformedDistribution)
            origins = checks.origins(variables.base, attached) if transformed else ()
            return Node(estimator, None, Through(attached), False, batch, ThroughPoints, origins=origins), attached
        draw = estimator.draw(variables, generator)
        points = draw.points
        rest = self._rest(estimator, points.shape[0])
        if not dimension:
            value = points.squeeze(0)
            # A copy, so that a program that writes into its variable does not reach the draw.
            value = value if value.requires_grad else value.clone()
            chain = ScoreFunction if type(estimator) is ScoreFunction and estimator.baseline is None else None
            return Node(estimator, variables, draw, False, batch, chain, rest), value
        value = points.clone() if draw.probes is None else torch.cat((points, draw.probes))
        return Node(estimator, variables, draw, True, value.shape[:1] + batch, None, rest), value

    def _together(self, variables: Variables, estimator: Estimator[Any, Any]) -> tuple[Node, Tensor]:
        """The first variable, whose samples are the particles: drawn together, from one distribution for each row."""
        assert self.particles is not None
        k, rows = self.particles.count, self.particles.rows
        one = None
        if not self.nodes and estimator.samples == k and "samples" in vars(estimator):
            apart = {name: p.unflatten(0, (k, rows)) for name, p in variables.parameters.items()}
            if torch.compiler.is_dynamo_compiling() or all(_alike(p) for p in apart.values()):
                one = with_parameters(variables.dist, {name: p[0] for name, p in apart.items()})
        if one is None:
            raise ValueError(
                f"{estimator.label} draws several samples together, which particles={k} allows at the first variable "
                f"only, with samples={k} and one distribution for all particles; got another. Use samples=None, as "
                "ScoreFunction(None)."
            )
        first = recognize(one)
        if estimator.calls_f:
            self._begin(first, estimator)
        draw = estimator.draw(first, self.trace.generator(self.generator))
        if draw.probes is not None or len(draw.points) != k:
            raise ValueError(
                f"{estimator.label} evaluates f at further points; got a program with particles={k}, whose copies of "
                "the batch are its samples and nothing else. Use ScoreFunction(None) here, or no particles."
            )
        value = draw.points.flatten(0, 1)  # [K * rows, ...]
        rest = self._rest(estimator, k)
        node = Node(estimator, first, draw, False, variables.batch_shape, None, rest, together=k)
        return node, value if value.requires_grad else value.clone()

    def _begin(self, variables: Variables, estimator: Estimator[Any, Any]) -> None:
        device = next(iter(variables.parameters.values())).device
        self.trace.begin(estimator.name, self.generator, device)

    def _rest(self, estimator: Estimator[Any, Any], points: int) -> Rest | None:
        if not estimator.calls_f:
            return None
        return Rest(self.trace, len(self.nodes), points, estimator.name, estimator.allow_steps)

    def _require_rows(self, costs: list[Tensor]) -> None:
        assert self.particles is not None
        needed = self.particles.count * self.particles.rows
        for cost in costs:
            if cost.shape[:1] != (needed,):
                raise ValueError(
                    f"A cost in a program with particles={self.particles.count} needs the {needed} rows of the "
                    f"repeated arguments; got {list(cost.shape)}. Keep one cost for each row."
                )


def chosen_at(
    chosen: Chosen, variables: Variables, estimator: Estimator[Any, Any] | None, name: str | None
) -> Estimator[Any, Any]:
    """The estimator of a site: the one that was chosen for it, else its own, else the default."""
    if isinstance(chosen, dict):
        chosen = None if name is None else chosen.get(name)
    if chosen is not None:
        return chosen
    return default(variables) if estimator is None else estimator


def in_all(before: list[Tensor], after: Tensor | None) -> Tensor:
    """The costs before the first variable, and what all variables cost."""
    if before and after is not None and before[0].shape != after.shape:
        raise ValueError(
            f"Costs before the first variable need its batch shape, {list(after.shape)}; got {list(before[0].shape)}. "
            + ("Nothing is broadcast." if before[0].dim() else PER_ROW)
        )
    result = total(before, after)
    if result is None:
        raise no_cost()
    return result


def no_cost() -> ValueError:
    """What to raise where a program has no cost."""
    return ValueError("A program needs at least one cost; got none. Return or charge a tensor.")


def require_cost(cost: Any) -> None:
    """Refuse what is no tensor."""
    if isinstance(cost, Tensor):
        return
    if hasattr(cost, "send") and hasattr(cost, "throw"):
        raise TypeError(
            "A program needs a plain function; got a generator function. Remove yield: `x = sp.sample(dist, "
            "estimator)` draws, and `sp.charge(cost)` charges."
        )
    raise TypeError(f"A program returns and charges costs (tensors); got {cost!r:.80}.")


def _key(drawn: dict[Key, Tensor], name: str | None, number: int) -> Key:
    if name is None:
        return number
    if name not in drawn:
        return name
    return f"{name}[{sum(1 for key in drawn if isinstance(key, str) and key.partition('[')[0] == name)}]"


def _logged(node: Node) -> Tensor:
    """True samples only: the probes are the estimator's own affair."""
    return node.draw.points.detach() if node.dimension else node.value


def _alike(parameters: Tensor) -> bool:
    """Whether the particles have the same parameters, [K, rows, ...]."""
    with torch.no_grad():
        return not inspectable(parameters) or bool((parameters == parameters[:1]).all())


def _with_state(generator: Generator | None, state: Tensor | None) -> Generator | None:
    """A generator that gives the numbers that this one gave from that state on."""
    if generator is None or state is None:
        return None
    copy = Generator(generator.device)
    copy.set_state(state)
    return copy


def _redrawn(node: Node, variables: Variables, generator: Generator | None) -> Tensor:
    """Attached points, from the noise that they had, so that they leave the same graph."""
    estimator = node.estimator
    attached = None if node.dimension else estimator.one(variables, generator)
    if attached is not None:
        return attached
    points: Tensor = estimator.draw(variables, generator).points
    return points if node.dimension else points.squeeze(0)
