"""An error in the user's own loss ends at the user's line, however deep it is called."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch

import pure_sgd as ps
from pure_sgd.arguments import WATCHING

PARAMS = {"w": torch.ones(3)}
DATA = (torch.ones(8, 4),)
TX = ps.sgd(0.1)


def wrong_shape(params: Any, x: torch.Tensor) -> torch.Tensor:
    return (x @ params["w"]).sum()  # here


def raises(params: Any, x: torch.Tensor) -> torch.Tensor:
    raise ValueError("mine")  # here


def misspelt(params: Any, x: torch.Tensor) -> torch.Tensor:
    return params["nowhere"].sum()  # here


def called(name: str, loss: Callable[..., torch.Tensor]) -> Any:
    risk = ps.empirical_risk(loss)
    step, state = ps.make_step(risk, TX), ps.init_train_state(PARAMS, TX)
    many = tuple(x[None].expand(3, *x.shape) for x in DATA)
    rows = torch.zeros(3, 2, dtype=torch.int64)

    def fit(compile: bool) -> Any:
        return ps.fit(risk, TX, PARAMS, DATA, epochs=1, compile=compile, progress=False)

    ways: dict[str, Callable[[], Any]] = {
        "empirical_risk": lambda: risk(PARAMS, DATA),
        "value_and_grad": lambda: ps.value_and_grad(risk)(PARAMS, DATA),
        "per_example_grads": lambda: ps.per_example_grads(loss)(PARAMS, DATA),
        "gradient_moments": lambda: ps.gradient_moments(loss)(PARAMS, DATA),
        "per_example_grad_norms": lambda: ps.per_example_grad_norms(loss)(PARAMS, DATA),
        "make_step": lambda: step(state, DATA),
        "replay_step": lambda: ps.replay_step(step)(state, DATA),
        "compile_step": lambda: ps.compile_step(step, backend="eager")(state, DATA),
        "donated": lambda: ps.compile_step(step, donate=True, backend="eager")(state, DATA),
        "scan": lambda: ps.scan(step, state, many, backend="eager"),
        "scan_indices": lambda: ps.scan_indices(step, state, DATA, rows, backend="eager"),
        "unroll": lambda: ps.unroll(step, state, many),
        "sweep": lambda: ps.sweep(lambda rate: rate * step(state, DATA)[1]["loss"], rate=[0.1, 0.2]),
        "fit": lambda: fit(compile=False),
        "fit, compiled": lambda: fit(compile=True),
    }
    return ways if name == "all" else ways[name]()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("loss", [wrong_shape, raises, misspelt])
@pytest.mark.parametrize("way", called("all", raises))
def test_the_last_line_of_a_traceback_is_the_users(way: str, loss: Callable[..., torch.Tensor]):
    with pytest.raises((RuntimeError, ValueError, KeyError)) as caught:
        called(way, loss)
    trace = traceback.extract_tb(caught.value.__traceback__)
    # What watches each operation is called by the line that asks for the operation.
    watching = (i for i, frame in enumerate(trace) if frame.name in WATCHING)
    last = [f for f in trace[: next(watching, None)] if "site-packages" not in f.filename][-1]
    assert last.filename == __file__
    assert (last.line or "").endswith("# here")
    # Neither is it buried below what a compiler says.
    assert len("".join(traceback.format_exception(caught.value)).splitlines()) < 100


def test_what_is_typed_into_a_shell_is_the_users_too():
    shell: dict[str, Any] = {"__name__": "__main__"}
    exec(compile("def loss(params, batch):\n    return params['nowhere']", "<stdin>", "exec"), shell)
    with pytest.raises(KeyError, match="nowhere"):
        ps.fit(shell["loss"], TX, PARAMS, DATA, steps=1, progress=False)


def test_a_decision_by_a_value_is_told_with_its_line():
    def decides(params: Any, x: torch.Tensor) -> torch.Tensor:
        return x.sum() if x.sum() > 0 else -x.sum()  # here

    with pytest.raises(ps.PureSGDError, match=r"test_tracebacks.py, line \d+: return x.sum\(\) if"):
        called("fit", decides)
