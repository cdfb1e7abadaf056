"""Any chain as a ``torch.optim.Optimizer``, for code that expects one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from ..arguments import typed
from ..errors import PureSGDError
from ..transforms import GradientTransformation, eval_params
from ..transforms.wrapping import check_inner
from .closures import functions_of
from .groups import Group
from .loading import saved_leaves

__all__ = ["TorchOptimizer", "to_torch_optimizer"]

#: What only a closure can tell.
OF_CLOSURE = ("value", "value_fn", "grad_fn")


class TorchOptimizer(torch.optim.Optimizer):
    """What :func:`to_torch_optimizer` makes.

    Raises:
        PureSGDError: an option of a group that is no hyperparameter of the chain, or a chain that calls the
            closure with ``compile`` or several groups.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> isinstance(ps.to_torch_optimizer(ps.sgd(0.1), [torch.zeros(2)]), torch.optim.Optimizer)
        True
    """

    def __init__(self, tx: GradientTransformation, params: Iterable[Any], compile: bool) -> None:
        self._tx, self._compile = tx, compile
        self._groups: list[Group] = []
        super().__init__(params, {})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Move these parameters too, by a chain of their own.

        Raises:
            PureSGDError: an option that is no hyperparameter of the chain.
        """
        super().add_param_group(param_group)
        try:
            group = Group(self._tx, self.param_groups[-1], self._compile)
            self._check_closures([*self._groups, group])
        except BaseException:
            self.param_groups.pop()
            raise
        self._groups.append(group)
        self._place(group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, **extra: Any) -> Any:
        """One update from the gradients in the parameters, or from those that ``closure`` leaves there.

        ``extra`` goes to the chain. The loss that ``closure`` returns is its ``value``, unless that is
        among it.

        Raises:
            PureSGDError: a sparse gradient, a chain that asks for the loss without ``closure``, and what the
                chain itself raises.
        """
        if not (closure is None or callable(closure)):
            raise PureSGDError(
                "step", f"closure is a {type(closure).__name__}", "Pass a function, or nothing"
            )
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self._groups:
            if group.step({**self._from_closure(group, closure, loss, extra), **extra}):
                self._place(group)
        return loss

    def __getstate__(self) -> dict[str, Any]:
        """All of it, to be copied: torch would leave out what is not its own."""
        return {**super().__getstate__(), "_tx": self._tx, "_compile": self._compile, "_groups": self._groups}

    @property
    def chain_states(self) -> list[Any]:
        """The state of the chain, once for each group, to be read: its tensors are written over."""
        return [group.state for group in self._groups]

    def eval_params(self, name: str | None = None) -> dict[Any, torch.Tensor]:
        """The parameters to evaluate with, by name (or number): the average in the state, if there is one."""
        found: dict[Any, torch.Tensor] = {}
        for group in self._groups:
            values = {key: p.detach() for key, p in group.params.items()}
            values.update(eval_params(group.state, {key: values[key] for key in group.trained}, name))
            numbered = "param_names" not in group.options
            found.update({key + len(found): p for key, p in values.items()} if numbered else values)
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what ``state_dict`` gave, from an optimizer of a chain and of parameters like these.

        Raises:
            PureSGDError: names the leaf that is missing, that this chain does not have, or of another shape.
            ValueError: other groups.
        """
        found: list[dict[str, torch.Tensor]] = []

        def take(optimizer: Any, hooked: dict[str, Any]) -> dict[str, Any]:
            if len(hooked["param_groups"]) == len(self._groups):
                pairs = zip(self._groups, hooked["param_groups"], strict=True)
                found.extend(saved_leaves(group, saved, hooked["state"]) for group, saved in pairs)
            # Taken here: torch would round it to the dtypes of the parameters.
            return {**hooked, "state": {}}

        hook = self.register_load_state_dict_pre_hook(take)
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()
        for group, options, leaves in zip(self._groups, self.param_groups, found, strict=True):
            group.options = options
            for path, leaf in group.leaves.items():
                leaf.copy_(leaves[path])
            self._place(group)

    def _place(self, group: Group) -> None:
        """Show the state where torch has it: what belongs to a parameter, and in the group what all share."""
        owners, shared = group.owners(), {}
        for path, leaf in group.leaves.items():
            if path in owners:
                name, key = owners[path]
                self.state[group.params[name]][key] = leaf
            else:
                shared[path] = leaf
        group.options["shared"] = shared

    def _check_closures(self, groups: list[Group]) -> None:
        calls = [name for name in OF_CLOSURE[1:] if name in groups[-1].reads]
        if calls and (self._compile or len(groups) > 1):
            what = "compile=True" if self._compile else "several parameter groups"
            raise PureSGDError(
                "to_torch_optimizer",
                f"this chain evaluates the closure anew ({calls[0]}), which does not go with {what}",
                "Leave that out, or take another chain",
            )

    def _from_closure(self, group: Group, closure: Any, loss: Any, extra: dict[str, Any]) -> dict[str, Any]:
        """Of what a closure can tell, that which the chain reads."""
        wanted = [name for name in OF_CLOSURE if name in group.reads and name not in extra]
        if not wanted:
            return {}
        if closure is None:
            raise PureSGDError(
                "step",
                f"the chain reads {wanted[0]!r}, which a closure would tell",
                f"Call step(closure), or step({wanted[0]}=...)",
            )
        known = {"value": torch.as_tensor(loss).detach(), **functions_of(closure, group.trained)}
        return {name: known[name] for name in wanted}


@typed
def to_torch_optimizer(
    tx: GradientTransformation, params: Iterable[Any], *, compile: bool = False
) -> TorchOptimizer:
    """``tx`` as a ``torch.optim.Optimizer`` of ``params``, which its ``step()`` writes over.

    ``params`` is what ``torch.optim`` takes: parameters, ``module.named_parameters()``, or a list of groups.
    To the chain a group is a dict by name, or by number where parameters have no names, and each group has a
    chain of its own, with its own state: a norm over all leaves is one over the group. A parameter whose
    ``grad`` is None is left out of the step, as in ``torch.optim``: neither it nor what is remembered of it
    changes; the chain takes its gradient for zero, and counts steps once for all. One that requires no grad
    when the optimizer is made takes no memory until it has one.

    The number that the recipe of ``tx`` has as its learning rate becomes the group's ``lr``, which may be set
    for each group, and changed from step to step, as the schedulers of torch do. Where the rate follows a
    schedule, or there are several, ``lr`` is 1, a factor on all of them. Every other hyperparameter that a
    group names as the recipe does (``weight_decay``, ``b1``) is set in the same way, where it is one number,
    and so is what :func:`inject_hyperparams` holds. A chain without a learning rate has no ``lr``.

    The state begins with the parameters as they are now, on their device. What belongs to a parameter lies
    in ``optimizer.state``, what all share in the group, under ``"shared"``: ``state_dict`` holds tensors,
    numbers and names only. ``step(closure)`` gives the chain what it reads of ``value``, ``value_fn`` and
    ``grad_fn``; so line searches work. ``eval_params()`` is the average that the chain keeps,
    ``chain_states`` its states.

    Where the chain is a rule that torch has a kernel for (:func:`sgd`, :func:`adam` and :func:`adamw` without
    masks, with plain numbers but for the learning rate, which may follow a schedule on a CPU; float32 or
    float64, contiguous), a step is a call of that kernel, as with ``fused=True``: its result is the chain's
    to rounding. :func:`clip_by_global_norm` right before such a rule scales the gradients on their way into
    it, and leaves them as they are. What else stands before it runs first, and each of its operations passes
    over fresh memory; so do all of any other chain. With ``compile=True`` such an update is one program,
    which writes parameters and state in one pass; that compiles at the first step, for each group: for some
    10 s, and one or two more for each parameter.

    Raises:
        PureSGDError: a ``tx`` that is no transform, an option of a group that is no hyperparameter of the
            chain, or a chain that calls the closure with ``compile=True`` or several groups.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> module = torch.nn.Linear(3, 1)
        >>> tx = ps.chain(ps.clip_by_global_norm(1.0), ps.adamw(1e-3, weight_decay=1e-2))
        >>> optimizer = ps.to_torch_optimizer(tx, module.named_parameters())
        >>> scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
        >>> module(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()
        >>> scheduler.step()
        >>> optimizer.param_groups[0]["lr"], sorted(optimizer.state[module.bias])
        (0.0005, ['.inner_state[1][0].mu', '.inner_state[1][0].nu'])
    """
    check_inner("to_torch_optimizer", tx)
    return TorchOptimizer(tx, params, compile)
