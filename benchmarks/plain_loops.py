"""An update as bare loops in C: the time that memory takes for p, g, m and e in, and p, m and e out."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

SOURCE = r"""
void update(int leaves, long size, float **params, float **grads, float **traces, float **averages,
            float rate, float momentum, float weight_decay, float weight) {
#pragma omp parallel
    for (int leaf = 0; leaf < leaves; leaf++) {
        float *restrict p = params[leaf], *restrict g = grads[leaf];
        float *restrict m = traces[leaf], *restrict e = averages[leaf];
#pragma omp for simd schedule(static) nowait
        for (long i = 0; i < size; i++) {
            FETCH
            m[i] = momentum * m[i] + (g[i] + weight_decay * p[i]);
            p[i] -= rate * m[i];
            e[i] += weight * (p[i] - e[i]);
        }
    }
}
"""
FETCH = "".join(f"__builtin_prefetch({stream} + i + 64);" for stream in "pgme")

#: How the same loop is put to the memory.
KINDS = {"loop in C": "", "loop in C, fetching ahead": FETCH}

Leaves = list[torch.Tensor]


def loops(device: torch.device) -> dict[str, Callable[..., Callable[[float], None]]]:
    """Every kind that runs on ``device``: called with streams and numbers, they make an update."""
    in_c = {kind: partial(c_loop, kind) for kind in KINDS} if device.type == "cpu" else {}
    return {**in_c, "loop by torch.compile": inductor_loop}


def c_loop(kind: str, streams: list[Leaves], *numbers: float) -> Callable[[float], None]:
    """``run(rate)``, which updates in place: params, grads, traces and averages, float32 leaves of one size.

    ``numbers`` are momentum, weight decay and the weight of new parameters in the average.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise ModuleNotFoundError("no C compiler", name="a C compiler")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "loop.so")
        command = [compiler, "-x", "c", "-", "-o", str(library)]
        flags = ["-O3", "-march=native", "-ffast-math", "-fopenmp", "-shared", "-fPIC"]
        subprocess.run(command + flags, input=SOURCE.replace("FETCH", KINDS[kind]), check=True, text=True)
        update = ctypes.CDLL(str(library)).update
    leaves, size = len(streams[0]), streams[0][0].numel()
    pointers = [(ctypes.c_void_p * leaves)(*[leaf.data_ptr() for leaf in stream]) for stream in streams]
    constants = [ctypes.c_float(number) for number in numbers]

    def run(rate: float) -> None:
        update(leaves, ctypes.c_long(size), *pointers, ctypes.c_float(rate), *constants)

    return run


def inductor_loop(streams: list[Leaves], *numbers: float) -> Callable[[float], None]:
    """The same as one kernel of torch.compile, on any device."""
    momentum, weight_decay, weight = numbers

    def update(streams: list[Leaves], rate: torch.Tensor) -> None:
        for p, g, m, e in zip(*streams, strict=True):
            m.mul_(momentum).add_(g + weight_decay * p)
            p.sub_(rate * m)
            e.lerp_(p, weight)

    compiled = torch.compile(update, fullgraph=True)

    def run(rate: float) -> None:
        compiled(streams, torch.tensor(rate, device=streams[0][0].device))

    return run
