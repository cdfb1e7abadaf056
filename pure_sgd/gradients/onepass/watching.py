"""One forward pass over all examples, in which every use of a parameter is seen and noted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from ... import functorch, tree
from . import attention
from . import convolution as convolution  # registers its rules, as do the next ones
from . import einsum as einsum
from . import embedding as embedding
from . import normalization as normalization
from .held import Held, Holding, tensors_in
from .stack import Stack
from .uses import RULES, Use


def _named(*names: str) -> set[Callable[..., Any]]:
    """The functions, methods and properties of torch that go by these names."""
    found = [
        getattr(place, name) for name in names for place in (torch, torch.Tensor) if hasattr(place, name)
    ]
    return {value if callable(value) else value.__get__ for value in found}


# What only asks about a tensor is not a use of it.
QUESTIONS = _named("shape", "dtype", "device", "ndim", "requires_grad", "layout", "is_leaf") | _named(
    "dim",
    "size",
    "numel",
    "is_floating_point",
    "is_complex",
    "stride",
    "is_contiguous",
    "__len__",
    "__repr__",
)

# What only places entries of a tensor elsewhere.
PICKS = _named(
    *(
        "T",
        "mT",
        "t",
        "transpose",
        "permute",
        "movedim",
        "moveaxis",
        "swapaxes",
        "view",
        "view_as",
        "reshape",
    ),
    *("reshape_as", "flatten", "unflatten", "squeeze", "unsqueeze", "contiguous", "clone", "flip", "chunk"),
    *("split", "tensor_split", "unbind", "narrow", "select", "__getitem__"),
)


def _addmm(input: Any, left: Any, right: Any, *, beta: Any = 1, alpha: Any = 1) -> torch.Tensor:
    product = torch.matmul(left, right)
    return (input if beta == 1 else beta * input) + (product if alpha == 1 else alpha * product)


# What consists of calls that there are rules for.
REWRITTEN: dict[Callable[..., Any], Callable[..., Any]] = {
    **dict.fromkeys(_named("addmm", "addmv", "baddbmm"), _addmm),
    F.multi_head_attention_forward: attention.multi_head_attention,
}


@dataclass
class Noted:
    """A use, and the place in the graph where the gradient of its output will pass."""

    held: Held
    use: Use
    by: str
    edge: int  # in Watching.edges
    layout: tuple[Any, ...] | None  # of the output in what the edge belongs to, where it is a view of that
    axis: int  # of the examples in the output
    version: int  # of the input, to find out whether somebody changes it afterwards


class Watching(TorchFunctionMode):
    """Notes how the loss of each example uses the parameters.

    ``guards`` are the parameters as the loss holds them, and ``copies`` the leaves that are small
    enough to be held once for each example, as tensors with one value for each.
    A recognised call is made with parameters as constants, so no gradient by them is formed;
    where the gradients of its outputs pass is noted in ``edges``. In any other call a parameter is
    replaced by its copy. What is not small is left to be computed again, in ``refused``.
    """

    def __init__(self, guards: Sequence[torch.Tensor], root: torch.Tensor) -> None:
        super().__init__()
        self.holding = Holding(guards)
        self.root = root
        self.copies: dict[int, torch.Tensor] = {}
        self.level = 0
        self.noted: list[Noted] = []
        self.edges: list[GradientEdge] = []
        self.copied: dict[int, str] = {}  # leaf -> the call
        self.refused: dict[int, str] = {}

    def begin(self, copies: dict[int, torch.Tensor]) -> Watching:
        """Enter the ``vmap`` that the caller is in."""
        self.level, self.copies = functorch.level(), copies
        return self

    def holds(self, tensor: Any) -> bool:
        """Whether it is a parameter, or a function of parameters alone."""
        return self.holding.get(tensor) is not None

    def batched(self, tensor: Any) -> bool:
        """Whether it is a tensor with one value for each example."""
        return not self.holds(tensor) and functorch.is_batched(tensor, self.level)

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Every call of a function of torch comes by here."""
        kwargs = kwargs or {}
        if func is F.batch_norm:
            RULES[func](self, *args, **kwargs)
        if func is F.scaled_dot_product_attention and not self.holding.any_in(args, kwargs):
            return attention.scaled_dot_product_attention(*args, **kwargs)
        if not self.holding.any_in(args, kwargs) or func in QUESTIONS or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if functorch.level() == self.level:
            if func in REWRITTEN:
                with self:
                    return REWRITTEN[func](*args, **kwargs)
            uses = RULES[func](self, *args, **kwargs) if func in RULES else None
            if uses and not any(tensor.is_complex() for tensor in tensors_in((args, kwargs))):
                return self._note(func, args, kwargs, uses)
            if all(functorch.is_plain(tensor) for tensor in tensors_in((args, kwargs))):
                outputs = func(*args, **kwargs)
                self.holding.add(func, args, kwargs, func in PICKS, outputs)
                return outputs
        name = getattr(func, "__name__", repr(func))
        args, kwargs = self.holding.swapped((args, kwargs), lambda held: self._copy(held, name))
        return func(*args, **kwargs)

    def _note(self, func: Callable[..., Any], args: Any, kwargs: Any, uses: list[Use]) -> torch.Tensor:
        args, kwargs = self.holding.swapped((args, kwargs), lambda held: held.tensor.detach())
        output = func(*args, **kwargs)
        values, axis = functorch.stacked(output)
        base = functorch.base(values)
        if base is not None and not (base.is_contiguous() and base.numel() == values.numel()):
            output = output.clone()
            values, axis = functorch.stacked(output)
            base = functorch.base(values)
        # An operation in place on a view is recorded as one on its base, past the edge of the view itself.
        whole = values if base is None else base
        if not whole.requires_grad:
            # The gradient has to pass here even if it goes no further: adding to an empty part costs nothing.
            whole.narrow(0, 0, 0).add_(self.root)
        if base is not None:
            # A view learns that its base is in the graph by being asked, and not by an operation in place.
            get_gradient_edge(values)
        self.edges.append(get_gradient_edge(whole))
        layout = None if base is None else (values.shape, values.stride(), values.storage_offset())
        for use in uses:
            held = self.holding.get(use.weight)
            if held is None:
                continue
            version = 0
            if use.input is not None:
                stacked, input_axis = functorch.stacked(use.input)
                version = functorch.version(stacked)
                use = use._replace(input=stacked.detach().movedim(input_axis, 0))
            self.noted.append(Noted(held, use, func.__name__, len(self.edges) - 1, layout, axis, version))
        return output

    def _copy(self, held: Held, name: str) -> torch.Tensor:
        large = [index for index in held.leaves if index not in self.copies]
        for index in large:
            self.refused.setdefault(index, f"{name} has no rule, and B copies of the leaf would be large")
        if large:
            return held.tensor.detach()
        for index in held.leaves:
            self.copied.setdefault(index, name)
        return held.build(self.copies)

    def stacks(self, grads: Sequence[torch.Tensor | None]) -> list[tuple[Held, Stack]]:
        """What the uses amount to, given the gradients that passed at ``edges``."""
        found: list[tuple[Held, Stack]] = []
        for noted in self.noted:
            grad, input = grads[noted.edge], noted.use.input
            if grad is None:
                continue
            if noted.layout is not None:
                grad = grad.contiguous().as_strided(*noted.layout)
            grad = tree.widened(grad.movedim(noted.axis, 0))
            if input is None:
                input = grad
            elif functorch.version(input) != noted.version:
                for index in noted.held.leaves:
                    self.refused[index] = f"the input of {noted.by} was changed in place afterwards"
                continue
            elif input.is_floating_point():
                input = tree.widened(input)
            found.append((noted.held, noted.use.stack(input, grad)))
        return found
