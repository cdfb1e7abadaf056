"""What every public transform promises, whatever it computes."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import pytest
import torch
from catalogue import CATALOGUE, Entry, grads_of, params_of

import pure_sgd as ps

NAMES = sorted(CATALOGUE)
COMPLEX_DTYPES = [torch.complex64, torch.complex128]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
STEPS = 4
GROUPS = 6  # of transforms compiled together: few compilations, and work for several processes


#: Entries that are for real numbers only, and say so: why.
REAL_ONLY = {
    "clip": "bounds the number itself: of a complex one either the magnitude or each part could be meant",
    "cocob": "bets on the sign of every coordinate",
    "differentially_private_aggregate": "hides real numbers behind real noise",
    "dpsgd": "hides real numbers behind real noise",
    "keep_params_nonnegative": "complex numbers are neither negative nor not",
    "project": "the set of the table is one of real numbers",
    "rprop": "asks whether a sign has changed",
    "scale_by_cocob": "bets on the sign of every coordinate",
    "scale_by_rprop": "asks whether a sign has changed",
    "scale_by_sophia": "asks whether the curvature is positive",
    "sophia": "asks whether the curvature is positive",
}
WITH_COMPLEX = [name for name in NAMES if name not in REAL_ONLY]

#: Entries whose updates of complex numbers without imaginary part are not those of real numbers: why.
RANDOM = {
    "add_noise": "draws another noise for complex numbers",
    "hutchinson_estimator_diag_hessian": "draws other directions for complex numbers",
    "noisy_sgd": "draws another noise for complex numbers",
}

#: Entries whose updates do not turn with the parameters and the gradients: why.
NOT_TURNING = {
    **RANDOM,
    "lbfgs": "asks a loss that does not turn",
    "sam opaque": "asks a loss that does not turn",
    "scale_by_backtracking_linesearch": "asks a loss that does not turn",
    "scale_by_zoom_linesearch": "asks a loss that does not turn",
    "split_real_and_imaginary": "treats each part on its own: that is what it is for",
}


def build(entry: Entry) -> ps.GradientTransformation:
    return entry.build(**entry.hyperparams)


def run(
    tx: ps.GradientTransformation, params: Any, extra: dict[str, Any], steps: int = STEPS
) -> tuple[Any, Any, Any]:
    """The last updates, the state and the parameters after some steps."""
    state, updates = tx.init(params), None
    for step in range(steps):
        updates, state = tx.update(grads_of(params, step), state, params, **extra)
        params = ps.apply_updates(params, updates)
    return updates, state, params


def meta(tree: Any) -> list[Any]:
    return [(path, leaf.shape, leaf.dtype) for path, leaf in ps.tree.named_leaves(tree)]


def assert_equal_trees(one: Any, other: Any, rtol: float = 0.0, atol: float = 0.0) -> None:
    assert meta(one) == meta(other)
    for (path, a), (_, b) in zip(ps.tree.named_leaves(one), ps.tree.named_leaves(other), strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol, msg=lambda m, path=path: f"{path}: {m}")


def makes_a_transformation(value: Any) -> bool:
    if not inspect.isfunction(value):
        return False
    return inspect.signature(value).return_annotation == "GradientTransformation"


def test_every_public_transform_is_in_the_catalogue():
    public = {name for name, value in vars(ps).items() if makes_a_transformation(value)}
    assert public == {name.split(" ")[0] for name in CATALOGUE}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_structure_shape_and_dtype_in_are_those_out(name: str, dtype: torch.dtype):
    tx, params = build(CATALOGUE[name]), params_of(dtype)
    updates, _, new = run(tx, params, CATALOGUE[name].extra)
    assert meta(updates) == meta(params)
    assert meta(new) == meta(params)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_the_state_holds_tensors_whose_kind_never_changes(name: str, dtype: torch.dtype):
    tx, params = build(CATALOGUE[name]), params_of(dtype)
    first = tx.init(params)
    assert all(isinstance(leaf, torch.Tensor) for leaf in ps.tree.leaves(first))
    state = run(tx, params, CATALOGUE[name].extra)[1]
    assert meta(state) == meta(first)
    assert ps.tree.structure(state) == ps.tree.structure(first)


def complex_run(name: str, dtype: torch.dtype, turn: complex, height: float) -> tuple[list[Any], Any, Any]:
    """The updates, first and last state of parameters and gradients with an imaginary part, turned."""

    def lifted(values: Any, step: int) -> Any:
        parts = ps.tree.map(lambda a, b: torch.complex(a, height * b), values, grads_of(values, step + 7))
        return ps.tree.map(lambda z: (turn * z).to(dtype), parts)

    tx, real = build(CATALOGUE[name]), params_of(torch.float64)
    params = lifted(real, 0)
    first = state = tx.init(params)
    out = []
    for step in range(STEPS):
        grads = lifted(grads_of(real, step), step + 1)
        updates, state = tx.update(grads, state, params, **CATALOGUE[name].extra)
        params = ps.apply_updates(params, updates)
        out.append(updates)
    return out, first, state


@pytest.mark.parametrize("dtype", COMPLEX_DTYPES, ids=str)
@pytest.mark.parametrize("name", WITH_COMPLEX)
def test_complex_numbers_keep_structure_shape_and_dtype(name: str, dtype: torch.dtype):
    updates, first, state = complex_run(name, dtype, 1.0, 0.6)
    assert all(meta(one) == meta(params_of(dtype)) for one in updates)
    assert all(torch.isfinite(leaf).all() for leaf in ps.tree.leaves(updates))
    assert meta(state) == meta(first)


@pytest.mark.parametrize("name", [name for name in WITH_COMPLEX if name not in RANDOM])
def test_complex_numbers_without_imaginary_part_are_real_ones(name: str):
    entry, params = CATALOGUE[name], params_of(torch.float64)
    state = build(entry).init(params)
    for step, got in enumerate(complex_run(name, torch.complex128, 1.0, 0.0)[0]):
        want, state = build(entry).update(grads_of(params, step), state, params, **entry.extra)
        params = ps.apply_updates(params, want)
        as_complex = ps.tree.map(lambda u: u.to(torch.complex128), want)
        assert_equal_trees(got, as_complex, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", [name for name in WITH_COMPLEX if name not in NOT_TURNING])
def test_turning_the_complex_plane_turns_the_updates(name: str):
    """So it is where squares are those of the magnitude, and wrong wherever one part weighs more."""
    turn = complex(0.6, 0.8)
    turned = complex_run(name, torch.complex128, turn, 0.6)[0]
    plain = complex_run(name, torch.complex128, 1.0, 0.6)[0]
    assert_equal_trees(turned, ps.tree.map(lambda u: turn * u, plain), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", REAL_ONLY)
def test_what_is_for_real_numbers_only_says_so(name: str):
    with pytest.raises(ps.PureSGDError, match="complex"):
        complex_run(name, torch.complex64, 1.0, 0.6)


def test_every_exception_for_complex_numbers_is_in_the_catalogue():
    assert {*REAL_ONLY, *NOT_TURNING} <= set(NAMES)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_state_is_kept_in_at_least_float32(name: str, dtype: torch.dtype):
    state = build(CATALOGUE[name]).init(params_of(dtype))
    assert not {leaf.dtype for leaf in ps.tree.leaves(state)} & {torch.float16, torch.bfloat16}


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_not_changed_and_the_state_shares_no_memory(name: str):
    tx, params = build(CATALOGUE[name]), params_of()
    state, grads = tx.init(params), grads_of(params, 0)
    addresses = [leaf.data_ptr() for leaf in ps.tree.leaves((params, state)) if leaf.numel()]
    assert len(set(addresses)) == len(addresses)
    before = ps.tree.map(torch.clone, (grads, state, params))
    tx.update(grads, state, params, **CATALOGUE[name].extra)
    assert_equal_trees((grads, state, params), before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_zero_gradient_gives_no_nan(name: str, dtype: torch.dtype):
    tx, params = build(CATALOGUE[name]), params_of(dtype)
    zeros = ps.tree.map(torch.zeros_like, params)
    updates, state = tx.update(zeros, tx.init(params), params, **CATALOGUE[name].extra)
    assert all(torch.isfinite(leaf).all() for leaf in ps.tree.leaves(updates))
    assert not any(torch.isnan(leaf).any() for leaf in ps.tree.leaves(state))


@pytest.mark.parametrize("name", NAMES)
def test_vmap_over_every_hyperparameter_equals_a_loop(name: str):
    entry, params = CATALOGUE[name], params_of(torch.float64)
    count = 3
    grid = {
        key: torch.linspace(0.8, 1.0, count, dtype=torch.float64) * value
        for key, value in entry.hyperparams.items()
    }

    def final(values: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        return ps.tree.leaves(run(entry.build(**values), params, entry.extra)[::2])

    if not grid:
        assert entry.keeps_updates
        return
    mapped = torch.func.vmap(final)(grid)
    for index in range(count):
        alone = final({key: values[index] for key, values in grid.items()})
        assert_equal_trees(
            ps.tree.map(lambda leaf, index=index: leaf[index], mapped), alone, rtol=1e-12, atol=1e-14
        )


@pytest.mark.parametrize("name", NAMES)
def test_tensor_hyperparameters_equal_numbers(name: str):
    entry, params = CATALOGUE[name], params_of(torch.float64)
    tensors = {k: torch.tensor(v, dtype=torch.float64) for k, v in entry.hyperparams.items()}
    assert_equal_trees(
        run(entry.build(**tensors), params, entry.extra)[::2],
        run(build(entry), params, entry.extra)[::2],
        rtol=1e-12,
        atol=1e-14,
    )


def assert_compiled_equals_eager(names: list[str], backend: str) -> None:
    """Side by side in one compiled function, over steps that change a schedule, without a recompile."""
    transforms = {name: build(CATALOGUE[name]) for name in names}

    def update(states: Any, params: Any, grads: Any) -> tuple[Any, Any]:
        new_states, new_params = {}, {}
        for name, tx in transforms.items():
            extra = CATALOGUE[name].extra
            updates, new_states[name] = tx.update(grads, states[name], params[name], **extra)
            new_params[name] = ps.apply_updates(params[name], updates)
        return new_states, new_params

    compiled = torch.compile(update, backend=backend, fullgraph=True)
    params = {name: params_of() for name in names}
    states = {name: tx.init(params[name]) for name, tx in transforms.items()}
    eager = states, params
    for step in range(STEPS):
        grads = grads_of(params_of(), step)
        with torch._dynamo.config.patch(error_on_recompile=step > 0):
            states, params = compiled(states, params, grads)
        eager = update(*eager, grads)
    assert_equal_trees((states, params), eager, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("group", range(GROUPS))
def test_eager_equals_compiled(group: int):
    """Every transform: what the compiler sees, run operation by operation."""
    assert_compiled_equals_eager(NAMES[group::GROUPS], "aot_eager")


def test_eager_equals_inductor():
    """A chosen few, as Inductor writes them: it takes seconds for each."""
    chosen = ["adamw", "clip_by_global_norm", "params_ema debiased", "reduce_on_plateau", "sgd scheduled"]
    assert_compiled_equals_eager(chosen, "inductor")


class Layer(NamedTuple):
    w: torch.Tensor
    b: torch.Tensor | None


@pytest.mark.parametrize("name", NAMES)
def test_any_tree_will_do(name: str):
    tx, extra = build(CATALOGUE[name]), CATALOGUE[name].extra
    for params in (
        torch.tensor(1.5),
        (torch.ones(2), [torch.ones(()), {"z": Layer(torch.ones(1, 2), None), "a": torch.ones(0)}]),
    ):
        updates, _, _ = run(tx, params, extra, steps=2)
        assert ps.tree.structure(updates) == ps.tree.structure(params)


@pytest.mark.parametrize("name", NAMES)
def test_it_differentiates_with_respect_to_its_hyperparameters(name: str):
    entry = CATALOGUE[name]
    if not entry.hyperparams:
        assert entry.keeps_updates
        return
    params = {"w": torch.linspace(0.5, 1.5, 3, dtype=torch.float64)}

    def final(values: dict[str, torch.Tensor]) -> torch.Tensor:
        _, state, end = run(entry.build(**values), params, entry.extra)
        return ps.tree.norm(end) + ps.tree.norm(ps.eval_params(state, end))

    values = {k: torch.tensor(v, dtype=torch.float64) for k, v in entry.hyperparams.items()}
    slopes = torch.func.grad(final)(values)
    for key, slope in slopes.items():
        eps = 1e-6 * max(abs(entry.hyperparams[key]), 1e-3)
        up, down = ({**values, key: values[key] + sign * eps} for sign in (1, -1))
        numeric = (final(up) - final(down)) / (2 * eps)
        torch.testing.assert_close(slope, numeric, rtol=1e-5, atol=1e-7)


#: Rows whose function of the hyperparameter is the user's own, or called only later.
NO_RANGE = {
    ("project", "scale"),
    ("project l2", "scale"),
    ("scale_by_preconditioner", "power"),
    ("scale_by_schedule", "rate"),
    ("stateless", "factor"),
    ("stateless_with_tree_map", "factor"),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_its_range(name: str):
    entry = CATALOGUE[name]
    for key in entry.hyperparams:
        if (name, key) in NO_RANGE:
            continue
        refused = 0
        for bad in (-1.0, -1e9, 1e9, float("nan")):
            try:
                entry.build(**{**entry.hyperparams, key: bad})
            except ps.PureSGDError:
                refused += 1
        assert refused, f"{key} may be anything"


#: A small problem whose loss after a run depends on the learning rate.
INPUTS = torch.sin(torch.arange(24, dtype=torch.float64) * 1.3).reshape(8, 3)
TARGETS = torch.cos(torch.arange(8, dtype=torch.float64))
RATED = {
    name: key
    for name in NAMES
    for key in ("learning_rate", "rate")
    # GaLore's projector is held fixed in derivatives.
    if key in CATALOGUE[name].hyperparams and name != "galore"
}


def regression_loss(params: Any) -> torch.Tensor:
    return ((torch.tanh(INPUTS @ params["w"]) @ params["v"] + params["b"] - TARGETS) ** 2).mean()


@pytest.mark.parametrize("name", RATED)
def test_the_final_loss_has_the_slope_of_finite_differences_in_the_learning_rate(name: str):
    entry, key = CATALOGUE[name], RATED[name]
    start = {
        "w": torch.tensor([[0.3, -0.2], [0.5, 0.1], [-0.4, 0.6]], dtype=torch.float64),
        "v": torch.tensor([0.7, -0.3], dtype=torch.float64),
        "b": torch.tensor(0.4, dtype=torch.float64),
    }

    def final(rate: torch.Tensor) -> torch.Tensor:
        tx, params = entry.build(**{**entry.hyperparams, key: rate}), start
        state = tx.init(params)
        for _ in range(10):
            grads, value = torch.func.grad_and_value(regression_loss)(params)
            own = {
                "value": value,
                "grad": grads,
                "value_fn": regression_loss,
                "grad_fn": lambda params, _: torch.func.grad(regression_loss)(params),
            }
            extra = {name: own[name] for name in ps.transforms.extra_args_of(tx)}
            updates, state = tx.update(grads, state, params, **extra)
            params = ps.apply_updates(params, updates)
        return regression_loss(params)

    rate = torch.tensor(0.9 * entry.hyperparams[key], dtype=torch.float64)
    eps = 1e-6 * float(rate)
    numeric = (final(rate + eps) - final(rate - eps)) / (2 * eps)
    slope = torch.func.grad(final)(rate)
    torch.testing.assert_close(slope, numeric, rtol=1e-4, atol=1e-7)
    assert slope != 0
