"""The inverse error function as XLA computes it on a CPU: Giles 2012, over the log1p of Cephes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from .floats import FORMATS
from .once import once


class _Branch(NamedTuple):
    """Where ``w < below``: a polynomial in ``w - shift``, or in ``sqrt(w) - shift`` off centre."""

    below: float
    shift: float
    coefficients: list[float]  # from the highest power down


def _numbers(dtype: torch.dtype, text: str) -> list[float]:
    return torch.tensor([float(word) for word in text.split()], dtype=dtype).tolist()


def _branch(dtype: torch.dtype, below: float, shift: float, text: str) -> _Branch:
    return _Branch(below, shift, _numbers(dtype, text))


_BRANCHES = {
    torch.float32: (
        _branch(
            torch.float32,
            5.0,
            2.5,
            """2.81022636e-08 3.43273939e-07 -3.5233877e-06 -4.39150654e-06 0.00021858087
            -0.00125372503 -0.00417768164 0.246640727 1.50140941""",
        ),
        _branch(
            torch.float32,
            torch.inf,
            3.0,
            """-0.000200214257 0.000100950558 0.00134934322 -0.00367342844 0.00573950773
            -0.0076224613 0.00943887047 1.00167406 2.83297682""",
        ),
    ),
    torch.float64: (
        _branch(
            torch.float64,
            6.25,
            3.125,
            """-3.64441206401782e-21 -1.6850591381820166e-19 1.28584807152564e-18
            1.1157877678025181e-17 -1.333171662854621e-16 2.0972767875968562e-17
            6.637638134358324e-15 -4.054566272975207e-14 -8.151934197605472e-14
            2.6335093153082323e-12 -1.2975133253453532e-11 -5.415412054294628e-11
            1.0512122733215323e-09 -4.112633980346984e-09 -2.9070369957882005e-08
            4.2347877827932404e-07 -1.3654692000834679e-06 -1.3882523362786469e-05
            0.00018673420803405714 -0.000740702534166267 -0.006033670871430149
            0.24015818242558962 1.6536545626831027""",
        ),
        _branch(
            torch.float64,
            16.0,
            3.25,
            """2.2137376921775787e-09 9.075656193888539e-08 -2.7517406297064545e-07
            1.8239629214389228e-08 1.5027403968909828e-06 -4.013867526981546e-06
            2.9234449089955446e-06 1.2475304481671779e-05 -4.7318229009055734e-05
            6.828485145957318e-05 2.4031110387097894e-05 -0.0003550375203628475
            0.0009532893797373805 -0.0016882755560235047 0.002491442096107851
            -0.003751208507569241 0.005370914553590064 1.0052589676941592
            3.0838856104922208""",
        ),
        _branch(
            torch.float64,
            torch.inf,
            5.0,
            """-2.7109920616438573e-11 -2.555641816996525e-10 1.5076572693500548e-09
            -3.789465440126737e-09 7.61570120807834e-09 -1.496002662714924e-08
            2.914795345090108e-08 -6.771199775845234e-08 2.2900482228026655e-07
            -9.9298272942317e-07 4.526062597223154e-06 -1.968177810553167e-05
            7.599527703001776e-05 -0.00021503011930044477 -0.00013871931833623122
            1.0103004648645344 4.849906401408584""",
        ),
    ),
}


# log(1 + x) = x - x^2 / 2 + x^3 * numerator(x) / denominator(x)
_RATIO = {
    dtype: (
        _numbers(
            dtype,
            """4.5270000862445199635215e-5 4.9854102823193375972212e-1 6.5787325942061044846969
            2.9911919328553073277375e1 6.0949667980987787057556e1 5.7112963590585538103336e1
            2.0039553499201281259648e1""",
        ),
        _numbers(
            dtype,
            """1 1.5062909083469192043167e1 8.3047565967967209469434e1
            2.2176239823732856465394e2 3.0909872225312059774938e2 2.1642788614495947685003e2
            6.0118660497603843919306e1""",
        ),
    )
    for dtype in FORMATS
}
# The same factor of x^3 as one polynomial: its even, middle and low powers of x^3.
_POLYNOMIAL_FLOAT32 = (
    _numbers(torch.float32, "7.0376836292e-2 -1.1514610310e-1 1.1676998740e-1"),
    _numbers(torch.float32, "-1.2420140846e-1 1.4249322787e-1 -1.6668057665e-1"),
    _numbers(torch.float32, "2.0000714765e-1 -2.4999993993e-1 3.3333331174e-1"),
)
# The two add up to log(2); the first has so few digits that its product with an exponent is exact.
_LOG_TWO_HIGH = 0.693359375
_LOG_TWO_LOW = {dtype: _numbers(dtype, "-2.121944400546905827679e-4")[0] for dtype in FORMATS}
_ROOT_HALF = 11863283 / 2**24
_NEAR = 0.41421356237309504880
_EXPONENT_BIAS = 1022


def erfinv(u: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The inverse error function for -1 < ``u`` < 1, rounded to ``dtype`` at every operation.

    ``u`` and the result are float64 tensors of one shape, whose values are numbers of ``dtype``.
    """
    form, branches = FORMATS[dtype], _BRANCHES[dtype]
    u = once(u)
    w = once(-_log1p(once(form.round(-u * u)), dtype))
    inside = [w < branch.below for branch in branches[:-1]]

    def choose(values: Sequence[torch.Tensor]) -> torch.Tensor:
        """The value of the branch that each ``w`` lies in."""
        chosen = values[-1]
        for condition, value in zip(reversed(inside), reversed(values[:-1]), strict=True):
            chosen = torch.where(condition, value, chosen)
        return chosen

    # Not sqrt(w): in float64 its last bit is not the same eagerly and compiled.
    root = form.round(w * w.rsqrt())
    x = once(form.round(choose([(root if i else w) - b.shift for i, b in enumerate(branches)])))
    longest = max(len(branch.coefficients) for branch in branches)
    padded = [[0.0] * (longest - len(b.coefficients)) + b.coefficients for b in branches]
    *powers, constant = torch.tensor(padded, dtype=torch.float64, device=u.device).unbind(1)
    p = torch.zeros_like(x)
    for coefficients in powers:
        p = form.round(p * x + choose(coefficients.unbind()))
    return form.round(form.fma(p, x, choose(constant.unbind())) * u)


def _log1p(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """log(1 + x) for -1 < x <= 0: a series near 0, else ``exponent * log(2) + log(mantissa)``."""
    rounded = FORMATS[dtype].round
    x_squared = rounded(x * x)
    near = rounded(rounded(x * x_squared) * _ratio(x, dtype))
    near = rounded(x + rounded(near - 0.5 * x_squared))

    bits = rounded(1 + x).view(torch.int64)
    mantissa = (bits & 2**52 - 1 | _EXPONENT_BIAS << 52).view(torch.float64)
    is_low = mantissa < _ROOT_HALF
    exponent = ((bits >> 52) - _EXPONENT_BIAS - is_low.long()).double()
    y = once(torch.where(is_low, 2 * mantissa, mantissa) - 1)
    y_squared = rounded(y * y)
    y_cubed = rounded(y * y_squared)
    factor = _polynomial_float32(y, y_cubed) if dtype == torch.float32 else _ratio(y, dtype)
    rest = rounded(y_cubed * factor + rounded(exponent * _LOG_TWO_LOW[dtype]))
    far = rounded(rounded(y - 0.5 * y_squared) + rest)
    return torch.where(x > -_NEAR, near, rounded(exponent * _LOG_TWO_HIGH + far))


def _ratio(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    numerator, denominator = (_horner(x, numbers, dtype) for numbers in _RATIO[dtype])
    return FORMATS[dtype].round(numerator / denominator)


def _polynomial_float32(x: torch.Tensor, x_cubed: torch.Tensor) -> torch.Tensor:
    high, middle, low = (_horner(x, numbers, torch.float32) for numbers in _POLYNOMIAL_FLOAT32)
    rounded = FORMATS[torch.float32].round
    return rounded(x_cubed * rounded(x_cubed * high + middle) + low)


def _horner(x: torch.Tensor, coefficients: list[float], dtype: torch.dtype) -> torch.Tensor:
    value = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = FORMATS[dtype].round(value * x + coefficient)
    return value
