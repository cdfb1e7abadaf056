"""The noisy quadratic: the problem on which expected risks are known exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from .. import random
from ..arguments import typed
from ..errors import PureSGDError, check_count, check_hyperparameter
from ..transforms.wrapping import known

__all__ = ["NoisyQuadratic", "noisy_quadratic_model"]


@dataclass(frozen=True, eq=False)
class NoisyQuadratic:
    """A quadratic in n coordinates, seen through gradients with noise.

        risk(w)     = sum_i curvature_i * w_i**2 / 2
        gradient(w) = curvature * w + xi,      Var xi_i = noise_i / batch_size,  xi normal and independent

    ``params`` are one tensor of shape (n,). ``curvature`` is a number or n of them, as a sequence or tensor;
    ``noise``, the variance of the gradient of one example, is like it or one number for all; both become
    float64. ``batch_size`` is a number or a 0-d tensor. For the theory the noise may have any distribution of
    that variance. Source: Zhang et al. 2019, arXiv:1907.04164.

    Raises:
        PureSGDError: a curvature that is not positive, a negative noise, other shapes, or a batch size of 0.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> problem = ps.theory.NoisyQuadratic([1.0, 0.1], noise=[1.0, 0.0], batch_size=4)
        >>> problem.risk(torch.ones(2)), problem.variance
        (tensor(0.5500, dtype=torch.float64), tensor([0.2500, 0.0000], dtype=torch.float64))
        >>> step = ps.make_step(problem.loss, ps.sgd(0.1))
        >>> state = ps.init_train_state(torch.ones(2), ps.sgd(0.1))
        >>> for key in ps.random.split(ps.random.key(0), 100):
        ...     state, metrics = step(state, key)
        >>> state.params
        tensor([0.1937, 0.3660])
    """

    curvature: Any  # float64, (n,)
    noise: Any  # float64, (n,)
    batch_size: Any = 1

    @typed
    def __post_init__(self) -> None:
        curvature = torch.as_tensor(self.curvature, dtype=torch.float64)
        noise = torch.as_tensor(self.noise, dtype=torch.float64, device=curvature.device)
        _check_coordinates("curvature", curvature, curvature > 0, "positive")
        _check_coordinates("noise", noise, noise >= 0, "at least 0")
        curvature = curvature.reshape(-1)
        if noise.numel() not in (1, len(curvature)):
            raise PureSGDError(
                "NoisyQuadratic",
                f"noise has shape {tuple(noise.shape)} where curvature has {tuple(curvature.shape)}",
                "Give each coordinate a noise, or one number for all",
            )
        check_hyperparameter("NoisyQuadratic", "batch_size", self.batch_size, low=0, open_low=True)
        object.__setattr__(self, "curvature", curvature)
        object.__setattr__(self, "noise", noise.reshape(-1).expand(len(curvature)))

    @property
    def variance(self) -> torch.Tensor:
        """The variance of each coordinate of the gradient of a batch, (n,)."""
        return self.noise / self.batch_size

    def risk(self, params: torch.Tensor) -> torch.Tensor:
        """The risk of parameters (..., n), shape (...)."""
        return (self.curvature * params**2).sum(-1) / 2

    def gradient(self, params: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """The gradient of a batch at ``params`` (n,), drawn from ``key``: like params."""
        xi = self._draw(params, key)
        return (self.curvature * params + xi).to(params.dtype)

    @typed
    def loss(self, params: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """The loss of a batch, shape ``()``: its mean is the risk, and its gradient :meth:`gradient`."""
        xi = self._draw(params, key)
        return self.risk(params) + (xi * params).sum()

    def with_batch_size(self, batch_size: Any) -> NoisyQuadratic:
        """The same problem, seen through batches of another size."""
        return replace(self, batch_size=batch_size)

    def with_weight_decay(self, weight_decay: Any) -> NoisyQuadratic:
        """The problem penalised by ``weight_decay * |w|**2 / 2`` : every curvature grows by it."""
        return replace(self, curvature=self.curvature + weight_decay)

    def _draw(self, params: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        if params.shape != self.curvature.shape:
            raise PureSGDError(
                "NoisyQuadratic",
                f"params has shape {tuple(params.shape)}, expected {tuple(self.curvature.shape)}",
                "Pass one number a coordinate; map over more with torch.func.vmap",
            )
        return self.variance.sqrt() * random.normal(key, params.shape, _drawable(params.dtype))


@typed
def noisy_quadratic_model(n: int, batch_size: Any = 1) -> NoisyQuadratic:
    """The noisy quadratic model of neural networks: curvatures ``1 / i``, and noise equal to them.

        curvature_i = noise_i = 1 / i,      i = 1 ... n

    Source: Zhang et al. 2019, arXiv:1907.04164, with n = 10,000.

    Raises:
        PureSGDError: ``n`` is no int of at least 1, or as :class:`NoisyQuadratic`.

    Example:
        >>> import pure_sgd as ps
        >>> ps.theory.noisy_quadratic_model(4).curvature
        tensor([1.0000, 0.5000, 0.3333, 0.2500], dtype=torch.float64)
    """
    check_count("noisy_quadratic_model", "n", n)
    curvature = 1 / torch.arange(1, n + 1, dtype=torch.float64)
    return NoisyQuadratic(curvature, curvature, batch_size)


def _drawable(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _check_coordinates(name: str, values: torch.Tensor, holds: torch.Tensor, expected: str) -> None:
    if values.ndim > 1 or not values.numel():
        raise PureSGDError(
            "NoisyQuadratic",
            f"{name} has shape {tuple(values.shape)}, expected (n,)",
            "Pass one number a coordinate",
        )
    # Where values are mapped over nothing can be said of them.
    if known((holds & torch.isfinite(values)).all()) is False:
        raise PureSGDError(
            "NoisyQuadratic",
            f"{name} has entries that are not {expected} and finite",
            "Check the eigenvalues that it was made of" if name == "curvature" else "Pass variances",
        )
