"""The linear map that one step of a chain is, on quadratics of all curvatures at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from .. import functorch
from ..arguments import typed
from ..errors import PureSGDError, check_count
from ..transforms import GradientTransformation
from ..transforms.contract import extra_args_of
from ..transforms.wrapping import check_inner, known
from ..tree.traversal import children
from .coordinates import Clock, Coordinates, coordinates
from .matrices import SCALES, Matrices, matrices

__all__ = ["Linearization", "as_curvature", "check_reads", "joined", "linear_maps", "linearize"]

#: Numbers in the maps that are held at once, about: 32 MiB.
HELD = 2**22


class Linearization(NamedTuple):
    """Steps of a chain as linear maps: ``z = transition[t] @ z + noise[t] * xi`` for each of n coordinates.

    ``z`` are the k numbers that a coordinate carries, the first of them its parameter; ``xi`` is what is
    added to its gradient. The parameters to evaluate with, after step t, are ``average[t] @ z``.
    """

    transition: torch.Tensor  # (steps, n, k, k)
    noise: torch.Tensor  # (steps, n, k)
    average: torch.Tensor  # (steps, n, k)
    start: torch.Tensor  # (n, k): z before the first step, for parameters of 1
    names: tuple[str, ...]  # of the k numbers
    varies: bool  # whether the map may differ from step to step
    local: bool  # derivatives at one point, and not the whole truth


@typed
def linearize(tx: GradientTransformation, curvature: Any, steps: int = 1) -> Linearization:
    """Take the linear map that each of the first ``steps`` steps of a chain is, for all curvatures at once.

        z_{t + 1} = transition[t] @ z_t + noise[t] * xi_t           gradient = curvature * params + xi

    ``curvature`` is a number or (n,), the shape of the parameters that ``tx`` will see. Every step is
    compared with its matrix at random points of five magnitudes from 1e-8 to 1e8. Everything is float64 and
    differentiable in the hyperparameters, and in ``curvature``; mapped by ``vmap``, where nothing can be
    raised, a chain that is not linear gives NaN. It runs eagerly, as all of this theory does.

    Raises:
        PureSGDError: a chain that is not linear in the gradient, the parameters and its state, or whose
            coordinates depend on each other, with the name of the transform; one that reads extra arguments
            or the gradients of examples; curvatures that are not (n,).

    Example:
        >>> import pure_sgd as ps
        >>> found = ps.theory.linearize(ps.sgd(0.1, momentum=0.9), [1.0, 2.0])
        >>> found.names
        ('params', 'opt_state[0].trace')
        >>> found.transition[0, 0]
        tensor([[ 0.9000, -0.0900],
                [ 1.0000,  0.9000]], dtype=torch.float64)
        >>> found.noise[0, 0]
        tensor([-0.1000,  1.0000], dtype=torch.float64)
        >>> ps.theory.linearize(ps.adam(0.1), 1.0)
        Traceback (most recent call last):
        pure_sgd.errors.PureSGDError: linearize: scale_by_adam() is not linear in gradient, parameters and \
state, each coordinate by itself. Leave it out, or take linearize_at at a point.
    """
    check_count("linearize", "steps", steps)
    return joined(list(linear_maps("linearize", tx, curvature, steps)))


def joined(parts: list[Linearization]) -> Linearization:
    """The steps of all parts, one after the other.

    Example:
        >>> import pure_sgd as ps
        >>> from pure_sgd.theory.linear import joined
        >>> part = ps.theory.linearize(ps.sgd(0.1), 1.0, steps=2)
        >>> joined([part, part]).noise.shape
        torch.Size([4, 1, 1])
    """
    if len(parts) == 1:
        return parts[0]
    maps = ("transition", "noise", "average")
    return parts[0]._replace(**{name: torch.cat([getattr(part, name) for part in parts]) for name in maps})


def linear_maps(
    where: str, tx: GradientTransformation, curvature: Any, steps: int, average: str | None = None
) -> Iterator[Linearization]:
    """The steps of :func:`linearize`, as many at a time as fit into little memory.

    Raises:
        PureSGDError: as :func:`linearize`.

    Example:
        >>> import pure_sgd as ps
        >>> from pure_sgd.theory.linear import linear_maps
        >>> [part.noise.flatten() for part in linear_maps("risk", ps.sgd(0.5), 1.0, 3)]
        [tensor([-0.5000, -0.5000, -0.5000], dtype=torch.float64)]
    """
    check_reads(where, tx)
    h = as_curvature(where, curvature)
    system = coordinates(tx, h, average)
    clock, first, varies = system.clock, *_first(system, h)
    starts_linear = _starts_linear(tx, system, h)

    def checked(maps: Matrices) -> Linearization:
        is_linear = maps.is_linear & starts_linear
        _check_linear(where, tx, h, steps, is_linear.all())
        # Where values are mapped over nothing can be raised, and NaN must tell.
        found = [torch.where(_before(is_linear, m), m, torch.nan) for m in maps[:3]]
        if not varies:
            found = [m.expand(steps, *m.shape) for m in found]
        return Linearization(*found, system.start.T, system.names, varies, False)

    if not varies:
        yield checked(first)
        return
    n, k = len(h), len(system.names)
    at_once = max(1, HELD // (n * k * (k + 2 + len(SCALES))))
    for begin in range(0, steps, at_once):
        clocks: list[Clock] = []
        for _ in range(min(at_once, steps - begin)):
            clocks.append(clock)
            _, clock = system.advance(torch.zeros_like(system.start), torch.zeros_like(h), clock)
        stacked = [torch.stack(ticks) for ticks in zip(*clocks, strict=True)]
        yield checked(torch.func.vmap(lambda *clock: _maps(system, h, clock))(*stacked))


def as_curvature(where: str, curvature: Any) -> torch.Tensor:
    """Curvatures as a float64 tensor (n,).

    Raises:
        PureSGDError: they have another shape.

    Example:
        >>> from pure_sgd.theory.linear import as_curvature
        >>> as_curvature("linearize", 0.5)
        tensor([0.5000], dtype=torch.float64)
    """
    h = torch.as_tensor(curvature, dtype=torch.float64)
    if h.ndim > 1 or not h.numel():
        raise PureSGDError(where, f"curvature has shape {tuple(h.shape)}, expected (n,)", "Flatten it")
    return h.reshape(-1)


def check_reads(where: str, tx: GradientTransformation) -> None:
    """Check that ``tx`` is a transform, and reads nothing but gradients and parameters.

    Raises:
        PureSGDError: it is not one, or names the transform in it that does.

    Example:
        >>> import pure_sgd as ps
        >>> from pure_sgd.theory.linear import check_reads
        >>> check_reads("linearize", ps.sgd(0.1))
    """
    check_inner(where, tx)
    reads = extra_args_of(tx)
    if not reads and not tx.per_example:
        return
    for part in _parts(tx):
        check_reads(where, part)
    needs = "the gradients of examples" if tx.per_example else f"the extra argument {reads[0]!r}"
    raise PureSGDError(where, f"{tx} reads {needs}, which a quadratic does not give", "Leave it out")


def _first(system: Coordinates, h: torch.Tensor) -> tuple[Matrices, bool]:
    """The maps of the first step, and whether anything in them depends on the clock."""
    if not system.clock:
        return _maps(system, h, ()), False
    varies = False

    def watched(*clock: torch.Tensor) -> Matrices:
        nonlocal varies
        maps = _maps(system, h, clock)
        # What vmap has not wrapped does not depend on what is mapped, whatever its values are.
        varies = any(functorch.is_batched(m, functorch.level()) for m in maps[:3])
        return maps

    found = torch.func.vmap(watched)(*(tick[None] for tick in system.clock))
    return Matrices(*(m[0] for m in found)), varies


def _maps(system: Coordinates, h: torch.Tensor, clock: Clock) -> Matrices:
    return matrices(lambda z, xi: system.advance(z, xi, clock), system.average, h, len(system.names))


def _starts_linear(tx: GradientTransformation, system: Coordinates, h: torch.Tensor) -> torch.Tensor:
    twice = torch.full_like(h, 2.0)
    return (system.take_apart(twice, tx.init(twice))[0] == 2 * system.start).all()


def _before(condition: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    """With as many axes as ``m``, its own in front."""
    return condition.reshape(condition.shape + (1,) * (m.ndim - condition.ndim))


def _check_linear(
    where: str, tx: GradientTransformation, h: torch.Tensor, steps: int, is_linear: torch.Tensor
) -> None:
    if known(is_linear) is not False:
        return
    for part in _parts(tx):
        list(linear_maps(where, part, h, steps))
    raise PureSGDError(
        where,
        f"{tx} is not linear in gradient, parameters and state, each coordinate by itself",
        "Leave it out, or take linearize_at at a point",
    )


def _parts(tx: GradientTransformation) -> list[GradientTransformation]:
    """The transforms that a chain or a wrapper was made of, in their order."""
    return [] if tx.recipe is None else _transforms_in([tx.recipe.args, tx.recipe.kwargs])


def _transforms_in(arguments: Any) -> list[GradientTransformation]:
    if isinstance(arguments, GradientTransformation):
        return [arguments]
    return [found for _, child in children(arguments) for found in _transforms_in(child)]
