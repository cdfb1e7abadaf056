"""The best hyperparameters, and how far each method's best scales with the batch size."""

from __future__ import annotations

import pytest
import torch

import pure_sgd as ps
from pure_sgd import theory

PROBLEM = theory.noisy_quadratic_model(20, batch_size=16)


def test_the_best_rate_is_that_of_a_fine_grid():
    best = theory.optimal(ps.sgd, PROBLEM, 50, {"learning_rate": 0.05})
    grid = torch.logspace(-3, 0.2, 2000, dtype=torch.float64)
    risks = torch.func.vmap(lambda rate: theory.final_risk(ps.sgd(rate), PROBLEM, 50))(grid)
    rate = best.hyperparameters["learning_rate"].item()
    assert rate == pytest.approx(grid[risks.argmin()].item(), rel=2e-3)
    assert best.risk.item() <= risks.min().item()
    assert best.slope < 1e-8


def test_the_best_first_step_weighs_the_error_against_the_noise():
    """After one step the risk is h/2 ((1 - rate h)^2 + rate^2 c): the best rate is h / (h^2 + c)."""
    best = theory.optimal(ps.sgd, theory.NoisyQuadratic(0.5, 2.0), 1, {"learning_rate": 1.0})
    assert best.hyperparameters["learning_rate"].item() == pytest.approx(0.5 / 2.25, rel=1e-8)


def test_several_at_once_by_the_gradient():
    def tx_of(learning_rate, momentum, decay):
        return ps.chain(ps.sgd(learning_rate, momentum), ps.params_ema(decay))

    start = {"learning_rate": 0.1, "momentum": 0.5, "decay": 0.5}
    best = theory.optimal(tx_of, PROBLEM, 60, start, bounds={"momentum": (0, 1), "decay": (0, 1)})
    alone = theory.optimal(ps.sgd, PROBLEM, 60, {"learning_rate": 0.1})
    assert best.risk < alone.risk
    place = best.hyperparameters
    for name in start:
        for factor in (0.99, 1.01):
            near = {**place, name: place[name] * factor}
            assert theory.final_risk(tx_of(**near), PROBLEM, 60) >= best.risk * (1 - 1e-12)


def test_a_schedule_has_a_best_shape():
    def tx_of(learning_rate, decay_rate):
        return ps.sgd(ps.inverse_time_decay_schedule(learning_rate, decay_rate))

    start = {"learning_rate": 0.3, "decay_rate": 0.3}
    best = theory.optimal(tx_of, theory.NoisyQuadratic(1.0, 1.0), 40, start)
    # The best rate is 1 / (2 + t): the parameter is the mean of the examples and of the start as one more.
    assert best.hyperparameters["learning_rate"].item() == pytest.approx(0.5, rel=1e-4)
    assert best.hyperparameters["decay_rate"].item() == pytest.approx(0.5, rel=1e-4)
    assert best.risk.item() == pytest.approx(0.5 / 41, rel=1e-8)


@pytest.mark.parametrize(
    "start, bounds, told",
    [
        ({}, None, "start names"),
        ({"learning_rate": 0.1}, {"momentum": (0, 1)}, r"bounds \['momentum'\] besides"),
        ({"learning_rate": 0.0}, None, "learning_rate=0.0 lies outside"),
        ({"learning_rate": 2.0}, {"learning_rate": (0, 1)}, "learning_rate=2.0 lies outside"),
        ({"learning_rate": 1e100}, None, "not finite"),
    ],
)
def test_searches_that_cannot_begin(start, bounds, told):
    with pytest.raises(ps.PureSGDError, match=told):
        theory.optimal(ps.sgd, PROBLEM, 5, start, bounds)


def small(**kwargs):
    problem = theory.noisy_quadratic_model(300)
    return theory.critical_batch_size(problem, [1, 16, 256, 2**16], target=0.05, groups=16, **kwargs)


def test_steps_are_the_first_that_reach_the_target():
    found = small(families={"sgd": theory.classical_families(torch.ones(1))["sgd"]})
    problem = theory.noisy_quadratic_model(300)
    for index, batch_size in list(enumerate(found.batch_sizes.tolist()))[1:]:
        rate = found.hyperparameters["sgd"]["learning_rate"][index].item()
        risk = theory.risk(ps.sgd(rate), problem.with_batch_size(batch_size), 2500).params.total
        reached = (risk <= 0.05).nonzero()[0].item()
        assert found.steps["sgd"][index].item() == pytest.approx(reached, rel=0.02)  # of the groups
        best = theory.optimal(
            ps.sgd, problem.with_batch_size(batch_size), reached, {"learning_rate": rate}
        ).risk.item()
        assert best == pytest.approx(0.05, rel=0.02)


def test_who_scales_how_far():
    """Zhang et al. 2019: averaging helps at small batches, momentum and preconditioning at large ones."""
    found = small()
    sgd, momentum, ema, preconditioning = (
        found.steps[name] for name in ("sgd", "momentum", "ema", "preconditioning")
    )
    assert (sgd[0] / sgd[1]).item() == pytest.approx(16, rel=0.1)  # perfect scaling
    assert sgd[2] / sgd[3] < 3  # and its end
    assert ema[0] < 0.5 * sgd[0]
    assert ema[3].item() == pytest.approx(sgd[3].item(), rel=0.03)
    assert momentum[0].item() == pytest.approx(sgd[0].item(), rel=0.1)
    assert momentum[3] < 0.2 * sgd[3]
    assert preconditioning[3] < 0.2 * sgd[3]
    critical = found.critical
    assert critical["ema"] < critical["sgd"] < 0.2 * critical["momentum"]
    assert critical["sgd"] < 0.2 * critical["preconditioning"]
    rates = found.hyperparameters["sgd"]["learning_rate"]
    assert (rates[1] / rates[0]).item() == pytest.approx(16, rel=0.1)  # the best rate grows with the batch
    assert rates[3] < 2.0


#: Steps to a risk of 0.01 on the noisy quadratic model in 10,000 coordinates, for batches of 4**0 ... 4**9.
STEPS = {
    "sgd": [6008844, 1503559, 377206, 95688, 25712, 10333, 7819, 7137, 6877, 6763],
    "momentum": [6002272, 1496887, 370458, 88620, 22783, 5037, 1264, 342, 185, 169],
    "ema": [869086, 217943, 54306, 14273, 8426, 7204, 6863, 6757, 6727, 6716],
    "preconditioning": [1391292, 347832, 86961, 21744, 5440, 1364, 345, 107, 86, 83],
}
FEWEST = {"sgd": 6709, "momentum": 160, "ema": 6709, "preconditioning": 82}
CRITICAL = {"sgd": 688, "momentum": 19036, "ema": 75.3, "preconditioning": 9881}


@pytest.mark.slow
def test_the_figure_of_the_paper():
    found = theory.critical_batch_size(
        theory.noisy_quadratic_model(10_000), [4**power for power in range(10)], target=0.01
    )
    for name, expected in STEPS.items():
        assert found.steps[name].tolist() == pytest.approx(expected, rel=0.01)
        assert found.fewest[name].item() == pytest.approx(FEWEST[name], rel=0.01)
        assert found.critical[name].item() == pytest.approx(CRITICAL[name], rel=0.01)


def test_what_is_never_reached_takes_forever():
    slow = {"slow": theory.Family(lambda h, rate: ps.sgd(rate), {"rate": [1e-6, 1e-5]})}
    found = small(families=slow, most_steps=1000)
    assert found.steps["slow"].isinf().all()
    assert found.hyperparameters["slow"]["rate"].isnan().all()
    assert found.critical["slow"].isnan()


def test_families_are_linear_and_constant():
    with pytest.raises(ps.PureSGDError, match=r"scale_by_adam\(\) is not linear"):
        small(families={"adam": theory.Family(lambda h, rate: ps.adam(rate), {"rate": [0.1]})})
    decaying = theory.Family(
        lambda h, rate: ps.sgd(ps.inverse_time_decay_schedule(rate, 0.1)), {"rate": [0.1]}
    )
    with pytest.raises(ps.PureSGDError, match="the steps of decaying differ from each other"):
        small(families={"decaying": decaying})


@pytest.mark.parametrize("arguments", [([0], 0.1), ([1], 0.0), ([1], -1.0)])
def test_batch_sizes_and_targets_are_positive(arguments):
    with pytest.raises(ps.PureSGDError, match="lies outside"):
        theory.critical_batch_size(PROBLEM, *arguments)
