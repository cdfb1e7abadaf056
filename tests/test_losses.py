"""What each loss of one example is, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, vmap

from pure_sgd import losses
from pure_sgd.errors import PureSGDError

GENERATOR = torch.Generator().manual_seed(0)
PREDICTIONS = torch.randn(6, 3, generator=GENERATOR)
TARGETS = torch.randn(6, 3, generator=GENERATOR)
PROBABILITIES = torch.softmax(torch.randn(6, 3, generator=GENERATOR), -1)
LABELS = torch.randint(0, 3, (6,), generator=GENERATOR)

# Every loss, with six predictions of three numbers and what they are compared with.
CASES = {
    "squared_error": TARGETS,
    "l2_loss": TARGETS,
    "huber_loss": TARGETS,
    "sigmoid_binary_cross_entropy": PROBABILITIES,
    "softmax_cross_entropy": PROBABILITIES,
    "softmax_cross_entropy_with_integer_labels": LABELS,
    "zero_one_loss": LABELS,
}


def sentence_of(call) -> str:
    with pytest.raises(PureSGDError) as caught:
        call()
    return str(caught.value)


def test_every_public_loss_is_in_the_table():
    assert sorted(CASES) == losses.__all__


def test_squared_error_is_the_mean_square_and_l2_loss_half_of_it():
    prediction, target = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0])
    assert losses.squared_error(prediction, target) == 2.0
    assert losses.l2_loss(prediction, target) == 1.0


def test_the_slope_of_l2_loss_is_the_residual():
    slope = grad(losses.l2_loss)(torch.tensor(3.0), torch.tensor(1.0))
    assert slope == 2.0


@pytest.mark.parametrize("delta", [0.3, 1.0, 5.0])
def test_huber_loss_is_torchs(delta):
    want = F.huber_loss(PREDICTIONS, TARGETS, delta=delta)
    torch.testing.assert_close(losses.huber_loss(PREDICTIONS, TARGETS, delta), want)


def test_huber_loss_is_quadratic_near_and_linear_far():
    near, far = torch.tensor(0.5), torch.tensor(4.0)
    zero = torch.tensor(0.0)
    assert losses.huber_loss(near, zero, 2.0) == 0.125
    assert losses.huber_loss(far, zero, 2.0) == 2.0 * (4.0 - 1.0)
    slopes = [grad(losses.huber_loss)(x, zero, 2.0) for x in (near, far, -far)]
    assert slopes == [0.5, 2.0, -2.0]


def test_a_threshold_beyond_the_largest_number_is_never_reached():
    assert losses.huber_loss(torch.tensor(4.0), torch.tensor(0.0), 1e308) == 8.0


def test_the_threshold_of_huber_loss_maps_and_differentiates():
    deltas = torch.tensor([0.3, 1.0, 5.0])
    mapped = vmap(losses.huber_loss, (None, None, 0))(PREDICTIONS, TARGETS, deltas)
    looped = [losses.huber_loss(PREDICTIONS, TARGETS, d.item()) for d in deltas]
    torch.testing.assert_close(mapped, torch.stack(looped))
    # d/d delta of delta * (r - delta / 2) is r - delta.
    slope = grad(losses.huber_loss, 2)(torch.tensor(3.0), torch.tensor(0.0), torch.tensor(1.0))
    assert slope == 2.0


@pytest.mark.parametrize("logit", [-3.0, 0.0, 0.7])
def test_binary_cross_entropy_is_minus_the_log_of_the_probability_of_the_label(logit):
    p = 1 / (1 + math.exp(-logit))
    z = torch.tensor(logit, dtype=torch.float64)
    for label, want in [(1, -math.log(p)), (0, -math.log(1 - p))]:
        for dtype in (torch.bool, torch.uint8, torch.int64, torch.float32, torch.float64):
            got = losses.sigmoid_binary_cross_entropy(z, torch.tensor(label).to(dtype))
            assert got.item() == pytest.approx(want, rel=1e-12)


def test_the_slope_of_binary_cross_entropy_is_the_probability_less_the_label():
    slope = grad(losses.sigmoid_binary_cross_entropy)(torch.tensor(0.7), torch.tensor(True))
    torch.testing.assert_close(slope, torch.sigmoid(torch.tensor(0.7)) - 1)


def test_binary_cross_entropy_of_a_large_logit_neither_overflows_nor_rounds_to_zero():
    loss = losses.sigmoid_binary_cross_entropy
    assert loss(torch.tensor(1000.0), torch.tensor(0)) == 1000.0
    assert loss(torch.tensor(1000.0), torch.tensor(1)) == 0.0
    got = loss(torch.tensor(30.0, dtype=torch.float64), torch.tensor(1))
    assert got.item() == pytest.approx(math.log1p(math.exp(-30.0)), rel=1e-12)


def test_cross_entropy_of_uniform_logits_is_the_log_of_the_number_of_classes():
    want = pytest.approx(math.log(4))
    logits, label = torch.full((4,), 100.0), torch.tensor(2)
    one_hot = F.one_hot(label, 4).float()
    assert losses.softmax_cross_entropy_with_integer_labels(logits, label).item() == want
    assert losses.softmax_cross_entropy(logits, one_hot).item() == want


def test_both_cross_entropies_agree_on_a_sequence():
    labels_T = torch.tensor([2, 0, 1, 1, 0, 2])
    from_labels = losses.softmax_cross_entropy_with_integer_labels(PREDICTIONS, labels_T)
    from_one_hot = losses.softmax_cross_entropy(PREDICTIONS, F.one_hot(labels_T, 3))
    torch.testing.assert_close(from_labels, F.cross_entropy(PREDICTIONS, labels_T))
    torch.testing.assert_close(from_one_hot, from_labels)


def test_cross_entropy_takes_any_number_of_axes_in_front_of_the_classes():
    logits, labels = PREDICTIONS.reshape(2, 3, 3), LABELS.reshape(2, 3)
    for loss in (losses.softmax_cross_entropy_with_integer_labels, losses.zero_one_loss):
        torch.testing.assert_close(loss(logits, labels), loss(PREDICTIONS, LABELS))


def test_an_impossible_class_costs_nothing_and_passes_no_gradient():
    logits = torch.tensor([0.0, 0.0, -torch.inf])
    weights = torch.tensor([0.5, 0.5, 0.0])
    assert losses.softmax_cross_entropy(logits, weights).item() == pytest.approx(math.log(2))
    torch.testing.assert_close(grad(losses.softmax_cross_entropy)(logits, weights), torch.zeros(3))


def test_cross_entropy_to_a_class_held_impossible_is_infinite():
    logits = torch.tensor([0.0, -torch.inf])
    assert losses.softmax_cross_entropy(logits, torch.tensor([0.5, 0.5])) == torch.inf


def test_no_label_is_left_out_of_the_mean():
    loss = losses.softmax_cross_entropy_with_integer_labels
    for label in (-100, -1, 3):
        with pytest.raises(PureSGDError, match=f"labels: Target {label} is out of bounds.*from 0 to 2"):
            loss(torch.zeros(2, 3), torch.tensor([0, label]))


def test_zero_one_loss_counts_wrong_predictions():
    logits = torch.tensor([[0.1, 2.0, -1.0], [3.0, 0.0, 1.0]])
    assert vmap(losses.zero_one_loss)(logits, torch.tensor([1, 2])).tolist() == [0.0, 1.0]
    assert losses.zero_one_loss(logits, torch.tensor([1, 2])) == 0.5


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_zero_one_loss_of_one_logit_asks_for_its_sign(dtype):
    logits = torch.tensor([2.0, 2.0, -0.1, -0.1, 0.0])
    labels = torch.tensor([1, 0, 1, 0, 0]).to(dtype)
    wrong = vmap(losses.zero_one_loss)(logits, labels)
    assert wrong.tolist() == [0.0, 1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("name", CASES)
def test_gradients_by_vmap_are_those_of_a_loop(name):
    loss, others = getattr(losses, name), CASES[name]
    mapped = vmap(grad(loss))(PREDICTIONS, others)
    looped = [grad(loss)(x, y) for x, y in zip(PREDICTIONS, others, strict=True)]
    torch.testing.assert_close(mapped, torch.stack(looped))


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"zero_one_loss"}))
def test_gradients_are_those_of_finite_differences(name):
    loss, other = getattr(losses, name), CASES[name][0]
    prediction = PREDICTIONS[0].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, other), prediction)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_loss_is_computed_in_at_least_float32_and_has_the_dtype_of_the_prediction(name, dtype):
    loss, predictions = getattr(losses, name), PREDICTIONS.to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    for prediction, other in zip(predictions, CASES[name], strict=True):
        got, want = loss(prediction, other), loss(prediction.to(wide), other).to(dtype)
        assert (got.shape, got.dtype) == ((), dtype)
        assert torch.equal(got, want)


def test_a_prediction_of_integers_gives_a_float32_loss():
    loss = losses.squared_error(torch.tensor([1, 2]), torch.tensor([1, 4]))
    assert (loss.item(), loss.dtype) == (2.0, torch.float32)


def test_every_loss_compiles_mapped_and_differentiated():
    def gradients(predictions, cases, delta):
        found = {name: vmap(grad(getattr(losses, name)))(predictions, other) for name, other in cases.items()}
        found["delta"] = grad(losses.huber_loss, 2)(predictions, cases["huber_loss"], delta)
        return found

    compiled = torch.compile(gradients, backend="aot_eager", fullgraph=True)
    delta = torch.tensor(0.5)
    got, want = compiled(PREDICTIONS, CASES, delta), gradients(PREDICTIONS, CASES, delta)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", ["squared_error", "l2_loss", "huber_loss"])
def test_nothing_is_broadcast(name):
    assert sentence_of(lambda: getattr(losses, name)(torch.zeros(1), torch.zeros(()))) == (
        f"{name}: prediction has shape (1,) and target (), expected equal shapes. Nothing is "
        "broadcast here: reshape one to the other, and map over a batch with torch.func.vmap."
    )


def test_a_shape_error_calls_the_arguments_by_their_names():
    zeros = torch.zeros(2)
    binary = losses.sigmoid_binary_cross_entropy
    assert "logit has shape (2,) and label ()," in sentence_of(lambda: binary(zeros, zeros[0]))
    soft = losses.softmax_cross_entropy
    assert "logits has shape (2,) and probabilities ()," in sentence_of(lambda: soft(zeros, zeros[0]))
    count = losses.zero_one_loss
    assert "logits has shape () and label (2,)," in sentence_of(lambda: count(zeros[0], zeros))


def test_labels_must_have_the_shape_of_the_logits_less_the_classes():
    loss = losses.softmax_cross_entropy_with_integer_labels
    assert sentence_of(lambda: loss(torch.zeros(5, 3), torch.zeros(3, dtype=torch.int64))) == (
        "softmax_cross_entropy_with_integer_labels: labels has shape (3,) and logits (5, 3), "
        "expected labels of shape (5,). Pass one integer for each row of logits, and map over a "
        "batch with torch.func.vmap."
    )


@pytest.mark.parametrize(
    "name, argument",
    [("softmax_cross_entropy_with_integer_labels", "labels"), ("zero_one_loss", "label")],
)
def test_class_labels_must_be_integers(name, argument):
    loss = getattr(losses, name)
    assert sentence_of(lambda: loss(torch.zeros(3), torch.tensor(1.0))) == (
        f"{name}: {argument} is of dtype torch.float32, expected integers that name the classes. "
        f"Pass {argument}.long(), or softmax_cross_entropy for probabilities."
    )


@pytest.mark.parametrize("name", CASES)
def test_a_loss_of_complex_numbers_is_refused(name: str):
    values = torch.ones(3, dtype=torch.complex64)
    message = f"{name}: [a-z]+ is of dtype torch.complex64, expected real numbers"
    with pytest.raises(PureSGDError, match=message):
        getattr(losses, name)(values, values)


@pytest.mark.parametrize(
    "name", ["softmax_cross_entropy", "softmax_cross_entropy_with_integer_labels", "zero_one_loss"]
)
def test_a_single_output_is_no_set_of_classes(name):
    other = torch.zeros(1) if name == "softmax_cross_entropy" else torch.tensor(0)
    assert sentence_of(lambda: getattr(losses, name)(torch.zeros(1), other)) == (
        f"{name}: logits has shape (1,), expected a last axis of two or more classes. Give the "
        "model one output per class, or use sigmoid_binary_cross_entropy on a single logit."
    )


def test_the_threshold_of_huber_loss_must_be_positive():
    assert sentence_of(lambda: losses.huber_loss(PREDICTIONS, TARGETS, 0.0)) == (
        "huber_loss: delta=0.0 lies outside (0, inf). Pass a delta within these bounds."
    )
