"""What several ranks compute, each with some of the rows, is what one process computes with all."""

from __future__ import annotations

import os
from functools import cache
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import torch
from ranks import (
    CLOSE,
    ROWS,
    Failure,
    batch_of,
    difference,
    disagreement,
    example_loss,
    mesh_of,
    rows_of,
    start,
    started,
)
from torch import distributed
from torch._dynamo.backends.common import aot_autograd
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch.distributed.device_mesh import init_device_mesh
from torch.utils._python_dispatch import TorchDispatchMode

import pure_sgd as ps
from pure_sgd.distributed import messages

STEPS = 4
#: Bytes of which every leaf but the last fills a message.
SMALL = 100
WORLD = 4


TRANSFORMS = {
    "sgd": lambda: ps.sgd(0.1),
    "momentum": lambda: ps.sgd(0.1, momentum=0.9, weight_decay=1e-2),
    "adamw, clipped": lambda: ps.chain(ps.clip_by_global_norm(0.5), ps.adamw(1e-2)),
    "muon": lambda: ps.muon(0.05),
    "average": lambda: ps.chain(ps.sgd(0.1, momentum=0.9), ps.params_ema(0.9)),
    "line search": lambda: ps.chain(ps.sgd(1.0), ps.scale_by_zoom_linesearch(5)),
    "sharpness": lambda: ps.sam(ps.sgd(0.1), ps.sgd(0.05), opaque_mode=True),
    "curvature": lambda: ps.sophia(0.05, update_interval=2),
    "value": lambda: ps.polyak_sgd(0.5),
}


class Way(NamedTuple):
    """How the ranks go through some steps."""

    even: bool = True  # as many rows on each
    bucket: int = messages.BUCKET  # bytes of a message
    backend: str | None = None
    donate: bool = False
    statistics: int | None = None


def trained(name: str, loss: Any, rows: Any, way: Way) -> Any:
    """The state after some steps, and the metrics of each."""
    tx = TRANSFORMS[name]()
    step = ps.make_step(loss, tx, statistics=way.statistics)
    if way.backend:
        step = ps.compile_step(step, way.donate, backend=way.backend)
    state, seen = ps.init_train_state(start(), tx), []
    for index in range(STEPS):
        state, metrics = step(state, rows(batch_of(index)))
        seen.append(metrics)
    torch.compiler.reset()
    return state, seen


@cache
def trained_alone(name: str, statistics: int | None) -> Any:
    return trained(name, ps.empirical_risk(example_loss), lambda batch: batch, Way(statistics=statistics))


def compare(names: list[str], number: int, way: Way) -> Any:
    """By name, how far the run of these ranks is from that of one process, and from one another."""
    mesh, found = mesh_of(number), {}
    loss = ps.distributed.data_parallel(ps.empirical_risk(example_loss), mesh)
    with patch.object(messages, "BUCKET", way.bucket):
        for name in names:
            run = trained(name, loss, lambda batch: rows_of(batch, mesh, way.even), way)
            found[name] = difference(run, trained_alone(name, way.statistics)), disagreement(run, mesh)
    return found


def assert_same(answers: list[dict[str, tuple[float, float]]]) -> None:
    for answer in answers:
        for name, (apart, unlike) in answer.items():
            assert apart < CLOSE, name
            assert unlike == 0, name


@pytest.mark.parametrize("number, way", [(2, Way()), (4, Way(even=False, bucket=SMALL))])
def test_a_step_is_that_of_one_process(ranks, number, way):
    assert_same(ranks(compare, [*TRANSFORMS], number, way))


def test_statistics_of_a_step_are_those_of_all_rows(ranks):
    assert_same(ranks(compare, ["momentum"], 4, Way(even=False, statistics=2)))


def test_a_compiled_step_is_that_of_one_process(ranks):
    way = Way(even=False, bucket=SMALL, backend="aot_eager", donate=True)
    assert_same(ranks(compare, ["adamw, clipped"], 2, way))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_compiled_step_of_any_kind_is_that_of_one_process(ranks, name):
    assert_same(ranks(compare, [name], 4, Way(even=False, backend="aot_eager")))


INDUCTOR = Way(backend="inductor")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw, clipped", "muon", "average"])
@pytest.mark.parametrize(
    "number, way", [(2, INDUCTOR), (4, INDUCTOR._replace(even=False, bucket=SMALL, donate=True))]
)
def test_so_is_a_program_of_inductor(ranks, name, number, way):
    assert_same(ranks(compare, [name], number, way))


@pytest.mark.slow
def test_so_is_a_program_of_inductor_with_statistics(ranks):
    assert_same(ranks(compare, ["adamw, clipped"], 2, INDUCTOR._replace(statistics=2)))


def statistics(number: int, even: bool) -> dict[str, tuple[float, float]]:
    mesh, whole = mesh_of(number), batch_of(0)
    rows, over, key = rows_of(whole, mesh, even), ps.distributed, ps.random.key(7)
    noisy = {"max_norm": 0.1, "noise_multiplier": 1.5}
    drawn = {**noisy, "expected_batch_size": 20.0}
    loss = ps.empirical_risk(example_loss)
    pairs = {
        "moments": (
            over.gradient_moments(example_loss, mesh)(start(), rows),
            ps.gradient_moments(example_loss)(start(), whole),
        ),
        "clipped": (
            over.clipped_mean_grads(example_loss, mesh, **noisy)(start(), rows, key)[:2],
            ps.clipped_mean_grads(example_loss, **noisy)(start(), whole, key)[:2],
        ),
        "clipped, of an expected size": (
            over.clipped_mean_grads(example_loss, mesh, **drawn)(start(), rows, key)[:2],
            ps.clipped_mean_grads(example_loss, **drawn)(start(), whole, key)[:2],
        ),
        "gradient": (
            over.value_grad_and_noise(loss, mesh)(start(), rows)[:2],
            ps.value_and_grad(loss)(start(), whole),
        ),
    }
    return {name: (difference(*pair), disagreement(pair[0], mesh)) for name, pair in pairs.items()}


@pytest.mark.parametrize("number, even", [(2, True), (4, False)])
def test_statistics_are_those_of_one_process(ranks, number, even):
    assert_same(ranks(statistics, number, even))


def noise_of(draws: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Trace and signal of batches, split unevenly, of gradients of which each entry is normal(0.5, 1)."""
    mesh = mesh_of(WORLD)
    measure = ps.distributed.value_grad_and_noise(ps.empirical_risk(lambda w, x: w @ x), mesh)
    batches = ps.random.normal(ps.random.key(3), (draws, ROWS, 6), torch.float64) + 0.5
    found = [measure(torch.zeros(6).double(), rows_of((batch,), mesh, even=False))[2] for batch in batches]
    return torch.stack([one.trace_covariance for one in found]), torch.stack(
        [one.grad_sq_norm for one in found]
    )


def test_the_noise_that_ranks_tell_of_is_unbiased(ranks):
    for found, expected in zip(ranks(noise_of, 300)[0], (6.0, 6 * 0.25), strict=True):
        assert abs(found.mean() - expected) < 3 * found.std() / 300**0.5


def of_a_module(number: int) -> tuple[float, float]:
    """A loss that is no empirical risk, with buffers and a metric."""
    mesh, (x, y) = mesh_of(number), batch_of(0)

    def loss(params: Any, batch: Any) -> Any:
        x, y = batch
        mean = x.mean(0)
        error = ((x - params["buffers"]["seen"]) @ params["w"] + params["b"] - y).square().mean()
        return error, {"size": x.abs().mean(), "buffers": {"seen": mean, "count": torch.tensor(1)}}

    tx = ps.sgd(0.1)
    params = {
        "w": torch.ones(5, 3).double(),
        "b": torch.zeros(3).double(),
        "buffers": {"seen": torch.zeros(5).double(), "count": torch.tensor(0)},
    }
    together = ps.make_step(ps.distributed.data_parallel(loss, mesh), tx, has_aux=True)
    state = ps.init_train_state(params, tx)
    one = together(state, rows_of((x, y), mesh, even=False))
    return difference(one, ps.make_step(loss, tx, has_aux=True)(state, (x, y))), disagreement(one, mesh)


def test_buffers_and_metrics_are_averaged_too(ranks):
    assert_same([{"module": answer} for answer in ranks(of_a_module, 2)])


#: What is noted of the operations of a step: products of matrices, and what is sent and waited for.
NOTED = {
    "all_reduce": "sent",
    "wait_tensor": "awaited",
    "mm": "product",
    "addmm": "product",
    "bmm": "product",
}


class Operations(TorchDispatchMode):
    """Notes what is done, in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def order_of(step: Any, compiled: bool, *args: Any) -> list[str]:
    """The names of the operations of a step, as they run or in its compiled graph."""
    if not compiled:
        with Operations() as operations:
            step(*args)
        return operations.names
    names: list[str] = []

    def compiler(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        packets = [getattr(node.target, "overloadpacket", None) for node in graph.graph.nodes]
        names.extend(packet.__name__ for packet in packets if packet is not None)
        return make_boxed_func(graph.forward)

    torch.compile(step, backend=aot_autograd(fw_compiler=compiler), fullgraph=True)(*args)
    torch.compiler.reset()
    return names


def overlapped(compiled: bool) -> list[str]:
    mesh, tx = mesh_of(WORLD), ps.sgd(0.1)
    loss = ps.distributed.data_parallel(ps.empirical_risk(example_loss), mesh)
    with patch.object(messages, "BUCKET", SMALL):
        state, rows = ps.init_train_state(start(), tx), rows_of(batch_of(0), mesh)
        names = order_of(ps.make_step(loss, tx), compiled, state, rows)
    return [NOTED[name] for name in names if name in NOTED]


@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_leave_while_the_backward_runs_and_are_awaited_after_it(ranks, compiled):
    for order in ranks(overlapped, compiled):
        assert order[:4] == ["product", "product", "sent", "awaited"]  # of the loss
        # The gradient of the last layer leaves before the product for the first is taken.
        assert order[4:] == ["product", "product", "sent", "product", "sent", "awaited", "awaited"]


def in_dtype(dtype: torch.dtype | None, of_params: torch.dtype) -> tuple[float, float]:
    """How far the gradient is from that of one process, relatively, and between ranks."""
    mesh = mesh_of(WORLD)
    params, rows = ps.tree.map(lambda p: p.to(of_params), start()), rows_of(batch_of(0), mesh, even=False)
    rows, whole = (ps.tree.map(lambda x: x.to(of_params), batch) for batch in (rows, batch_of(0)))
    loss = ps.empirical_risk(example_loss)
    grads = ps.value_and_grad(ps.distributed.data_parallel(loss, mesh, dtype))(params, rows)[1]
    wanted = ps.value_and_grad(loss)(params, whole)[1]
    assert all(g.dtype == of_params for g in ps.tree.leaves(grads))
    return difference(grads, wanted) / float(ps.tree.norm(wanted)), disagreement(grads, mesh)


@pytest.mark.parametrize(
    "dtype, of_params, close",
    [
        (torch.bfloat16, torch.float64, 2**-8),
        (None, torch.bfloat16, 2**-8),
        (torch.float64, torch.float32, 1e-6),
        (torch.bfloat16, torch.bfloat16, 2**-7),
    ],
)
def test_gradients_travel_in_a_dtype_of_choice(ranks, dtype, of_params, close):
    for apart, unlike in ranks(in_dtype, dtype, of_params):
        assert apart < close
        assert unlike == 0


def test_an_integer_is_no_dtype_to_travel_in(ranks):
    for answer in ranks.answers(in_dtype, torch.int64, torch.float32):
        assert "dtype: is torch.int64, in which no gradient travels. Pass torch.bfloat16, say" in answer


def resumed() -> float:
    """Two steps on two ranks, two more on four: against four steps of one process."""
    data, tx = batch_of(0), TRANSFORMS["momentum"]()
    alone = together = ps.init_train_state(start(), tx)
    step = ps.make_step(ps.empirical_risk(example_loss), tx)
    for indices in ps.epoch_indices(ROWS, 4, seed=5, epoch=0)[:4]:
        alone, _ = step(alone, tuple(leaf[indices] for leaf in data))
    for first, number in ((0, 2), (2, 4)):
        mesh = mesh_of(number)
        step = ps.make_step(ps.distributed.data_parallel(ps.empirical_risk(example_loss), mesh), tx)
        order = ps.data.BatchSampler(ROWS, 4, seed=5, rank=mesh.get_local_rank(), ranks=number)
        order.set_epoch(0, start=first)
        for indices, _ in zip(order, range(2), strict=False):
            together, _ = step(together, tuple(leaf[indices] for leaf in data))
    return difference(together, alone)


def test_a_run_goes_on_with_another_number_of_ranks(ranks):
    assert max(ranks(resumed)) < CLOSE


def dying() -> None:
    mesh = mesh_of(2)
    loss = ps.distributed.data_parallel(ps.empirical_risk(example_loss), mesh)
    ps.value_and_grad(loss)(start(), rows_of(batch_of(0), mesh))
    if distributed.get_rank() == 1:
        os._exit(1)
    ps.value_and_grad(loss)(start(), rows_of(batch_of(1), mesh))


def test_ranks_that_wait_for_a_dead_one_raise():
    with started(2) as pool:
        answers = pool.answers(dying)
    assert all(isinstance(answer, Failure) for answer in answers)
    assert "RuntimeError" in answers[0]
    assert "ended" in answers[1]


def test_a_mesh_of_two_axes_is_refused(ranks):
    for answer in ranks.answers(two_axes):
        assert "mesh: data_parallel got one of 2 axes, ('copy', 'data'), expected one axis." in answer


def two_axes() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copy", "data"))
    ps.distributed.data_parallel(ps.empirical_risk(example_loss), mesh)
