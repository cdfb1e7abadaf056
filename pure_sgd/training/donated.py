"""A state that a compiled step writes over."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from .. import tree
from ..errors import PureSGDError
from .state import TrainState

__all__ = ["Donated", "take_over"]

#: Numbers up to which a leaf is copied when a state is taken over: that costs nothing, and the old one stays.
SMALL = 4096


@dataclass
class Donated:
    """The newest state, and its leaves.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.training.donated import take_over
        >>> state = ps.init_train_state(torch.zeros(3), ps.sgd(0.1))
        >>> owned = take_over(state, None)
        >>> old, new = owned.state, owned.advance()
        >>> old.step is new.step, old.step.data_ptr() == new.step.data_ptr()
        (False, True)
    """

    state: TrainState
    memory: list[torch.Tensor]  # its leaves, those of shape () with an axis of length 1
    first: torch.Tensor  # the step of the state that was taken over

    def advance(self) -> TrainState:
        """The newest state from now on; only its ``step`` tells it from the one before."""
        step, params, opt_state = self.state
        self.state = TrainState(step.detach(), params, opt_state)
        return self.state


def take_over(state: TrainState, before: Donated | None) -> Donated:
    """Take over the memory of a state: small leaves are copied, large ones will be written over.

    Raises:
        PureSGDError: names a leaf that was donated ``before``, in a state without the newest ``step``, or
            one that has no memory of its own, such as one that is spread over ranks.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.training.donated import take_over
        >>> state = ps.init_train_state({"b": torch.ones(2), "w": torch.zeros(100, 100)}, ps.sgd(0.1))
        >>> taken = take_over(state, None).state
        >>> [taken.params[name].data_ptr() == state.params[name].data_ptr() for name in ("b", "w")]
        [False, True]
    """
    if before is not None and state.step is not before.state.step:
        _check_not_donated(state, before)
    leaves, rebuild = tree.flatten(state)
    if any(is_traceable_wrapper_subclass(leaf) for leaf in leaves):
        raise _not_one_piece(state)
    taken: set[int] = set()
    # torch 2.13 loses what is written into an input of shape () and dtype float64.
    memory = [_owned(torch.atleast_1d(leaf.detach()), taken) for leaf in leaves]
    owned = [held.view(leaf.shape) for held, leaf in zip(memory, leaves, strict=True)]
    return Donated(rebuild(owned), memory, state.step)


def _owned(held: torch.Tensor, taken: set[int]) -> torch.Tensor:
    """The same tensor; or a copy, where it is small, or not each number has a place of its own."""
    whole = held.is_contiguous() and not held.is_conj() and not held.is_neg()
    if held.numel() <= SMALL or _address(held) in taken or not whole:
        held = held.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    taken.add(_address(held))
    return held


def _check_not_donated(state: TrainState, before: Donated) -> None:
    taken = {_address(held) for held in before.memory}
    for path, leaf in tree.named_leaves(state, "state"):
        if leaf is before.first or (leaf.numel() and _address(leaf) in taken):
            raise PureSGDError(
                path,
                "was donated to an earlier call of the compiled step, which has written over it",
                "Go on from the state that the last call returned, and clone before it what you need later",
            )


def _not_one_piece(state: TrainState) -> PureSGDError:
    named = tree.named_leaves(state, "state")
    path, leaf = next((path, leaf) for path, leaf in named if is_traceable_wrapper_subclass(leaf))
    return PureSGDError(
        path,
        f"is a {type(leaf).__name__}, and only plain tensors can be donated",
        "Compile the step without donate",
    )


def _address(leaf: torch.Tensor) -> int:
    return leaf.untyped_storage().data_ptr()
