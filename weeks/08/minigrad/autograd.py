"""The tape and its way back: recording operations, and the one loop that differentiates them.

An operation records a `Node` whose edges lead to where its inputs came from. Each edge carries
the rule that turns the gradient of the output into the gradient of that input: a vector-Jacobian
product. The rules are written in `Tensor` operations, so they can be recorded like any other;
that is all there is to higher derivatives.

>>> from week08.minigrad import Tensor
>>> x = Tensor(2.0, requires_grad=True)
>>> (slope,) = grad(x**3, x, create_graph=True)
>>> (curvature,) = grad(slope, x)
>>> slope.item(), curvature.item()  # 3x² and 6x
(12.0, 12.0)
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Union

if TYPE_CHECKING:
    from week08.minigrad.tensor import Tensor

Target = Union["Node", "Tensor"]  # what an edge leads to: a recorded operation, or a leaf
OUT = object()  # in a rule's saved values: the operation's own output


class Mode:
    """Whether operations are being recorded."""

    recording = True


@contextmanager
def set_grad_enabled(enabled: bool):
    """Switch recording on or off inside a `with` block, or inside a decorated function."""
    before, Mode.recording = Mode.recording, enabled
    try:
        yield
    finally:
        Mode.recording = before


def no_grad():
    """Compute without recording: no graph, no gradient, less memory."""
    return set_grad_enabled(False)


class Node:
    """One recorded operation.

    An edge is (target, rule, saved): the node that made the input, or the leaf itself; the rule,
    called as `rule(gradient, *saved values)`; what it saved, each with the version it had then.
    A rule sees nothing else, so no value can change between forward and backward unnoticed.
    """

    __slots__ = ("dtype", "edges", "name", "shape")

    def __init__(self, name: str, out: "Tensor", inputs: Sequence["Tensor"], rules: Sequence):
        self.name, self.shape, self.dtype = name, out.shape, out.dtype
        self.edges = [
            (x.grad_fn or x, rule, [_keep(s, out) for s in saved])
            for x, (rule, *saved) in zip(inputs, rules, strict=True)
            if x.requires_grad
        ]

    def __repr__(self):
        return f"<{self.name}Backward>"

    def propagate(self, gradient: "Tensor", wanted: Callable[[Target], bool]):
        """Yield (target, its share of the gradient) for each edge whose target is wanted."""
        for target, rule, saved in self.edges:
            if wanted(target):
                share = rule(gradient, *[self._recall(*s) for s in saved])
                # Broadcasting repeats an input; the transpose of repeating is summing.
                yield target, share.sum_to_size(target.shape).to(target.dtype)

    def _recall(self, tensor: "Tensor", version: int, is_output: bool) -> "Tensor":
        """A saved value, with its history; refused if it was modified in the meantime."""
        if tensor.version != version:
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an "
                f"inplace operation: a {tensor.dtype} tensor of shape {tensor.shape}, kept for "
                f"{self}, is at version {tensor.version}; expected version {version}"
            )
        return tensor.alias(self) if is_output else tensor

    def free(self) -> None:
        """Forget the saved values; without them there is no second way back."""
        if any(saved for _, _, saved in self.edges):
            self.edges = None


def _keep(value: Union["Tensor", object], out: "Tensor") -> tuple["Tensor", int, bool]:
    """A saved value, its version now, and whether it is the operation's own output.

    An output is kept without its history: with it, graph and value would hold each other, and no
    loop that only evaluates would free memory before the garbage collector comes round.
    """
    tensor = out.detach() if value is OUT else value
    return tensor, tensor.version, value is OUT


def _edges(target: Target) -> list:
    """The edges that lead on from a target; from a leaf, none."""
    if not isinstance(target, Node):
        return []
    if target.edges is None:
        raise RuntimeError(
            "Trying to backward through the graph a second time without retain_graph=True"
        )
    return target.edges


def _topological_order(roots: Sequence[Target]) -> list[Target]:
    """All targets below the roots, each after all its consumers (Kahn, 1962); not recursive."""
    waiting_for = dict.fromkeys(roots, 0)  # how many consumers of a target are not yet in order
    found = list(waiting_for)
    for target in found:  # grows while we walk it
        for following, *_ in _edges(target):
            if following not in waiting_for:
                waiting_for[following] = 0
                found.append(following)
            waiting_for[following] += 1
    order = [target for target in found if waiting_for[target] == 0]
    for target in order:  # grows too
        for following, *_ in _edges(target):
            waiting_for[following] -= 1
            if waiting_for[following] == 0:
                order.append(following)
    return order


def walk_back(
    outputs: Sequence["Tensor"],
    starts: Sequence[Union["Tensor", None]],
    inputs: Sequence["Tensor"] | None,
    retain_graph: bool,
) -> Iterator[tuple[Target, "Tensor"]]:
    """Send gradients from the outputs back; yield each of the inputs (None: all leaves) with its.

    In topological order: only when all consumers of a target have been visited is its gradient
    complete, and only then may it be passed on.
    """
    gradients: dict[Target, Tensor] = {}
    for output, start in zip(outputs, starts, strict=True):
        _add(gradients, output.grad_fn or output, _start(output, start))
    order = _topological_order(list(gradients))
    if inputs is None:
        wanted = {target for target in order if not isinstance(target, Node)}
    else:
        wanted = {x.grad_fn or x for x in inputs}
    passing = set()  # nodes from which a wanted target can be reached
    for target in reversed(order):
        if any(f in wanted or f in passing for f, *_ in _edges(target)):
            passing.add(target)
    useful = wanted | passing
    for target in (target for target in order if target in useful):
        gradient = gradients.pop(target)
        if target in wanted:
            yield target, gradient
        if target in passing:
            for following, share in target.propagate(gradient, useful.__contains__):
                _add(gradients, following, share)
            if not retain_graph:
                target.free()


def _add(gradients: dict[Target, "Tensor"], target: Target, share: "Tensor") -> None:
    """Gradients of a value that is used several times add up."""
    gradients[target] = gradients[target] + share if target in gradients else share


def _start(output: "Tensor", gradient: Union["Tensor", None]) -> "Tensor":
    """The gradient that the way back starts from: 1 for a single number, else as given."""
    if not output.requires_grad:
        raise RuntimeError("this tensor does not require grad and does not have a grad_fn")
    if gradient is None:
        if output.numel() != 1:
            raise RuntimeError("grad can be implicitly created only for scalar outputs")
        return output.ones_like()
    if gradient.shape != output.shape:
        raise ValueError(f"gradient must have shape {output.shape}, got {gradient.shape}")
    return gradient.to(output.dtype)


def grad(
    outputs: Union["Tensor", Sequence["Tensor"]],
    inputs: Union["Tensor", Sequence["Tensor"]],
    grad_outputs: Union["Tensor", Sequence["Tensor"], None] = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple:
    """Gradients of the outputs' sum with respect to the inputs, which keep their `.grad`.

    Parameters
    ----------
    outputs, inputs
        A tensor or several.
    grad_outputs
        What each output's gradient starts from; 1 for outputs with a single number.
    retain_graph
        Keep the saved values for another pass; as `create_graph` unless given.
    create_graph
        Record the computation of the gradients, so that they can be differentiated again.
    allow_unused
        Return None for an input that no output depends on, instead of complaining.
    """
    outputs, inputs = _sequence(outputs), _sequence(inputs)
    starts = [None] * len(outputs) if grad_outputs is None else _sequence(grad_outputs)
    if len(starts) != len(outputs):
        raise ValueError(f"grad_outputs must have {len(outputs)} entries, got {len(starts)}")
    retain_graph = create_graph if retain_graph is None else retain_graph
    with set_grad_enabled(create_graph):
        found = dict(walk_back(outputs, starts, inputs, retain_graph))
    gradients = tuple(found.get(x.grad_fn or x) for x in inputs)
    if not allow_unused and any(gradient is None for gradient in gradients):
        raise RuntimeError("an input was not used to compute outputs: allow_unused=True gives None")
    return gradients


def _sequence(tensors: Union["Tensor", Sequence["Tensor"]]) -> list:
    """[x] for x."""
    return list(tensors) if isinstance(tensors, list | tuple) else [tensors]
