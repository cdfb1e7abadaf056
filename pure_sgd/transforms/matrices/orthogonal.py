"""Matrices made orthogonal by products alone: the Newton-Schulz iteration."""

from __future__ import annotations

from typing import Any

import torch

from ... import tree
from ...errors import PureSGDError
from ..running import root, squared

__all__ = ["newton_schulz", "polynomials"]

#: The coefficients (a, b, c) of the odd polynomial of one step, or of each of them.
PRESETS = {
    "standard": ((3.4445, -4.7750, 2.0315),),
    "dion": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
}
PRECONDITIONINGS = ("frobenius", "spectral", "aol", "schatten")

Polynomials = tuple[tuple[float, float, float], ...]


def polynomials(where: str, ns_coeffs: Any, ns_steps: int) -> Polynomials:
    """The polynomial of each step: one for all ``ns_steps``, a sequence of them, or a preset by its name.

    Raises:
        PureSGDError: neither three numbers nor triples of them, or an unknown name.

    Example:
        >>> from pure_sgd.transforms.matrices import polynomials
        >>> polynomials("scale_by_muon", (1.5, -0.5, 0.0), 2)
        ((1.5, -0.5, 0.0), (1.5, -0.5, 0.0))
    """
    found: Any = PRESETS.get(ns_coeffs) if isinstance(ns_coeffs, str) else ns_coeffs
    if isinstance(found, (tuple, list)) and found:
        several = all(isinstance(one, (tuple, list)) for one in found)
        triples = tuple(tuple(one) for one in found) if several else (tuple(found),)
        numbers = [number for triple in triples for number in triple]
        if all(len(triple) == 3 for triple in triples) and all(isinstance(n, (int, float)) for n in numbers):
            return triples * (ns_steps if len(triples) == 1 else 1)
    raise PureSGDError(
        where,
        f"ns_coeffs={ns_coeffs!r} are not the coefficients of polynomials",
        f"Pass three numbers, a triple for each step, or one of {', '.join(map(repr, PRESETS))}",
    )


def newton_schulz(
    x: torch.Tensor,
    steps: Polynomials,
    preconditioning: str = "frobenius",
    eps: Any = 1e-8,
    clamp_norm: bool = False,
) -> torch.Tensor:
    """Bring the singular values of ``x`` close to 1: roughly ``U @ V^H`` where ``x = U @ S @ V^H``.

        x = x / (norm(x) + eps)                                with clamp_norm x / max(norm(x), eps)
        x = a * x + (b * x @ x^H + c * (x @ x^H)**2) @ x       for each (a, b, c) of steps

    The norm is that of Frobenius, or the spectral one; ``"schatten"`` divides by the Schatten-4 norm,
    ``"aol"`` each row by the root of the sum of magnitudes in its row of ``x @ x^H``, both at least
    ``sqrt(eps)``. Shape (..., m, n); a tall matrix is transposed meanwhile.
    Sources: Bernstein and Newhouse 2024, arXiv:2409.20325; Boissin et al. 2025, arXiv:2512.04632 (aol);
    Grishina et al. 2025, arXiv:2506.10935 (schatten).

    Example:
        >>> import torch
        >>> from pure_sgd.transforms.matrices import newton_schulz
        >>> newton_schulz(torch.tensor([[3.0, 0.0], [0.0, 0.5]]), ((1.5, -0.5, 0.0),) * 20)
        tensor([[1., 0.],
                [0., 1.]])
    """
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    if preconditioning in ("frobenius", "spectral"):
        norm = _spectral(x) if preconditioning == "spectral" else root(squared(x).sum((-2, -1), True))
        x = (x / (norm.clamp(min=eps) if clamp_norm else norm + eps)).to(x.dtype)
    else:
        size = _row_sums(x) if preconditioning == "aol" else _schatten(x)
        x = (x * size.clamp(min=eps).rsqrt()).to(x.dtype)
    for a, b, c in steps:
        gram = x @ x.mH
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


def _spectral(x: torch.Tensor) -> torch.Tensor:
    # Not by a singular value decomposition, whose derivative is NaN where singular values meet.
    x = tree.widened(x)
    return root(torch.linalg.eigvalsh(x @ x.mH)[..., -1:, None])


def _row_sums(x: torch.Tensor) -> torch.Tensor:
    return (x @ x.mH).abs().sum(-1, keepdim=True)


def _schatten(x: torch.Tensor) -> torch.Tensor:
    """The square of the Schatten-4 norm."""
    return root(squared(x @ x.mH).sum((-2, -1), True))
