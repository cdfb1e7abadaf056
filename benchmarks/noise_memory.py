"""Peak memory of gradient moments beside that of a plain step, and how it grows with the batch.

    python benchmarks/noise_memory.py

Every measurement is a process of its own: the highest resident size while the work runs, less that just
before, when a batch of two has loaded all that is loaded late. It saves gradient_noise_memory.png. Linux
only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from noise_cases import make_case
from peak_memory import MEGABYTE, extra_here, extra_of

import pure_sgd as ps

GROWTH = (128, 256, 512, 1024, 2048)
PICTURE = "gradient_noise_memory.png"

WORKS: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "plain step": lambda loss: ps.value_and_grad(ps.empirical_risk(loss)),
    "gradient_moments": lambda loss: ps.gradient_moments(loss, method="fast"),
    "gradients of all examples": ps.per_example_grads,
}


class Peak(NamedTuple):
    """What one kind of work needs, in bytes."""

    work: str
    kind: str
    count: int  # examples
    extra: int
    parameters: int


def extra(work: str, kind: str, count: int) -> int:
    """The same in this process."""
    case, small = make_case(kind, count), make_case(kind, 2)
    run = WORKS[work](case.loss)
    run(small.params, small.batch)
    return extra_here(lambda: run(case.params, case.batch))


def measured(work: str, kind: str, count: int) -> Peak:
    leaves = ps.tree.leaves(make_case(kind, 2).params)
    parameters = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
    return Peak(work, kind, count, extra_of(__file__, work, kind, str(count)), parameters)


def all_measured(jobs: list[tuple[str, str, int]]) -> list[Peak]:
    """Two at a time: no time is taken here."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda job: measured(*job), jobs))


def over_allowed(cases: list[tuple[str, int]]) -> list[float]:
    """For each kind of model and number of examples the peak of gradient_moments over what it may be.

    That is three times the parameters and the activations of a plain step, which are what the
    plain step needs beside its gradients.
    """
    works = ("gradient_moments", "plain step")
    peaks = all_measured([(work, *case) for case in cases for work in works])
    return [
        ours.extra / (2 * ours.parameters + max(plain.extra, plain.parameters))
        for ours, plain in zip(peaks[::2], peaks[1::2], strict=True)
    ]


def growth() -> list[Peak]:
    """Peaks for the network at some batch sizes; all gradients at once only while they fit."""
    jobs = [(work, "mlp", count) for work in ("plain step", "gradient_moments") for count in GROWTH]
    return all_measured([*jobs, *(("gradients of all examples", "mlp", count) for count in GROWTH[:3])])


def draw(peaks: list[Peak]) -> Path:
    """Peak memory over the batch size, in units of the parameters."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for work in dict.fromkeys(peak.work for peak in peaks):
        line = [peak for peak in peaks if peak.work == work]
        axes.plot([p.count for p in line], [p.extra / p.parameters for p in line], "o-", label=work)
    axes.set(xscale="log", yscale="log", xlabel="examples in the batch", ylabel="extra memory / parameters")
    axes.set_xticks(GROWTH, [str(count) for count in GROWTH], minor=False)
    axes.minorticks_off()
    axes.legend()
    path = Path(PICTURE)
    figure.savefig(path, dpi=150)
    return path.resolve()


def main() -> None:
    """Print the growth and draw it."""
    peaks = growth()
    for peak in peaks:
        print(f"{peak.work:26} B {peak.count:5}: {peak.extra / MEGABYTE:7.1f} MB")
    print(f"picture: {draw(peaks)}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        torch.manual_seed(0)
        print(extra(sys.argv[1], sys.argv[2], int(sys.argv[3])))
    else:
        main()
