"""The state of ``torch.optim.SGD``, ``Adam`` and ``AdamW`` as that of a chain here, and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from .. import tree
from ..arguments import typed
from ..errors import PureSGDError, check_count
from ..models.buffers import trainable
from ..transforms import GradientTransformation, ScaleByAdamState, ScaleByAmsgradState, TraceState
from ..transforms.wrapping import check_inner

__all__ = ["from_torch_state", "to_torch_state"]

#: What a chain remembers of every parameter, and what torch calls it.
MEMORY = {
    TraceState: {"trace": "momentum_buffer"},
    ScaleByAdamState: {"mu": "exp_avg", "nu": "exp_avg_sq"},
    ScaleByAmsgradState: {"mu": "exp_avg", "nu": "exp_avg_sq", "nu_max": "max_exp_avg_sq"},
}


@typed
def from_torch_state(
    state_dict: dict[str, Any], tx: GradientTransformation, params: Any, *, steps: int | None = None
) -> Any:
    """The state of ``tx`` after what ``state_dict``, that of a ``torch.optim`` optimizer, has seen.

    ``tx`` is a chain with :func:`sgd`, :func:`adam`, :func:`adamw` or :func:`amsgrad` in it, and else only
    with what remembers nothing but steps: ``maximize`` is ``scale(-1)`` before the rule, groups with rates
    of their own are the parts of a :func:`partition`. ``params`` are the parameters by name, as
    :func:`from_module` gives them, or in a list: those of ``state_dict`` by their names, if it has names, or
    else in the same order. Moments are copied, in the dtypes that ``tx`` keeps. Hyperparameters are those of
    ``tx``, not of torch. ``steps`` is the number of steps taken, which SGD does not count; schedules go on
    from there.

    Raises:
        PureSGDError: names the leaf that torch's state lacks, that ``tx`` has no place for, that counts other
            steps or has another shape; SGD without ``steps``; or a ``tx`` that is no transform.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> module = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
        >>> module(torch.ones(1, 2)).sum().backward()
        >>> optimizer.step()
        >>> apply, params = ps.models.from_module(module)
        >>> state = ps.from_torch_state(optimizer.state_dict(), ps.adam(0.1), params)
        >>> state[0].step, state[0].mu["bias"]
        (tensor(1), tensor([0.1000]))
    """
    check_inner("from_torch_state", tx)
    if steps is not None:
        check_count("from_torch_state", "steps", steps, low=0)
    params = trainable(params)
    state = tx.init(params)
    indices = _indices(state_dict, params)
    saved: dict[int, dict[str, Any]] = {i: dict(entry) for i, entry in state_dict["state"].items()}
    steps = _steps(saved, indices, steps)
    new: dict[str, torch.Tensor] = {}
    for path, param, key, leaf in _memory(state):
        new[path] = (
            leaf if steps == 0 else _moment(saved.get(indices[param], {}), key, leaf, "params" + param)
        )
    for param, index in indices.items():
        for key in saved.get(index, {}):
            raise PureSGDError(
                f"params{param}",
                f"torch remembers {key!r} of it, and this chain does not",
                "Pass the chain of the same rule",
            )
    for path, leaf in tree.named_leaves(state, "state"):
        if path in new:
            continue
        if _counts_steps(path):
            new[path] = torch.full_like(leaf, steps)
        elif not path.endswith(".learning_rate") and ".hyperparams[" not in path:
            raise PureSGDError(
                path, "torch remembers nothing of the kind", "Add this part once the run is here"
            )
    return tree.flatten(state)[1]([new.get(path, leaf) for path, leaf in tree.named_leaves(state, "state")])


@typed
def to_torch_state(opt_state: Any, params: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state dict with which ``optimizer`` goes on where ``opt_state`` stands, by ``load_state_dict``.

    The inverse of :func:`from_torch_state`. Hyperparameters are those of ``optimizer``, which is left as it
    is.

    Raises:
        PureSGDError: names the leaf of ``params`` that ``optimizer`` has in another shape, or not at all.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> module = torch.nn.Linear(2, 1)
        >>> apply, params = ps.models.from_module(module)
        >>> tx = ps.adam(0.1)
        >>> _, state = tx.update(params, tx.init(params), params)
        >>> optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
        >>> optimizer.load_state_dict(ps.to_torch_state(state, params, optimizer))
        >>> optimizer.state[module.bias]["step"]
        tensor(1.)
    """
    params, state_dict = trainable(params), optimizer.state_dict()
    indices = _indices(state_dict, params)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    entries: dict[int, dict[str, Any]] = {}
    for _, param, key, leaf in _memory(opt_state):
        index = indices[param]
        if held[index].shape != leaf.shape:
            raise _other_shape(f"params{param}", leaf.shape, held[index].shape)
        entries.setdefault(index, {})[key] = leaf.clone()
    for _, node in tree.walk(opt_state):
        if isinstance(node, (ScaleByAdamState, ScaleByAmsgradState)):
            for param, _ in tree.named_leaves(node.mu):
                # torch counts in floats.
                entries[indices[param]]["step"] = node.step.to("cpu", torch.float32)
    return {**state_dict, "state": entries}


def _memory(state: Any) -> Iterator[tuple[str, str, str, torch.Tensor]]:
    """Of everything remembered of a parameter: its path, the parameter's, torch's name, and the leaf."""
    for path, node in tree.walk(state, "state"):
        for field, key in MEMORY.get(type(node), {}).items():
            for param, leaf in tree.named_leaves(getattr(node, field)):
                yield f"{path}.{field}{param}", param, key, leaf


def _indices(state_dict: dict[str, Any], params: Any) -> dict[str, int]:
    """The number that torch has for each parameter, by its path."""
    groups = state_dict["param_groups"]
    numbers = [number for group in groups for number in group["params"]]
    names = [name for group in groups for name in group.get("param_names", ())]
    # A dict in the order in which it was filled, which is that of the module; leaves come sorted.
    flat = isinstance(params, dict) and all(isinstance(p, torch.Tensor) for p in params.values())
    paths = [f"[{key!r}]" for key in params] if flat else [path for path, _ in tree.named_leaves(params)]
    if names and flat:
        paths = [path for path in (f"[{name!r}]" for name in names) if path in paths]
    if len(paths) != len(numbers) or len(paths) != len(tree.leaves(params)):
        here, there = len(tree.leaves(params)), f"{len(numbers)} {names or ''}".strip()
        raise PureSGDError(
            "params", f"holds {here} parameters, and the optimizer {there}", "Pass those of the optimizer"
        )
    return dict(zip(paths, numbers, strict=True))


def _steps(saved: dict[int, dict[str, Any]], indices: dict[str, int], steps: int | None) -> int:
    """The number of steps, from Adam's counts, which are taken out, or as given."""
    for param, index in indices.items():
        count = saved.get(index, {}).pop("step", None)
        if count is None:
            continue
        if steps is not None and int(count) != steps:
            raise PureSGDError(
                f"params{param}",
                f"has taken {int(count)} steps, and not {steps}",
                "A chain counts once for all",
            )
        steps = int(count)
    if steps is None:
        raise PureSGDError(
            "from_torch_state", "torch has not counted the steps", "Pass steps=, the number of those taken"
        )
    return steps


def _moment(entry: dict[str, Any], key: str, like: torch.Tensor, where: str) -> torch.Tensor:
    value = entry.pop(key, None)
    if value is None:
        raise PureSGDError(where, f"torch has no {key!r} of it", "Pass the chain of the same rule")
    if value.shape != like.shape:
        raise _other_shape(where, like.shape, value.shape)
    return value.to(like.device, like.dtype, copy=True)


def _counts_steps(path: str) -> bool:
    return path.endswith(".step") or ".schedule_steps[" in path


def _other_shape(where: str, ours: torch.Size, theirs: torch.Size) -> PureSGDError:
    return PureSGDError(
        where,
        f"has shape {tuple(ours)}, and in torch {tuple(theirs)}",
        "Pass the parameters of the optimizer",
    )
