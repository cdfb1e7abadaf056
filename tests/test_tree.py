"""Trees of tensors: what their leaves are called, how two are compared, and what is said of a misfit."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

from pure_sgd import tree
from pure_sgd.errors import PureSGDError


class Layer(NamedTuple):
    w: Any
    b: Any


class MyDict(dict[str, Any]):
    pass


class MyTuple(tuple[Any, ...]):
    pass


def network() -> dict[str, Any]:
    """A tree with every kind of node: its dict keys are not sorted, and one of its entries is empty."""
    return {
        "layers": [{"w": torch.full((3, 2), 1.0), "b": torch.full((2,), 2.0)}],
        "head": Layer(w=torch.full((2,), 3.0), b=None),
        "pair": (torch.full((), 4.0), torch.full((1,), 5.0)),
        "nothing": {},
    }


PATHS = ["['head'].w", "['layers'][0]['b']", "['layers'][0]['w']", "['pair'][0]", "['pair'][1]"]
VALUES = [3.0, 2.0, 1.0, 4.0, 5.0]

# One tree for each kind of node and each corner, to hold functions on every tree to one another.
TREES = {
    "network": network(),
    "tensor": torch.ones(2),
    "None": None,
    "empty": {},
    "number": 1.5,
    "int keys": {10: 1.0, 9: 2.0},
    "keys of several types": {"a": 1.0, 10: 2.0, 9: 3.0, (2, 3): 4.0},
    "keys without an order": {"a": 1.0, 2j: 2.0, 1j: 3.0},
    "OrderedDict": OrderedDict([("w", 1.0), ("b", 2.0), ("a", 3.0)]),
    "defaultdict": defaultdict(float, w=1.0, b=2.0),
    "a dict of another type is a leaf": {"w": MyDict(b=1.0), "a": MyTuple((1.0, 2.0))},
    "tuples": ((1.0, (2.0,)), (), 3.0),
}


def sentence_of(call: Callable[[], Any]) -> str:
    with pytest.raises(PureSGDError) as caught:
        call()
    return str(caught.value)


def test_a_path_is_what_python_would_write():
    params = network()
    named = tree.named_leaves(params, "params")
    assert [path for path, _ in named] == ["params" + path for path in PATHS]
    for path, leaf in named:
        assert eval(path, {"params": params}) is leaf


def test_leaves_come_by_sorted_key_and_none_is_no_leaf():
    assert [leaf.flatten()[0].item() for leaf in tree.leaves(network())] == VALUES


@pytest.mark.parametrize("name", TREES)
def test_named_leaves_are_the_leaves_in_the_same_order(name: str):
    named = [leaf for _, leaf in tree.named_leaves(TREES[name])]
    assert list(map(id, named)) == list(map(id, tree.leaves(TREES[name])))


@pytest.mark.parametrize("name", TREES)
def test_flatten_and_rebuild_are_inverse(name: str):
    found, rebuild = tree.flatten(TREES[name])
    again = rebuild(found)
    assert type(again) is type(TREES[name])
    assert tree.structure(again) == tree.structure(TREES[name])
    assert list(map(id, tree.leaves(again))) == list(map(id, found))


def test_walk_yields_every_node_the_tree_itself_first():
    nodes = dict(tree.walk(network(), "p"))
    assert list(nodes) == [
        "p",
        "p['head']",
        "p['head'].w",
        "p['head'].b",
        "p['layers']",
        "p['layers'][0]",
        "p['layers'][0]['b']",
        "p['layers'][0]['w']",
        "p['nothing']",
        "p['pair']",
        "p['pair'][0]",
        "p['pair'][1]",
    ]
    assert isinstance(nodes["p['head']"], Layer)
    assert nodes["p['head'].b"] is None


def test_map_keeps_the_structure_and_takes_leaves_from_the_same_places():
    doubled = tree.map(lambda a, b: a + b, network(), network())
    assert [leaf.flatten()[0].item() for leaf in tree.leaves(doubled)] == [2 * v for v in VALUES]
    assert isinstance(doubled["head"], Layer)
    assert isinstance(doubled["pair"], tuple)
    assert doubled["head"].b is None
    assert doubled["nothing"] == {}


def test_structure_tells_nodes_apart_and_not_leaves():
    one = tree.structure({"a": [1, 2]})
    assert one == tree.structure({"a": ["x", torch.ones(3)]})
    assert one != tree.structure({"a": (1, 2)})
    assert one != tree.structure({"a": [1, None]})
    assert one != tree.structure({"b": [1, 2]})


# Two trees that differ in one place, and the sentence that says which.
MISFITS: dict[str, tuple[Any, Any, str]] = {
    "a missing leaf": (
        {"layers": [{"w": torch.ones(2)}]},
        {"layers": [{"w": torch.ones(2), "b": torch.ones(1)}]},
        "updates['layers'][0]['b']: is missing, and params['layers'][0]['b'] is there. "
        "Give updates the structure of params.",
    ),
    "a leaf too many": (
        {"w": torch.ones(2), "b": torch.ones(1)},
        {"w": torch.ones(2)},
        "updates['b']: is there, and params['b'] is not. Give updates the structure of params.",
    ),
    "a leaf in place of a node": (
        torch.ones(2),
        {"w": torch.ones(2)},
        "updates['w']: is missing, and params['w'] is there. Give updates the structure of params.",
    ),
    "another shape": (
        {"w": torch.ones(3, 1)},
        {"w": torch.ones(3)},
        "updates['w']: shape (3, 1) does not match shape (3,) of params['w']. "
        "Nothing is broadcast here: reshape or reduce it first.",
    ),
    "one axis of length 1": (
        {"w": torch.ones(())},
        {"w": torch.ones(1)},
        "updates['w']: shape () does not match shape (1,) of params['w']. "
        "Nothing is broadcast here: reshape or reduce it first.",
    ),
    "no tensor": (
        {"w": 1.0},
        {"w": torch.ones(())},
        "updates['w']: is a float, expected a tensor. Pass a tensor.",
    ),
    "a list for a tuple": (
        {"a": {"pair": [torch.ones(1)]}},
        {"a": {"pair": (torch.ones(1),)}},
        "updates['a']['pair']: is of type list, and params['a']['pair'] of type tuple. "
        "Give updates the structure of params.",
    ),
    "a dict for an OrderedDict": (
        {"w": torch.ones(1)},
        OrderedDict(w=torch.ones(1)),
        "updates: is of type dict, and params of type OrderedDict. Give updates the structure of params.",
    ),
    "None for nothing": (
        {"w": torch.ones(1), "b": None},
        {"w": torch.ones(1)},
        "updates['b']: is there, and params['b'] is not. Give updates the structure of params.",
    ),
    "None for a leaf": (
        {"w": None},
        {"w": torch.ones(1)},
        "updates['w']: is a NoneType, expected a tensor. Pass a tensor.",
    ),
    "a leaf for None": (
        {"w": torch.ones(1)},
        {"w": None},
        "updates['w']: is of type Tensor, and params['w'] of type NoneType. "
        "Give updates the structure of params.",
    ),
    "nothing for an empty node": (
        {"w": torch.ones(1)},
        {"w": torch.ones(1), "rest": []},
        "updates['rest']: is missing, and params['rest'] is there. Give updates the structure of params.",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_check_like_names_the_place(name: str):
    got, expected, sentence = MISFITS[name]
    assert sentence_of(lambda: tree.check_like(got, expected, "updates", "params")) == sentence


@pytest.mark.parametrize("name", TREES)
def test_a_tree_is_like_itself(name: str):
    tree.check_like(TREES[name], TREES[name], "updates", "params")


def test_check_like_asks_for_shapes_and_not_for_dtypes_or_values():
    one = {"w": torch.ones(2, 3), "b": [torch.ones(1), None]}
    tree.check_like(one, tree.map(lambda leaf: leaf.half() * 7, one), "updates", "params")


# A mask of the network above, and which of its leaves it picks.
MASKS: dict[str, tuple[Any, list[bool]]] = {
    "none": (None, [True] * 5),
    "one bool": (False, [False] * 5),
    "a full tree": (
        {
            "layers": [{"w": True, "b": False}],
            "head": Layer(w=True, b=None),
            "pair": (False, True),
            "nothing": {},
        },
        [True, False, True, False, True],
    ),
    "a prefix": (
        {"layers": True, "head": False, "pair": (True, False), "nothing": False},
        [False, True, True, True, False],
    ),
    "a predicate on the path": (
        lambda path: path.endswith("['w']") or path.endswith(".w"),
        [True, False, True, False, False],
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_select_resolves_a_mask_to_one_bool_for_each_leaf(name: str):
    mask, expected = MASKS[name]
    assert tree.select(mask, network(), "masked") == expected


def test_select_follows_the_order_of_the_leaves_in_every_kind_of_dict():
    for params in (dict(w=1.0, b=2.0), OrderedDict(w=1.0, b=2.0), defaultdict(float, w=1.0, b=2.0)):
        kept = [leaf == 2.0 for leaf in tree.leaves(params)]
        assert tree.select(lambda path: path == "['b']", params, "masked") == kept
        assert tree.select({"b": True, "w": False}, params, "masked") == kept


@pytest.mark.parametrize(
    "mask, complaint",
    [
        ({"w": True}, """mask is ["['w']"] where the tree holds ["['b']", "['w']"]"""),
        ({"w": True, "b": 1}, "mask['b'] is 1 where the tree holds a leaf"),
        ({"w": {"x": True}, "b": True}, """mask['w'] is ["['x']"] where the tree holds a leaf"""),
        ({"w": True, "b": None}, "mask['b'] is None where the tree holds a leaf"),
    ],
)
def test_select_says_where_a_mask_does_not_fit(mask: Any, complaint: str):
    remedy = "Pass a bool for every leaf or subtree, or a predicate on the leaf's path"
    sentence = sentence_of(lambda: tree.select(mask, {"w": 1.0, "b": 2.0}, "masked"))
    assert sentence == f"masked: {complaint}. {remedy}."


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.complex64,
        torch.complex128,
    ],
    ids=str,
)
def test_norm_is_that_of_all_leaves_in_one_vector_in_at_least_float32(dtype: torch.dtype):
    leaves = {"w": torch.randn(4, 3).to(dtype), "n": None, "b": [torch.randn(()).to(dtype)]}
    if dtype.is_complex:
        leaves = tree.map(lambda leaf: leaf + 1j * torch.randn(leaf.shape).to(leaf.dtype), leaves)
    wide = torch.promote_types(dtype, torch.float32)
    vector = torch.cat([leaf.flatten().to(wide) for leaf in tree.leaves(leaves)])
    # assert_close compares shapes and dtypes too; torch's norm of complex numbers is real.
    torch.testing.assert_close(tree.norm(leaves), torch.linalg.vector_norm(vector))


def test_norm_of_a_large_half_precision_leaf_does_not_overflow():
    assert tree.norm(torch.full((4,), 3e4, dtype=torch.float16)) == 6e4


def test_norm_takes_conjugates_and_no_leaf_at_all():
    # Autograd hands out lazily conjugated gradients of complex parameters.
    assert tree.norm(torch.tensor([3 + 4j]).conj()) == 5.0
    assert tree.norm({"w": None}) == 0.0
    assert tree.norm({"w": torch.zeros(0)}) == 0.0


def test_the_slope_of_the_norm_is_the_direction_and_zero_at_zero():
    slope = torch.func.grad(tree.norm)({"w": torch.tensor([3.0]), "b": torch.tensor(4.0)})
    assert tree.map(lambda leaf: leaf.sum().item(), slope) == pytest.approx({"w": 0.6, "b": 0.8})
    assert torch.func.grad(tree.norm)(torch.zeros(2)).tolist() == [0.0, 0.0]


def test_zeros_like_widens_to_float32_unless_told_otherwise():
    leaves = {
        "half": torch.ones(2, dtype=torch.float16),
        "double": torch.ones(1, dtype=torch.float64),
        "complex": torch.ones((), dtype=torch.complex64),
        "none": None,
    }
    zeros = tree.zeros_like(leaves)
    assert tree.map(lambda z: (z.dtype, tuple(z.shape), z.sum().item()), zeros) == {
        "half": (torch.float32, (2,), 0.0),
        "double": (torch.float64, (1,), 0.0),
        "complex": (torch.complex64, (), 0.0),
        "none": None,
    }
    assert tree.zeros_like(leaves["double"], torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "dtype, expected",
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.complex64, torch.complex64),
        (torch.int64, torch.float32),
    ],
    ids=str,
)
def test_wide_raises_to_at_least_float32(dtype: torch.dtype, expected: torch.dtype):
    assert tree.wide(dtype) == expected


def test_cast_like_takes_dtypes_and_leaves_values():
    cast = tree.cast_like([torch.ones(2), None], [torch.zeros(5, dtype=torch.float64), None])
    assert cast[0].tolist() == [1.0, 1.0]
    assert (cast[0].dtype, cast[1]) == (torch.float64, None)


def test_batch_length_is_the_leading_length_of_all_leaves():
    assert tree.batch_length((torch.ones(7, 2), {"y": torch.ones(7), "none": None})) == 7
    assert tree.batch_length(torch.ones(1)) == 1


@pytest.mark.parametrize(
    "batch, sentence",
    [
        ({}, "batch: holds no tensor. Pass a tensor, or a tuple or dict of tensors."),
        (
            (torch.ones(3), [1.0, 2.0]),
            "batch[1][0]: is a float, expected a tensor. Convert it with torch.as_tensor.",
        ),
        (
            {"x": torch.ones(3), "y": torch.ones(())},
            "batch['y']: has shape (), expected a leading axis of examples. Give every leaf that axis.",
        ),
        (
            (torch.ones(3, 2), torch.ones(3), torch.ones(4)),
            "batch[2]: holds 4 examples where batch[0] holds 3. Give every leaf the same leading length.",
        ),
        (
            (torch.ones(0, 2), torch.ones(0)),
            "batch[0]: holds 0 examples: an empty data set has no mean loss. Pass at least one.",
        ),
    ],
)
def test_batch_length_says_what_is_no_batch(batch: Any, sentence: str):
    assert sentence_of(lambda: tree.batch_length(batch)) == sentence


def test_check_real_names_the_complex_leaf():
    params = {"a": torch.ones(2), "b": [torch.ones(1, dtype=torch.complex128)], "c": None}
    sentence = r"^clip: updates\['b'\]\[0\] holds torch.complex128, and complex numbers have no order"
    with pytest.raises(PureSGDError, match=sentence):
        tree.check_real(params, "updates", "clip")
    tree.check_real(params["a"], "updates", "clip")


def test_everything_here_traces_in_one_piece():
    def everything(params: dict[str, Any]) -> tuple[Any, torch.Tensor, int]:
        tree.check_like(params, params, "updates", "params")
        chosen = tree.select(lambda path: path.endswith("['w']"), params, "masked")
        prefixed = tree.select({"layers": True, "head": False, "pair": True}, params, "masked")
        found, rebuild = tree.flatten(params)
        factors = [1 + a + 2 * b for a, b in zip(chosen, prefixed, strict=True)]
        scaled = rebuild([leaf * factor for leaf, factor in zip(found, factors, strict=True)])
        moments = tree.map(lambda z, p: z + p, tree.zeros_like(params), scaled)
        return tree.cast_like(moments, params), tree.norm(scaled), tree.batch_length(params["layers"])

    params = network()
    del params["nothing"]  # an empty dict does not trace
    params["layers"][0]["b"] = torch.full((3,), 2.0)
    compiled = torch.compile(everything, backend="eager", fullgraph=True)
    got, norm, length = compiled(params)
    expected, expected_norm, expected_length = everything(params)
    assert (norm, length) == (expected_norm, expected_length)
    assert tree.structure(got) == tree.structure(params)
    assert [leaf.flatten()[0].item() for leaf in tree.leaves(got)] == [3.0, 6.0, 4.0, 12.0, 15.0]
    assert all(map(torch.equal, tree.leaves(got), tree.leaves(expected)))


class Pair(NamedTuple):
    a: Any
    b: Any


def test_nodes_without_tensors_are_kept_while_a_step_is_traced():
    params = {"layers": [{"w": torch.ones(2)}, {}, ()], "pair": Pair(torch.zeros(1), None), "a": {}}

    def double(params: Any) -> Any:
        found, rebuild = tree.flatten(params)
        new = rebuild([2 * leaf for leaf in found])
        tree.check_like(new, params, "new", "params")
        return new

    compiled = torch.compile(double, backend="eager", fullgraph=True)(params)
    assert tree.structure(compiled) == tree.structure(params)
    assert compiled["layers"][0]["w"].tolist() == [2.0, 2.0]
