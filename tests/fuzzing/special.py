"""What an argument is where its name alone does not tell."""

from __future__ import annotations

import inspect
from typing import Any

import torch

import pure_sgd as ps
from pure_sgd.theory.critical_batch import Family
from pure_sgd.training.reproducing import FaultyStep, save_fault

from .taken import GOOD, MOMENTS, PROBLEM, TX, batch, example_loss, params, per_example, state

CONVEX = ps.empirical_risk(lambda p, x, y: example_loss(p, x, y) + ps.tree.vdot(p, p))


def of_torch() -> Any:
    """A torch optimizer that has taken a step."""
    weights = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weights], lr=0.1, momentum=0.9)
    weights.grad = torch.ones(3)
    optimizer.step()
    return optimizer


def faulty() -> str:
    save_fault("faulty", FaultyStep(state(), batch(), {}), {})
    return "faulty"


def family() -> Any:
    rates = {"learning_rate": [0.1, 0.5]}
    return {"sgd": Family(lambda curvature, learning_rate: ps.sgd(learning_rate), rates)}


class Writer:
    """A part of that of TensorBoard."""

    def add_scalar(self, name: str, value: float, step: int) -> None:
        assert isinstance(name, str)

    def flush(self) -> None: ...


#: By function and parameter, where the name alone does not tell.
SPECIAL: dict[str, dict[str, Any]] = {
    "models.least_squares": {"x": lambda: batch()[0], "y": lambda: batch()[1]},
    "unitwise_norm": {"x": lambda: torch.ones(3, 2)},
    "merge_moments": {"a": lambda: MOMENTS, "b": lambda: MOMENTS},
    "random.fold_in": {"data": 3},
    "data.batch_source": {"order": None},
    "theory.optimal": {"tx_of": lambda: ps.sgd, "start": lambda: {"learning_rate": 0.1}},
    "theory.stability_limit": {"tx_of_learning_rate": lambda: ps.sgd},
    "theory.linearize_at": {"params": lambda: torch.zeros(2), "opt_state": lambda: TX.init(torch.zeros(2))},
    "theory.critical_batch_size": {"target": 0.3, "families": family, "groups": 4},
    "load_checkpoint": {"like": state, "step": None},
    "checkpoint_metadata": {"step": None},
    "save_checkpoint": {"step": 5, "directory": "here"},
    "distributed.load_checkpoint": {"like": state, "step": None},
    "distributed.save_checkpoint": {"step": 5, "directory": "here"},
    "distributed.sweep": {"directory": "here", "progress": False, "grids": lambda: {"lr": [0.1, 0.2]}},
    "AsyncCheckpoints": {"directory": "here"},
    "load_fault": {"directory": faulty},
    "replay_fault": {"directory": faulty},
    "from_torch_state": {
        "state_dict": lambda: of_torch().state_dict(),
        "params": lambda: [torch.ones(3)],
        "steps": 1,
    },
    "to_torch_state": {
        "opt_state": lambda: TX.init([torch.ones(3)]),
        "params": lambda: [torch.ones(3)],
        "optimizer": of_torch,
    },
    "to_torch_optimizer": {"params": lambda: [torch.ones(3, requires_grad=True)]},
    "tensorboard_logger": {"writer": Writer},
    "poisson_indices": {"step": 3},
    "early_stopping": {"name": "loss"},
    "write_back": {"params": lambda: ps.from_module(torch.nn.Linear(2, 1))[1]},
    "fit": {"epochs": 1, "steps": None, "progress": False},
    "sweep": {"progress": False, "grids": lambda: {"lr": [0.1, 0.2]}},
    "compile_step": {"options": lambda: {"backend": "eager"}},
    "scan": {"backend": "eager"},
    "scan_indices": {"backend": "eager"},
    "plotting.plot_risk": {"risk": lambda: ps.theory.risk(TX, PROBLEM, 3)},
    "plotting.plot_noise": {
        "history": lambda: {"step": [1, 2], "trace_covariance": [2.0, 1.0], "grad_sq_norm": [1.0, 0.5]}
    },
    "plotting.plot_noise_scale": {"steps": (1, 2, 3)},
    "plotting.plot_sweep": {"grids": lambda: {"lr": torch.tensor([0.1, 0.2])}, "risk": lambda: torch.ones(2)},
    "scale_by_preconditioner": {
        "curvature": lambda: ps.tree.map(lambda leaf: leaf.abs() + 1, params()),
        "power": 0.5,
    },
    "cautious": {"inner": ps.scale_by_adam},
    "chain": {"transforms": lambda: ps.sgd(0.1)},
    "named_chain": {"transforms": lambda: ("rate", ps.sgd(0.1))},
    "cosine_annealing_schedule": {"T_max": 5},
    "cosine_annealing_warm_restarts_schedule": {"T_0": 5},
    "differentially_private_aggregate": {"seed": 0, "l2_norm_clip": 1.0, "and then": per_example},
    "dpsgd": {"seed": 0, "and then": per_example},
    "snapshot": {"measure_name": "size", "measure": lambda: ps.tree.norm},
    "join_schedules": {"schedules": lambda: [ps.constant_schedule(0.1)] * 2, "boundaries": lambda: [2]},
    "lookahead": {"fast_optimizer": lambda: TX, "sync_period": 2},
    "losses.zero_one_loss": {"label": lambda: torch.tensor(1)},
    "losses.softmax_cross_entropy_with_integer_labels": {"labels": lambda: torch.tensor(1)},
    "mechanize": {"base_optimizer": lambda: TX},
    "models.convnet": {"image_shape": (1, 8, 8), "channels": (2,), "and then": lambda: torch.ones(1, 8, 8)},
    "models.transformer": {"and then": lambda: torch.tensor([1, 2])},
    "monitor": {"measures": lambda: {"norm": ps.tree.norm}},
    "multi_steps": {"every_k_schedule": 2, "every_k": 2, "inner": lambda: TX},
    "multi_transform": {"transforms": lambda: {"all": TX}, "param_labels": "all"},
    "partition": {"transforms": lambda: {"all": TX}, "param_labels": "all"},
    "multiplicative_schedule": {"factor_fn": lambda: lambda step: 0.9},
    "one_cycle_schedule": {"total_steps": 10, "max_lr": 0.1},
    "partition_matrices": {"matrices": lambda: TX, "others": lambda: TX},
    "piecewise_interpolate_schedule": {"interpolate_type": "linear"},
    "plotting.plot_predictions": {"predicted": lambda: {"lr": torch.ones(2)}},
    "project": {"projection": lambda: ps.projection_simplex},
    "sam": {"optimizer": lambda: TX, "adv_optimizer": lambda: ps.chain(ps.normalize(), ps.sgd(0.05))},
    "scale_by_backtracking_linesearch": {"max_backtracking_steps": 3},
    "scale_by_schedule": {"step_size_fn": lambda: ps.constant_schedule(0.1)},
    "scale_by_zoom_linesearch": {"max_linesearch_steps": 3},
    "schedule_free": {"base_optimizer": lambda: TX, "learning_rate": 0.1},
    "selective_transform": {"freeze_mask": lambda: {"w": True, "b": False}, "optimizer": lambda: TX},
    "sgdr_schedule": {
        "cosine_kwargs": lambda: [{"init_value": 0.1, "peak_value": 0.2, "warmup_steps": 1, "decay_steps": 5}]
    },
    "step_schedule": {"step_size": 2},
    "stochastic_weight_average": {"start": 2, "every": 2},
    "theory.local_quadratic": {"leading": 2},
    "theory.steady_state_noise": {
        "local": lambda: ps.theory.local_quadratic(CONVEX, params(), batch()),
        "tx": lambda: ps.sgd(0.01),
    },
    "theory.mean_estimation_risk": {"variance": 1.0},
    "theory.sgd_variance": {"steps": 5},
    "unitwise_clip": {"g_norm": lambda: torch.ones(3, 2), "max_norm": lambda: torch.ones(3, 2)},
    "wsd_schedule": {"stable_steps": 3},
}


def good(function: str, parameter: inspect.Parameter) -> Any:
    """An argument that the function takes; its default where nothing better is known."""
    made = SPECIAL.get(function, {}).get(parameter.name, ...)
    if made is ... and parameter.default is not parameter.empty:
        return parameter.default
    if made is ...:
        made = GOOD.get(parameter.name, 0.1)
    return made() if callable(made) and not isinstance(made, torch.dtype) else made
