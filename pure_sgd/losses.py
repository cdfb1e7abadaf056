"""Losses of one example: what a prediction costs against what was seen, a tensor of shape ``()``.

Each is the mean over the example's own axes; the mean over examples is taken by
:func:`pure_sgd.empirical_risk`. Arithmetic is done in at least float32, and the loss has the
dtype of the prediction. In the shapes, P stands for the axes of a prediction, K for the number of
classes, and ``...`` for any axes in front of it, such as the positions of a sequence.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from . import tree
from .errors import PureSGDError, check_hyperparameter

__all__ = [
    "huber_loss",
    "l2_loss",
    "sigmoid_binary_cross_entropy",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "squared_error",
    "zero_one_loss",
]


def squared_error(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The mean squared error, ``mean((prediction - target)^2)``.

    Shapes: both (P); the result (). Its unit is the square of the target's.

    Raises:
        PureSGDError: the shapes differ; nothing is broadcast.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.losses.squared_error(torch.tensor(3.0), torch.tensor(1.0))
        tensor(4.)
    """
    prediction_wide, target_wide = _alike("squared_error", prediction, target)
    return _narrow(F.mse_loss(prediction_wide, target_wide), prediction)


def l2_loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Half the mean squared error, ``mean((prediction - target)^2) / 2``.

    This is the loss of linear regression: its derivative by the prediction is the residual itself.

    Shapes: both (P); the result (). Its unit is the square of the target's.

    Raises:
        PureSGDError: the shapes differ; nothing is broadcast.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.losses.l2_loss(torch.tensor(3.0), torch.tensor(1.0))
        tensor(2.)
    """
    prediction_wide, target_wide = _alike("l2_loss", prediction, target)
    return _narrow(F.mse_loss(prediction_wide, target_wide) / 2, prediction)


def huber_loss(
    prediction: torch.Tensor, target: torch.Tensor, delta: float | torch.Tensor = 1.0
) -> torch.Tensor:
    """Half the squared error near the target, linear beyond ``delta``: outliers pull no harder.

    With ``r = |prediction - target|``, the mean of ``r^2 / 2`` where ``r <= delta`` and of
    ``delta * (r - delta / 2)`` elsewhere. No derivative by the prediction exceeds ``delta``.

    Shapes: both (P); ``delta`` a number or a 0-d tensor above 0, in the unit of the target;
    the result ().

    Raises:
        PureSGDError: the shapes differ, or ``delta`` is not above 0.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.losses.huber_loss(torch.tensor([0.5, 3.0]), torch.tensor([0.0, 0.0]))
        tensor(1.3125)

    Source: Huber 1964, "Robust Estimation of a Location Parameter".
    """
    check_hyperparameter("huber_loss", "delta", delta, low=0.0, open_low=True, open_high=True)
    prediction_wide, target_wide = _alike("huber_loss", prediction, target)
    # F.huber_loss takes delta as a Python number only, which could be neither mapped nor learned.
    distance = (prediction_wide - target_wide).abs()
    if isinstance(delta, (int, float)):
        delta = min(delta, torch.finfo(distance.dtype).max)
    near = distance.clamp(max=delta)
    return _narrow((near.square() / 2 + delta * (distance - near)).mean(), prediction)


def sigmoid_binary_cross_entropy(logit: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """The binary cross-entropy of logistic regression, from the logit and so without overflow.

    With ``p = sigmoid(logit)``, the mean of ``-label * log(p) - (1 - label) * log(1 - p)``. Its
    derivative by the logit is ``p - label``.

    Shapes: both (P); the result (), in nats. A label is 0 or 1 in any dtype, bool included, or a
    probability of 1 in between.

    Raises:
        PureSGDError: the shapes differ; nothing is broadcast.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.losses.sigmoid_binary_cross_entropy(torch.tensor(0.0), torch.tensor(True))
        tensor(0.6931)
    """
    logit_wide, label_wide = _alike("sigmoid_binary_cross_entropy", logit, label, "logit", "label")
    return _narrow(F.binary_cross_entropy_with_logits(logit_wide, label_wide), logit)


def softmax_cross_entropy(logits: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of softmax(logits) against a distribution over the classes.

    The mean over ``...`` of ``-sum_k probabilities_k * log_softmax(logits)_k``. A class of
    probability 0 contributes 0, even where its logit is ``-inf``.

    Shapes: both (..., K); the result (), in nats.

    Raises:
        PureSGDError: the shapes differ, or there are fewer than two classes.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.losses.softmax_cross_entropy(torch.zeros(4), torch.tensor([0.5, 0.5, 0.0, 0.0]))
        tensor(1.3863)
    """
    where = "softmax_cross_entropy"
    logits_wide, weights = _alike(where, logits, probabilities, "logits", "probabilities")
    _check_classes(where, logits)
    log_softmax = F.log_softmax(logits_wide, dim=-1)
    impossible = (weights == 0) & (log_softmax == -torch.inf)
    return _narrow(-(weights * log_softmax.masked_fill(impossible, 0.0)).sum(-1).mean(), logits)


def softmax_cross_entropy_with_integer_labels(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of softmax(logits) against the true class, ``-log_softmax(logits)[label]``.

    The mean is over all of ``...``: no label is special, so a negative one fails as any other that
    names no class does.

    Shapes: ``logits`` (..., K), ``labels`` (...) of an integer dtype, from 0 to K - 1; the result
    (), in nats.

    Raises:
        PureSGDError: the shapes do not fit, labels are not integers or (on a CPU, which looks) not those
            of classes, or there are fewer than two classes.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.losses.softmax_cross_entropy_with_integer_labels(torch.zeros(4), torch.tensor(2))
        tensor(1.3863)
    """
    where = "softmax_cross_entropy_with_integer_labels"
    _check_classes(where, logits)
    _check_labels(where, logits, labels, "labels")
    # torch would leave the label -100 out of the mean unless another is named to be left out.
    try:
        loss = F.cross_entropy(
            logits.to(tree.wide(logits.dtype)).reshape(-1, logits.shape[-1]),
            labels.long().reshape(-1),
            ignore_index=torch.iinfo(torch.int64).min,
        )
    except IndexError as error:
        raise PureSGDError(
            where, f"labels: {error}", f"Pass labels from 0 to {logits.shape[-1] - 1}"
        ) from error
    return _narrow(loss, logits)


def zero_one_loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Count a wrong prediction as 1 and a right one as 0.

    The prediction is the class of the largest logit; of a single logit of shape () it is whether
    that is above 0. Held-out accuracy is 1 minus the risk under this loss on held-out data. Its
    gradient is 0 everywhere, so it serves to evaluate and not to train.

    Shapes: ``logits`` (..., K) and integer ``label`` (...), or both (), the label then 0 or 1 in
    any dtype; the result (), the mean over ``...``.

    Raises:
        PureSGDError: the shapes do not fit, class labels are not integers, or there are fewer than
            two classes.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.losses.zero_one_loss(torch.tensor([0.1, 2.0, -1.0]), torch.tensor(1))
        tensor(0.)
        >>> ps.losses.zero_one_loss(torch.tensor(-0.3), torch.tensor(True))
        tensor(1.)
    """
    _check_tensor("zero_one_loss", logits, "logits")
    if logits.ndim:
        _check_classes("zero_one_loss", logits)
        _check_labels("zero_one_loss", logits, label, "label")
        wrong = logits.argmax(-1) != label
    else:
        _alike("zero_one_loss", logits, label, "logits", "label")
        wrong = (logits > 0) != (label > 0.5)
    return _narrow(wrong.to(torch.float32).mean(), logits)


def _alike(
    where: str,
    prediction: torch.Tensor,
    target: torch.Tensor,
    prediction_name: str = "prediction",
    target_name: str = "target",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both in the dtype to compute in, after a check that they have entries and are of one shape."""
    _check_tensor(where, prediction, prediction_name)
    _check_tensor(where, target, target_name)
    if prediction.shape != target.shape:
        raise PureSGDError(
            where,
            f"{prediction_name} has shape {tuple(prediction.shape)} and {target_name} "
            f"{tuple(target.shape)}, expected equal shapes",
            "Nothing is broadcast here: reshape one to the other, and map over a batch with torch.func.vmap",
        )
    if not prediction.numel():
        raise PureSGDError(
            where, f"{prediction_name} has no entries, and of nothing there is no mean", "Pass one"
        )
    dtype = tree.wide(prediction.dtype)
    return prediction.to(dtype), target.to(dtype)


def _check_tensor(where: str, value: Any, name: str) -> None:
    if not isinstance(value, torch.Tensor):
        got = f"{name} is a {type(value).__name__}, expected a tensor"
        raise PureSGDError(where, got, "Convert it with torch.as_tensor")
    if value.is_complex():
        got = f"{name} is of dtype {value.dtype}, expected real numbers"
        raise PureSGDError(where, got, "Take a real function of it first, such as abs()")


def _check_classes(where: str, logits: torch.Tensor) -> None:
    _check_tensor(where, logits, "logits")
    if not logits.is_floating_point():
        raise PureSGDError(where, f"logits is of dtype {logits.dtype}, expected real numbers", "Convert it")
    if not logits.ndim or logits.shape[-1] < 2:
        raise PureSGDError(
            where,
            f"logits has shape {tuple(logits.shape)}, expected a last axis of two or more classes",
            "Give the model one output per class, or use sigmoid_binary_cross_entropy on a single logit",
        )


def _check_labels(where: str, logits: torch.Tensor, labels: torch.Tensor, name: str) -> None:
    _check_tensor(where, labels, name)
    if labels.is_floating_point():
        raise PureSGDError(
            where,
            f"{name} is of dtype {labels.dtype}, expected integers that name the classes",
            f"Pass {name}.long(), or softmax_cross_entropy for probabilities",
        )
    if labels.shape != logits.shape[:-1]:
        raise PureSGDError(
            where,
            f"{name} has shape {tuple(labels.shape)} and logits {tuple(logits.shape)}, expected "
            f"{name} of shape {tuple(logits.shape[:-1])}",
            "Pass one integer for each row of logits, and map over a batch with torch.func.vmap",
        )


def _narrow(loss: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    return loss.to(prediction.dtype) if prediction.is_floating_point() else loss
