"""Gradient statistics of a batch that is spread over ranks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from .. import gradients, tree
from ..arguments import typed
from ..errors import PureSGDError
from ..gradients import ClippedGrads, GradientMoments, NoiseScale, noise_scale_from_batch_sizes
from ..gradients.examples import Batch, ExampleLoss, Params
from ..gradients.onepass.stack import squared
from .collectives import group_of, pooled, shared, summed

__all__ = ["clipped_mean_grads", "gradient_moments", "merge_moments", "value_grad_and_noise"]


@typed
def gradient_moments(
    example_loss: ExampleLoss, mesh: DeviceMesh, method: str = "auto", chunk_size: int | None = None
) -> Callable[[Params, Batch], GradientMoments]:
    """Mean and variance of the gradient over the examples of all ranks: ``f(params, rows)``.

    Each rank measures its own ``rows``, as the function of the same name of the package does, which says
    what ``method`` and ``chunk_size`` are; :func:`merge_moments` merges them.

    Raises:
        PureSGDError: a mesh of several axes; a rank with one row, and what else the measurement raises.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from torch import distributed
        >>> distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        >>> mesh = distributed.init_device_mesh("cpu", (1,))
        >>> moments = ps.distributed.gradient_moments(lambda params, x: (params - x) ** 2 / 2, mesh)
        >>> moments(torch.tensor(0.0), (torch.tensor([1.0, 2.0, 3.0]),)).variance
        tensor(1.)
        >>> distributed.destroy_process_group()
    """
    group_of(mesh, "gradient_moments")
    own = gradients.gradient_moments(example_loss, method, chunk_size)
    return lambda params, rows: merge_moments(own(params, rows), mesh)


@typed
def merge_moments(moments: GradientMoments, mesh: DeviceMesh) -> GradientMoments:
    """The moments of the examples of all ranks together, from those of each rank's own.

        count     =  sum_r count_r
        mean      =  sum_r count_r * mean_r / count
        variance  =  sum_r ((count_r - 1) * variance_r + count_r * (mean_r - mean)**2) / (count - 1)

    Exact, as if they had been one batch, in three sums over the ranks. Everything is in the dtypes and
    shapes of ``moments``, and the same on all ranks.
    Source: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
    variances".

    Raises:
        PureSGDError: a mesh of several axes.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from torch import distributed
        >>> distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        >>> own = ps.GradientMoments(torch.tensor(4), torch.tensor(0.5), torch.ones(1), torch.ones(1))
        >>> ps.distributed.merge_moments(own, distributed.init_device_mesh("cpu", (1,)))
        GradientMoments(count=tensor(4), loss=tensor(0.5000), mean=tensor([1.]), variance=tensor([1.]))
        >>> distributed.destroy_process_group()
    """
    group = group_of(mesh, "merge_moments")
    own = moments.count
    # In float64: a count is to be exact.
    count = summed([own.double()], group)[0].to(own.dtype)
    loss, mean = pooled((moments.loss, moments.mean), own, group)

    def about_the_mean(mean: torch.Tensor, own_mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
        return variance * (own - 1) / own + squared(own_mean - mean)

    parts = tree.map(about_the_mean, shared(mean, group), moments.mean, moments.variance)
    variance = tree.map(lambda leaf: leaf * count / (count - 1), pooled(parts, own, group))
    return GradientMoments(count, loss, mean, variance)


@typed
def value_grad_and_noise(
    loss: Callable[..., Any], mesh: DeviceMesh
) -> Callable[[Params, Batch], tuple[torch.Tensor, Params, NoiseScale]]:
    """Loss and gradient of the whole batch, and the gradient noise: ``f(params, rows)``.

        g                = sum_r B_r * g_r / B                      g_r of the B_r rows of each of R ranks
        trace_covariance = (sum_r B_r * |g_r|**2 / B - |g|**2) * B / (R - 1)
        grad_sq_norm     = |g|**2 - trace_covariance / B

    The gradients of small batches are there before they are averaged, so the noise costs two numbers more
    to send. Both estimates are unbiased, for uneven rows too: in the mean over r the noise is that of a
    batch of ``B / R``. One measurement is very noisy: average many, as :func:`critical_batch_size` does.
    ``loss(params, rows)`` is a mean over the rows, of this rank alone.
    Source: McCandlish et al. 2018, arXiv:1812.06162, appendix A.1.

    Raises:
        PureSGDError: a mesh of several axes or of one rank; a rank without rows.

    Example:
        >>> import pure_sgd as ps
        >>> ps.distributed.value_grad_and_noise(ps.empirical_risk(lambda params, x: x @ params), mesh=None)
        Traceback (most recent call last):
        pure_sgd.errors.PureSGDError: value_grad_and_noise: mesh=None is of type NoneType, expected \
DeviceMesh. Pass mesh as one.
    """
    group = group_of(mesh, "value_grad_and_noise")
    ranks = mesh.size()
    own = gradients.value_and_grad(loss)
    if ranks < 2:
        raise PureSGDError("mesh", "has one rank, and noise is what gradients of ranks differ by", "Take two")

    def measured(params: Params, rows: Batch) -> tuple[torch.Tensor, Params, NoiseScale]:
        count = tree.batch_length(rows)
        value, grads = own(params, rows)
        value, mean, small = pooled((value, grads, tree.vdot(grads, grads)), count, group)
        total = summed([small.new_tensor(count)], group)[0]
        noise = noise_scale_from_batch_sizes(small, tree.vdot(mean, mean), total / ranks, total)
        return value, mean, noise

    return measured


@typed
def clipped_mean_grads(
    example_loss: ExampleLoss,
    mesh: DeviceMesh,
    max_norm: Any,
    noise_multiplier: float | torch.Tensor = 0.0,
    *,
    expected_batch_size: float | None = None,
    method: str = "auto",
    chunk_size: int | None = None,
) -> Callable[..., ClippedGrads]:
    """The gradient of DP-SGD over the examples of all ranks: ``f(params, rows, key=None) -> ClippedGrads``.

        grads = (sum_r sum_i clipped_ri + noise_multiplier * max_norm * normal) / sum_r B_r

    The function of the same name of the package, which says what the arguments are, with all examples:
    ``key`` is the same on every rank, and the noise is drawn from it and added once. Of the result, ``norms``
    are those of this rank's own ``rows``. With ``expected_batch_size``, that of all ranks together, any of
    them may have no row.

    Raises:
        PureSGDError: a mesh of several axes, and what the function of one process raises.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from torch import distributed
        >>> distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        >>> mesh = distributed.init_device_mesh("cpu", (1,))
        >>> grads = ps.distributed.clipped_mean_grads(lambda params, x: x @ params, mesh, max_norm=1.0)
        >>> grads(torch.zeros(2), (torch.tensor([[0.5, 0.0], [0.0, 8.0]]),)).grads
        tensor([0.2500, 0.5000])
        >>> distributed.destroy_process_group()
    """
    group = group_of(mesh, "clipped_mean_grads")
    # Divided by a number that is known the means add up; and of no rows nothing is left but the noise.
    size = 1.0 if expected_batch_size is None else expected_batch_size
    part = partial(gradients.clipped_mean_grads, example_loss, max_norm, expected_batch_size=size)
    own_part, noise = part(method=method, chunk_size=chunk_size), part(noise_multiplier)

    @typed
    def clipped(params: Params, rows: Batch, key: torch.Tensor | None = None) -> ClippedGrads:
        count = tree.batch_length(rows) if expected_batch_size is None else len(tree.leaves(rows)[0])
        drawn = noise(params, tree.map(lambda leaf: leaf[:0], rows), key).grads
        own = own_part(params, rows)
        found, rebuild = tree.flatten(own.grads)
        loss = own.loss * count if count else torch.zeros_like(own.loss)
        *sums, loss, total = summed([*found, loss, loss.new_tensor(count)], group)
        divisor = total if expected_batch_size is None else 1
        grads = [((s + e) / divisor).to(e.dtype) for s, e in zip(sums, tree.leaves(drawn), strict=True)]
        return ClippedGrads(rebuild(grads), loss / total, own.norms)

    return clipped
