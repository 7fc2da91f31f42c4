"""The quadratic model against a table of Zhang's setting, against recursions step by step, against walks with noise."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from rebatch.errors import RequestError
from rebatch.quadratic import NoisyQuadratic, best_lr, harmonic, loss_at, rest_loss, steps_to_target

Array = NDArray[np.float64]

# Steps and rate/(1 - momentum) by batch size, each at its best rate: 10,000 coordinates, from a model of its own.
TABLE = {
    (4, 0.0): (1_507_533, 0.0136),
    (16, 0.0): (378_198, 0.0540),
    (64, 0.0): (95_942, 0.212),
    (256, 0.0): (25_778, 0.774),
    (1024, 0.0): (10_354, 1.64),
    (4096, 0.0): (7_832, 1.86),
    (16_384, 0.0): (7_147, 1.94),
    (65_536, 0.0): (6_887, 1.97),
    (2**20, 0.0): (6_720, 1.99),
    (64, 0.9): (94_190, 0.217),
    (256, 0.9): (23_606, 0.864),
    (1024, 0.9): (5_963, 3.41),
    (4096, 0.9): (1_569, 12.6),
    (16_384, 0.9): (571, 29.9),
    (65_536, 0.9): (411, 35.0),
    (2**20, 0.9): (355, 37.4),
}


def some_model(seed: int = 0, coordinates: int = 7) -> NoisyQuadratic:
    rng = np.random.default_rng(seed)
    return NoisyQuadratic(rng.uniform(0.05, 1.5, coordinates), rng.uniform(0.0, 2.0, coordinates))


def losses_step_by_step(
    model: NoisyQuadratic, batch_size: float, lr: float, momentum: float, steps: int
) -> list[float]:
    """The twin: E theta^2, E theta v and E v^2 of every coordinate, one step v' = mu v + g, theta' = theta - lr v'."""
    h, mu = model.curvatures, momentum
    square, product, velocity = model.start.copy(), np.zeros_like(h), np.zeros_like(h)
    losses = [0.5 * float(h @ square)]
    for _ in range(steps):
        new_velocity = mu**2 * velocity + 2 * mu * h * product + h**2 * square + h / batch_size
        new_product = mu * product + h * square  # E theta v', before theta moves
        square = square - 2 * lr * new_product + lr**2 * new_velocity
        product = new_product - lr * new_velocity
        velocity = new_velocity
        losses.append(0.5 * float(h @ square))
    return losses


# The others take a second each.
QUICK = {(64, 0.0), (1024, 0.0), (2**20, 0.0), (64, 0.9), (4096, 0.9), (2**20, 0.9)}
COLUMNS = [pytest.param(*at, marks=() if at in QUICK else pytest.mark.slow) for at in TABLE]


@pytest.mark.parametrize(("batch_size", "momentum"), COLUMNS)
def test_best_steps_and_rates_are_those_of_the_table(batch_size: int, momentum: float) -> None:
    steps, rate = TABLE[batch_size, momentum]
    best = best_lr(harmonic(), batch_size, momentum)
    assert best.steps == pytest.approx(steps, rel=2e-5, abs=1)
    assert best.lr / (1 - momentum) == pytest.approx(rate, rel=0.01)


@pytest.mark.parametrize("momentum", [0.0, 0.25, 0.9])
@pytest.mark.parametrize("batch_size", [3, 11.0, math.inf])
def test_losses_are_those_of_the_recursion_step_by_step(momentum: float, batch_size: float) -> None:
    model = some_model()
    for lr in (0.01, 0.3, 0.999 * model.largest_lr(momentum)):
        expected = losses_step_by_step(model, batch_size, lr, momentum, 203)
        found = [loss_at(model, batch_size, lr, momentum, step=step) for step in range(204)]
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-10)  # the twin's momentum cancels


def test_equal_roots_of_a_coordinate_are_no_exception() -> None:
    model = NoisyQuadratic(np.array([1.0]), np.array([1.0]))  # critically damped: lr h = (1 - sqrt(mu))^2
    expected = losses_step_by_step(model, 5, 0.25, 0.25, 50)
    assert [loss_at(model, 5, 0.25, 0.25, step=step) for step in range(51)] == pytest.approx(expected, rel=1e-10)


def test_the_mean_square_of_many_noisy_walks_is_that_loss() -> None:
    model, batch_size, lr, momentum, walks = some_model(coordinates=3), 5, 0.2, 0.6, 20_000
    rng = np.random.default_rng(1)
    weights = np.sqrt(model.start) * rng.choice([-1.0, 1.0], (walks, 3))
    velocity = np.zeros_like(weights)
    for step in range(1, 14):
        noise = np.sqrt(model.curvatures / batch_size) * rng.standard_normal(weights.shape)
        velocity = momentum * velocity + model.curvatures * weights + noise
        weights = weights - lr * velocity
        losses = 0.5 * weights**2 @ model.curvatures
        error = losses.std() / math.sqrt(walks)
        assert abs(losses.mean() - loss_at(model, batch_size, lr, momentum, step=step)) < 4 * error


@pytest.mark.parametrize("momentum", [0.0, 0.25, 0.9])
def test_the_first_step_below_the_target_is_found(momentum: float) -> None:
    model = harmonic(13)
    for lr in (0.01, 0.1, 0.7, 1.3):
        losses = losses_step_by_step(model, 101, lr, momentum, 3000)
        rest = rest_loss(model, 101, lr, momentum)
        for target in (1.5, 0.1, 0.03):
            found = steps_to_target(model, 101, lr, momentum, target=target)
            if rest >= target:
                assert found == math.inf
                continue
            below = [step for step, loss in enumerate(losses) if loss < target]
            if momentum == 0.0:
                assert found == below[0]
            else:  # a ripple may pass it twice
                assert losses[int(found)] < target <= losses[int(found) - 1]
                assert found <= 1.5 * below[0]


def test_the_loss_comes_to_rest_where_noise_holds_it() -> None:
    model = some_model()
    for momentum in (0.0, 0.5):
        late = losses_step_by_step(model, 7, 0.4, momentum, 5000)[-1]
        assert rest_loss(model, 7, 0.4, momentum) == pytest.approx(late, rel=1e-10)
    # By hand, one coordinate: a^2 s + lr^2 h / B = s with a = 1 - lr h.
    one = NoisyQuadratic(np.array([0.5]), np.array([1.0]))
    assert rest_loss(one, 3, 0.8) == pytest.approx(0.25 * 0.8**2 * 0.5 / 3 / (1 - 0.6**2))
    assert rest_loss(one, math.inf, 0.8) == 0.0
    assert rest_loss(one, 3, 4.0) == math.inf


def test_no_rate_of_a_fine_grid_is_better_than_the_best() -> None:
    model = harmonic(50)
    for batch_size, momentum in ((2, 0.0), (97, 0.0), (97, 0.8), (math.inf, 0.8)):
        best = best_lr(model, batch_size, momentum)
        assert steps_to_target(model, batch_size, best.lr, momentum) == best.steps
        grid = np.geomspace(1e-3, 0.9999, 400) * model.largest_lr(momentum)
        least = min(steps_to_target(model, batch_size, lr, momentum) for lr in grid)
        assert best.steps <= 1.005 * least + 1


def test_one_coordinate_without_noise_is_known_by_hand() -> None:
    one = NoisyQuadratic(np.array([2.0]), np.array([1.0]))
    assert steps_to_target(one, math.inf, 0.25, target=0.01) == 4  # (1 - 0.5)^(2t) < 0.01: t > 3.32
    assert steps_to_target(one, math.inf, 0.5) == 1  # straight to the minimum
    assert steps_to_target(one, math.inf, 0.25, target=1.5) == 0
    assert best_lr(one, math.inf).steps == 1
    flat = NoisyQuadratic(np.array([1e-30]), np.array([1e30]))
    assert steps_to_target(flat, math.inf, 1.0, target=0.4) == math.inf  # 1 - 1e-30 is 1


@pytest.mark.parametrize(
    ("batch_size", "lr", "momentum", "message"),
    [
        (0, 0.1, 0.0, "batch_size must be positive, got 0"),
        (1, 0.0, 0.0, "lr must be positive and finite, got 0"),
        (1, math.inf, 0.0, "lr must be positive and finite, got inf"),
        (1, 0.1, 1.0, "momentum must be at least 0 and below 1, got 1"),
        (math.nan, 0.1, 0.0, "batch_size must be positive, got nan"),
    ],
)
def test_numbers_out_of_range_are_refused(batch_size: float, lr: float, momentum: float, message: str) -> None:
    for function in (rest_loss, steps_to_target):
        with pytest.raises(RequestError, match=message):
            function(harmonic(3), batch_size, lr, momentum)


def test_models_targets_and_unstable_rates_are_refused() -> None:
    with pytest.raises(RequestError, match=r"two rows of one length, got \(2,\) and \(3,\)"):
        NoisyQuadratic(np.ones(2), np.ones(3))
    with pytest.raises(RequestError, match="curvatures must be positive"):
        NoisyQuadratic(np.zeros(2), np.ones(2))
    for function in (
        lambda: steps_to_target(harmonic(3), 1, 0.1, target=0.0),
        lambda: best_lr(harmonic(3), 1, target=0),
    ):
        with pytest.raises(RequestError, match="target must be a positive loss, got 0"):
            function()
    with pytest.raises(RequestError, match="lr must be below 2, where the steepest coordinate does not rest, got 2"):
        loss_at(harmonic(3), 1, 2.0, step=1)
