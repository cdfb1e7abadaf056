"""Every public transform and optimizer, and how to build it: the table that the contract is held to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

import pure_sgd as ps


class Entry(NamedTuple):
    """How to build a transform from its floating-point hyperparameters, and what it needs besides."""

    build: Callable[..., ps.GradientTransformation]
    hyperparams: dict[str, float]
    extra: Mapping[str, Any] = MappingProxyType({})
    keeps_updates: bool = False  # passes the updates through: nothing to compare


def _sgd(**hyperparams: Any) -> ps.GradientTransformation:
    return ps.sgd(nesterov=True, **hyperparams)


def _reals(params: Any) -> list[Any]:
    """The leaves, those that are complex as pairs of numbers."""
    return [
        torch.view_as_real(leaf.resolve_conj()) if leaf.is_complex() else leaf
        for leaf in ps.tree.leaves(params)
    ]


def _value(params: Any) -> Any:
    """An objective of any tree, not quadratic."""
    wide = [ps.tree.widened(leaf) for leaf in _reals(params)]
    return torch.stack([((leaf - 0.3) ** 4 + 2 * leaf.square()).sum() for leaf in wide]).sum()


CURVATURE = 2.0


def _objective(params: Any) -> Any:
    """A loss of any tree, with a Hessian that is not diagonal."""
    waves = [leaf.cos().sum() for leaf in _reals(params)]
    return sum(waves[1:], waves[0]) + 0.1 * sum(waves[1:], waves[0]) ** 2


def _of_examples(tx: ps.GradientTransformation) -> ps.GradientTransformation:
    """``tx``, which takes the gradients of examples, given those of two."""
    two = ps.stateless(lambda u, params: ps.tree.map(lambda leaf: torch.stack([leaf, -0.2 * leaf]), u))
    return ps.chain(two, tx)


#: name -> entry; names are those of the public namespace, with a note behind a space.
CATALOGUE: dict[str, Entry] = {
    "acprop": Entry(
        ps.acprop,
        {"learning_rate": 0.05, "b1": 0.8, "b2": 0.95, "eps": 1e-3, "eps_root": 1e-3, "weight_decay": 0.1},
    ),
    "adabelief": Entry(
        ps.adabelief,
        {"learning_rate": 0.05, "b1": 0.8, "b2": 0.95, "eps": 1e-3, "eps_root": 1e-3, "weight_decay": 0.1},
    ),
    "adadelta": Entry(ps.adadelta, {"learning_rate": 0.5, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1}),
    "adafactor": Entry(
        lambda **hyperparams: ps.adafactor(min_dim_size_to_factor=2, **hyperparams),
        {
            "learning_rate": 0.1,
            "decay_rate": 0.7,
            "clipping_threshold": 0.9,
            "momentum": 0.8,
            "weight_decay_rate": 0.01,
            "eps": 1e-2,
        },
    ),
    "adagrad": Entry(
        ps.adagrad, {"learning_rate": 0.1, "initial_accumulator_value": 0.1, "eps": 1e-3, "weight_decay": 0.1}
    ),
    "adagrad torch": Entry(
        lambda **hyperparams: ps.adagrad(**hyperparams, eps_in_sqrt=False),
        {"learning_rate": 0.1, "initial_accumulator_value": 0.1, "eps": 1e-3, "lr_decay": 1e-3},
    ),
    "adam": Entry(ps.adam, {"learning_rate": 0.05, "b1": 0.8, "b2": 0.95, "eps": 1e-6}),
    "adamax": Entry(ps.adamax, {"learning_rate": 0.05, "b1": 0.8, "b2": 0.95, "eps": 1e-3}),
    "adamaxw": Entry(
        ps.adamaxw, {"learning_rate": 0.05, "b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.1}
    ),
    "adamw": Entry(
        ps.adamw, {"learning_rate": 0.05, "b1": 0.8, "b2": 0.95, "eps": 1e-6, "weight_decay": 0.1}
    ),
    "adan": Entry(
        ps.adan,
        {"learning_rate": 0.05, "b1": 0.8, "b2": 0.7, "b3": 0.9, "eps_root": 1e-3, "weight_decay": 0.1},
    ),
    "adaptive_grad_clip": Entry(ps.adaptive_grad_clip, {"clipping": 0.3, "eps": 0.05}),
    "adaptive_grad_clip torch": Entry(
        lambda clipping, eps: ps.adaptive_grad_clip(clipping, eps, axis=(1, 2, 3, 4)),
        {"clipping": 0.3, "eps": 0.05},
    ),
    "add_decayed_weights": Entry(ps.add_decayed_weights, {"weight_decay": 0.1}),
    "add_noise": Entry(ps.add_noise, {"eta": 0.01, "gamma": 0.55}),
    "ademamix": Entry(
        ps.ademamix,
        {
            "learning_rate": 0.05,
            "b1": 0.8,
            "b2": 0.95,
            "b3": 0.98,
            "alpha": 3.0,
            "eps": 1e-3,
            "eps_root": 1e-3,
            "weight_decay": 0.1,
        },
    ),
    "adopt": Entry(ps.adopt, {"learning_rate": 0.05, "b1": 0.8, "b2": 0.95, "eps": 1e-3}),
    "amsgrad": Entry(
        ps.amsgrad, {"learning_rate": 0.05, "b1": 0.8, "b2": 0.95, "eps": 1e-3, "eps_root": 1e-3}
    ),
    "apply_every": Entry(
        lambda step_size: ps.chain(ps.scale(step_size), ps.apply_every(2)), {"step_size": -0.1}
    ),
    "apply_if_finite": Entry(
        lambda rate, b1: ps.apply_if_finite(ps.adam(rate, b1, eps=1e-3), 2), {"rate": 0.1, "b1": 0.8}
    ),
    "asgd": Entry(
        lambda **hyperparams: ps.asgd(t0=1, **hyperparams),
        {"learning_rate": 0.1, "lambd": 0.5, "alpha": 0.75, "weight_decay": 0.1},
    ),
    "cautious": Entry(
        lambda b1, b2: ps.cautious(ps.scale_by_adam(b1, b2, 1e-3)),
        {"b1": 0.8, "b2": 0.95},
    ),
    "centralize": Entry(
        lambda step_size: ps.chain(ps.centralize(), ps.scale(step_size)), {"step_size": -0.1}
    ),
    "chain": Entry(
        lambda decay, step_size: ps.chain(ps.trace(decay), ps.scale(step_size)),
        {"decay": 0.9, "step_size": -0.1},
    ),
    "chain inject_hyperparams": Entry(
        lambda rate, b1, decay: ps.chain(
            ps.inject_hyperparams(ps.adamw)(rate, b1, eps=1e-3, weight_decay=decay)
        ),
        {"rate": 0.1, "b1": 0.8, "decay": 0.1},
    ),
    "chain inject_hyperparams scheduled": Entry(
        lambda rate, momentum: ps.chain(
            ps.inject_hyperparams(ps.sgd)(ps.exponential_decay(rate, 3, 0.5), momentum=momentum)
        ),
        {"rate": 0.1, "momentum": 0.9},
    ),
    "clip": Entry(ps.clip, {"max_delta": 0.5}),
    "clip_by_block_rms": Entry(ps.clip_by_block_rms, {"threshold": 0.4}),
    "clip_by_global_norm": Entry(ps.clip_by_global_norm, {"max_norm": 0.7}),
    "cocob": Entry(ps.cocob, {"learning_rate": 0.8, "alpha": 3.0, "eps": 0.7, "weight_decay": 0.1}),
    "conditionally_mask": Entry(
        lambda rate, decay: ps.conditionally_mask(ps.sgd(rate, decay), lambda step: step % 2 == 0),
        {"rate": 0.1, "decay": 0.9},
    ),
    "conditionally_transform": Entry(
        lambda rate, decay: ps.conditionally_transform(ps.sgd(rate, decay), lambda step: step % 2 == 0),
        {"rate": 0.1, "decay": 0.9},
    ),
    "dadapt_adamw": Entry(
        lambda b1, b2, **hyperparams: ps.dadapt_adamw(betas=(b1, b2), **hyperparams),
        {"learning_rate": 0.8, "b1": 0.8, "b2": 0.9, "eps": 1e-3, "estim_lr0": 0.01, "weight_decay": 0.1},
    ),
    "differentially_private_aggregate": Entry(
        lambda *args, **kwargs: _of_examples(ps.differentially_private_aggregate(*args, **kwargs, key=1)),
        {"l2_norm_clip": 0.7, "noise_multiplier": 0.5},
    ),
    "dog": Entry(
        lambda first, **hyperparams: ps.dog(init_step=("heuristic", first), **hyperparams),
        {"first": 0.1, "learning_rate": 0.8, "eps": 1e-2, "weight_decay": 0.1},
    ),
    "dowg": Entry(
        ps.dowg, {"learning_rate": 0.8, "init_estim_sq_dist": 0.01, "eps": 1e-2, "weight_decay": 0.1}
    ),
    "dpsgd": Entry(
        lambda *args, **kwargs: _of_examples(ps.dpsgd(*args, **kwargs, seed=1)),
        {"learning_rate": 0.1, "l2_norm_clip": 0.7, "noise_multiplier": 0.5, "momentum": 0.9},
    ),
    "ema": Entry(ps.ema, {"decay": 0.9}),
    "ema not debiased": Entry(lambda decay: ps.ema(decay, debias=False), {"decay": 0.9}),
    "flatten": Entry(lambda rate, b1: ps.flatten(ps.adam(rate, b1, eps=1e-3)), {"rate": 0.1, "b1": 0.8}),
    "freeze": Entry(
        lambda step_size: ps.chain(ps.scale(step_size), ps.freeze(lambda path: path.endswith("['w']"))),
        {"step_size": -0.1},
    ),
    "fromage": Entry(ps.fromage, {"learning_rate": 0.1, "min_norm": 0.6}),
    "galore": Entry(
        lambda **hyperparams: ps.galore(rank=1, update_proj_gap=2, **hyperparams),
        {"learning_rate": 0.1, "scale": 0.25, "weight_decay": 0.1},
    ),
    "grokfast_ema": Entry(ps.grokfast_ema, {"alpha": 0.8, "lamb": 2.0}),
    "grokfast_ma": Entry(lambda lamb: ps.grokfast_ma(2, lamb), {"lamb": 2.0}),
    "grokfast_ma sum": Entry(lambda lamb: ps.grokfast_ma(3, lamb, "sum", warmup=False), {"lamb": 2.0}),
    "hutchinson_estimator_diag_hessian": Entry(
        lambda step_size: ps.chain(ps.hutchinson_estimator_diag_hessian(), ps.scale(step_size)),
        {"step_size": -0.1},
        {"value_fn": _objective},
    ),
    "identity": Entry(ps.identity, {}, keeps_updates=True),
    "keep_params_nonnegative": Entry(
        lambda step_size: ps.chain(ps.scale(step_size), ps.keep_params_nonnegative()), {"step_size": -0.1}
    ),
    "lamb": Entry(
        ps.lamb,
        {"learning_rate": 0.05, "b1": 0.8, "b2": 0.95, "eps": 1e-3, "eps_root": 1e-3, "weight_decay": 0.1},
    ),
    "lars": Entry(
        ps.lars,
        {"learning_rate": 0.5, "weight_decay": 0.1, "trust_coefficient": 0.1, "eps": 1e-2, "momentum": 0.8},
    ),
    "lbfgs": Entry(
        lambda **hyperparams: ps.lbfgs(memory_size=2, **hyperparams),
        {"learning_rate": 0.9, "min_curvature": 1e-3},
        {"value_fn": _value},
    ),
    "lion": Entry(ps.lion, {"learning_rate": 0.05, "b1": 0.8, "b2": 0.95, "weight_decay": 0.1}),
    "lookahead": Entry(
        lambda learning_rate, decay, slow_step_size: ps.lookahead(
            ps.sgd(learning_rate, momentum=decay), 2, slow_step_size
        ),
        {"learning_rate": 0.1, "decay": 0.9, "slow_step_size": 0.5},
    ),
    "lookahead reset": Entry(
        lambda rate, decay, slow_step_size: ps.lookahead(
            ps.sgd(rate, momentum=decay), 2, slow_step_size, reset_state=True
        ),
        {"rate": 0.1, "decay": 0.9, "slow_step_size": 0.5},
    ),
    "madgrad": Entry(ps.madgrad, {"learning_rate": 0.05, "momentum": 0.8, "weight_decay": 0.1, "eps": 1e-3}),
    "mars": Entry(
        ps.mars,
        {"learning_rate": 0.05, "b1": 0.8, "b2": 0.95, "gamma": 0.3, "eps": 1e-3, "weight_decay": 0.1},
    ),
    "masked": Entry(
        lambda rate, b1: ps.masked(ps.adam(rate, b1, eps=1e-3), lambda path: not path.endswith("['b']")),
        {"rate": 0.1, "b1": 0.8},
    ),
    "master_weights": Entry(
        lambda rate, b1: ps.master_weights(ps.adam(rate, b1, eps=1e-3)), {"rate": 0.1, "b1": 0.8}
    ),
    "mechanize": Entry(
        lambda rate, **hyperparams: ps.mechanize(ps.sgd(rate, 0.9), num_betas=3, **hyperparams),
        {"rate": 0.8, "weight_decay": 0.1, "eps": 0.1, "s_init": 0.5},
    ),
    "momo": Entry(
        ps.momo,
        {"learning_rate": 0.1, "beta": 0.8, "lower_bound": 0.1, "weight_decay": 0.1},
        {"value": torch.tensor(1.0)},
    ),
    "momo adapted": Entry(
        lambda **hyperparams: ps.momo(**hyperparams, adapt_lower_bound=True),
        {"learning_rate": 0.1, "beta": 0.8, "lower_bound": 0.1, "weight_decay": 0.1},
        {"value": torch.tensor(1.0)},
    ),
    "momo_adam": Entry(
        ps.momo_adam,
        {"learning_rate": 0.1, "b1": 0.8, "b2": 0.9, "eps": 1e-3, "lower_bound": 0.1, "weight_decay": 0.1},
        {"value": torch.tensor(1.0)},
    ),
    "monitor": Entry(
        lambda decay: ps.monitor(
            {"norm": ps.tree.norm, "same": lambda u: u, "ema": ps.measure_with_ema(ps.tree.norm, decay)}
        ),
        {"decay": 0.9},
        keeps_updates=True,
    ),
    "multi_steps": Entry(
        lambda rate, b1: ps.multi_steps(ps.adam(rate, b1, eps=1e-3), 2), {"rate": 0.1, "b1": 0.8}
    ),
    "multi_steps sum and skip": Entry(
        lambda rate: ps.multi_steps(ps.sgd(rate), 2, False, ps.skip_not_finite), {"rate": 0.1}
    ),
    "multi_transform": Entry(
        lambda rate: ps.multi_transform({"all": ps.sgd(rate)}, "all"),
        {"rate": 0.1},
    ),
    "muon": Entry(
        ps.muon,
        {
            "learning_rate": 0.05,
            "beta": 0.8,
            "eps": 1e-3,
            "weight_decay": 0.1,
            "adam_b1": 0.8,
            "adam_b2": 0.95,
            "adam_eps_root": 1e-3,
            "adam_weight_decay": 0.1,
            "adam_learning_rate": 0.03,
            "consistent_rms": 0.2,
        },
    ),
    "nadam": Entry(ps.nadam, {"learning_rate": 0.05, "b1": 0.8, "b2": 0.95, "eps": 1e-3, "eps_root": 1e-3}),
    "nadam torch": Entry(ps.nadam, {"learning_rate": 0.05, "b1": 0.8, "b2": 0.95, "momentum_decay": 0.1}),
    "nadamw": Entry(
        ps.nadamw, {"learning_rate": 0.05, "b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.1}
    ),
    "named_chain": Entry(
        lambda decay, rate: ps.named_chain(
            ("momentum", ps.trace(decay)), ("rate", ps.scale_by_learning_rate(rate))
        ),
        {"decay": 0.9, "rate": 0.1},
    ),
    "noisy_sgd": Entry(ps.noisy_sgd, {"learning_rate": 0.1, "eta": 0.01, "gamma": 0.55}),
    "normalize": Entry(lambda step_size: ps.chain(ps.normalize(), ps.scale(step_size)), {"step_size": -0.1}),
    "normalize_by_update_norm": Entry(ps.normalize_by_update_norm, {"scale_factor": 0.5, "eps": 1e-3}),
    "novograd": Entry(
        ps.novograd,
        {"learning_rate": 0.05, "b1": 0.8, "b2": 0.5, "eps": 1e-3, "eps_root": 1e-3, "weight_decay": 0.1},
    ),
    "optimistic_adam": Entry(
        ps.optimistic_adam,
        {"learning_rate": 0.05, "optimism": 0.03, "b1": 0.8, "b2": 0.95, "eps": 1e-3, "eps_root": 1e-3},
    ),
    "optimistic_adam_v2": Entry(
        ps.optimistic_adam_v2,
        {"learning_rate": 0.05, "alpha": 0.7, "beta": 0.4, "b1": 0.8, "b2": 0.95, "eps": 1e-3},
    ),
    "optimistic_gradient_descent": Entry(
        ps.optimistic_gradient_descent, {"learning_rate": 0.1, "alpha": 0.7, "beta": 0.4}
    ),
    "params_ema": Entry(ps.params_ema, {"decay": 0.9}, keeps_updates=True),
    "params_ema debiased": Entry(
        lambda decay: ps.params_ema(decay, debias=True), {"decay": 0.9}, keeps_updates=True
    ),
    "partition": Entry(
        lambda rate, decay: ps.partition(
            {"memory": ps.sgd(rate, momentum=decay), "rest": ps.adam(rate, eps=1e-3)},
            lambda path: "memory" if path in ("", "[0]") or path.endswith("['w']") else None,
            default_label="rest",
        ),
        {"rate": 0.1, "decay": 0.9},
    ),
    "partition_matrices": Entry(
        lambda rate, decay: ps.partition_matrices(ps.sgd(rate, momentum=decay), ps.adam(rate, eps=1e-3)),
        {"rate": 0.1, "decay": 0.9},
    ),
    "polyak_average": Entry(lambda: ps.polyak_average(1), {}, keeps_updates=True),
    "polyak_sgd": Entry(
        ps.polyak_sgd,
        {"max_learning_rate": 0.5, "scaling": 0.9, "f_min": 0.1, "eps": 0.2},
        {"value": torch.tensor(1.0)},
    ),
    "prodigy": Entry(
        lambda b1, b2, b3, **hyperparams: ps.prodigy(betas=(b1, b2), beta3=b3, **hyperparams),
        {
            "learning_rate": 0.8,
            "b1": 0.8,
            "b2": 0.9,
            "b3": 0.7,
            "eps": 1e-3,
            "estim_lr0": 0.01,
            "estim_lr_coef": 1.2,
            "weight_decay": 0.1,
        },
    ),
    "project": Entry(
        lambda step_size, scale: ps.chain(
            ps.scale(step_size), ps.project(lambda tree: ps.projection_l1_ball(tree, scale))
        ),
        {"step_size": -0.1, "scale": 0.9},
    ),
    "project l2": Entry(
        lambda step_size, scale: ps.chain(
            ps.scale(step_size), ps.project(lambda tree: ps.projection_l2_ball(tree, scale))
        ),
        {"step_size": -0.1, "scale": 0.9},
    ),
    "radam": Entry(
        # Of these the first steps are not rectified, and the others are.
        ps.radam,
        {"learning_rate": 0.05, "b1": 0.8, "b2": 0.9, "eps": 1e-3, "threshold": 4.2, "weight_decay": 0.1},
    ),
    "reduce_on_plateau": Entry(
        lambda factor, min_scale: ps.reduce_on_plateau(factor, patience=1, min_scale=min_scale),
        {"factor": 0.5, "min_scale": 0.1},
        {"value": torch.tensor(1.0)},
    ),
    "rmsprop": Entry(
        ps.rmsprop,
        {"learning_rate": 0.05, "decay": 0.8, "eps": 1e-3, "initial_scale": 0.1, "momentum": 0.9},
    ),
    "rmsprop torch": Entry(
        lambda **hyperparams: ps.rmsprop(
            **hyperparams, eps_in_sqrt=False, centered=True, nesterov=True, lr_in_momentum=False
        ),
        {"learning_rate": 0.05, "decay": 0.8, "eps": 1e-3, "momentum": 0.9, "weight_decay": 0.1},
    ),
    "rprop": Entry(
        ps.rprop,
        {
            "learning_rate": 0.05,
            "eta_minus": 0.4,
            "eta_plus": 1.3,
            "min_step_size": 0.03,
            "max_step_size": 0.075,
        },
    ),
    "sam": Entry(
        lambda rate, decay, radius: ps.sam(
            ps.sgd(rate, momentum=decay), ps.chain(ps.normalize(), ps.sgd(radius)), sync_period=3
        ),
        {"rate": 0.1, "decay": 0.9, "radius": 0.5},
    ),
    "sam opaque": Entry(
        lambda rate, decay, radius: ps.sam(
            ps.adamw(rate, eps=1e-3), ps.sgd(radius, decay), reset_state=False, opaque_mode=True
        ),
        {"rate": 0.1, "decay": 0.9, "radius": 0.5},
        {"grad_fn": lambda params, i: ps.tree.map(torch.sin, params)},
    ),
    "scale": Entry(ps.scale, {"step_size": -0.1}),
    "scale_by_acprop": Entry(ps.scale_by_acprop, {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "eps_root": 1e-3}),
    "scale_by_adadelta": Entry(ps.scale_by_adadelta, {"rho": 0.8, "eps": 1e-3}),
    "scale_by_adam": Entry(ps.scale_by_adam, {"b1": 0.8, "b2": 0.95, "eps": 1e-6, "eps_root": 1e-6}),
    "scale_by_adam nesterov": Entry(
        lambda b1, b2: ps.scale_by_adam(b1, b2, nesterov=True), {"b1": 0.8, "b2": 0.95}
    ),
    "scale_by_adamax": Entry(ps.scale_by_adamax, {"b1": 0.8, "b2": 0.95, "eps": 1e-3}),
    "scale_by_adan": Entry(
        ps.scale_by_adan, {"b1": 0.8, "b2": 0.7, "b3": 0.9, "eps": 1e-3, "eps_root": 1e-3}
    ),
    "scale_by_ademamix": Entry(
        ps.scale_by_ademamix,
        {"b1": 0.8, "b2": 0.95, "b3": 0.98, "alpha": 3.0, "eps": 1e-3, "eps_root": 1e-3},
    ),
    "scale_by_ademamix scheduled": Entry(
        lambda b3, alpha: ps.scale_by_ademamix(
            b3=ps.linear_schedule(0.9, b3, 3), alpha=ps.linear_schedule(0.0, alpha, 3), eps=1e-3
        ),
        {"b3": 0.98, "alpha": 3.0},
    ),
    "scale_by_adopt": Entry(ps.scale_by_adopt, {"b1": 0.8, "b2": 0.95, "eps": 1e-3}),
    "scale_by_adopt unclipped": Entry(
        lambda **hyperparams: ps.scale_by_adopt(**hyperparams, nesterov=True, use_clipping=False),
        {"b1": 0.8, "b2": 0.95, "eps": 0.2},
    ),
    "scale_by_amsgrad": Entry(ps.scale_by_amsgrad, {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "eps_root": 1e-3}),
    "scale_by_amsgrad torch": Entry(
        lambda **hyperparams: ps.scale_by_amsgrad(**hyperparams, max_before_correction=True),
        {"b1": 0.8, "b2": 0.95, "eps": 1e-3},
    ),
    "scale_by_asgd": Entry(
        lambda **hyperparams: ps.scale_by_asgd(t0=1, **hyperparams),
        {"learning_rate": 0.1, "lambd": 0.5, "alpha": 0.75},
    ),
    "scale_by_backtracking_linesearch": Entry(
        lambda rate, **hyperparams: ps.chain(
            ps.scale(-rate), ps.scale_by_backtracking_linesearch(5, store_grad=True, **hyperparams)
        ),
        {
            "rate": 0.5,
            "slope_rtol": 0.1,
            "decrease_factor": 0.6,
            "increase_factor": 1.3,
            "max_learning_rate": 0.9,
            "atol": 1e-3,
            "rtol": 1e-3,
        },
        {"value_fn": _value},
    ),
    "scale_by_belief": Entry(ps.scale_by_belief, {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "eps_root": 1e-3}),
    "scale_by_belief nesterov": Entry(
        lambda b1, b2: ps.scale_by_belief(b1, b2, nesterov=True), {"b1": 0.8, "b2": 0.95}
    ),
    "scale_by_cocob": Entry(ps.scale_by_cocob, {"alpha": 3.0, "eps": 0.7}),
    "scale_by_dadapt_adam": Entry(
        ps.scale_by_dadapt_adam,
        {"learning_rate": 0.8, "b1": 0.8, "b2": 0.9, "eps": 1e-3, "estim_lr0": 0.01, "weight_decay": 0.1},
    ),
    "scale_by_distance_over_gradients": Entry(
        ps.scale_by_distance_over_gradients, {"reps_rel": 0.1, "eps": 1e-2, "global_scale": -0.9}
    ),
    "scale_by_dog": Entry(
        lambda first, eps: ps.scale_by_dog(("distance", first), eps), {"first": 0.1, "eps": 1e-2}
    ),
    "scale_by_dog learning_rate": Entry(
        lambda first, eps: ps.scale_by_dog(("learning_rate", first), eps), {"first": 0.1, "eps": 1e-2}
    ),
    "scale_by_dowg": Entry(ps.scale_by_dowg, {"init_estim_sq_dist": 0.01, "eps": 1e-2}),
    "scale_by_factored_rms": Entry(ps.scale_by_factored_rms, {"decay_rate": 0.7, "epsilon": 1e-2}),
    "scale_by_factored_rms factored": Entry(
        lambda decay_rate, epsilon: ps.scale_by_factored_rms(
            True, decay_rate, min_dim_size_to_factor=2, epsilon=epsilon
        ),
        {"decay_rate": 0.7, "epsilon": 1e-2},
    ),
    "scale_by_galore": Entry(
        lambda scale, b1, eps: ps.scale_by_galore(1, 2, scale, ps.scale_by_adam(b1, eps=eps)),
        {"scale": 0.25, "b1": 0.8, "eps": 1e-3},
    ),
    "scale_by_lbfgs": Entry(
        lambda step_size: ps.chain(ps.scale_by_lbfgs(2), ps.scale(step_size)), {"step_size": -0.1}
    ),
    "scale_by_lbfgs torch": Entry(
        lambda step_size, min_curvature: ps.chain(
            ps.scale_by_lbfgs(2, min_curvature=min_curvature, initial_norm=1), ps.scale(step_size)
        ),
        {"step_size": -0.1, "min_curvature": 1e-3},
    ),
    "scale_by_learning_rate": Entry(ps.scale_by_learning_rate, {"learning_rate": 0.1}),
    "scale_by_lion": Entry(ps.scale_by_lion, {"b1": 0.8, "b2": 0.95}),
    "scale_by_lion refined": Entry(
        lambda b1, b2: ps.scale_by_lion(b1, b2, mode="refined"), {"b1": 0.8, "b2": 0.95}
    ),
    "scale_by_lion smooth": Entry(
        lambda b1, b2, smooth_beta: ps.scale_by_lion(b1, b2, mode="smooth", smooth_beta=smooth_beta),
        {"b1": 0.8, "b2": 0.95, "smooth_beta": 2.0},
    ),
    "scale_by_madgrad": Entry(ps.scale_by_madgrad, {"learning_rate": 0.05, "momentum": 0.8, "eps": 1e-3}),
    "scale_by_mars": Entry(ps.scale_by_mars, {"b1": 0.8, "b2": 0.95, "gamma": 0.3, "eps": 1e-3}),
    "scale_by_momo": Entry(
        ps.scale_by_momo,
        {"learning_rate": 10.0, "beta": 0.8, "lower_bound": 0.1, "weight_decay": 0.01},
        {"value": torch.tensor(1.0)},
    ),
    "scale_by_momo_adam": Entry(
        lambda **hyperparams: ps.scale_by_momo_adam(**hyperparams, adapt_lower_bound=True),
        {"learning_rate": 0.1, "b1": 0.8, "b2": 0.9, "eps": 1e-3, "lower_bound": 0.1, "weight_decay": 0.1},
        {"value": torch.tensor(1.0)},
    ),
    "scale_by_muon": Entry(ps.scale_by_muon, {"beta": 0.8, "eps": 1e-3}),
    "scale_by_muon spectral": Entry(
        lambda beta, eps: ps.scale_by_muon(
            "dion", beta=beta, eps=eps, adaptive=True, preconditioning="spectral", bias_correction=False
        ),
        {"beta": 0.8, "eps": 1e-3},
    ),
    "scale_by_nadam": Entry(
        ps.scale_by_nadam, {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "eps_root": 1e-3, "momentum_decay": 0.1}
    ),
    "scale_by_novograd": Entry(
        ps.scale_by_novograd, {"b1": 0.8, "b2": 0.5, "eps": 1e-3, "eps_root": 1e-3, "weight_decay": 0.1}
    ),
    "scale_by_optimistic_gradient": Entry(ps.scale_by_optimistic_gradient, {"alpha": 0.7, "beta": 0.4}),
    "scale_by_param_block_norm": Entry(ps.scale_by_param_block_norm, {"min_scale": 1.2}),
    "scale_by_param_block_rms": Entry(ps.scale_by_param_block_rms, {"min_scale": 0.6}),
    "scale_by_polyak": Entry(
        lambda f_min, max_learning_rate, eps: ps.scale_by_polyak(f_min, max_learning_rate, eps, "sps+"),
        {"f_min": 0.1, "max_learning_rate": 0.1, "eps": 0.2},
        {"value": torch.tensor(1.0)},
    ),
    "scale_by_preconditioner": Entry(
        # Like the parameters it will meet, whatever tree they are.
        lambda power: ps.GradientTransformation(
            lambda params: ps.EmptyState(),
            lambda updates, state, params=None: ps.scale_by_preconditioner(
                ps.tree.map(lambda u: torch.full_like(u, CURVATURE), updates), power
            ).update(updates, state, params),
        ),
        {"power": 0.5},
    ),
    "scale_by_prodigy": Entry(
        lambda **hyperparams: ps.scale_by_prodigy(**hyperparams, safeguard_warmup=True),
        {"learning_rate": 0.8, "b1": 0.8, "b2": 0.9, "eps": 1e-3, "estim_lr0": 0.01, "weight_decay": 0.1},
    ),
    "scale_by_radam": Entry(
        lambda **hyperparams: ps.scale_by_radam(**hyperparams, nesterov=True, eps_before_correction=True),
        {"b1": 0.8, "b2": 0.9, "eps": 1e-3, "eps_root": 1e-3, "threshold": 4.2},
    ),
    "scale_by_rms": Entry(ps.scale_by_rms, {"decay": 0.8, "eps": 1e-3, "initial_scale": 0.1}),
    "scale_by_rms corrected": Entry(
        lambda decay, eps: ps.scale_by_rms(decay, eps, eps_in_sqrt=False, bias_correction=True),
        {"decay": 0.8, "eps": 1e-3},
    ),
    "scale_by_rprop": Entry(
        ps.scale_by_rprop,
        {
            "learning_rate": 0.05,
            "eta_minus": 0.4,
            "eta_plus": 1.3,
            "min_step_size": 0.03,
            "max_step_size": 0.075,
        },
    ),
    "scale_by_rss": Entry(ps.scale_by_rss, {"initial_accumulator_value": 0.1, "eps": 1e-3}),
    "scale_by_schedule": Entry(
        lambda rate: ps.scale_by_schedule(lambda step: rate / (1 + step.double())), {"rate": 0.1}
    ),
    "scale_by_shampoo": Entry(ps.scale_by_shampoo, {"b2": 0.8, "eps": 1e-3}),
    "scale_by_shampoo stale and grafted": Entry(
        lambda b2, eps: ps.scale_by_shampoo(b2, eps, 2, 2, graft="rms"), {"b2": 0.8, "eps": 1e-3}
    ),
    "scale_by_shape": Entry(
        lambda step_size, consistent_rms: ps.chain(
            ps.scale(step_size), ps.scale_by_shape(consistent_rms=consistent_rms)
        ),
        {"step_size": -0.1, "consistent_rms": 0.2},
    ),
    "scale_by_sign": Entry(
        lambda step_size: ps.chain(ps.scale_by_sign(), ps.scale(step_size)), {"step_size": -0.1}
    ),
    "scale_by_simplified_ademamix": Entry(
        ps.scale_by_simplified_ademamix, {"b1": 0.8, "b2": 0.95, "alpha": 3.0, "eps": 1e-3, "eps_root": 1e-3}
    ),
    "scale_by_sm3": Entry(ps.scale_by_sm3, {"b1": 0.8, "b2": 0.95, "eps": 1e-2}),
    "scale_by_soap": Entry(
        lambda **hyperparams: ps.scale_by_soap(precondition_frequency=2, **hyperparams),
        {"b1": 0.8, "b2": 0.9, "eps": 1e-3, "shampoo_beta": 0.7},
    ),
    "scale_by_sparse_adam": Entry(ps.scale_by_sparse_adam, {"b1": 0.8, "b2": 0.95, "eps": 1e-3}),
    "scale_by_sparse_adam entries": Entry(
        lambda **hyperparams: ps.scale_by_sparse_adam(**hyperparams, sparse_dim=None),
        {"b1": 0.8, "b2": 0.95, "eps": 1e-3},
    ),
    "scale_by_sophia": Entry(
        lambda **hyperparams: ps.scale_by_sophia(**hyperparams, update_interval=2),
        {"b1": 0.8, "b2": 0.5, "eps": 0.3, "gamma": 0.5, "clip_threshold": 1.0},
        {"value_fn": _objective},
    ),
    "scale_by_stddev": Entry(ps.scale_by_stddev, {"decay": 0.8, "eps": 1e-3, "initial_scale": 0.1}),
    "scale_by_stddev corrected": Entry(
        # Without an initial scale the first variance is 0 but for round-off.
        lambda **hyperparams: ps.scale_by_stddev(**hyperparams, eps_in_sqrt=False, bias_correction=True),
        {"decay": 0.8, "eps": 1e-3, "initial_scale": 0.1},
    ),
    "scale_by_trust_ratio": Entry(
        ps.scale_by_trust_ratio, {"min_norm": 0.6, "trust_coefficient": 0.1, "eps": 0.01}
    ),
    "scale_by_yogi": Entry(
        ps.scale_by_yogi,
        {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "eps_root": 1e-3, "initial_accumulator_value": 0.1},
    ),
    "scale_by_zoom_linesearch": Entry(
        lambda rate, **hyperparams: ps.chain(ps.scale(-rate), ps.scale_by_zoom_linesearch(5, **hyperparams)),
        {
            "rate": 0.1,
            "max_learning_rate": 3.0,
            "tol": 1e-3,
            "increase_factor": 1.7,
            "slope_rtol": 1e-2,
            "curv_rtol": 0.3,
            "approx_dec_rtol": 1e-4,
            "stepsize_precision": 1e-3,
        },
        {"value_fn": _value},
    ),
    "schedule_free": Entry(
        lambda learning_rate, b1, weight_lr_power: ps.schedule_free(
            ps.sgd(learning_rate), ps.linear_schedule(0.1, learning_rate, 3), b1, weight_lr_power
        ),
        {"learning_rate": 0.5, "b1": 0.9, "weight_lr_power": 2.0},
    ),
    "schedule_free_adamw": Entry(
        lambda **hyperparams: ps.schedule_free_adamw(warmup_steps=2, **hyperparams),
        {"learning_rate": 0.1, "b1": 0.9, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.1},
    ),
    "schedule_free_sgd": Entry(
        ps.schedule_free_sgd, {"learning_rate": 0.5, "b1": 0.9, "weight_decay": 0.1, "weight_lr_power": 2.0}
    ),
    "selective_transform": Entry(
        lambda rate: ps.selective_transform(ps.adam(rate, eps=1e-3), freeze_mask=lambda path: "w" in path),
        {"rate": 0.1},
    ),
    "set_to_zero": Entry(
        lambda step_size: ps.chain(ps.set_to_zero(), ps.scale(step_size)), {"step_size": -0.1}
    ),
    "sgd": Entry(ps.sgd, {"learning_rate": 0.1}),
    "sgd every option": Entry(_sgd, {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    "sgd scheduled": Entry(
        lambda rate, decay: ps.sgd(
            ps.exponential_decay(rate, 3, decay), momentum=lambda step: 0.9 - 0.5 / (1 + step.double())
        ),
        {"rate": 0.1, "decay": 0.5},
    ),
    "shampoo": Entry(
        lambda **hyperparams: ps.shampoo(root_every=3, graft="sgd", **hyperparams),
        {"learning_rate": 0.1, "momentum": 0.8, "b2": 0.8, "eps": 0.1, "weight_decay": 0.1},
    ),
    "shrink_by_learning_rate": Entry(ps.shrink_by_learning_rate, {"learning_rate": 0.1}),
    "sign_sgd": Entry(ps.sign_sgd, {"learning_rate": 0.05}),
    "signum": Entry(ps.signum, {"learning_rate": 0.05, "beta": 0.8}),
    "simplified_ademamix": Entry(
        ps.simplified_ademamix,
        {
            "learning_rate": 0.05,
            "b1": 0.8,
            "b2": 0.95,
            "alpha": 3.0,
            "eps": 1e-3,
            "eps_root": 1e-3,
            "weight_decay": 0.1,
        },
    ),
    "sm3": Entry(ps.sm3, {"learning_rate": 0.1, "momentum": 0.8}),
    "snapshot": Entry(lambda: ps.snapshot("norm", ps.tree.norm), {}, keeps_updates=True),
    "soap": Entry(
        ps.soap,
        {"learning_rate": 0.1, "b1": 0.8, "b2": 0.9, "eps": 1e-3, "weight_decay": 0.1, "shampoo_beta": 0.7},
    ),
    "sparse_adam": Entry(ps.sparse_adam, {"learning_rate": 0.05, "b1": 0.8, "b2": 0.95, "eps": 1e-3}),
    "sophia": Entry(
        lambda **hyperparams: ps.sophia(**hyperparams, update_interval=2, clip_threshold=None),
        {"learning_rate": 0.05, "b1": 0.8, "b2": 0.5, "eps": 0.3, "weight_decay": 0.1, "gamma": 0.5},
        {"value_fn": _objective},
    ),
    "split_real_and_imaginary": Entry(
        lambda rate, b1: ps.split_real_and_imaginary(ps.adam(rate, b1, eps=1e-3)), {"rate": 0.1, "b1": 0.8}
    ),
    "stateless": Entry(
        lambda factor: ps.stateless(
            lambda updates, params: ps.tree.map(lambda u: (factor * u).to(u.dtype), updates)
        ),
        {"factor": 2.0},
    ),
    "stateless_with_tree_map": Entry(
        lambda factor: ps.stateless_with_tree_map(lambda u, p: (factor * u + p).to(u.dtype)),
        {"factor": 2.0},
    ),
    "stochastic_weight_average": Entry(lambda: ps.stochastic_weight_average(1, 2), {}, keeps_updates=True),
    "trace": Entry(ps.trace, {"decay": 0.9}),
    "trace dampened": Entry(
        lambda decay, dampening: ps.trace(decay, dampening=dampening), {"decay": 0.9, "dampening": 0.3}
    ),
    "yogi": Entry(ps.yogi, {"learning_rate": 0.05, "b1": 0.8, "b2": 0.95, "eps": 1e-3}),
    "zero_nans": Entry(lambda step_size: ps.chain(ps.zero_nans(), ps.scale(step_size)), {"step_size": -0.1}),
}


#: Every optimizer of torch.optim -> the names here that tests/test_torch_*.py hold to it.
TORCH: dict[str, tuple[str, ...]] = {
    "ASGD": ("asgd", "scale_by_asgd"),
    "Adadelta": ("adadelta", "scale_by_adadelta"),
    "Adafactor": ("adafactor",),
    "Adagrad": ("adagrad", "scale_by_rss"),
    "Adam": ("adam", "amsgrad", "scale_by_adam", "scale_by_amsgrad"),
    "AdamW": ("adamw",),
    "Adamax": ("adamax", "scale_by_adamax"),
    "LBFGS": ("lbfgs", "scale_by_lbfgs"),
    "Muon": ("muon", "scale_by_muon", "scale_by_shape"),
    "NAdam": ("nadam", "nadamw", "scale_by_nadam"),
    "RAdam": ("radam", "scale_by_radam"),
    "RMSprop": ("rmsprop", "scale_by_rms", "scale_by_stddev"),
    "Rprop": ("rprop", "scale_by_rprop"),
    "SGD": ("sgd", "trace"),
    "SparseAdam": ("scale_by_sparse_adam", "sparse_adam"),
}


def params_of(dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """A matrix, a vector, a scalar, an empty leaf and a None, nested; the values do not matter."""
    return {
        "layers": [{"w": torch.linspace(-1, 1, 6).reshape(2, 3).to(dtype), "b": torch.zeros(3, dtype=dtype)}],
        "scale": torch.tensor(0.5, dtype=dtype),
        "nothing": None,
        "empty": torch.zeros(0, 4, dtype=dtype),
    }


def grads_of(params: Any, step: int) -> Any:
    """Gradients like ``params`` that differ from step to step."""
    return ps.tree.map(
        lambda p: torch.sin(torch.arange(p.numel()) * 1.7 + 0.8 * step + 0.3).reshape(p.shape).to(p.dtype),
        params,
    )
