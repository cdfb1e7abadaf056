"""Adam as torch's own kernel computes it, where that fits: one pass over memory without a compiler."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from ..tree.together import may_go_together
from ..tree.traversal import aligned
from .contract import Updates

#: The kernel of torch.optim.Adam(fused=True) has no public name.
_torch: Any = import_module("torch")


def adam_by_one_kernel(
    updates: Updates, mu: Updates, nu: Updates, t: torch.Tensor, b1: float, b2: float, eps: float
) -> tuple[Updates, Updates, Updates] | None:
    """The direction and the new moments of Adam; None where the kernel does not fit.

    It is for contiguous leaves of one dtype on one device, outside of every transformation of functions.
    """
    columns, rebuild = aligned(updates, mu, nu)
    if not columns[0] or not may_go_together(columns):
        return None
    leaves = [leaf for column in columns for leaf in column]
    devices, dtypes = {leaf.device for leaf in columns[0]}, {column[0].dtype for column in columns}
    if len(devices) > 1 or len(dtypes) > 1 or t.device.type not in ("cpu", "cuda"):
        return None
    if not all(leaf.is_contiguous() for leaf in leaves) or _is_differentiated(leaves):
        return None
    u, m, v = columns
    m, v, direction = (
        _torch._foreach_clone(m),
        _torch._foreach_clone(v),
        [torch.zeros_like(leaf) for leaf in u],
    )
    # The kernel adds to parameters, which are 0 here, -lr times the direction, in place: on copies.
    _torch._fused_adam_(
        direction,
        u,
        m,
        v,
        [],
        [t.to(torch.float32)] * len(u),
        lr=-1.0,
        beta1=b1,
        beta2=b2,
        weight_decay=0.0,
        eps=eps,
        amsgrad=False,
        maximize=False,
    )
    return rebuild(direction), rebuild(m), rebuild(v)


def _is_differentiated(leaves: list[torch.Tensor]) -> bool:
    return torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves)
