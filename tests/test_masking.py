"""Transforms for some of the leaves: which they touch, what they keep, and how a wrong label fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

import pure_sgd as ps

PARAMS = {"body": {"w": torch.tensor([1.0, -2.0]), "b": torch.tensor(0.5)}, "head": torch.tensor([3.0])}
GRADS = {"body": {"w": torch.tensor([0.3, 0.4]), "b": torch.tensor(-1.0)}, "head": torch.tensor([2.0])}
BODY_W, BODY_B, HEAD = "['body']['w']", "['body']['b']", "['head']"


def sentence_of(call: Callable[[], Any]) -> str:
    with pytest.raises(ps.PureSGDError) as caught:
        call()
    return str(caught.value)


def once(tx: ps.GradientTransformation, **extra: Any) -> dict[str, torch.Tensor]:
    """The updates of the first step, by the path of their leaf."""
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS, **extra)
    return dict(ps.tree.named_leaves(updates))


def assert_same(got: Any, want: Any) -> None:
    # Adam of all leaves goes through torch's own kernel, which rounds otherwise than that of some of them.
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0.0)


MASKS: dict[str, tuple[Any, set[str]]] = {
    "everything": (True, {BODY_W, BODY_B, HEAD}),
    "nothing": (False, set()),
    "a tree": ({"body": {"w": True, "b": False}, "head": True}, {BODY_W, HEAD}),
    "a prefix": ({"body": True, "head": False}, {BODY_W, BODY_B}),
    "a predicate": (lambda path: path.endswith("['b']"), {BODY_B}),
}


@pytest.mark.parametrize("name", MASKS)
def test_masked_transforms_the_picked_leaves_and_passes_on_the_others(name: str):
    mask, picked = MASKS[name]
    got, raw = once(ps.masked(ps.scale(10.0), mask)), dict(ps.tree.named_leaves(GRADS))
    assert {path for path in raw if torch.equal(got[path], 10 * raw[path])} == picked
    assert {path for path in raw if torch.equal(got[path], raw[path])} == set(raw) - picked


@pytest.mark.parametrize("name", MASKS)
def test_freeze_zeroes_the_picked_leaves_even_where_they_are_nan(name: str):
    mask, picked = MASKS[name]
    tx = ps.freeze(mask)
    broken = ps.tree.map(lambda u: u * torch.nan, GRADS)
    got = dict(ps.tree.named_leaves(tx.update(broken, tx.init(PARAMS))[0]))
    assert {path for path, u in got.items() if not u.any()} == picked
    assert {path for path, u in got.items() if u.isnan().all()} == set(got) - picked


@pytest.mark.parametrize("name", MASKS)
def test_selective_transform_is_the_transform_and_then_freeze(name: str):
    mask, picked = MASKS[name]
    tx = ps.selective_transform(ps.adam(0.1), freeze_mask=mask)
    want = once(ps.chain(ps.adam(0.1), ps.freeze(mask)))
    assert_same(once(tx), want)
    held = dict(ps.tree.named_leaves(tx.init(PARAMS).inner_state[0].mu))
    assert set(held) == set(want) - picked


def test_the_state_holds_nothing_for_other_leaves():
    state = ps.masked(ps.adam(0.1), {"body": False, "head": True}).init(PARAMS)
    mu = state.inner_state[0].mu
    assert mu["body"] == {"w": ps.MaskedNode(), "b": ps.MaskedNode()}
    assert torch.equal(mu["head"], torch.zeros(1))


def test_a_norm_inside_a_mask_is_that_of_the_picked_leaves():
    got = once(ps.masked(ps.clip_by_global_norm(0.25), {"body": {"w": True, "b": False}, "head": False}))
    torch.testing.assert_close(got[BODY_W], torch.tensor([0.15, 0.2]))
    assert torch.equal(got[HEAD], GRADS["head"])


def test_the_parameters_are_masked_too():
    got = once(ps.masked(ps.add_decayed_weights(1.0), lambda path: path == HEAD))
    assert got[HEAD].item() == 5.0
    assert torch.equal(got[BODY_W], GRADS["body"]["w"])


LABELS: dict[str, Any] = {
    "a tree": {"body": {"w": "adam", "b": "adam"}, "head": "sgd"},
    "a prefix": {"body": "adam", "head": "sgd"},
    "a function": lambda path: "sgd" if path == HEAD else "adam",
}
PARTS = {"adam": ps.adam(0.1), "sgd": ps.sgd(0.5, momentum=0.9)}


@pytest.mark.parametrize("name", LABELS)
def test_partition_applies_to_each_part_its_own_transform(name: str):
    tx = ps.partition(PARTS, LABELS[name])
    params, state = PARAMS, tx.init(PARAMS)
    body, body_state = PARAMS["body"], PARTS["adam"].init(PARAMS["body"])
    head, head_state = PARAMS["head"], PARTS["sgd"].init(PARAMS["head"])
    for _ in range(3):
        updates, state = tx.update(GRADS, state, params)
        params = ps.apply_updates(params, updates)
        updates, body_state = PARTS["adam"].update(GRADS["body"], body_state, body)
        body = ps.apply_updates(body, updates)
        updates, head_state = PARTS["sgd"].update(GRADS["head"], head_state, head)
        head = ps.apply_updates(head, updates)
    assert_same(params, {"body": body, "head": head})
    assert list(state.inner_states) == ["adam", "sgd"]
    assert ps.multi_transform is ps.partition


@pytest.mark.parametrize(
    "labels", [{"head": "sgd"}, {"body": None, "head": "sgd"}, lambda path: "sgd" if path == HEAD else None]
)
def test_what_is_not_labelled_has_the_default_label(labels: Any):
    want = once(ps.partition(PARTS, {"body": "adam", "head": "sgd"}))
    assert_same(once(ps.partition(PARTS, labels, default_label="adam")), want)


def test_a_default_may_be_left_without_leaves():
    got = once(ps.partition(PARTS, "sgd", default_label="adam"))
    assert_same(got, once(ps.sgd(0.5, momentum=0.9)))


def test_labels_may_be_of_any_hashable_type():
    got = once(ps.partition({1: ps.scale(2.0), True + 1: ps.scale(3.0)}, {"body": 1, "head": 2}))
    assert (got[BODY_B].item(), got[HEAD].item()) == (-2.0, 6.0)


class Layer(NamedTuple):
    w: torch.Tensor
    wide: torch.Tensor


def test_labels_of_a_record_go_by_its_fields():
    params = [Layer(torch.ones(1), torch.ones(2)), None]
    tx = ps.partition({"a": ps.scale(2.0), "b": ps.scale(3.0)}, [Layer("a", "b"), None])
    (layer, nothing), _ = tx.update(params, tx.init(params))
    assert (layer.w.tolist(), layer.wide.tolist(), nothing) == ([2.0], [3.0, 3.0], None)


def test_each_part_receives_the_extra_arguments_that_it_reads():
    plateau = ps.chain(ps.sgd(0.5), ps.reduce_on_plateau(patience=1, factor=0.5))
    tx = ps.partition({"a": plateau, "b": ps.chain(ps.sgd(0.5))}, {"body": "a", "head": "b"})
    assert ps.transforms.extra_args_of(tx) == ("value",)
    outer = ps.chain(tx)
    state, updates = outer.init(PARAMS), PARAMS
    for _ in range(2):
        updates, state = outer.update(GRADS, state, PARAMS, value=1.0)
    assert updates["body"]["b"].item() == 0.25
    torch.testing.assert_close(updates["head"], torch.tensor([-1.0]))


def test_states_leave_vmap():
    def init(params: Any) -> Any:
        return ps.masked(ps.adam(0.1), {"body": False, "head": True}).init(params)

    state = torch.func.vmap(init)(ps.tree.map(lambda p: p.expand(4, *p.shape), PARAMS))
    assert state.inner_state[0].mu["head"].shape == (4, 1)


@pytest.mark.parametrize(
    "make, sentence",
    [
        (
            lambda: ps.partition(PARTS, {"body": "adam", "head": "sdg"}),
            "partition: the leaf ['head'] is labelled 'sdg', which is no label of a transform. "
            "Use one of 'adam', 'sgd', or add its transform.",
        ),
        (
            lambda: ps.partition(PARTS, "adam"),
            "partition: no leaf is labelled 'sgd'. "
            "Leave such a transform out, correct the labels, or make it the default_label.",
        ),
        (
            lambda: ps.partition(PARTS, lambda path: "sgd" if path == HEAD else None),
            "partition: the leaf ['body']['b'] has no label. Label it, or pass default_label.",
        ),
        (
            lambda: ps.partition(PARTS, {"body": "adam"}),
            """partition: param_labels holds ["['body']"] where the tree holds ["['body']", "['head']"]. """
            "Pass a label for every leaf or subtree, or a function from the leaf's path to its label.",
        ),
        (
            lambda: ps.partition(PARTS, {"body": "adam", "haed": "sgd"}, default_label="sgd"),
            """partition: param_labels holds ["['body']", "['haed']"] where the tree holds """
            """["['body']", "['head']"]. """
            "Pass a label for every leaf or subtree, or a function from the leaf's path to its label.",
        ),
        (
            lambda: ps.partition(PARTS, "adam", default_label="sdg"),
            "partition: default_label='sdg' is no label of a transform. "
            "Use one of 'adam', 'sgd', or add its transform.",
        ),
        (
            lambda: ps.partition({}, "adam"),
            "partition: got no transform. Pass at least one label with its transform.",
        ),
        (
            lambda: ps.masked(ps.scale(1.0), {"body": True}),
            """masked: mask is ["['body']"] where the tree holds ["['body']", "['head']"]. """
            "Pass a bool for every leaf or subtree, or a predicate on the leaf's path.",
        ),
    ],
)
def test_a_wrong_label_is_named(make: Callable[[], ps.GradientTransformation], sentence: str):
    assert sentence_of(lambda: make().init(PARAMS)) == sentence


def test_what_is_no_transform_is_refused():
    factory: Any = ps.adam
    assert sentence_of(lambda: ps.partition({"a": factory}, "a")) == (
        "partition['a']: got a function, expected a GradientTransformation. "
        "Call the factory, as in trace(0.9)."
    )
    assert sentence_of(lambda: ps.masked(factory, True)).startswith("masked: got a function")
