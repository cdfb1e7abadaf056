"""Complex leaves as pairs of real ones: torch's own optimizers, and the same rule on pairs made by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pure_sgd as ps

TARGET = torch.tensor([1 - 2j, 0.5 + 3j, -1 + 0j], dtype=torch.complex128)
START = torch.tensor([0.2 + 1j, -0.4 - 0.3j, 2 - 1j], dtype=torch.complex128)


def loss(z: torch.Tensor) -> torch.Tensor:
    difference = z - TARGET
    return (difference.real.cosh() + 2 * difference.imag**2).sum()


def descend(tx: ps.GradientTransformation, steps: int = 6) -> torch.Tensor:
    params, state = START, tx.init(START)
    for _ in range(steps):
        updates, state = tx.update(torch.func.grad(loss)(params), state, params)
        params = ps.apply_updates(params, updates)
    return params


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (ps.adam(0.1), torch.optim.Adam, {"lr": 0.1}),
        (ps.sgd(0.1, momentum=0.9), torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (
            ps.rmsprop(0.1, decay=0.9, eps_in_sqrt=False),
            torch.optim.RMSprop,
            {"lr": 0.1, "alpha": 0.9},
        ),
    ],
)
def test_it_is_what_torch_does_with_complex_parameters(
    ours: ps.GradientTransformation, theirs: Any, options: dict[str, float]
):
    leaf = START.clone().requires_grad_()
    optimizer = theirs([leaf], **options)
    for _ in range(6):
        optimizer.zero_grad()
        loss(leaf).backward()
        optimizer.step()
    got = descend(ps.split_real_and_imaginary(ours))
    torch.testing.assert_close(got, leaf.detach(), rtol=1e-10, atol=1e-10)


def test_a_tree_of_both_kinds_is_a_tree_of_pairs():
    inner = ps.chain(ps.clip_by_global_norm(1.0), ps.adamw(0.1, weight_decay=0.1), ps.params_ema(0.9))
    both = {"real": torch.ones(2), "complex": torch.tensor([1 + 2j, 3 - 1j])}
    pairs = {"real": torch.ones(2), "complex": [torch.tensor([1.0, 3.0]), torch.tensor([2.0, -1.0])]}
    tx = ps.split_real_and_imaginary(inner)
    state, by_hand, updates, expected = tx.init(both), inner.init(pairs), both, pairs
    for _ in range(3):
        updates, state = tx.update(both, state, both)
        expected, by_hand = inner.update(pairs, by_hand, pairs)
    assert torch.equal(updates["real"], expected["real"])
    assert torch.equal(updates["complex"], torch.complex(*expected["complex"]))
    assert ps.tree.structure(ps.tree.leaves(state)) == ps.tree.structure(ps.tree.leaves(by_hand))
    assert not any(leaf.is_complex() for leaf in ps.tree.leaves(state))


def test_it_descends_compiles_and_maps():
    tx = ps.split_real_and_imaginary(ps.adam(0.3))
    torch.testing.assert_close(descend(tx, 400), TARGET, rtol=1e-4, atol=1e-4)
    state, grad = tx.init(START), torch.func.grad(loss)(START)
    eager = tx.update(grad, state, START)
    compiled = torch.compile(tx.update, backend="aot_eager", fullgraph=True)(grad, state, START)
    torch.testing.assert_close(compiled, eager)
    many = torch.func.vmap(lambda g: tx.update(g, state, START)[0])(torch.stack([grad, 2 * grad]))
    torch.testing.assert_close(many[0], eager[0])


def test_a_conjugate_that_is_still_to_be_taken_is_taken():
    tx = ps.split_real_and_imaginary(ps.scale(2.0))
    assert torch.equal(tx.update(START.conj(), tx.init(START))[0], 2 * START.conj().resolve_conj())


def test_only_a_transform_can_be_wrapped():
    not_called: Any = ps.sgd
    with pytest.raises(ps.PureSGDError, match="expected a GradientTransformation"):
        ps.split_real_and_imaginary(not_called)
