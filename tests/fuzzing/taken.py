"""What an argument of some name is where all is well."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.distributed.device_mesh import init_device_mesh

import pure_sgd as ps
from pure_sgd.theory.critical_batch import CriticalBatchSize


def params() -> Any:
    return {"w": torch.linspace(-1, 1, 3), "b": torch.tensor(0.5)}


def example_loss(p: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return ((p["w"] * x).sum() + p["b"] - y) ** 2


def batch() -> Any:
    return torch.linspace(-1, 1, 12).reshape(4, 3), torch.linspace(0, 1, 4)


LOSS = ps.empirical_risk(example_loss)
TX = ps.sgd(0.1, momentum=0.9)
PROBLEM = ps.theory.noisy_quadratic_model(3, 2)
KEY = ps.random.key(0)
MOMENTS = ps.gradient_moments(example_loss)(params(), batch())
FOUND = CriticalBatchSize(
    torch.tensor([1.0, 4.0]),
    {"sgd": torch.tensor([20.0, 8.0]), "momentum": torch.tensor([12.0, 6.0])},
    {},
    {"sgd": torch.tensor(5.0), "momentum": torch.tensor(4.0)},
    {"sgd": torch.tensor(3.0), "momentum": torch.tensor(2.0)},
)


def state() -> Any:
    return ps.init_train_state(params(), TX)


def per_example() -> Any:
    return ps.per_example_grads(example_loss)(params(), batch())


def saved() -> str:
    ps.save_checkpoint("saved", state(), 3)
    return "saved"


def files() -> str:
    np.save("x.npy", np.arange(8.0).reshape(4, 2))
    return "x.npy"


#: By the name of a parameter: what it takes; a function is called for it.
GOOD: dict[str, Any] = {
    "a": params,
    "b": 0.5,
    "x": params,
    "tree": params,
    "params": params,
    "updates": params,
    "grads": per_example,
    "new_tensors": params,
    "old_tensors": params,
    "one": params,
    "other": params,
    "like": params,
    "tensors": params,
    "mask": lambda: {"w": True, "b": False},
    "leaf": lambda: torch.ones(3),
    "rule": lambda: lambda leaf, *rest: 2 * leaf,
    "function": lambda: lambda leaf, *rest: leaf,
    "batch": batch,
    "data": batch,
    "held_out": batch,
    "batches": lambda: tuple(leaf.expand(2, *leaf.shape) for leaf in batch()),
    "indices": lambda: torch.tensor([[0, 1], [2, 3]]),
    "rows": lambda: torch.tensor([0, 2]),
    "state": state,
    "opt_state": lambda: TX.init(params()),
    "tx": lambda: TX,
    "step": lambda: ps.make_step(LOSS, TX),
    "loss": lambda: LOSS,
    "example_loss": lambda: example_loss,
    "moments": lambda: MOMENTS,
    "directory": saved,
    "path": "log",
    "files": files,
    "mesh": lambda: init_device_mesh("cpu", (1,)),
    "found": lambda: FOUND,
    "opt": lambda: TX,
    "key": lambda: KEY,
    "problem": lambda: PROBLEM,
    "inner": lambda: TX,
    "curvature": lambda: torch.tensor([1.0, 2.0]),
    "n": 5,
    "k": 2,
    "batch_size": 2,
    "seed": 0,
    "epoch": 0,
    "i": 1,
    "max_norm": 1.0,
    "steps": 3,
    "num": 2,
    "features": 3,
    "learning_rate": 0.1,
    "where": "here",
    "name": "x",
    "like_name": "y",
    "value": 1.0,
    "p": 0.5,
    "shape": (2, 3),
    "noise": 0.1,
    "test_fraction": 0.25,
    "expected_batch_size": 2.0,
    "prediction": lambda: torch.tensor(0.3),
    "target": lambda: torch.tensor(1.0),
    "logit": lambda: torch.tensor(0.3),
    "label": lambda: torch.tensor(1.0),
    "logits": lambda: torch.ones(3),
    "labels": lambda: torch.tensor(1),
    "probabilities": lambda: torch.ones(3) / 3,
    "sizes": (3, 4, 2),
    "image_shape": (1, 8, 8),
    "channels": (2, 3),
    "classes": 3,
    "vocabulary": 5,
    "context": 4,
    "width": 8,
    "heads": 2,
    "layers": 1,
    "decay": 0.9,
    "momentum": 0.9,
    "variance": lambda: MOMENTS.variance,
    "dtype": torch.float32,
    "norms": lambda: torch.rand(5),
    "scales": lambda: [ps.noise_scale(MOMENTS)] * 3,
    "gradient_step": lambda: torch.tensor(0),
    "max_squared_norm": 1.0,
    "step_size": 0.1,
    "update_period": 2,
    "l2_norm_clip": 1.0,
    "global_l2_norm_clip": 1.0,
    "g_norm": lambda: torch.ones(3, 1),
    "grad": lambda: torch.ones(3, 2),
    "lower": 0.0,
    "upper": 1.0,
    "scale": 1.0,
    "measure": lambda: ps.tree.norm,
    "value_fn": lambda: lambda p: LOSS(p, batch()),
    "decay_rate": 0.1,
    "power": 0.5,
    "weight_decay": 0.1,
    "optimum": 1.0,
    "small_sq_norm": 2.0,
    "large_sq_norm": 1.0,
    "small_batch_size": 2,
    "large_batch_size": 8,
    "module": lambda: torch.nn.Linear(2, 1),
    "run": lambda: lambda lr: lr * 2,
    "history": lambda: {"loss": [1.0, 2.0], "epoch": [0.0, 1.0]},
    "schedules": lambda: {"c": ps.constant_schedule(0.1)},
    "grids": lambda: {"lr": torch.tensor([0.1, 0.2])},
    "risk": lambda: torch.ones(2),
    "predicted": lambda: {"sgd": torch.ones(2)},
    "batch_sizes": (1, 2),
    "measured": (1.0, 0.5),
    "trace_covariance": 1.0,
    "replicates": 3,
    "start": lambda: 0.0,
    "inner_factory": lambda: ps.sgd,
    "factory": lambda: ps.sgd,
    "local": lambda: ps.theory.local_quadratic(LOSS, params(), batch(), leading=2),
    "init_value": 0.1,
    "end_value": 0.01,
    "transition_steps": 5,
    "decay_steps": 10,
    "peak_value": 0.2,
    "warmup_steps": 2,
    "boundaries_and_scales": lambda: {2: 0.5},
    "schedule": lambda: ps.constant_schedule(0.1),
    "boundaries": (2,),
    "alpha": 0.1,
    "delta": 1.0,
    "eps": 1e-8,
    "b1": 0.9,
    "b2": 0.99,
    "max_consecutive_errors": 2,
    "should_transform_fn": lambda: lambda step: step < 2,
    "every_k_schedule": 2,
    "max_delta": 1.0,
    "eta": 0.1,
    "gamma": 0.5,
    "milestones": (2, 4),
    "every": 2,
    "clipping": 0.1,
}
