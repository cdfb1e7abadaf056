"""Linear chains of every kind, with ten settings each: what the theory is held to."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

import pure_sgd as ps

CURVATURE = torch.tensor([1.0, 0.3, 0.05], dtype=torch.float64)


class Setting:
    """Numbers to build a chain from: every setting has its own."""

    def __init__(self, index: int) -> None:
        draws = iter(ps.random.uniform(ps.random.key(index), (8,), torch.float64).tolist())
        self.rate = 0.02 + 0.6 * next(draws)
        self.momentum = 0.95 * next(draws)
        self.decay = 0.3 + 0.69 * next(draws)
        self.weight_decay = 0.1 * next(draws)
        self.power = next(draws)
        self.damping = next(draws)
        self.few = 2 + int(4 * next(draws))
        self.start = int(6 * next(draws))


Build = Callable[[Setting, torch.Tensor], ps.GradientTransformation]

#: name -> the chain for a setting, and for the curvatures of the parameters it will see
CHAINS: dict[str, Build] = {
    "sgd": lambda s, h: ps.sgd(s.rate),
    "momentum": lambda s, h: ps.sgd(s.rate, s.momentum),
    "nesterov": lambda s, h: ps.sgd(s.rate, s.momentum, nesterov=True),
    "dampening": lambda s, h: ps.sgd(s.rate, s.momentum, dampening=s.damping),
    "weight decay": lambda s, h: ps.sgd(s.rate, s.momentum, weight_decay=s.weight_decay),
    "decoupled weight decay": lambda s, h: ps.chain(
        ps.trace(s.momentum), ps.add_decayed_weights(s.weight_decay), ps.scale_by_learning_rate(s.rate)
    ),
    "ema of gradients": lambda s, h: ps.chain(ps.ema(s.decay, debias=False), ps.sgd(s.rate)),
    "debiased ema of gradients": lambda s, h: ps.chain(ps.ema(s.decay), ps.sgd(s.rate)),
    "preconditioned": lambda s, h: ps.chain(ps.scale_by_preconditioner(h, s.power), ps.sgd(s.rate)),
    "averaged": lambda s, h: ps.chain(ps.sgd(s.rate), ps.params_ema(s.decay)),
    "averaged without bias": lambda s, h: ps.chain(ps.sgd(s.rate), ps.params_ema(s.decay, debias=True)),
    "average warmed up": lambda s, h: ps.chain(
        ps.sgd(s.rate), ps.params_ema(ps.ema_warmup_schedule(s.decay))
    ),
    "momentum and average": lambda s, h: ps.chain(ps.sgd(s.rate, s.momentum), ps.params_ema(s.decay)),
    "Polyak average": lambda s, h: ps.chain(ps.sgd(s.rate), ps.polyak_average(s.start)),
    "stochastic weight average": lambda s, h: ps.chain(
        ps.sgd(s.rate, s.momentum), ps.stochastic_weight_average(s.start, s.few)
    ),
    "lookahead": lambda s, h: ps.lookahead(ps.sgd(s.rate, s.momentum), s.few, s.damping),
    "lookahead that forgets": lambda s, h: ps.lookahead(
        ps.sgd(s.rate, s.momentum), s.few, s.damping, reset_state=True
    ),
    "accumulation": lambda s, h: ps.multi_steps(ps.sgd(s.rate, s.momentum), s.few),
    "accumulation, then an average": lambda s, h: ps.chain(
        ps.multi_steps(ps.sgd(s.rate), s.few), ps.params_ema(s.decay)
    ),
    "apply every": lambda s, h: ps.chain(ps.apply_every(s.few), ps.sgd(s.rate / s.few)),
    "cosine": lambda s, h: ps.sgd(ps.cosine_decay_schedule(s.rate, 30), s.momentum),
    "warm-up, and 1 / t": lambda s, h: ps.sgd(
        ps.join_schedules(
            [ps.linear_schedule(0.0, s.rate, 5), ps.inverse_time_decay_schedule(s.rate, 0.1)], [5]
        )
    ),
    "scheduled momentum": lambda s, h: ps.sgd(s.rate, ps.linear_schedule(0.0, s.momentum, 20)),
    "cyclic": lambda s, h: ps.sgd(ps.cyclic_schedule(0.01, s.rate, step_size_up=4)),
    "schedule-free": lambda s, h: ps.schedule_free_sgd(s.rate, b1=s.decay),
    "averaged SGD": lambda s, h: ps.asgd(s.rate, lambd=s.weight_decay, t0=s.start),
    "optimistic": lambda s, h: ps.optimistic_gradient_descent(s.rate / 3),
    "filtered": lambda s, h: ps.chain(ps.grokfast_ema(s.decay, 1.0), ps.sgd(s.rate / 2)),
    "everything": lambda s, h: ps.chain(
        ps.add_decayed_weights(s.weight_decay),
        ps.scale_by_preconditioner(h, s.power),
        ps.multi_steps(ps.trace(s.momentum, nesterov=True), 2),
        ps.scale_by_learning_rate(ps.exponential_decay(s.rate, 10, 0.8)),
        ps.params_ema(s.decay),
    ),
}


def settings() -> Iterator[Setting]:
    return (Setting(index) for index in range(10))


def run(tx, h, params, noise):
    """The parameters and their averages after 0, 1, ... steps of a chain, (steps + 1, n) each."""
    state, found = tx.init(params), [(params, ps.eval_params(tx.init(params), params))]
    for xi in noise:
        updates, state = tx.update(h * params + xi, state, params)
        params = ps.apply_updates(params, updates)
        found.append((params, ps.eval_params(state, params)))
    return tuple(torch.stack(rows) for rows in zip(*found, strict=True))
