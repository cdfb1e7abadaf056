"""Embeddings: an example has gradients in the rows that it looks up, and in no other."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ...functorch import readable
from .stack import LeafSums, Stack, Want, along_examples, square_norms
from .uses import Use, Watch, rule


class Rows(Stack):
    """``g_i[index[i, t]] += grad[i, t]``; index (B, T), grad (B, T, *row)."""

    def __init__(self, index: torch.Tensor, grad: torch.Tensor, shape: tuple[int, ...]) -> None:
        self.index, self.grad, self.shape = index, grad, shape
        self.count, self.like = len(index), grad

    def dense(self, start: int, stop: int) -> torch.Tensor:
        """Every row, looked up or not."""
        rows = self.shape[0]
        offsets = rows * torch.arange(stop - start, device=self.index.device)
        places = (self.index[start:stop] + offsets[:, None]).flatten()
        zeros = self.like.new_zeros((stop - start) * rows, *self.shape[1:])
        return zeros.index_add_(0, places, self.grad[start:stop].flatten(0, 1)).view(-1, *self.shape)

    def scaled(self, weights: torch.Tensor) -> Rows:
        """Each multiplied."""
        return Rows(self.index, self.grad * along_examples(weights, self.grad), self.shape)

    def sums(self, want: Want) -> LeafSums:
        """From the rows that each example looks up: nothing of the size of B x P is formed."""
        if not readable():
            return LeafSums(*_OPERATOR(self.index, self.grad, self.shape))
        rows = self.shape[0]
        offsets = rows * torch.arange(self.count, device=self.index.device)
        pairs, inverse = torch.unique((self.index + offsets[:, None]).flatten(), return_inverse=True)
        looked_up = self.like.new_zeros(len(pairs), *self.shape[1:])
        looked_up.index_add_(0, inverse, self.grad.flatten(0, 1))
        example, row = pairs // rows, pairs % rows
        norms = None
        if want.norms:
            norms = self.like.new_zeros(self.count).index_add_(0, example, square_norms(looked_up))
        if not want.mean and not want.variance:
            return LeafSums(None, None, norms)
        mean = self.like.new_zeros(self.shape).index_add_(0, row, looked_up).div_(self.count)
        if not want.variance:
            return LeafSums(mean, None, norms)
        # Examples that do not look a row up lie as far from its mean as zero does.
        absent = self.count - torch.bincount(row, minlength=rows)
        squares = mean.square() * along_examples(absent, mean)
        squares.index_add_(0, row, looked_up.sub_(mean[row]).square_())
        return LeafSums(mean, squares.div_(max(self.count - 1, 1)), norms)


def _sums(index: torch.Tensor, grad: torch.Tensor, shape: list[int]) -> list[torch.Tensor | None]:
    return list(Rows(index, grad, tuple(shape)).sums(Want()))


def _shapes(index: torch.Tensor, grad: torch.Tensor, shape: list[int]) -> list[torch.Tensor]:
    return [grad.new_empty(shape), grad.new_empty(shape), grad.new_empty(len(index))]


# How many rows are looked up depends on values: a compiler calls this without looking inside.
torch.library.define(
    "pure_sgd::embedding_sums",
    "(Tensor index, Tensor grad, SymInt[] shape) -> Tensor[]",
    tags=(torch.Tag.cudagraph_unsafe,),
)
torch.library.impl("pure_sgd::embedding_sums", "default", _sums)
torch.library.register_fake("pure_sgd::embedding_sums", _shapes)
_OPERATOR: Any = torch.ops.pure_sgd.embedding_sums.default


@rule(F.embedding)
def _embedding(
    watch: Watch,
    input: Any,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> list[Use] | None:
    if not watch.holds(weight) or not watch.batched(input) or max_norm is not None or scale_grad_by_freq:
        return None
    return [_looked_up(input, weight, padding_idx)]


@rule(torch.Tensor.__getitem__)
def _getitem(watch: Watch, weight: Any, index: Any) -> list[Use] | None:
    if not watch.holds(weight) or not watch.batched(index) or index.dtype not in (torch.int64, torch.int32):
        return None
    return [_looked_up(index, weight, None)]


def _looked_up(index: torch.Tensor, weight: torch.Tensor, padding: int | None) -> Use:
    shape = tuple(weight.shape)

    def stack(index: torch.Tensor, grad: torch.Tensor) -> Stack:
        places = index.long().reshape(len(index), -1) % shape[0]
        grads = grad.reshape(*places.shape, *shape[1:])
        if padding is not None:
            grads = grads.masked_fill(
                (places == padding % shape[0]).reshape(*places.shape, *(1 for _ in shape[1:])), 0
            )
        return Rows(places, grads, shape)

    return Use(weight, index, stack)
