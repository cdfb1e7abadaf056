"""Attention: the one call of torch that hides many others, and the one that is slow to map over examples."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ... import functorch

# Its projections are calls that there are rules for, once it is made to show them.
multi_head_attention = functorch.opened(F.multi_head_attention_forward)


def scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: Any = None,
    *args: Any,
    **kwargs: Any,
) -> torch.Tensor:
    """As in torch, with one axis in place of the batch and head axes of an example.

    On four axes torch's kernels cannot be mapped: each example would be handled by itself.
    """
    alike = query.ndim == 4 and query.shape[:2] == key.shape[:2] == value.shape[:2]
    if not alike or (attn_mask is not None and attn_mask.ndim > 2):
        return F.scaled_dot_product_attention(query, key, value, attn_mask, *args, **kwargs)
    query_flat, key_flat, value_flat = (tensor.flatten(0, 1) for tensor in (query, key, value))
    mixed = F.scaled_dot_product_attention(query_flat, key_flat, value_flat, attn_mask, *args, **kwargs)
    return mixed.unflatten(0, query.shape[:2])
