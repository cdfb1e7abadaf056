"""Small data sets: made on the spot, or shipped inside scikit-learn; nothing is downloaded."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import random
from ..arguments import typed
from ..errors import PureSGDError, check_count, check_hyperparameter
from .batches import train_test_split

__all__ = ["Split", "breast_cancer", "diabetes", "digits", "linear_regression"]

Examples = tuple[torch.Tensor, torch.Tensor]


class Split(NamedTuple):
    """Examples ``(x, y)`` to train on, and others to estimate the population risk with."""

    train: Examples
    held_out: Examples


def linear_regression(
    key: torch.Tensor, n: int = 1000, features: int = 5, noise: float = 0.5
) -> tuple[Examples, dict[str, torch.Tensor]]:
    """Draw ``y = x @ w + b + noise * e`` with x, w, b and e standard normal.

    Returns ``((x, y), {"w": w, "b": b})``: x (n, features), y (n,), w (features,), b (), float32.

    Raises:
        PureSGDError: a count under 1 or negative noise.

    Example:
        >>> import pure_sgd as ps
        >>> (x, y), truth = ps.data.linear_regression(ps.random.key(0), n=100)
        >>> x.shape, y.shape, truth["w"].shape
        (torch.Size([100, 5]), torch.Size([100]), torch.Size([5]))
    """
    check_count("linear_regression", "n", n)
    check_count("linear_regression", "features", features)
    check_hyperparameter("linear_regression", "noise", noise, low=0)
    keys = random.split(key, 4)
    w, b = random.normal(keys[0], (features,)), random.normal(keys[1])
    x = random.normal(keys[2], (n, features))
    return (x, x @ w + b + noise * random.normal(keys[3], (n,))), {"w": w, "b": b}


@typed
def diabetes(test_fraction: float = 0.2, seed: int = 0) -> Split:
    """442 patients, 10 measurements each, and the progression of their disease one year later.

    Features (B, 10) and target (B,), float32, standardised by the training part.
    Source: Efron et al. 2004, doi:10.1214/009053604000000067; shipped with scikit-learn.

    Raises:
        PureSGDError: scikit-learn is not installed.

    Example:
        >>> import pure_sgd as ps
        >>> ps.data.diabetes().train[0].shape
        torch.Size([354, 10])
    """
    train, held_out = _load("diabetes", test_fraction, seed)
    train, held_out = _standardized(train, held_out)
    mean, std = train[1].mean(), train[1].std()
    return Split(
        (train[0], (train[1] - mean) / std),
        (held_out[0], (held_out[1] - mean) / std),
    )


@typed
def breast_cancer(test_fraction: float = 0.2, seed: int = 0) -> Split:
    """569 tumours, 30 measurements of their cell nuclei each, and whether they are benign (1) or not (0).

    Features (B, 30), float32, standardised by the training part; labels (B,), float32.
    Source: Street et al. 1993, doi:10.1117/12.148698; shipped with scikit-learn.

    Raises:
        PureSGDError: scikit-learn is not installed.

    Example:
        >>> import pure_sgd as ps
        >>> ps.data.breast_cancer().held_out[0].shape
        torch.Size([114, 30])
    """
    return Split(*_standardized(*_load("breast_cancer", test_fraction, seed)))


@typed
def digits(test_fraction: float = 0.2, seed: int = 0) -> Split:
    """1797 handwritten digits of 8 by 8 pixels.

    Images (B, 1, 8, 8) in [0, 1], float32; labels (B,) from 0 to 9, int64.
    Source: Alpaydin and Kaynak 1998, doi:10.24432/C50P49; shipped with scikit-learn.

    Raises:
        PureSGDError: scikit-learn is not installed.

    Example:
        >>> import pure_sgd as ps
        >>> ps.data.digits().train[0].shape
        torch.Size([1438, 1, 8, 8])
    """
    split = Split(*_load("digits", test_fraction, seed))
    return Split(*((x.reshape(-1, 1, 8, 8) / 16, y.long()) for x, y in split))


def _load(name: str, test_fraction: float, seed: int) -> tuple[Examples, Examples]:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise PureSGDError(
            name, "scikit-learn is not installed", "Install it: pip install pure_sgd[examples]"
        ) from error
    load: Any = getattr(datasets, f"load_{name}")
    x, y = load(return_X_y=True)
    arrays = (torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y, dtype=torch.float32))
    return train_test_split(arrays, test_fraction, seed)


def _standardized(train: Examples, held_out: Examples) -> tuple[Examples, Examples]:
    mean, std = train[0].mean(0), train[0].std(0)
    return ((train[0] - mean) / std, train[1]), ((held_out[0] - mean) / std, held_out[1])
