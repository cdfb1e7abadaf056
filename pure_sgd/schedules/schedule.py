"""What a schedule is: a pure function from the step to a value.

A step is an int or a tensor of any shape and dtype, counted from 0, so that one call gives a whole
curve; the value has the step's shape and is float64 (float32 on devices without float64).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ..arguments import FOREIGN, raise_told
from ..errors import PureSGDError, check_hyperparameter
from ..recipe import Recipe

__all__ = ["Number", "Schedule", "as_real", "check_constants", "progress", "value_at"]

#: The constants of a schedule may be 0-d tensors, so that they can be mapped over and differentiated.
Number = float | torch.Tensor


class Schedule(NamedTuple):
    """A function of the step that reads as the call that made it; any other function serves as well.

    Raises:
        PureSGDError: when it is called with what is no step.

    Example:
        >>> import pure_sgd as ps
        >>> ps.exponential_decay(1.0, 2, 0.5)(4)
        tensor(0.2500, dtype=torch.float64)
    """

    function: Callable[[torch.Tensor], torch.Tensor]
    recipe: Recipe | None = None

    def __call__(self, step: int | torch.Tensor) -> torch.Tensor:
        """The value at ``step``, a tensor of the step's shape."""
        if torch.compiler.is_compiling():
            return self.function(as_real(step))
        try:
            return self.function(as_real(step))
        except FOREIGN as error:
            raise_told(error, self.function, (step,), {})
            raise

    def __repr__(self) -> str:
        return repr(self.recipe) if self.recipe else f"Schedule({self.function!r})"


def value_at(schedule: Any, step: torch.Tensor, where: str, name: str) -> Any:
    """The value of a hyperparameter at ``step``: itself, or what its schedule returns there.

    Raises:
        PureSGDError: the schedule returned anything but one number.

    Example:
        >>> import torch
        >>> from pure_sgd.schedules import value_at
        >>> value_at(0.1, torch.tensor(3), "sgd", "learning_rate")
        0.1
        >>> value_at(lambda step: 1 / (1 + step), torch.tensor(3), "sgd", "learning_rate")
        tensor(0.2500)
    """
    if not callable(schedule):
        return schedule
    value = schedule(step)
    shape = tuple(value.shape) if isinstance(value, torch.Tensor) else ()
    if shape:
        raise PureSGDError(
            where,
            f"the schedule of {name} returned a tensor of shape {shape} at one step, expected shape ()",
            "Let it return one number; use a transform of its own for each part of the parameters",
        )
    if not isinstance(value, (int, float, torch.Tensor)):
        raise PureSGDError(
            where,
            f"the schedule of {name} returned a {type(value).__name__}, expected a number",
            "Let it return a number or a 0-d tensor",
        )
    return value


def check_constants(where: str, **constants: Any) -> None:
    """Check that each constant of a schedule is a number or a 0-d tensor.

    Raises:
        PureSGDError: a tensor with axes, or another type.

    Example:
        >>> from pure_sgd.schedules.schedule import check_constants
        >>> check_constants("linear_schedule", init_value=0.1, end_value=0)
    """
    for name, value in constants.items():
        if callable(value):
            raise PureSGDError(
                where,
                f"{name}={value!r} is a function, expected a number or a 0-d tensor",
                "To follow one schedule after the other, use join_schedules",
            )
        check_hyperparameter(where, name, value)


def as_real(step: int | torch.Tensor) -> torch.Tensor:
    """A step as a float64 tensor (float32 on devices without float64): rates keep all their digits.

    Raises:
        PureSGDError: neither a number nor a tensor.

    Example:
        >>> from pure_sgd.schedules import as_real
        >>> as_real(3)
        tensor(3., dtype=torch.float64)
    """
    if not isinstance(step, torch.Tensor):
        check_constants("schedule", step=step)
        step = torch.as_tensor(step)
    return step.to(torch.float32 if step.device.type == "mps" else torch.float64)


def progress(step: torch.Tensor, steps: float) -> torch.Tensor:
    """The part of ``steps`` that has passed at ``step``, from 0 to 1; without steps, a jump at 0.

    Example:
        >>> import torch
        >>> from pure_sgd.schedules.schedule import progress
        >>> progress(torch.tensor([-1.0, 1.0, 3.0]), 2)
        tensor([0.0000, 0.5000, 1.0000])
    """
    return (step / steps).clamp(0, 1) if steps else (step >= 0).to(step.dtype)
