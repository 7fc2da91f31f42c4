"""The penalty on gradients of pieces against autograd through the whole loss, and the laws of training with it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rebatch import draws
from rebatch.cutting import ghost_sizes
from rebatch.data.sets import DataSet, Splits
from rebatch.errors import RequestError
from rebatch.execution import Execution
from rebatch.measure import NoiseScale
from rebatch.nn import convert_ghost_batch_norm
from rebatch.observation import Observation, Observer
from rebatch.recipe import Defects, GradientPenalty, Noise, Recipe
from rebatch.reduction import with_loss_reduction
from rebatch.schedule import Constant
from rebatch.training import train
from rebatch.training.penalty import gradient_with_graph, penalty_gradient
from toy import FLOAT64, RECIPE, assert_same_state, state_of, toy_model, toy_sequences, toy_splits, toy_transformer
from training.runs import assert_same_rows, by_hand, mean_loss, run, stopped_and_resumed

STRENGTH, PIECE = 0.3, 8
PENALTY = GradientPenalty(strength=STRENGTH, batch_size=PIECE)
PENALIZED = RECIPE.replace(gradient_penalty=PENALTY)
FLAT = PENALIZED.replace(schedule=Constant(), max_grad_norm=None)


def penalized_loss(model: nn.Module, epoch: int, chosen: Tensor) -> Tensor:
    """The mean loss plus the mean over pieces of |g|^2, by examples, as one graph: the slow twin."""
    total = torch.zeros((), dtype=torch.float64)
    for piece in torch.split(chosen, ghost_sizes(len(chosen), PIECE)):
        loss = mean_loss(model, epoch, piece)
        gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        length = torch.stack([gradient.square().sum() for gradient in gradients]).sum()
        total = total + len(piece) / len(chosen) * (loss + STRENGTH * length)
    return total


def test_the_gradient_of_a_penalty_on_a_quadratic_is_two_h_g() -> None:
    numbers = torch.linspace(-1, 1, 25, dtype=torch.float64).reshape(5, 5)
    hessian, weights = numbers @ numbers.T + torch.eye(5), torch.linspace(1, 2, 5, dtype=torch.float64)
    weights.requires_grad_()
    unused = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    gradients = gradient_with_graph(0.5 * weights @ hessian @ weights, [weights, unused])
    found = penalty_gradient(gradients, [weights, unused], STRENGTH)
    torch.testing.assert_close(found[0], 2 * STRENGTH * hessian @ hessian @ weights.detach(), rtol=1e-12, atol=0)
    assert gradients[1] is None
    assert found[1] is None
    assert penalty_gradient(gradient_with_graph(3 * weights.sum(), [weights]), [weights], STRENGTH) == [None]


def test_a_penalized_run_equals_one_that_goes_down_the_whole_loss() -> None:
    model = convert_ghost_batch_norm(toy_model(), 4)
    by_hand(FLAT, model, loss=penalized_loss)
    _, weights = run(FLAT)
    # Running statistics are the twin's too: each ghost was normalized once.
    assert_same_state(weights, state_of(model), rtol=1e-10)


def test_a_strength_of_zero_is_the_plain_run_bit_for_bit() -> None:
    rows, weights = run()
    found, found_weights = run(RECIPE.replace(gradient_penalty=GradientPenalty(strength=0.0, batch_size=PIECE)))
    assert found == rows
    assert_same_state(found_weights, weights)


def test_a_summed_loss_has_the_same_penalty() -> None:
    mean = PENALIZED.replace(last_batch="drop", max_grad_norm=None)
    summed = with_loss_reduction(mean, "sum")
    assert summed.gradient_penalty == PENALTY
    assert_same_state(run(summed)[1], run(mean)[1], rtol=1e-10)


@pytest.mark.parametrize("micro_batch_size", [8, 12])
def test_micro_batches_hold_whole_pieces_and_do_not_change_the_run(micro_batch_size: int) -> None:
    rows, weights = run(PENALIZED)
    found, found_weights = run(PENALIZED, micro_batch_size=micro_batch_size)
    assert found == rows
    assert_same_state(found_weights, weights)


def test_a_batch_that_is_one_piece_is_penalized_as_a_whole_with_plain_batch_norm_too() -> None:
    recipe = FLAT.replace(
        ghost_batch_size=None, last_batch="drop", gradient_penalty=GradientPenalty(strength=STRENGTH, batch_size=16)
    )

    def whole(model: nn.Module, epoch: int, chosen: Tensor) -> Tensor:
        loss = mean_loss(model, epoch, chosen)
        gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        return loss + STRENGTH * torch.stack([gradient.square().sum() for gradient in gradients]).sum()

    data, model = toy_splits(32), toy_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3, fused=True)
    found = toy_model()
    list(train(found, data, recipe.replace(batch_size=16), seed=1, execution=FLOAT64))
    for epoch in range(3):
        for chosen in torch.split(torch.from_numpy(draws.order(1, epoch, 32)), 16):
            optimizer.zero_grad()
            whole(model, epoch, chosen).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    assert_same_state(state_of(found), state_of(model), rtol=1e-10)


class Seen(Observer):
    """Every gradient that is shown, of pieces and of steps."""

    sees_micro_batches = True

    def start(self, model: nn.Module) -> None:
        self.pieces, self.steps, self.losses = [torch.zeros(())], list[Tensor](), list[Tensor]()

    def gradient(self, position: int, gradient: Tensor) -> None:
        assert not gradient.requires_grad
        self.pieces[-1] = self.pieces[-1] + (gradient.sum() if position == 0 else 0.0)

    def step(self, observation: Observation) -> None:
        gradient = next(observation.model.parameters()).grad
        assert gradient is not None
        self.steps.append(gradient.sum())
        torch.testing.assert_close(self.pieces[-1], self.steps[-1], rtol=1e-10, atol=1e-13)
        self.losses.append(observation.loss)
        self.pieces.append(torch.zeros(()))


def test_what_is_observed_is_the_loss_without_its_penalty() -> None:
    plain, penalized = Seen(), Seen()
    run(RECIPE, observers=[plain])
    run(PENALIZED, observers=[penalized])
    torch.testing.assert_close(penalized.steps[0], plain.steps[0], rtol=1e-10, atol=1e-13)
    assert float(penalized.losses[0]) == pytest.approx(float(plain.losses[0]), rel=1e-10)
    assert abs(float(penalized.steps[1] - plain.steps[1])) > 1e-4  # the first step was another


@pytest.mark.parametrize("piece", [4, 16])
def test_the_noise_scale_is_that_of_the_loss_alone_and_measuring_changes_nothing(piece: int) -> None:
    recipe = RECIPE.replace(gradient_penalty=GradientPenalty(strength=STRENGTH, batch_size=piece), last_batch="drop")
    recipe = recipe.replace(optimizer=recipe.with_lr(1e-9).optimizer)  # weights stay, so both see the same ones
    observers = [NoiseScale(), NoiseScale()]
    options: dict[str, Any] = {"micro_batch_size": 4} if piece == 4 else {}  # as many pieces of the plain step
    run(recipe.replace(gradient_penalty=None), observers=[observers[0]], **options)
    _, weights = run(recipe, observers=[observers[1]])
    expected, found = (observer.estimate() for observer in observers)
    assert expected is not None
    assert found is not None
    assert found.trace.estimate == pytest.approx(expected.trace.estimate, rel=1e-5)
    assert found.square.estimate == pytest.approx(expected.square.estimate, rel=1e-5)
    assert_same_state(run(recipe)[1], weights)


def test_clipping_bounds_loss_and_penalty_together() -> None:
    tight = FLAT.replace(max_grad_norm=0.01)

    def clip(step: int, gradients: list[Tensor]) -> None:
        factor = min(1.0, 0.01 / (float(torch.nn.utils.get_total_norm(gradients)) + 1e-6))
        torch._foreach_mul_(gradients, factor)

    model = convert_ghost_batch_norm(toy_model(), 4)
    by_hand(tight, model, loss=penalized_loss, change=clip)
    assert_same_state(run(tight)[1], state_of(model), rtol=1e-10)


@pytest.mark.parametrize("after", [1, 4])
def test_a_penalized_run_resumes_bit_for_bit(after: int, tmp_path: Path) -> None:
    rows, weights = run(PENALIZED)
    found, found_weights = stopped_and_resumed(PENALIZED, tmp_path, after=after)
    assert found == rows
    assert_same_state(found_weights, weights)


def single(part: DataSet) -> DataSet:
    return DataSet(part.inputs.float(), part.targets)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_other_precisions_take_nearly_the_same_step(precision: Any) -> None:
    """The penalty's own part of the first step, to the precision that the forward pass has."""

    def moved(recipe: Recipe, precision: Any) -> Tensor:
        data, model = toy_splits(), toy_model().to(torch.float64 if precision == "float64" else torch.float32)
        splits = (
            data if precision == "float64" else Splits(single(data.train), single(data.validation), single(data.test))
        )
        next(train(model, splits, recipe, seed=1, execution=Execution(precision=precision)))
        return torch.cat([parameter.detach().double().flatten() for parameter in model.parameters()])

    strong = FLAT.replace(gradient_penalty=GradientPenalty(strength=3.0, batch_size=PIECE))
    plain = FLAT.replace(gradient_penalty=None)
    part, exact = (moved(strong, each) - moved(plain, each) for each in (precision, "float64"))
    error = float((part - exact).norm() / exact.norm())
    assert error < (0.1 if precision == "bfloat16" else 1e-4)


def test_models_that_draw_and_attend_and_batches_that_change_are_penalized_too() -> None:
    noisy = PENALIZED.replace(noise=Noise(multiplicative=0.5, labels=0.1, dropout=0.2), label_smoothing=0.1)
    grows = noisy.replace(batch_schedule=((0.5, 0.5),))
    for recipe in (noisy, grows):
        rows, _ = run(recipe)
        again, _ = run(recipe, micro_batch_size=8)
        assert_same_rows(again, rows)
        assert abs(rows[-1]["train_loss"] - run(recipe.replace(gradient_penalty=None))[0][-1]["train_loss"]) > 1e-4
    transformer = PENALIZED.replace(ghost_batch_size=None)
    rows = list(train(toy_transformer(), toy_sequences(), transformer, seed=1, execution=FLOAT64))
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


class OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x: Tensor = ctx.saved_tensors[0]
        return 2 * x * gradient


class Squares(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = OnceOnly.apply(x)  # type: ignore[no-untyped-call]
        return found


def refused(recipe: Recipe, model: nn.Module | None = None, **options: Any) -> str:
    with pytest.raises(RequestError) as caught:
        run(recipe, model, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_together_is_refused_in_one_line() -> None:
    assert "at least gradient_penalty.batch_size 8, got 4" in refused(PENALIZED, micro_batch_size=4)
    plain = PENALIZED.replace(ghost_batch_size=None)
    assert "plain batch norm (1) would see the pieces of gradient_penalty" in refused(plain)
    own_ghosts = convert_ghost_batch_norm(toy_model(), 3)
    assert "must be a multiple of the model's ghosts of 3, got 8; try 6" in refused(plain, own_ghosts)
    assert "dropconnect zeroes" in refused(PENALIZED.replace(noise=Noise(dropconnect=0.1)))
    assert "cuts ghosts by their number" in refused(PENALIZED.replace(defects=Defects(ghost_split="chunks")))
    compiled = Execution(precision="float64", compile=True)
    assert "a compiled model cannot be, got strength 0.3" in refused(PENALIZED, execution=compiled)
    once = nn.Sequential(nn.Linear(5, 7), Squares(), nn.Linear(7, 3)).double()
    assert "needs a model that can be differentiated twice, and torch says" in refused(plain, once)
