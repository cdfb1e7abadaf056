"""A function of tensors again and again, as one C++ loop around the kernels that Inductor writes for it."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch._inductor import compile as compile_graph
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.codecache import CppCodeCache
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from ...errors import PureSGDError
from .products import products_as_sums

__all__ = ["cpp_loop"]

Leaves = list[torch.Tensor]
Body = Callable[[Leaves, Leaves], tuple[Leaves, Leaves]]

#: What takes more operations and is read twice is computed once: a schedule, say, which Inductor's own 30 has
#: computed again for every parameter of every run.
COMPUTED_ONCE = {"realize_opcount_threshold": 20}

#: Inductor, and what notes the calls of kernels, serve one thread at a time.
_compiling = threading.RLock()


def cpp_loop(body: Body, carry: Leaves, row: Leaves) -> Body:
    """``loop(carry, rows) -> (carry, stacked)``: ``carry, stacked[k] = body(carry, rows[k])`` for every k.

    ``carry`` and ``row`` are examples of what ``body`` takes, tensors on the CPU. All of it becomes one C++
    function of addresses: Inductor compiles the body, its kernels are not run but noted, with the memory that
    each was called on, and the loop calls them on that, a row further each time. Nothing is allocated in it.
    Tensors that the body reads besides its arguments are those of the example, with what they hold when the
    loop is called.

    Raises:
        PureSGDError: the body changes a tensor that it reads besides its arguments.
        Exception: of any kind, where torch cannot compile the body, or not to kernels alone.

    Example:
        >>> import torch
        >>> from pure_sgd.training.programs.cpp_loop import cpp_loop
        >>> def running_sum(carry, row):
        ...     return [carry[0] + row[0]], [2 * carry[0]]
        >>> zero = torch.tensor(0.0)
        >>> loop = cpp_loop(running_sum, [zero], [zero])
        >>> loop([zero], [torch.tensor([1.0, 2.0, 3.0])])
        ([tensor(6.)], [tensor([0., 2., 6.])])
    """
    inputs = [_own(leaf) for leaf in (*carry, *row)]

    def flat(*leaves: torch.Tensor) -> Leaves:
        with products_as_sums():
            new, seen = body(list(leaves[: len(carry)]), list(leaves[len(carry) :]))
        # Nothing is written in place: Inductor of torch 2.13 may read what was carried after it is written.
        return [_own(leaf) for leaf in (*new, *seen)]

    with _compiling:
        graph, besides = _graph_of(flat, inputs)
        inputs += [_own(_plain(leaf)) for leaf in besides]
        calls, outputs = _kernels_of(graph, inputs)
        seen = outputs[len(carry) :]
        for old, new in zip(inputs, outputs[: len(carry)], strict=False):
            if (new.shape, new.dtype) != (old.shape, old.dtype):
                raise RuntimeError(f"{old.dtype} {tuple(old.shape)} becomes {new.dtype} {tuple(new.shape)}")
        program = _Program(inputs, len(carry), len(row), seen)
        for call in calls:
            program.add(call)
        program.hand_on(outputs)
        function = program.compiled()
    own, shapes, lock = program.own, [leaf.shape for leaf in besides], threading.Lock()

    def loop(carry: Leaves, rows: Leaves) -> tuple[Leaves, Leaves]:
        count = len(rows[0])
        carry = [_own(_plain(leaf)) for leaf in carry]
        others = [_plain(leaf).contiguous() for leaf in (*rows, *besides)]
        stacked = [leaf.new_empty((count, *leaf.shape)) for leaf in seen]
        if [leaf.shape for leaf in besides] != shapes:
            raise PureSGDError("scan", "a tensor that step reads has another shape now", "Make step anew")
        addresses = [leaf.data_ptr() for leaf in (*carry, *others, *stacked)]
        addresses += [_storage(leaf) for leaf in own]
        with lock:  # what lies between the kernels has one place, and threads run side by side in C++
            failed = function((ctypes.c_void_p * len(addresses))(*addresses), ctypes.c_int64(count))
        if failed:
            problem = "a step divides an integer by zero, or asks for a row that is not there"
            raise PureSGDError("scan", problem, "With compile=False it says where")
        return carry, stacked

    return loop


class _Call(NamedTuple):
    """A kernel, as C++ with the types of its arguments, and what it was called on."""

    source: str
    types: list[str]
    arguments: tuple[Any, ...]


class _Program:
    """The text of the loop, as it grows by one call after the other.

    Its memory is, in this order, what is carried, the rows, what is read besides, what is seen in each step,
    and its own.
    """

    def __init__(self, inputs: Leaves, carried: int, rows: int, seen: Leaves) -> None:
        self.carried = carried
        self.first_seen = len(inputs)
        one = [0] * (len(inputs) - carried - rows)
        row = [leaf.nbytes for leaf in inputs[carried : carried + rows]]
        self.strides = [0] * carried + row + one + [leaf.nbytes for leaf in seen]
        self.own: Leaves = []
        self.places = {_storage(leaf): index for index, leaf in enumerate(inputs)}
        self.inputs = set(self.places)
        self.besides = {_storage(leaf) for leaf in inputs[carried + rows :]}
        self.readable = set(self.places)
        self.kernels: dict[str, str] = {}  # the name of each, by its source
        self.lines: list[str] = []

    def add(self, call: _Call) -> None:
        """Call a kernel."""
        name = self.kernels.setdefault(call.source, f"kernel_{len(self.kernels)}")
        both = list(zip(call.types, call.arguments, strict=True))
        read = {_storage(leaf) for kind, leaf in both if kind.startswith("const ")}
        written = {_storage(leaf) for kind, leaf in both if not kind.startswith("const ")}
        if written & self.besides:
            problem = "step changes a tensor that it reads besides its arguments"
            raise PureSGDError("scan", problem, "Keep it in the state, and return the new one")
        # Either would mean that not all was noted; in what it has written itself a kernel may look.
        if not read <= self.readable | written or written & self.inputs:
            raise RuntimeError(f"{name} reads what no kernel has written, or writes what is carried")
        self.readable |= written
        self.lines.append(
            f"{name}::kernel({', '.join(f'({kind})({self.address(leaf)})' for kind, leaf in both)});"
        )

    def hand_on(self, outputs: Leaves) -> None:
        """Keep what is seen, then what is carried to the next step: some of it may be old."""
        last: list[str] = []
        for index, leaf in enumerate(outputs):
            if not leaf.is_contiguous() or _storage(leaf) not in self.readable:
                raise RuntimeError(f"result {index} is not what a kernel has written")
            if index >= self.carried:
                self.copy(self.at(self.first_seen + index - self.carried), leaf)
            elif _storage(leaf) in self.inputs:
                saved = torch.empty_like(leaf)
                self.copy(self.address(saved), leaf)
                last.append(f"std::memcpy({self.at(index)}, {self.address(saved)}, {leaf.nbytes});")
            else:
                last.append(f"std::memcpy({self.at(index)}, {self.address(leaf)}, {leaf.nbytes});")
        self.lines += last

    def copy(self, to: str, leaf: torch.Tensor) -> None:
        self.lines.append(f"std::memcpy({to}, {self.address(leaf)}, {leaf.nbytes});")

    def address(self, leaf: torch.Tensor) -> str:
        storage = _storage(leaf)
        if storage not in self.places:
            self.places[storage] = len(self.strides) + len(self.own)
            self.own.append(leaf)
        return f"{self.at(self.places[storage])} + {leaf.data_ptr() - storage}"

    def at(self, place: int) -> str:
        """Where something lies in step k."""
        stride = self.strides[place] if place < len(self.strides) else 0
        return f"memory[{place}] + k * {stride}"

    def compiled(self) -> Callable[..., int]:
        text = [line for source in self.kernels for line in source.splitlines()]
        includes = dict.fromkeys(
            ["#include <cstring>"] + [line for line in text if line.startswith("#include")]
        )
        kernels = [_in_namespace(name, source) for source, name in self.kernels.items()]
        loop = ["for (int64_t k = 0; k < count; k++) {", *self.lines, "}"]
        head = 'extern "C" int scan_loop(char** memory, int64_t count) {'
        tail = ["return 0;", "} catch (const std::exception&) {", "return 1;", "}", "}"]
        return CppCodeCache.load("\n".join([*includes, *kernels, head, "try {", *loop, *tail])).scan_loop


def _in_namespace(name: str, source: str) -> str:
    """A kernel by a name of its own, to be compiled into the loop."""
    lines = [line for line in source.splitlines() if not line.startswith("#include")]
    inside = "\n".join(lines).replace('extern "C"', "static inline")
    return f"namespace {name} {{\n{inside}\n}}"


def _storage(leaf: torch.Tensor) -> int:
    return leaf.untyped_storage().data_ptr()


def _own(leaf: torch.Tensor) -> torch.Tensor:
    return torch.clone(leaf, memory_format=torch.contiguous_format)


def _plain(leaf: torch.Tensor) -> torch.Tensor:
    """What C++ finds in memory as it is."""
    return leaf.detach().resolve_conj().resolve_neg()


def _graph_of(function: Callable[..., Leaves], inputs: Leaves) -> tuple[GraphModule, Leaves]:
    """What ``function`` does, and what it reads besides ``inputs``: its graph takes that, too."""
    module = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
    graph, besides = module.graph, dict(module.named_buffers())
    graph.eliminate_dead_code()  # conditions whose values were asked for, in vain
    nodes = [node for node in graph.nodes if node.op == "get_attr" and node.target in besides]
    last = graph.find_nodes(op="placeholder")[-1]
    for node in reversed(nodes):
        with graph.inserting_after(last):
            node.replace_all_uses_with(graph.placeholder(f"besides_{node.name}"))
        graph.erase_node(node)
    return GraphModule(module, graph), [besides[str(node.target)] for node in nodes]


def _kernels_of(graph: GraphModule, inputs: Leaves) -> tuple[list[_Call], Leaves]:
    """The calls that ``graph`` becomes, and where its results lie."""
    with _noted() as calls:
        program: Any = compile_graph(graph, [*inputs], options=COMPUTED_ONCE)
        with _NothingElse():
            outputs = list(program(*inputs))
    if not calls:
        raise RuntimeError("no kernel was noted")
    return calls, outputs


class _NothingElse(TorchDispatchMode):
    """What is not a kernel would not be in the loop."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        raise RuntimeError(f"{func} is no kernel")


_noting = threading.local()


class _Kernel:
    """What stands in a module of Inductor for a kernel: the module may serve other programs later."""

    def __init__(self, types: list[str], source: str, load: Callable[[], Any]) -> None:
        self.types, self.source, self.load = types, source, load

    def __call__(self, *arguments: Any) -> None:
        calls = getattr(_noting, "calls", None)
        if calls is not None:
            calls.append(_Call(self.source, self.types, arguments))
            return
        loaded = self.load()
        (loaded.result() if hasattr(loaded, "result") else loaded)(*arguments)


@contextmanager
def _noted() -> Generator[list[_Call]]:
    """While this lasts, kernels are noted in place of compiled and run, in this thread."""
    original = AsyncCompile.cpp_pybinding

    def note(self: Any, argtypes: list[str], source_code: str) -> Any:
        def load() -> Any:
            return original(self, argtypes, source_code)

        return load() if getattr(_noting, "calls", None) is None else _Kernel(argtypes, source_code, load)

    AsyncCompile.cpp_pybinding = note
    _noting.calls = []
    try:
        yield _noting.calls
    finally:
        _noting.calls = None
        AsyncCompile.cpp_pybinding = original
