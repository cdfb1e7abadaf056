"""Projections: what makes a point the nearest one, what Optax computed, and gradients that stay in a set."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, jacrev, vmap

import pure_sgd as ps

Tree = Any
Projection = Callable[[Tree], Tree]


def leaf(shape: tuple[int, ...], a: float, b: float) -> torch.Tensor:
    return torch.sin(a * torch.arange(math.prod(shape), dtype=torch.float64) + b).reshape(shape)


X = {"b": leaf((2,), 1.3, 0.4), "w": leaf((3, 2), 0.7, 0.2)}
NORMAL = {"b": leaf((2,), 0.9, 1.1), "w": leaf((3, 2), 1.7, 0.3)}
LOWER = ps.tree.map(lambda a: 0.5 * a - 0.3, NORMAL)
UPPER = ps.tree.map(lambda a: 0.5 * a + 0.3, NORMAL)
SCALE, OFFSET = 1.5, 0.5


def flat(tree: Tree) -> torch.Tensor:
    return torch.cat([leaf.reshape(-1).double() for leaf in ps.tree.leaves(tree)])


def like(vector: torch.Tensor) -> Tree:
    return {"b": vector[:2], "w": vector[2:].reshape(3, 2)}


def dot(u: Tree, v: Tree) -> torch.Tensor:
    return flat(u) @ flat(v)


def sentence_of(call: Callable[[], Any]) -> str:
    with pytest.raises(ps.PureSGDError) as caught:
        call()
    return str(caught.value)


class Set(NamedTuple):
    """A projection, how far a point is outside its set, and what Optax projects X to."""

    project: Projection
    excess: Callable[[Tree], torch.Tensor]
    optax: str
    convex: bool = True


def above(x: torch.Tensor) -> torch.Tensor:
    return x.amax().clamp(min=0)


A_LINE = flat(NORMAL) / flat(NORMAL).norm()

SETS: dict[str, Set] = {
    "non_negative": Set(
        ps.projection_non_negative,
        lambda y: above(-flat(y)),
        "0.389418342308651 0.991664810452469 0.198669330795061 0.783326909627483 "
        "0.999573603041505 0.74570521217672 0.141120008059867 0.0",
    ),
    "box": Set(
        partial(ps.projection_box, lower=LOWER, upper=UPPER),
        lambda y: torch.maximum(above(flat(LOWER) - flat(y)), above(flat(y) - flat(UPPER))),
        "0.389418342308651 0.754648713412841 0.198669330795061 0.754648713412841 "
        "0.0350819295457535 -0.0863822437779939 0.141120008059867 -0.00754140355411914",
    ),
    "hypercube": Set(
        partial(ps.projection_hypercube, scale=0.6),
        lambda y: torch.maximum(above(-flat(y)), above(flat(y) - 0.6)),
        "0.389418342308651 0.6 0.198669330795061 0.6 0.6 0.6 0.141120008059867 0.0",
    ),
    "linf_ball": Set(
        partial(ps.projection_linf_ball, scale=0.5),
        lambda y: above(flat(y).abs() - 0.5),
        "0.389418342308651 0.5 0.198669330795061 0.5 0.5 0.5 0.141120008059867 -0.5",
    ),
    "simplex": Set(
        partial(ps.projection_simplex, scale=SCALE),
        lambda y: torch.maximum(above(-flat(y)), (flat(y).sum() - SCALE).abs()),
        "0.0 0.486597176627924 0.0 0.278259275802939 0.494505969216961 0.240637578352176 0.0 0.0",
    ),
    "l1_sphere": Set(
        partial(ps.projection_l1_sphere, scale=SCALE),
        lambda y: (flat(y).abs().sum() - SCALE).abs(),
        "0.0 0.481643475211134 0.0 0.273305574386149 "
        "0.489552267800171 0.235683876935386 0.0 -0.0198148056671593",
        convex=False,
    ),
    "l1_ball": Set(
        partial(ps.projection_l1_ball, scale=SCALE),
        lambda y: above(flat(y).abs().sum() - SCALE),
        "0.0 0.481643475211135 0.0 0.273305574386149 "
        "0.489552267800171 0.235683876935386 0.0 -0.0198148056671594",
    ),
    "l2_sphere": Set(
        partial(ps.projection_l2_sphere, scale=SCALE),
        lambda y: (flat(y).norm() - SCALE).abs(),
        "0.305998715003387 0.779234372766196 0.156111187710023 0.615525777118126 "
        "0.785448975692001 0.585963248019136 0.110889848874558 -0.41633677889741",
        convex=False,
    ),
    "l2_ball": Set(
        partial(ps.projection_l2_ball, scale=SCALE),
        lambda y: above(flat(y).norm() - SCALE),
        "0.305998715003387 0.779234372766196 0.156111187710023 0.615525777118126 "
        "0.785448975692001 0.585963248019136 0.110889848874558 -0.41633677889741",
    ),
    "vector": Set(
        partial(ps.projection_vector, a=NORMAL),
        lambda y: (flat(y) - (flat(y) @ A_LINE) * A_LINE).norm(),
        "0.146957726259093 0.149940730213824 0.0487304970546629 0.149940730213824 "
        "-0.0873685721720665 -0.12742681121616 0.120205058273741 0.0964512913260713",
    ),
    "hyperplane": Set(
        partial(ps.projection_hyperplane, a=NORMAL, b=OFFSET),
        lambda y: (dot(NORMAL, y) - OFFSET).abs(),
        "0.34641231457809 0.947785829975134 0.184408732451548 0.739447929150148 "
        "1.02514133148463 0.782995670570976 0.105942939109031 -0.558061855983211",
    ),
    "halfspace": Set(
        partial(ps.projection_halfspace, a=NORMAL, b=OFFSET),
        lambda y: above(dot(NORMAL, y) - OFFSET),
        "0.34641231457809 0.947785829975134 0.184408732451548 0.739447929150148 "
        "1.02514133148463 0.782995670570976 0.105942939109031 -0.558061855983211",
    ),
}
NAMES = sorted(SETS)
CONVEX = [name for name in NAMES if SETS[name].convex]

# Ties, zeros of both signs and large numbers are where a projection goes wrong.
entry = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.25, SCALE, 1e6, 1e-30]),
    st.floats(-3, 3, allow_nan=False, width=32),
)
points = st.lists(entry, min_size=8, max_size=8).map(lambda x: like(torch.tensor(x, dtype=torch.float64)))
few = settings(max_examples=30, deadline=None, derandomize=True)


def tolerance(*trees: Tree) -> float:
    return 1e-13 * (1 + sum(flat(tree).norm().item() for tree in trees))


def test_every_public_projection_is_here():
    assert {f"projection_{name}" for name in NAMES} == {
        name for name in vars(ps) if name.startswith("projection_")
    }


# What a projection is


@pytest.mark.parametrize("name", NAMES)
def test_optax_projects_to_the_same_point(name: str):
    # Recorded once in float64, to 15 digits.
    numbers = [float(number) for number in SETS[name].optax.split()]
    assert flat(SETS[name].project(X)).tolist() == pytest.approx(numbers, rel=1e-13, abs=1e-14)


@pytest.mark.parametrize("name", NAMES)
@given(x=points)
@few
def test_the_projected_point_is_in_the_set_and_stays_there(name: str, x: Tree):
    project, excess, *_ = SETS[name]
    y = project(x)
    assert excess(y) <= tolerance(x)
    torch.testing.assert_close(flat(project(y)), flat(y), rtol=0, atol=tolerance(x))


@pytest.mark.parametrize("name", CONVEX)
@given(x=points, other=points)
@few
def test_the_way_to_the_projected_point_meets_a_convex_set_at_an_obtuse_angle(
    name: str, x: Tree, other: Tree
):
    # <x - Px, y - Px> <= 0 for every y of the set: that is what the nearest point is.
    project = SETS[name].project
    nearest, y = flat(project(x)), flat(project(other))
    allowed = tolerance(x, other) * (1 + (flat(x) - nearest).norm() + (y - nearest).norm())
    assert (flat(x) - nearest) @ (y - nearest) <= allowed


@pytest.mark.parametrize("name", CONVEX)
@given(x=points, other=points)
@few
def test_two_points_never_move_apart(name: str, x: Tree, other: Tree):
    project = SETS[name].project
    between = (flat(project(x)) - flat(project(other))).norm()
    assert between <= (flat(x) - flat(other)).norm() + tolerance(x, other)


@pytest.mark.parametrize("name", ["l1_sphere", "l2_sphere"])
@given(x=points, others=st.lists(points, min_size=5, max_size=5))
@few
def test_no_point_of_a_sphere_is_nearer(name: str, x: Tree, others: list[Tree]):
    project = SETS[name].project
    distance = (flat(x) - flat(project(x))).norm()
    for other in others:
        assert distance <= (flat(x) - flat(project(other))).norm() + tolerance(x, other)


def simplex_by_bisection(x: list[float], scale: float) -> list[float]:
    low, high = min(x) - scale, max(x)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(max(v - middle, 0) for v in x) > scale else (low, middle)
    return [max(v - low, 0) for v in x]


@given(
    x=st.lists(st.floats(-5, 5, allow_nan=False), min_size=1, max_size=9), scale=st.sampled_from([0.5, 1, 4])
)
@few
def test_the_simplex_is_what_bisection_finds(x: list[float], scale: float):
    got = ps.projection_simplex(torch.tensor(x, dtype=torch.float64), scale)
    assert got.tolist() == pytest.approx(simplex_by_bisection(x, scale), abs=1e-12)


@pytest.mark.parametrize("name", ["box", "halfspace", "hypercube", "l1_ball", "l2_ball", "linf_ball"])
def test_a_point_inside_comes_back_bit_by_bit(name: str):
    inside = ps.tree.map(lambda a: 0.5 * a + 0.1, NORMAL) if name == "box" else like(torch.arange(8.0) / 70)
    inside = ps.tree.map(torch.Tensor.double, inside)
    if name == "halfspace":
        inside = ps.tree.map(torch.neg, NORMAL)
    assert flat(SETS[name].project(inside)).equal(flat(inside))


def test_a_point_on_the_boundary_stays():
    on = torch.tensor([3.0, -4.0])
    assert ps.projection_l2_ball(on, 5.0).equal(on)
    assert ps.projection_l1_ball(on, 7.0).equal(on)
    assert ps.projection_l1_sphere(on, 7.0).equal(on)
    assert ps.projection_linf_ball(on, 4.0).equal(on)
    assert ps.projection_simplex(on.abs(), 7.0).equal(on.abs())
    assert ps.projection_halfspace(on, torch.ones(2), -1.0).equal(on)


# Where rules of thumb break


def test_an_entry_of_zero_counts_as_positive_on_the_l1_sphere():
    # Optax returns (0.75, 0), which is not on the sphere.
    assert ps.projection_l1_sphere(torch.tensor([0.5, 0.0])).tolist() == [0.75, 0.25]
    assert ps.projection_l1_sphere(torch.zeros(4)).tolist() == [0.25] * 4


def test_the_origin_has_a_nearest_point_on_the_sphere_and_moves_nowhere_in_the_ball():
    zero = {"w": torch.zeros(3), "b": torch.tensor(0.0)}
    assert flat(ps.projection_l2_sphere(zero, 3.0)).tolist() == [1.5] * 4
    for project in (ps.projection_l1_ball, ps.projection_l2_ball):
        assert flat(project(zero)).tolist() == [0.0] * 4


def test_a_set_of_size_zero_is_the_origin():
    x = torch.tensor([2.0, -1.0, 0.5])
    for name in ("hypercube", "l1_ball", "l1_sphere", "l2_ball", "l2_sphere", "linf_ball", "simplex"):
        assert (getattr(ps, f"projection_{name}")(x, 0) == 0).all()


@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_squares_may_leave_the_range_of_float32(size: float):
    x = torch.tensor([3.0, 4.0]) * size
    torch.testing.assert_close(ps.projection_l2_sphere(x), torch.tensor([0.6, 0.8]))
    ball = ps.projection_l2_ball(x)
    torch.testing.assert_close(ball, torch.tensor([0.6, 0.8]) if size > 1 else x)


def test_a_large_shift_costs_the_simplex_no_digits():
    x = torch.tensor([0.75, 0.5, -3.0], dtype=torch.float64)
    assert ps.projection_simplex(x + 2.0**50).tolist() == ps.projection_simplex(x).tolist()


def test_a_simplex_of_a_million_float32_entries_adds_up():
    x = torch.cat([torch.zeros(1), torch.linspace(-0.5 - 1e-6, -0.5, 1_000_000)])
    y = ps.projection_simplex(x)
    assert y.dtype == torch.float32
    assert y.double().sum().item() == pytest.approx(1.0, abs=1e-7)


def test_a_vector_of_zeros_spans_nothing_and_bounds_nothing():
    x, none = torch.tensor([1.0, 2.0]), torch.zeros(2)
    assert ps.projection_vector(x, none).tolist() == [0.0, 0.0]
    assert ps.projection_hyperplane(x, none, 0.0).equal(x)
    assert ps.projection_halfspace(x, none, 0.0).equal(x)


def test_complex_entries_have_a_norm():
    x = {"z": torch.tensor([3.0 + 4.0j])}
    torch.testing.assert_close(ps.projection_l2_ball(x, 2.5), {"z": torch.tensor([1.5 + 2.0j])})
    torch.testing.assert_close(ps.projection_l2_sphere(x, 10.0), {"z": torch.tensor([6.0 + 8.0j])})


def test_a_nan_is_not_hidden():
    x = torch.tensor([1.0, math.nan])
    for name in ("l1_ball", "l1_sphere", "l2_ball", "l2_sphere", "simplex", "non_negative", "linf_ball"):
        assert getattr(ps, f"projection_{name}")(x).isnan().any()


def test_bounds_may_be_numbers_tensors_and_trees_of_both():
    x = {"w": torch.tensor([-2.0, 2.0]), "b": torch.tensor(2.0)}
    upper = {"w": torch.tensor([1.0, 0.5]), "b": 1.5}
    got = ps.projection_box(x, torch.tensor(-1.0), upper)
    assert (got["w"].tolist(), got["b"].item()) == ([-1.0, 0.5], 1.5)
    assert ps.projection_box(x, -math.inf, upper)["w"].tolist() == [-2.0, 0.5]
    assert ps.projection_hypercube(x, upper)["w"].tolist() == [0.0, 0.5]


# What every function here promises


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_structure_shapes_and_dtypes_stay(name: str, dtype: torch.dtype):
    x = ps.tree.map(lambda leaf: (2 * leaf).to(dtype), X)
    project = SETS[name].project
    y = project(x)
    assert ps.tree.structure(y) == ps.tree.structure(x)
    assert {leaf.dtype for leaf in ps.tree.leaves(y)} == {dtype}
    # Rounded once, at the end.
    want = ps.tree.map(lambda leaf: leaf.to(dtype), project(ps.tree.map(torch.Tensor.double, x)))
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(flat(y), flat(want), rtol=2 * eps, atol=2 * max(eps**2, 1e-7 * (eps > 1e-9)))
    mixed = project({"b": x["b"], "w": x["w"].float()})
    assert (mixed["b"].dtype, mixed["w"].dtype) == (dtype, torch.float32)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("box", "vector", "hyperplane", "halfspace")])
def test_any_tree_will_do(name: str):
    project = SETS[name].project
    for x in (
        torch.tensor(2.0),
        (torch.ones(2), [None, {"z": torch.ones(0)}]),
        torch.zeros(0, 3),
        {},
    ):
        assert ps.tree.structure(project(x)) == ps.tree.structure(x)


@pytest.mark.parametrize("name", NAMES)
def test_it_maps(name: str):
    project = SETS[name].project
    many = ps.tree.map(lambda x: torch.stack([0.1 * x, x, -2 * x]), X)
    mapped = vmap(project)(many)
    for index in range(3):
        one = ps.tree.map(lambda x, index=index: x[index], (many, mapped))
        torch.testing.assert_close(flat(one[1]), flat(project(one[0])), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [0.1, 1.0, -2.0])
def test_it_differentiates(name: str, size: float):
    def f(vector: torch.Tensor) -> torch.Tensor:
        return flat(SETS[name].project(like(vector)))

    x, eps = size * flat(X), 1e-6
    slopes = jacrev(f)(x)
    numeric = torch.stack([(f(x + eps * e) - f(x - eps * e)) / (2 * eps) for e in torch.eye(8).double()], 1)
    torch.testing.assert_close(slopes, numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["hypercube", "l1_ball", "l1_sphere", "l2_ball", "l2_sphere", "simplex"])
def test_a_scale_is_mapped_over_and_differentiated(name: str):
    project = getattr(ps, f"projection_{name}")

    def f(scale: torch.Tensor) -> torch.Tensor:
        return flat(project(X, scale)).square().sum()

    scales = torch.tensor([0.3, 0.7, 9.0], dtype=torch.float64)
    slopes = vmap(grad(f))(scales)
    for scale, slope in zip(scales, slopes, strict=True):
        numeric = (f(scale + 1e-6) - f(scale - 1e-6)) / 2e-6
        torch.testing.assert_close(slope, numeric, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_the_slope_at_zero_is_no_nan(name: str):
    slopes = jacrev(lambda v: flat(SETS[name].project(like(v))))(torch.zeros(8, dtype=torch.float64))
    assert slopes.isfinite().all()


def test_it_compiles():
    def every(x: Tree, scale: torch.Tensor) -> list[Tree]:
        scaled = [
            ps.projection_l1_ball,
            ps.projection_l2_ball,
            ps.projection_simplex,
            ps.projection_linf_ball,
        ]
        return [SETS[name].project(x) for name in NAMES] + [project(x, scale) for project in scaled]

    compiled = torch.compile(every, backend="aot_eager", fullgraph=True)
    for step, scale in enumerate((0.5, 0.7)):
        x = ps.tree.map(lambda leaf, step=step: leaf * (1 + step), X)
        with torch._dynamo.config.patch(error_on_recompile=step > 0):
            got = compiled(x, torch.tensor(scale))
        for one, other in zip(got, every(x, torch.tensor(scale)), strict=True):
            torch.testing.assert_close(flat(one), flat(other), rtol=1e-12, atol=1e-13)


WRONG: Any = "1"


@pytest.mark.parametrize(
    "call, sentence",
    [
        (
            lambda: ps.projection_l2_ball(X, -1.0),
            "projection_l2_ball: scale=-1.0 lies outside [0, inf). Pass a scale within these bounds.",
        ),
        (
            lambda: ps.projection_simplex(X, math.nan),
            "projection_simplex: scale=nan lies outside [0, inf). Pass a scale within these bounds.",
        ),
        (
            lambda: ps.projection_hyperplane(X, NORMAL, math.inf),
            "projection_hyperplane: b=inf lies outside (-inf, inf). Pass a b within these bounds.",
        ),
        (
            lambda: ps.projection_l1_ball(X, abs),
            "projection_l1_ball: scale=<built-in function abs> is a function, "
            "expected a number or a 0-d tensor. Pass its value.",
        ),
        (
            lambda: ps.projection_linf_ball(X, WRONG),
            "projection_linf_ball: scale='1' is of type str, expected a number, a 0-d tensor or a schedule. "
            "Pass scale as one of these.",
        ),
        (
            lambda: ps.projection_box(X, 1.0, 0.5),
            "projection_box: lower=1 is above upper=0.5: no tree lies between them. "
            "Pass the smaller bound first.",
        ),
        (
            lambda: ps.projection_hypercube(X, -1),
            "projection_hypercube: lower=0 is above scale=-1: no tree lies between them. "
            "Pass a scale from 0 on.",
        ),
        (
            lambda: ps.projection_box(X, math.nan, 1.0),
            "projection_box: lower=nan lies outside (-inf, inf). Pass a lower within these bounds.",
        ),
        (
            lambda: ps.projection_box(X, {"b": 0.0}, 1.0),
            "projection_box: lower['w'] is missing, and tree['w'] is there. Pass a bound for every leaf.",
        ),
        (
            lambda: ps.projection_box(X, 0.0, {"b": 1.0, "w": torch.ones(2)}),
            "projection_box: upper['w'] has shape (2,), and tree['w'] shape (3, 2). "
            "Give both one shape, or pass one number for the leaf.",
        ),
        (
            lambda: ps.projection_box(X["b"], 0.0, {"b": 1.0}),
            "projection_box: upper is missing, and tree is there. Pass a bound for every leaf.",
        ),
        (
            lambda: ps.projection_simplex({"count": torch.tensor(3)}),
            "projection_simplex: tree['count'] holds torch.int64, expected real numbers in floating point. "
            "Project only the part of the tree that holds such numbers.",
        ),
        (
            lambda: ps.projection_l1_ball(torch.ones(2) * 1j),
            "projection_l1_ball: tree holds torch.complex64, expected real numbers in floating point. "
            "Project only the part of the tree that holds such numbers.",
        ),
        (
            lambda: ps.projection_l2_ball({"w": 1.0}),
            "projection_l2_ball: tree['w'] is a float, expected a tensor. Use torch.as_tensor.",
        ),
        (
            lambda: ps.projection_vector(X, {"b": X["b"], "w": torch.ones(6)}),
            "a['w']: shape (6,) does not match shape (3, 2) of x['w']. "
            "Nothing is broadcast here: reshape or reduce it first.",
        ),
        (
            lambda: ps.project(ps.sgd(0.1)),
            "project: projection is a GradientTransformation, expected a function of a tree. "
            "Pass the function itself, as in project(projection_simplex).",
        ),
        (
            lambda: ps.project(ps.projection_simplex).update(X, ps.EmptyState()),
            "project: params is None, and this rule reads them. Call update(updates, state, params).",
        ),
        (
            lambda: ps.project(lambda tree: tree["w"]).update(X, ps.EmptyState(), X),
            "projection(params)['b']: is missing, and params['b'] is there. "
            "Give projection(params) the structure of params.",
        ),
    ],
)
def test_a_mistake_gets_one_sentence(call: Callable[[], Any], sentence: str):
    assert sentence_of(call) == sentence


# At the end of a chain


def risk(params: Tree) -> torch.Tensor:
    target = ps.tree.map(lambda a: 2 * a + 0.5, NORMAL)
    return ps.tree.norm(ps.tree.map(torch.sub, params, target)) ** 2 / 2


def run(tx: ps.GradientTransformation, steps: int, params: Tree) -> list[Tree]:
    state, path = tx.init(params), []
    for _ in range(steps):
        updates, state = tx.update(grad(risk)(params), state, params)
        params = ps.apply_updates(params, updates)
        path.append(params)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_parameters_follow_projected_gradient_descent_and_never_leave_the_set(name: str):
    project, excess, *_ = SETS[name]
    params = X
    for got in run(ps.chain(ps.sgd(0.4), ps.project(project)), 12, X):
        params = project(ps.tree.map(lambda p, g: p - 0.4 * g, params, grad(risk)(params)))
        torch.testing.assert_close(flat(got), flat(params), rtol=1e-12, atol=1e-13)
        assert excess(got) <= 1e-14


@pytest.mark.parametrize("name", CONVEX)
def test_it_ends_where_the_gradient_no_longer_leads_within_the_set(name: str):
    # For this risk that is the projection of its minimum.
    end = run(ps.chain(ps.sgd(0.5), ps.project(SETS[name].project)), 60, X)[-1]
    minimum = ps.tree.map(lambda a: 2 * a + 0.5, NORMAL)
    torch.testing.assert_close(flat(end), flat(SETS[name].project(minimum)), rtol=0, atol=1e-9)


def test_a_mask_projects_a_part():
    part = ps.masked(ps.project(ps.projection_simplex), {"w": True, "b": False})
    free, bound = (run(tx, 5, X)[-1] for tx in (ps.sgd(0.1), ps.chain(ps.sgd(0.1), part)))
    torch.testing.assert_close(bound["b"], free["b"])
    assert bound["w"].sum().item() == pytest.approx(1.0, rel=1e-14)
    assert bound["w"].min() >= 0


def test_a_map_over_the_tree_gives_every_leaf_a_set_of_its_own():
    def rows(tree: Tree) -> Tree:
        return {"b": tree["b"], "w": vmap(ps.projection_simplex)(tree["w"])}

    end = run(ps.chain(ps.adam(0.1), ps.project(rows)), 5, X)[-1]
    torch.testing.assert_close(end["w"].sum(1), torch.ones(3).double(), rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_in_half_precision_the_set_is_kept_up_to_rounding(name: str, dtype: torch.dtype):
    project, excess, *_ = SETS[name]
    start = ps.tree.map(lambda leaf: leaf.to(dtype), X)
    for params in run(ps.chain(ps.sgd(0.4), ps.project(project)), 12, start):
        assert {leaf.dtype for leaf in ps.tree.leaves(params)} == {dtype}
        # Eight entries, each the sum of two numbers under 4 that were rounded.
        assert excess(params) <= 8 * 4 * torch.finfo(dtype).eps


def test_it_reads_as_its_recipe():
    assert repr(ps.chain(ps.sgd(0.1), ps.project(ps.projection_simplex))) == (
        "chain(chain(scale_by_learning_rate(0.1)), project(projection_simplex))"
    )
