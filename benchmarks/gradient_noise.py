"""Gradient noise: this library beside a plain gradient, and beside BackPACK, Opacus and JAX.

What "mean gradient" is: value_and_grad of the empirical risk of the same loss of one example. What
"loss.backward()" is: the loss of the batch written by hand. Memory is measured by noise_memory.py, in units
of what it may be. The MLP is 784-512-512-10, the network takes 3x32x32, the transformer has d 128, T 32, two
layers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import noise_jax
import noise_memory
import noise_peers
import torch
from noise_cases import Case, make_case
from rounds import Group, Line, Ratio, Results, Row, Settings, Way, line

import pure_sgd as ps

COUNTS = {"mlp128": ("mlp", 128), "mlp512": ("mlp", 512), "cnn128": ("cnn", 128), "tf64": ("transformer", 64)}
# What the larger batch would tell of these, the smaller tells.
SMALLER = ("clipping", "gradients")


def at_parameters(case: Case, function: Callable[..., Any]) -> Callable[[], Any]:
    return lambda: function(case.params, case.batch)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True)


def plain_ways(case: Case) -> dict[str, Way]:
    """The mean gradient: of the loss of one example, and of the batch."""
    gradient = ps.value_and_grad(ps.empirical_risk(case.loss))

    def backward(losses: Callable[[torch.nn.Module], torch.Tensor]) -> Callable[[], list[Any]]:
        def work() -> list[Any]:
            case.module.zero_grad()
            losses(case.module).mean().backward()
            return [parameter.grad for parameter in case.module.parameters()]

        return work

    def of_tree(result: Any) -> Results:
        return {"mean": ps.tree.leaves(result[1])}

    def of_module(result: list[torch.Tensor]) -> Results:
        return {"mean": case.in_order([grad.clone() for grad in result])}

    return {
        "mean gradient": Way(lambda: at_parameters(case, gradient), of_tree),
        "mean gradient, compiled": Way(lambda: at_parameters(case, compiled(gradient)), of_tree),
        "loss.backward()": Way(lambda: backward(case.losses), of_module),
        "loss.backward(), compiled": Way(lambda: backward(compiled(case.losses)), of_module),
    }


def our_ways(case: Case, function: Callable[..., Any], read: Callable[[Any], Results]) -> dict[str, Way]:
    return {
        "eager": Way(lambda: at_parameters(case, function), read),
        "compiled": Way(lambda: at_parameters(case, compiled(function)), read),
    }


def plain_rows(bound: float, why: str = "") -> list[Row]:
    """Eager beside eager, and compiled beside compiled."""
    return [
        Row((ours,), (plain + tail,), bound, why=why)
        for ours, tail in (("eager", ""), ("compiled", ", compiled"))
        for plain in ("mean gradient", "loss.backward()")
    ]


def variance(name: str, case: Case) -> Group:
    def read(moments: ps.GradientMoments) -> Results:
        return {"mean": ps.tree.leaves(moments.mean), "variance": ps.tree.leaves(moments.variance)}

    def of_module(result: list[torch.Tensor]) -> Results:
        return {"variance": case.in_order(result)}

    torch_peers = {
        "BackPACK Variance": noise_peers.backpack_variance,
        "BackPACK SumGradSquared": noise_peers.backpack_squares,
        "Opacus grad_sample + var": noise_peers.opacus_variance,
    }
    ways = {
        **our_ways(case, ps.gradient_moments(case.loss), read),
        **plain_ways(case),
        **{
            name: Way(lambda peer=peer: peer(case.module, case.losses), of_module)
            for name, peer in torch_peers.items()
        },
        "JAX vmap(grad) + var": Way(
            lambda: noise_jax.variance(case), lambda result: {"variance": noise_jax.read(result)}
        ),
    }
    rows = [
        *plain_rows(1.5 if case.kind == "mlp" else 2.0, "a third matrix product a layer, and page faults"),
        Row(("eager", "compiled"), tuple(torch_peers), 1.5, faster=True, why="the same matrix products"),
        Row(("eager", "compiled"), ("JAX vmap(grad) + var",), 2.0, faster=True),
    ]
    return Group(name, ways, rows)


def norms(name: str, case: Case) -> Group:
    function = ps.per_example_grad_norms(case.loss)
    ways = {**our_ways(case, function, lambda norms: {"norms": [norms]}), **plain_ways(case)}
    return Group(name, ways, plain_rows(1.4 if case.kind == "mlp" else 1.8))


def clipping(name: str, case: Case) -> Group:
    max_norm = float(ps.per_example_grad_norms(case.loss)(case.params, case.batch).median())
    ghost = Way(
        lambda: noise_peers.opacus_clipped(case.module, case.losses, max_norm),
        lambda result: {"clipped": case.in_order(result)},
    )
    ours = our_ways(
        case,
        ps.clipped_mean_grads(case.loss, max_norm),
        lambda result: {"clipped": ps.tree.leaves(result.grads)},
    )
    row = Row(tuple(ours), ("Opacus ghost clipping",), 1.0, faster=True)
    return Group(name, {**ours, "Opacus ghost clipping": ghost}, [row])


def gradients(name: str, case: Case) -> Group:
    ways = {
        **our_ways(case, ps.per_example_grads(case.loss), lambda grads: {"gradients": ps.tree.leaves(grads)}),
        "JAX vmap(grad)": Way(
            lambda: noise_jax.grads(case), lambda result: {"gradients": noise_jax.read(result)}
        ),
    }
    return Group(name, ways, [Row(("eager", "compiled"), ("JAX vmap(grad)",), 1.2)])


def memory(case: str, settings: Settings) -> list[Line]:
    row = Row(("eager",), (), 1.0, why="the squares of both factors are held while the product is formed")
    (ratio,) = noise_memory.over_allowed([COUNTS[case]])
    found = Ratio(ratio, ratio, ratio)
    return [line(f"memory/{case}", "eager", "3 x parameters + activations", row, found)]


def group(work: Callable[[str, Case], Group], name: str, case: str, settings: Settings) -> Group:
    # BackPACK and Opacus watch the first layer too, whose input needs no gradient.
    warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
    kind, count = COUNTS[case]
    return work(name, make_case(kind, count, settings.device))


GROUPS: dict[str, Callable[[Settings], Group | list[Line]]] = {
    **{
        f"{work.__name__}/{case}": partial(group, work, f"{work.__name__}/{case}", case)
        for work in (variance, norms, clipping, gradients)
        for case in COUNTS
        if not (work.__name__ in SMALLER and case == "mlp512")
    },
    **{f"memory/{case}": partial(memory, case) for case in COUNTS},
}
