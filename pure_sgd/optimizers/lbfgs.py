"""Quasi-Newton: gradient descent in the metric of the curvature that it meets."""

from __future__ import annotations

from ..arguments import factory
from ..transforms import (
    GradientTransformation,
    Hyperparameter,
    chain,
    scale,
    scale_by_lbfgs,
    scale_by_learning_rate,
    scale_by_zoom_linesearch,
)

__all__ = ["lbfgs"]

ZOOM = scale_by_zoom_linesearch(20, initial_guess_strategy="one")


@factory
def lbfgs(
    learning_rate: Hyperparameter | None = None,
    memory_size: int = 10,
    scale_init_precond: bool = True,
    linesearch: GradientTransformation | None = ZOOM,
    *,
    min_curvature: Hyperparameter | None = 0.0,
    initial_norm: int = 2,
) -> GradientTransformation:
    """L-BFGS: steps by the inverse Hessian that the last few gradients imply, with a line search.

        params = params - rate * learning_rate * P grads          P of scale_by_lbfgs, rate of linesearch

    The objective must be the same at every step: train on all data (``fit(loss, lbfgs(), params, data,
    steps=100)``), not on batches. ``update`` needs the extra argument ``value_fn``, the objective as a
    function of the parameters, which :func:`make_step` and :func:`fit` give. A step costs the evaluations
    that its search needs, most often one, and one at the parameters, which
    :func:`value_and_grad_from_state` spares a loop of your own.

    Pairs of steps and differences without positive curvature are left out; Optax keeps them
    (``min_curvature=None``). They only come after a search that failed, and turn the direction uphill.
    The steps of ``torch.optim.LBFGS(lr, line_search_fn=None)`` are those of ``lbfgs(lr, linesearch=None,
    min_curvature=1e-10, initial_norm=1)``; it takes ``max_iter`` of them at a call.
    Source: Liu and Nocedal 1989, doi:10.1007/BF01589116.

    Raises:
        PureSGDError: as :func:`scale_by_lbfgs`, and for a negative learning rate.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> def rosenbrock(params):
        ...     x, y = params
        ...     return 100 * (y - x**2) ** 2 + (1 - x) ** 2
        >>> tx = ps.lbfgs()
        >>> params = torch.tensor([-1.2, 1.0], dtype=torch.float64)
        >>> state, value_and_grad = tx.init(params), ps.value_and_grad_from_state(rosenbrock)
        >>> for _ in range(40):
        ...     value, grad = value_and_grad(params, state=state)
        ...     updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=rosenbrock)
        ...     params = ps.apply_updates(params, updates)
        >>> params
        tensor([1., 1.], dtype=torch.float64)
    """
    rate = scale(-1.0) if learning_rate is None else scale_by_learning_rate(learning_rate)
    search = () if linesearch is None else (linesearch,)
    direction = scale_by_lbfgs(
        memory_size, scale_init_precond, min_curvature=min_curvature, initial_norm=initial_norm
    )
    return chain(direction, rate, *search)
