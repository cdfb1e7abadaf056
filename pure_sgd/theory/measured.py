"""The noisy quadratic that a real problem is near a point: curvatures and gradient noise, measured."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import torch

from .. import tree
from ..arguments import typed
from ..errors import PureSGDError, check_count
from ..gradients import EmpiricalRisk, per_example_slopes
from ..gradients.examples import over_examples
from ..models.buffers import without_buffers
from ..transforms import GradientTransformation
from .linear import linearize
from .problem import NoisyQuadratic

__all__ = ["LocalQuadratic", "local_quadratic", "steady_state_noise"]

#: Doublings of a number of steps, and rounds of a fixed point that come closer by learning_rate / batch_size.
DOUBLINGS, ROUNDS = 64, 200
#: The relative change of a covariance at which its fixed point is found.
SETTLED = 1e-12


class LocalQuadratic(NamedTuple):
    """A risk near a point, in the directions of its Hessian's eigenvectors, the sharpest first."""

    problem: NoisyQuadratic  # its curvatures are the eigenvalues (n,), its noise the variances along them
    basis: Any  # a tree like params, of leaves (n, *P): the eigenvectors, together of norm 1
    start: torch.Tensor  # (n,): params in this basis, seen from the minimum of the quadratic
    noise_covariance: torch.Tensor  # (n, n): of the gradient of one example; its diagonal is problem.noise
    example_curvatures: torch.Tensor | None  # (B, n, n): Hessians of the examples less their mean


@typed
def local_quadratic(
    loss: EmpiricalRisk, params: Any, data: Any, batch_size: Any = 1, leading: int | None = None
) -> LocalQuadratic:
    """Measure the noisy quadratic that a risk is near ``params``.

        H = mean_i of the Hessian of example i = sum_j h_j v_j v_j^T
        noise_j = mean_i <g_i - mean g, v_j>**2                      g_i the gradient of example i

    ``loss`` is an :func:`empirical_risk`, ``data`` all n examples, from which batches are drawn with
    replacement. For linear regression the quadratic is the risk itself; the noise changes with the
    distance, and :func:`steady_state_noise` accounts for that.

    Without ``leading`` the Hessian of every example is formed, (B, P, P): for some hundred parameters. With
    it, only that many of the largest curvatures are sought, with products of the Hessian and a vector, by
    the Lanczos method of ``scipy.sparse.linalg.eigsh``; the rest of the space, and ``example_curvatures``,
    are left out. Pass float64 parameters and data where curvatures span many orders.

    The noise of two directions is correlated, and ``problem`` keeps its variances alone. That leaves the
    expected risk exact where directions do not mix: for rules that treat all numbers alike, as SGD, momentum
    and averages do. Preconditioners, and Adam, act along the axes of ``params`` instead.

    Raises:
        PureSGDError: a ``loss`` that knows no examples, curvatures that are not positive, not fewer
            leading ones than parameters, or scipy is not installed.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> loss = ps.empirical_risk(lambda w, x, y: (x @ w - y) ** 2 / 2)
        >>> x = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> found = ps.theory.local_quadratic(loss, torch.zeros(2), (x, torch.tensor([1.0, -1.0, 1.0, -1.0])))
        >>> found.problem.curvature, found.problem.noise
        (tensor([2.0000, 0.5000], dtype=torch.float64), tensor([2.0000, 0.5000], dtype=torch.float64))
    """
    example_loss, params = without_buffers(loss.example_loss, params)
    found, rebuild = tree.flatten(params)
    point = torch.cat([leaf.reshape(-1) for leaf in found])

    def as_tree(flat: torch.Tensor) -> Any:
        parts = flat.split([leaf.numel() for leaf in found])
        return rebuild([part.reshape(leaf.shape) for part, leaf in zip(parts, found, strict=True)])

    def of_flat(flat: torch.Tensor, *example: Any) -> torch.Tensor:
        return example_loss(as_tree(flat), *example)

    if leading is None:
        curvature, basis, along, spread = _all_directions(of_flat, point, data)
    else:
        check_count("local_quadratic", "leading", leading, high=len(point) - 1)
        curvature, basis = _leading_directions(EmpiricalRisk(of_flat), point, data, leading)
        slopes = per_example_slopes(of_flat)
        along, spread = torch.func.vmap(lambda v: slopes(point, data, v))(basis).T, None
    if not (curvature > 0).all():
        raise PureSGDError(
            "local_quadratic",
            f"the smallest of {len(curvature)} curvatures is {curvature.min():g}, expected positive ones",
            "Pass leading=k for the k largest, or add a penalty to the loss",
        )
    along, curvature = along.double(), curvature.double()
    covariance = torch.cov(along.T, correction=0).reshape(len(curvature), -1)
    problem = NoisyQuadratic(curvature, covariance.diagonal(), batch_size)
    return LocalQuadratic(
        problem, torch.func.vmap(as_tree)(basis), along.mean(0) / curvature, covariance, spread
    )


@typed
def steady_state_noise(tx: GradientTransformation, local: LocalQuadratic) -> NoisyQuadratic:
    """The same problem with the noise that there is where ``tx`` stays, instead of at the minimum.

        noise = diag(C + mean_i D_i S D_i)       C = noise_covariance, D_i = example_curvatures[i]
        S     = covariance of the parameters that tx keeps up under this noise

    The gradient of an example is off by D_i times the distance, too: multiplicative noise. It is small as
    learning_rate / batch_size * tr(H) is, and in the long run uncorrelated with the rest. The two equations
    are linear and solved by iteration, with all correlations between directions. For linear regression,
    batches drawn with replacement, and a chain whose steps are alike, the steady state of the result is
    exact.

    Raises:
        PureSGDError: as :func:`linearize`, a chain whose steps differ, one that is not stable under its
            noise, or a ``local`` of leading directions, which has no ``example_curvatures``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> loss = ps.empirical_risk(lambda w, x, y: (x * w - y) ** 2 / 2)
        >>> data = (torch.tensor([2.0, 2.0, 0.0, 0.0]), torch.tensor([1.0, -1.0, 0.0, 0.0]))
        >>> found = ps.theory.local_quadratic(loss, torch.tensor(0.0), data)
        >>> found.problem.noise, ps.theory.steady_state_noise(ps.sgd(0.1), found).noise
        (tensor([2.], dtype=torch.float64), tensor([2.2500], dtype=torch.float64))
    """
    spread, problem = local.example_curvatures, local.problem
    if spread is None:
        raise PureSGDError(
            "steady_state_noise",
            "local holds leading directions only",
            "Leave leading out of local_quadratic",
        )
    gain = _gain(tx, problem.curvature) / problem.batch_size
    covariance = local.noise_covariance
    for _ in range(ROUNDS):
        before = covariance
        kept = gain * covariance
        covariance = local.noise_covariance + (spread @ kept @ spread).mean(0)
        change = (covariance - before).abs().max() / covariance.abs().max()
        if change < SETTLED:
            return NoisyQuadratic(problem.curvature, covariance.diagonal(), problem.batch_size)
    raise PureSGDError(
        "steady_state_noise",
        f"under {tx} the noise grows without end, as it grows with the distance",
        "Pass a smaller learning rate, or a larger batch size",
    )


def _gain(tx: GradientTransformation, curvature: torch.Tensor) -> torch.Tensor:
    """The stationary covariance of parameters i and j, for noise of covariance 1 between them, (n, n)."""
    maps = linearize(tx, curvature)
    if maps.varies:
        raise PureSGDError(
            "steady_state_noise", f"the steps of {tx} differ", "Leave out schedules and counts"
        )
    step, kick = maps.transition[0], maps.noise[0]
    total = kick[:, None, :, None] * kick[None, :, None, :]
    for _ in range(DOUBLINGS):
        total = total + step[:, None] @ total @ step[None].mT
        step = step @ step
    return total[..., 0, 0]


def _all_directions(
    loss: Callable[..., torch.Tensor], point: torch.Tensor, data: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Curvatures (P,), directions as rows, gradients along them (B, P), deviations of Hessians (B, P, P)."""

    def derivatives(*example: Any) -> tuple[torch.Tensor, torch.Tensor]:
        def of_example(flat: torch.Tensor) -> torch.Tensor:
            return loss(flat, *example)

        return torch.func.grad(of_example)(point), torch.func.hessian(of_example)(point)

    gradients, hessians = over_examples(derivatives, data, "data")
    mean = hessians.mean(0)
    values, vectors = torch.linalg.eigh((mean + mean.T) / 2)
    basis = vectors.flip(1).T
    spread = basis @ (hessians - mean) @ basis.T
    return values.flip(0), basis, gradients @ basis.T, spread.double()


def _leading_directions(
    loss: EmpiricalRisk, point: torch.Tensor, data: Any, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest curvatures (count,) and their directions as rows, by products with the Hessian."""
    try:
        sparse: Any = import_module("scipy.sparse.linalg")
    except ImportError as error:
        raise PureSGDError(
            "local_quadratic", "scipy is not installed", "Install it: pip install scipy"
        ) from error
    gradient = torch.func.grad(lambda flat: loss(flat, data))

    def product(vector: Any) -> Any:
        tangent = torch.as_tensor(vector, dtype=point.dtype, device=point.device).reshape(-1)
        return torch.func.jvp(gradient, (point,), (tangent,))[1].cpu().double().numpy()

    size = len(point)
    operator = sparse.LinearOperator((size, size), matvec=product, dtype="float64")
    # The same start each time: what is found is then a function of its arguments.
    start = torch.linspace(1, 2, size, dtype=torch.float64).cos().numpy()
    values, vectors = sparse.eigsh(operator, k=count, which="LA", v0=start)
    found = torch.from_numpy(values.copy()).flip(0), torch.from_numpy(vectors.copy()).flip(1).T
    return found[0].to(point), found[1].to(point)
