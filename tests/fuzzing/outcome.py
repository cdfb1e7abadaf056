"""What comes of a call: an answer, a sentence that helps, or a reason to complain."""

from __future__ import annotations

import inspect
import signal
import tempfile
import traceback
from collections.abc import Callable, Generator
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import distributed

import pure_sgd as ps

from . import malformed, special, taken
from .calls import FUNCTIONS, Call, arguments, wild
from .malformed import WILD
from .taken import KEY, batch, params, state

#: Seconds after which a call hangs.
PATIENCE = 60
#: Where functions of the caller's are written.
OF_THE_CALLER = {module.__file__ for module in (malformed, special, taken)}


@contextmanager
def patience() -> Generator[None, None, None]:
    """A call that is over in time."""

    def give_up(number: int, frame: Any) -> None:
        raise TimeoutError(f"took longer than {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def one_rank() -> Generator[None, None, None]:
    """A process group that is all by itself."""
    distributed.init_process_group("gloo", f"file://{Path.cwd()}/store", rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@contextmanager
def surroundings(call: Call) -> Generator[None, None, None]:
    """An empty folder to be in, and a process group where it is asked for."""
    with ExitStack() as stack:
        stack.enter_context(chdir(stack.enter_context(tempfile.TemporaryDirectory())))
        if call.name.startswith("distributed."):
            stack.enter_context(one_rank())
        yield


def answer(call: Call) -> tuple[Any, Any]:
    """What the call is given, and what it gives when its result is used as it is meant to be."""
    with surroundings(call), patience():
        by_position, by_name = arguments(call)
        return (by_position, by_name), used(call, FUNCTIONS[call.name](*by_position, **by_name))


def used(call: Call, result: Any) -> Any:
    """What comes of the result of a call when it is used."""

    def then(otherwise: Callable[[], Any]) -> Any:
        return wild(call, "then", otherwise)

    def and_then(otherwise: Callable[[], Any]) -> Any:
        return wild(call, "and then", otherwise)

    annotation = str(inspect.signature(FUNCTIONS[call.name]).return_annotation)
    match result:
        case ps.MultiSteps():
            return updated(result.gradient_transformation(), then(params), and_then(params))
        case ps.GradientTransformation():
            return updated(result, then(params), and_then(params))
        case ps.models.Model():
            return result.apply(result.init(then(lambda: KEY)), and_then(lambda: torch.ones(3)))
        case ps.Schedule():
            return result(then(lambda: torch.tensor(3)))
        case ps.EmpiricalRisk():
            return result(then(params), and_then(batch))
        case ps.theory.NoisyQuadratic():
            return result.loss(then(lambda: torch.ones(len(result.curvature))), and_then(lambda: KEY))
        case ps.data.BatchSource():
            return list(result.epoch(then(lambda: 0), and_then(lambda: 0)))
        case ps.data.FileDataset():
            return result[then(lambda: [1, 0])]
        case ps.data.Sampler() | ps.data.BatchSampler():
            result.set_epoch(then(lambda: 0), and_then(lambda: 0))
            return next(iter(result), None)
        case ps.AsyncCheckpoints():
            result.save(then(state), and_then(lambda: 1))
            return result.wait()
        case torch.optim.Optimizer():
            weights = result.param_groups[0]["params"][0]
            weights.grad = torch.ones_like(weights)
            return result.step(then(lambda: None))
        case _ if annotation == "Step":
            return result(then(state), and_then(batch))
        case _ if annotation == "Logger":
            return result(then(lambda: {"step": 1.0, "loss": 0.5}), and_then(state))
        case _ if annotation.startswith(("Callable[[Params, Batch", "Callable[..., ClippedGrads")):
            rest = (
                (params(),) if "Batch, Params]" in annotation else (KEY,) if "Clipped" in annotation else ()
            )
            return result(then(params), and_then(batch), *rest)
        case _:
            return result


def updated(tx: ps.GradientTransformation, given: Any, updates: Any) -> Any:
    """The updates that a transform makes of others, which they are like."""
    known = {
        "value": torch.tensor(1.0),
        "value_fn": ps.tree.norm,
        "grad": updates,
        "grad_fn": lambda params, i: params,
    }
    read = {name: known[name] for name in ps.transforms.extra_args_of(tx) if name in known}
    out, _ = tx.update(updates, tx.init(given), given, **read)
    if not tx.per_example:
        ps.tree.check_like(out, updates, "out", "updates")
    return out


def complaint(call: Call) -> str | None:
    """What is wrong with the outcome of a call; None where it is an answer or a sentence that helps."""
    try:
        given, out = answer(call)
    except ps.PureSGDError:
        return None
    except Exception as error:
        return None if is_own(error) or is_helpful(error, call) else told(error)
    odd = [WILD[index]() for index in call.wild.values()]
    # What is chosen to be 0 may be divided by, what a tensor holds is not looked at, and a large number may
    # be raised to another one.
    asked = not call.name.startswith(("theory.", "noise_scale")) and all(map(is_positive, odd))
    asked = asked and len([value for value in odd if type(value) is int and value == 1000]) < 2
    if asked and is_tame((given, odd)) and not is_finite(out):
        return "gives what is not finite for finite arguments"
    return None


def is_helpful(error: Exception, call: Call) -> bool:
    """Whether it names an argument; or the file, where it came from the disk."""
    if isinstance(error, OSError):
        return error.filename is not None
    if isinstance(error, IndexError):  # a row that is not there: where Python's own iteration ends
        return str(error).startswith("FileDataset: rows")
    names = [
        *inspect.signature(FUNCTIONS[call.name]).parameters,
        "argument",
        "keywords",
        "params[",
        "updates",
    ]
    return isinstance(error, (ValueError, TypeError)) and any(name in str(error) for name in names)


def is_own(error: BaseException) -> bool:
    """Whether it came up in a function of the caller's, such as a loss that misses a parameter."""
    return any(frame.filename in OF_THE_CALLER for frame in traceback.extract_tb(error.__traceback__))


def told(error: BaseException) -> str:
    """An error in one line, with the place in the package."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/pure_sgd/" in f.filename]
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "nowhere"
    return f"{type(error).__name__} at {where}: {error}"


def is_tame(values: Any) -> bool:
    """Whether all numbers are neither huge nor tiny, and no function is among them that may return any."""
    try:
        leaves = ps.tree.leaves(values)
    except ps.PureSGDError:
        return False  # nested too deeply
    for leaf in leaves:
        if callable(leaf):
            return False
        if isinstance(leaf, torch.Tensor) and (leaf.is_floating_point() or leaf.is_complex()):
            if not all(0 <= size <= 1e6 for size in leaf.abs().flatten().tolist()):
                return False
        elif isinstance(leaf, (int, float)) and not (leaf == 0 or 1e-6 <= abs(leaf) <= 1e6):
            return False
    return True


def is_finite(values: Any) -> bool:
    """Whether no tensor holds a NaN or an infinity."""
    tensors = [leaf for leaf in ps.tree.leaves(values) if isinstance(leaf, torch.Tensor)]
    return all(bool(torch.isfinite(leaf).all()) for leaf in tensors)


def is_positive(value: Any) -> bool:
    """Whether no number is 0 or negative, and none stands in a tensor that may lie out of bounds."""
    if isinstance(value, torch.Tensor) and value.ndim == 0:
        return False
    try:
        return all(bool((torch.as_tensor(leaf) > 0).all()) for leaf in ps.tree.leaves(value))
    except (ValueError, TypeError, RuntimeError):
        return True  # no number at all
