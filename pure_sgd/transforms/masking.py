"""Transforms for some of the leaves: masks, frozen leaves, and a transform for each part."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from .. import tree
from ..errors import PureSGDError
from ..tree.checks import answers
from ..tree.traversal import children, is_node
from .combining import stateless
from .contract import GradientTransformation, Params, State, Updates, extra_args_of, transformation
from .wrapping import check_inner, extras_for

__all__ = [
    "MaskedNode",
    "MaskedState",
    "PartitionState",
    "freeze",
    "masked",
    "multi_transform",
    "partition",
    "selective_transform",
]


class MaskedNode(NamedTuple):
    """What stands in a tree in place of a leaf that is not a transform's own: a node without leaves."""


class MaskedState(NamedTuple):
    """The state of the wrapped transform, which holds nothing for the other leaves."""

    inner_state: State


class PartitionState(NamedTuple):
    """The state of each part's transform, which holds nothing for the other parts."""

    inner_states: dict[Hashable, State]


@transformation
def masked(inner: GradientTransformation, mask: Any) -> GradientTransformation:
    """Apply ``inner`` to the leaves that ``mask`` picks; the other updates pass through unchanged.

        u = inner(u) where mask, else u

    To hold leaves still use :func:`freeze`. ``mask`` is a tree of bools, a prefix of one (a bool for a
    whole subtree), or a predicate on the leaf's path such as ``lambda path: "['b']" not in path``.
    ``inner`` sees an empty node in place of every other leaf: no memory is kept for them, and a norm over
    all leaves is over those picked.

    Raises:
        PureSGDError: ``inner`` is no transform; later, a mask that does not fit the parameters.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.masked(ps.scale(10.0), {"w": True, "b": False})
        >>> grads = {"w": torch.ones(2), "b": torch.ones(())}
        >>> tx.update(grads, tx.init(grads))[0]
        {'w': tensor([10., 10.]), 'b': tensor(1.)}
    """
    check_inner("masked", inner)
    return _part(inner, lambda like: tree.select(mask, like, "masked"), lambda u: u)


@transformation
def freeze(mask: Any) -> GradientTransformation:
    """Set the updates of the leaves that ``mask`` picks to zero; the others pass through unchanged.

    At the end of a chain the picked parameters stay as they are. ``mask`` is as in :func:`masked`: here
    True means frozen.

    Raises:
        PureSGDError: a mask that does not fit the updates.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.chain(ps.sgd(0.1), ps.freeze(lambda path: path.startswith("['encoder']")))
        >>> grads = {"encoder": torch.ones(2), "head": torch.ones(2)}
        >>> tx.update(grads, tx.init(grads))[0]
        {'encoder': tensor([0., 0.]), 'head': tensor([-0.1000, -0.1000])}
    """

    def still(updates: Updates, params: Params) -> Updates:
        found, rebuild = tree.flatten(updates)
        frozen = tree.select(mask, updates, "freeze")
        return rebuild([torch.zeros_like(u) if f else u for u, f in zip(found, frozen, strict=True)])

    return stateless(still)


@transformation
def selective_transform(optimizer: GradientTransformation, *, freeze_mask: Any) -> GradientTransformation:
    """Apply ``optimizer`` to the leaves that ``freeze_mask`` does not pick; those that it picks get zero.

    As :func:`freeze` behind ``optimizer``, but without memory for frozen leaves, which count in no norm.

    Raises:
        PureSGDError: ``optimizer`` is no transform; later, a mask that does not fit the parameters.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.selective_transform(ps.sgd(0.1), freeze_mask={"w": True, "b": False})
        >>> grads = {"w": torch.ones(2), "b": torch.ones(())}
        >>> tx.update(grads, tx.init(grads))[0]
        {'w': tensor([0., 0.]), 'b': tensor(-0.1000)}
    """
    check_inner("selective_transform", optimizer)

    def trained(like: Params) -> list[bool]:
        return [not frozen for frozen in tree.select(freeze_mask, like, "selective_transform")]

    return _part(optimizer, trained, torch.zeros_like)


@transformation
def partition(
    transforms: Mapping[Hashable, GradientTransformation],
    param_labels: Any,
    *,
    default_label: Hashable | None = None,
) -> GradientTransformation:
    """Apply to each leaf the transform of its label; ``multi_transform`` is the same function.

        u = transforms[label of the leaf](u)

    ``param_labels`` is a tree of labels like the parameters, a prefix of one (a label for a whole subtree),
    a function from the leaf's path to its label, or one from the whole tree to a tree of labels. A leaf that
    it leaves out, or labels ``None``, has the ``default_label``. Each transform sees the leaves of its own
    label only, as in :func:`masked`, and receives the extra arguments that it reads. The state is a dict by
    label.

    Raises:
        PureSGDError: no transform, or something else among them; later, a label without transform, a
            leaf without label, or a transform (but for the default) that no leaf is labelled with.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> label = lambda path: "fast" if path == "['head']" else "slow"
        >>> tx = ps.partition({"fast": ps.sgd(0.1), "slow": ps.sgd(0.01)}, label)
        >>> grads = {"encoder": torch.ones(2), "head": torch.ones(2)}
        >>> tx.update(grads, tx.init(grads))[0]
        {'encoder': tensor([-0.0100, -0.0100]), 'head': tensor([-0.1000, -0.1000])}
    """
    if not transforms:
        raise PureSGDError("partition", "got no transform", "Pass at least one label with its transform")
    for label, tx in transforms.items():
        check_inner(f"partition[{label!r}]", tx)
    if default_label is not None and default_label not in transforms:
        raise _unknown(f"default_label={default_label!r} is", transforms)
    required = set(transforms) - {default_label}

    def labels_of(like: Params) -> list[Hashable]:
        named = tree.named_leaves(like)
        given, flat = answers(param_labels, like) if callable(param_labels) else (param_labels, False)
        if not flat:
            given = list(_spread(given, like, default_label is not None, "param_labels"))
        labels: list[Any] = [default_label if label is None else label for label in given]
        for (path, _), label in zip(named, labels, strict=True):
            if label is None:
                raise PureSGDError(
                    "partition",
                    f"the leaf {path or 'itself'} has no label",
                    "Label it, or pass default_label",
                )
            if label not in transforms:
                raise _unknown(f"the leaf {path or 'itself'} is labelled {label!r}, which is", transforms)
        unused = sorted(map(repr, required - set(labels)))
        if unused:
            raise PureSGDError(
                "partition",
                f"no leaf is labelled {', '.join(unused)}",
                "Leave such a transform out, correct the labels, or make it the default_label",
            )
        return labels

    def init(params: Params) -> PartitionState:
        labels = labels_of(params)
        return PartitionState(
            {label: tx.init(_only(params, _is(label, labels))) for label, tx in transforms.items()}
        )

    def update(
        updates: Updates, state: PartitionState, params: Params = None, **extra: Any
    ) -> tuple[Updates, PartitionState]:
        labels = labels_of(updates)
        found, rebuild = tree.flatten(updates)
        states = {}
        for label, tx in transforms.items():
            mine = _is(label, labels)
            own = None if params is None else _only(params, mine)
            new, states[label] = tx.update(
                _only(updates, mine), state.inner_states[label], own, **extras_for(tx, extra)
            )
            found = _merged(new, found, mine)
        return rebuild(found), PartitionState(states)

    read = dict.fromkeys(name for tx in transforms.values() for name in extra_args_of(tx))
    return GradientTransformation(init, update, tuple(read))


#: Optax's other name of :func:`partition`.
multi_transform = partition


def _part(
    inner: GradientTransformation,
    chosen_of: Callable[[Params], list[bool]],
    outside: Callable[[torch.Tensor], torch.Tensor],
) -> GradientTransformation:
    """``inner`` on the chosen leaves, ``outside`` on the others."""

    def init(params: Params) -> MaskedState:
        return MaskedState(inner.init(_only(params, chosen_of(params))))

    def update(
        updates: Updates, state: MaskedState, params: Params = None, **extra: Any
    ) -> tuple[Updates, MaskedState]:
        chosen = chosen_of(updates)
        own = None if params is None else _only(params, chosen)
        new, inner_state = inner.update(
            _only(updates, chosen), state.inner_state, own, **extras_for(inner, extra)
        )
        found, rebuild = tree.flatten(updates)
        rest = [u if mine else outside(u) for u, mine in zip(found, chosen, strict=True)]
        return rebuild(_merged(new, rest, chosen)), MaskedState(inner_state)

    return GradientTransformation(init, update, extra_args_of(inner))


def _only(like: Params, chosen: list[bool]) -> Params:
    found, rebuild = tree.flatten(like)
    return rebuild([leaf if mine else MaskedNode() for leaf, mine in zip(found, chosen, strict=True)])


def _merged(new: Updates, old: list[Any], chosen: list[bool]) -> list[Any]:
    leaves = iter(tree.leaves(new))
    return [next(leaves) if mine else leaf for leaf, mine in zip(old, chosen, strict=True)]


def _is(label: Hashable, labels: list[Hashable]) -> list[bool]:
    return [label == other for other in labels]


def _spread(labels: Any, like: Params, partial: bool, path: str) -> Iterator[Hashable]:
    """One label for each leaf of ``like``; with ``partial``, None for what ``labels`` leaves out."""
    count = len(tree.leaves(like))
    if not count:
        return
    if not is_node(labels):
        yield from [labels] * count
        return
    inner, outer = dict(children(labels)), dict(children(like))
    missing = [step for step, child in outer.items() if step not in inner and tree.leaves(child)]
    if not outer or inner.keys() - outer.keys() or (missing and not partial):
        raise PureSGDError(
            "partition",
            f"{path} holds {list(inner)} where the tree holds {list(outer) or 'a leaf'}",
            "Pass a label for every leaf or subtree, or a function from the leaf's path to its label",
        )
    for step, child in outer.items():
        yield from _spread(inner.get(step), child, partial, path + step)


def _unknown(subject: str, transforms: Mapping[Hashable, Any]) -> PureSGDError:
    known = ", ".join(map(repr, transforms))
    return PureSGDError(
        "partition", f"{subject} no label of a transform", f"Use one of {known}, or add its transform"
    )
