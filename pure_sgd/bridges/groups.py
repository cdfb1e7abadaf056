"""One parameter group: the chain that moves it, and what that remembers."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import Any

import torch

from .. import tree
from ..errors import PureSGDError
from ..transforms import GradientTransformation, extra_args_of
from .held import RATE, SHORT, hold, settable
from .in_place import update_in_place
from .kernels import kernel_of

__all__ = ["Group"]

#: What may stand in a group beside the hyperparameters of its chain.
OTHERS = {"params", "param_names", "name", "initial_lr", "shared"}


class Group:
    """A chain, the parameters of one group by name (or number), and its state, which stays where it is.

    ``options`` is the group as ``torch.optim`` has it: the numbers in it that are hyperparameters of the
    chain are those of the next step.

    Raises:
        PureSGDError: an option that is no hyperparameter of the chain; in ``step`` a sparse gradient.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.bridges.groups import Group
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> group = Group(ps.sgd(0.1), {"params": [weight]}, compile=False)
        >>> weight.grad = torch.ones(2)
        >>> group.options["lr"] = 0.5
        >>> with torch.no_grad():
        ...     new = group.step({})
        >>> weight.data
        tensor([-0.5000, -0.5000])
    """

    def __init__(self, tx: GradientTransformation, options: dict[str, Any], compile: bool) -> None:
        params: list[torch.Tensor] = options["params"]
        self.params = dict(zip(options.get("param_names", range(len(params))), params, strict=True))
        self.options, self._compile, self._chain = options, compile, tx
        self.leaves: dict[str, torch.Tensor] = {}  # of the state, by path
        #: The parameters that the chain knows: all but those that never had a gradient.
        self.trained = {name: p for name, p in self.params.items() if p.requires_grad} or self.params
        wanted = options.keys() - OTHERS - {"lr"} | {RATE}
        self.tx = hold(tx, wanted - settable(tx.init(_values(self.trained))).keys())
        self.reads = extra_args_of(self.tx)
        self._begin()
        self._held = {SHORT.get(name, name): self.leaves[path] for name, path in settable(self.state).items()}
        self._check_options()
        for name, leaf in self._held.items():
            options.setdefault(name, leaf.item())

    @property
    def state(self) -> Any:
        """The state of the chain, as its ``init`` and ``update`` give it."""
        return tree.flatten(self._like)[1](list(self.leaves.values()))

    def owners(self) -> dict[str, tuple[Hashable, str]]:
        """For the path of each leaf that belongs to a parameter: its name, and the path without it."""
        found: dict[str, tuple[Hashable, str]] = {}
        for path, node in tree.walk(self.state):
            if type(node) is dict and node.keys() == self.trained.keys():
                for name in node:
                    for rest, _ in tree.named_leaves(node[name]):
                        found[f"{path}[{name!r}]{rest}"] = (name, path + rest)
        return found

    def cover(self, names: Collection[Hashable]) -> bool:
        """Let the chain know of these parameters too; whether there are new ones."""
        new = [name for name in names if name not in self.trained]
        if new:
            self.trained = {**self.trained, **{name: self.params[name] for name in new}}
            self._begin()
        return bool(new)

    def step(self, extra: dict[str, Any]) -> bool:
        """One update of the parameters that have a gradient; whether it reached new ones."""
        grads = {name: p.grad for name, p in self.params.items() if p.grad is not None}
        for name, grad in grads.items():
            if grad.layout is not torch.strided:
                remedy = "Make it dense: build the embedding with sparse=False"
                raise PureSGDError(f"{name!r}", "has a sparse gradient", remedy)
        if not grads:
            return False
        reached = self.cover(grads.keys())
        held = {name: self.options[name] for name in self._held}
        for name, leaf in self._held.items():
            leaf.fill_(held[name])
        kernel = None if extra or len(grads) < len(self.trained) else self._kernel
        if kernel is not None and kernel.step([grads[name] for name in self.trained], held):
            return reached
        still: list[tuple[torch.Tensor, torch.Tensor]] = []
        if len(grads) < len(self.trained):
            still = [(leaf, leaf.clone()) for leaf in self._without(grads)]
            grads = {name: torch.zeros_like(p) for name, p in self.trained.items()} | grads
        self._write(self._memory, [grads[name] for name in self.trained], extra)
        for leaf, before in still:
            leaf.copy_(before)
        return reached

    def _without(self, grads: Mapping[Hashable, Any]) -> list[torch.Tensor]:
        """The parameters that have no gradient, and what is remembered of them."""
        owned = [self.leaves[path] for path, (name, _) in self.owners().items() if name not in grads]
        return [*[p for name, p in self.trained.items() if name not in grads], *owned]

    def _begin(self) -> None:
        """Know of the trained parameters; what is remembered of some already stays."""
        values = _values(self.trained)
        state = self.tx.init(values)
        known, self._like = self.leaves, tree.map(lambda leaf: 0, state)
        self.leaves = {
            path: known[path] if path in known else leaf.clone(memory_format=torch.contiguous_format)
            for path, leaf in tree.named_leaves(state)
        }
        places = [*self.trained.values(), *self.leaves.values()]
        self._memory = [leaf if leaf.ndim else leaf.detach().view(1) for leaf in places]
        self._kernel = kernel_of(self._chain, self.trained, self.state, whole=self._compile)
        self._write = update_in_place(self.tx, values, state, self._compile)

    def _check_options(self) -> None:
        for name in self.options.keys() - OTHERS - self._held.keys():
            known = ", ".join(map(repr, self._held)) or "none"
            raise PureSGDError(
                f"param_groups, {name!r}",
                f"is no hyperparameter that a group of this chain sets; those are {known}",
                "Leave it out, or give the chain one number of that name, which no schedule sets",
            )


def _values(params: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
    return {name: p.detach() for name, p in params.items()}
