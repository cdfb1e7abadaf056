"""When to stop early: predicates of the history."""

from __future__ import annotations

from collections.abc import Callable

from ..arguments import typed
from ..errors import PureSGDError, check_count, check_hyperparameter

__all__ = ["early_stopping"]


@typed
def early_stopping(
    name: str, patience: int = 10, min_delta: float = 0.0
) -> Callable[[dict[str, list[float]]], bool]:
    """Stop when the quantity ``name`` has not fallen for ``patience`` records.

    Returns ``stop(history)``, true when none of the last ``patience`` values lies more than ``min_delta``
    (in the unit of the quantity) under the lowest one before them. It keeps no state.

    Raises:
        PureSGDError: ``patience`` under 1, a negative ``min_delta``, or a name that is not in the history.

    Example:
        >>> import pure_sgd as ps
        >>> stop = ps.early_stopping("val_loss", patience=2)
        >>> stop({"val_loss": [3.0, 1.0, 2.0]}), stop({"val_loss": [3.0, 1.0, 2.0, 1.5]})
        (False, True)
    """
    check_count("early_stopping", "patience", patience)
    check_hyperparameter("early_stopping", "min_delta", min_delta, low=0)

    def stop(history: dict[str, list[float]]) -> bool:
        if name not in history:
            raise PureSGDError(
                "early_stopping", f"{name!r} is not recorded", f"Choose one of {sorted(history)}"
            )
        values = history[name]
        if len(values) <= patience:
            return False
        return not min(values[-patience:]) < min(values[:-patience]) - min_delta

    return stop
