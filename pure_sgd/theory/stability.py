"""The largest learning rate that a problem bears."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..arguments import typed
from ..errors import PureSGDError
from ..transforms import GradientTransformation
from .problem import NoisyQuadratic
from .stationary import convergence_rate

__all__ = ["stability_limit"]

#: Doublings of the rate in search of a bound, and halvings of the interval after it: all digits of float64.
DOUBLINGS = 40
HALVINGS = 52


@typed
def stability_limit(
    tx_of_learning_rate: Callable[[torch.Tensor], GradientTransformation], problem: NoisyQuadratic
) -> torch.Tensor:
    """The learning rate from which on expected errors grow: float64, shape ``()``.

        convergence_rate(tx_of_learning_rate(rate), problem).worst < 1          for every rate below it

    ``tx_of_learning_rate`` receives a 0-d tensor. The limit is found by doubling from a rate at which all is
    stable until something is not, and by bisection between the two: of several stable intervals that
    lie far apart it is the end of the first.

    Raises:
        PureSGDError: as :func:`convergence_rate`; a chain that is unstable at every rate, or at none.

    Example:
        >>> import pure_sgd as ps
        >>> problem = ps.theory.NoisyQuadratic(curvature=[4.0, 1.0], noise=1.0)
        >>> ps.theory.stability_limit(ps.sgd, problem)
        tensor(0.5000, dtype=torch.float64)
        >>> ps.theory.stability_limit(lambda rate: ps.sgd(rate, momentum=0.9), problem)
        tensor(0.9500, dtype=torch.float64)
    """

    def is_stable(rate: torch.Tensor) -> bool:
        return bool(convergence_rate(tx_of_learning_rate(rate), problem).worst < 1)

    with torch.no_grad():
        stable = 1 / problem.curvature.max()
        for _ in range(DOUBLINGS):
            if is_stable(stable):
                break
            stable = stable / 2
        else:
            raise _no_limit("unstable", stable)
        unstable = 2 * stable
        for _ in range(DOUBLINGS):
            if not is_stable(unstable):
                break
            stable, unstable = unstable, 2 * unstable
        else:
            raise _no_limit("stable", unstable)
        for _ in range(HALVINGS):
            middle = (stable + unstable) / 2
            stable, unstable = (middle, unstable) if is_stable(middle) else (stable, middle)
        return (stable + unstable) / 2


def _no_limit(what: str, rate: torch.Tensor) -> PureSGDError:
    return PureSGDError(
        "stability_limit",
        f"the chain is {what} at every learning rate down or up to {rate.item():.3g}",
        "Let tx_of_learning_rate use the rate that it is given",
    )
