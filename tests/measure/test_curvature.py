"""The top eigenvalue against quadratics whose eigenvalues are written down, and against the whole Hessian."""

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rebatch
from rebatch import AdamW, RequestError
from rebatch.measure import Curvature, NoiseScale, TopEigenvalue, adam_denominator, top_eigenvalue
from rebatch.observation import Observation, Observer
from rebatch.training import Row
from toy import RECIPE, assert_same_state, state_of, toy_model, toy_splits
from training.runs import run, stopped_and_resumed

DATA = toy_splits().train


def loss_of(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(DATA.inputs), DATA.targets)


def dense_hessian(model: nn.Module, loss: Callable[[nn.Module], Tensor] = loss_of) -> Tensor:
    """The twin: one row per weight, by differentiating the gradient's entries one after the other."""
    weights = list(model.parameters())
    gradient = torch.autograd.grad(loss(model), weights, create_graph=True)
    entries = torch.cat([part.reshape(-1) for part in gradient])
    rows = [torch.autograd.grad(entry, weights, retain_graph=True) for entry in entries]
    return torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])


@pytest.mark.parametrize("eigenvalues", [(5.0, 3.0, 2.0), (-7.0, 5.0, 0.0, 1.0), (-7.0, -5.0, -11.0)])
def test_it_is_the_most_positive_one_of_a_quadratic_and_not_the_longest(eigenvalues: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    basis = torch.from_numpy(np.linalg.qr(rng.normal(size=(len(eigenvalues), len(eigenvalues))))[0])
    matrix = basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T
    weight = torch.from_numpy(rng.normal(size=len(eigenvalues))).requires_grad_()
    found = top_eigenvalue(lambda: 0.5 * weight @ matrix @ weight, [weight])
    assert found.value == pytest.approx(max(eigenvalues), abs=1e-10)
    assert found.residual < 1e-8


def test_a_weight_that_the_loss_is_linear_in_has_no_curvature() -> None:
    first = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    second = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    found = top_eigenvalue(lambda: 3.5 * first.square().sum() + 4.0 * second.sum(), [first, second])
    assert found.value == pytest.approx(7.0)


@pytest.mark.parametrize("training", [True, False])
def test_it_is_that_of_the_whole_hessian(training: bool) -> None:
    model = toy_model().train(training)
    values = torch.linalg.eigvalsh(dense_hessian(model))
    found = top_eigenvalue(lambda: loss_of(model), list(model.parameters()), tolerance=1e-8)
    assert found.value == pytest.approx(values[-1].item(), rel=1e-6)
    assert found.residual < 1e-5 * found.value
    assert found.products < 20 * len(values)
    rough = top_eigenvalue(lambda: loss_of(model), list(model.parameters()), tolerance=1e-2)
    assert rough.value == pytest.approx(found.value, rel=1e-2)
    assert rough.products <= found.products


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # what its dependencies use of torch as they load
def test_curvlinops_and_scipy_find_the_same() -> None:
    # A second hand, which scripts/install fetches without its dependencies: one of them asks for torchvision.
    curvlinops = pytest.importorskip("curvlinops", reason="curvlinops, an independent check, is not installed")
    from scipy.sparse.linalg import eigsh

    model = toy_model().eval()
    weights = list(model.parameters())
    batch = [(DATA.inputs, DATA.targets)]
    hessian = curvlinops.HessianLinearOperator(model, nn.CrossEntropyLoss(), weights, batch)
    (expected,) = eigsh(hessian.to_scipy(dtype=np.float64), k=1, which="LA", tol=1e-10, return_eigenvectors=False)
    found = top_eigenvalue(lambda: loss_of(model), weights, tolerance=1e-10)
    assert found.value == pytest.approx(expected, rel=1e-8)


def test_the_seed_of_the_first_vector_decides_nothing_but_digits() -> None:
    model = toy_model().eval()
    weights = list(model.parameters())
    values = [top_eigenvalue(lambda: loss_of(model), weights, seed=seed, tolerance=1e-8).value for seed in range(3)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-6)
    assert top_eigenvalue(lambda: loss_of(model), weights, tolerance=1e-8).value == values[0]


def test_measuring_leaves_weights_buffers_gradients_and_the_global_generator_as_they_were() -> None:
    model = toy_model().eval()
    before, generator = state_of(model), torch.get_rng_state()
    top_eigenvalue(lambda: loss_of(model), list(model.parameters()))
    assert_same_state(state_of(model), before)
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


def test_its_cost_is_told_in_gradients() -> None:
    """A gradient with its graph, and two for each product."""
    model = toy_model().eval()
    calls = 0

    def loss() -> Tensor:
        nonlocal calls
        calls += 1
        return loss_of(model)

    found = top_eigenvalue(loss, list(model.parameters()))
    assert calls == 1
    assert found.gradients == 1.0 + 2.0 * found.products


def test_too_few_products_give_the_best_so_far_and_say_so() -> None:
    model = toy_model().eval()
    values = torch.linalg.eigvalsh(dense_hessian(model))
    found = top_eigenvalue(lambda: loss_of(model), list(model.parameters()), tolerance=1e-10, max_products=5)
    assert not found.converged
    assert found.products == 5
    assert found.value < values[-1].item()
    assert (found.low, found.estimate, found.high) == (
        found.value - found.residual,
        found.value,
        found.value + found.residual,
    )
    assert any(found.low <= value <= found.high for value in values.tolist())
    assert "not converged; 5 products, 11 gradients" in str(found)
    assert "(converged; " in str(top_eigenvalue(lambda: loss_of(model), list(model.parameters())))


def test_a_loss_that_is_not_finite_has_none() -> None:
    weight = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    found = top_eigenvalue(lambda: (weight.square() * math.nan).sum(), [weight])
    assert math.isnan(found.value)
    assert not found.converged


def test_a_loss_that_is_linear_has_none_and_that_is_found() -> None:
    weight = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    unused = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    found = top_eigenvalue(lambda: 2.0 * weight.sum(), [weight, unused])
    assert (found.value, found.residual, found.converged) == (0.0, 0.0, True)


def preconditioned(hessian: Tensor, diagonal: Sequence[Tensor]) -> float:
    """The twin: the largest eigenvalue of P^-1/2 H P^-1/2, all of it written out."""
    root = torch.diag(torch.cat([part.reshape(-1) for part in diagonal]).pow(-0.5))
    return float(torch.linalg.eigvalsh(root @ hessian @ root)[-1])


def test_a_preconditioner_stands_on_both_sides() -> None:
    model = toy_model().eval()
    weights = list(model.parameters())
    rng = np.random.default_rng(0)
    diagonal = [torch.from_numpy(rng.uniform(0.01, 1.0, size=weight.shape)) for weight in weights]
    found = top_eigenvalue(lambda: loss_of(model), weights, tolerance=1e-9, preconditioner=diagonal)
    assert found.value == pytest.approx(preconditioned(dense_hessian(model), diagonal), rel=1e-9)


def test_a_preconditioner_that_is_not_positive_is_refused() -> None:
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RequestError, match="a preconditioner must be positive, got 0; an eps > 0 makes Adam's so"):
        top_eigenvalue(lambda: weight.square().sum(), [weight], preconditioner=[torch.tensor([1.0, 0.0, 1.0]).double()])


# The observer. A loop in which the weights stand still and the Hessian drifts:


class Quadratic(nn.Module):
    """w' A w / 2, whose Hessian is A whatever the weights are."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = matrix
        self.weight = nn.Parameter(torch.ones(len(matrix), dtype=torch.float64))

    def forward(self) -> Tensor:
        return 0.5 * self.weight @ self.matrix @ self.weight


def drifting(at: float, size: int = 53) -> Tensor:
    """Eigenvalues from -1 to 2, and about 5 along a vector that turns away from the first one as `at` grows."""
    rng = np.random.default_rng(0)
    basis = torch.from_numpy(np.linalg.qr(rng.normal(size=(size, size)))[0])
    top = math.cos(at) * basis[:, 0] + math.sin(at) * basis[:, 1:].mean(1) * math.sqrt(size - 1)
    rest = basis @ torch.diag(torch.linspace(-1.0, 2.0, size).double()) @ basis.T
    return rest + (5.0 + at) * torch.outer(top, top)


def look(observer: Curvature, model: nn.Module, step: int) -> TopEigenvalue:
    observer.step(Observation(step, model, examples=1, lr=0.1, loss=torch.zeros(())))
    found = observer.estimate()
    assert found is not None
    return found


def test_it_follows_a_hessian_that_drifts_for_a_few_products() -> None:
    model, observer = Quadratic(drifting(0.0)), Curvature(lambda model: model(), every=1)
    observer.start(model)
    cold = look(observer, model, 0)
    assert cold.products >= 20
    for step in range(1, 40):
        model.matrix = drifting(0.04 * step)  # 90 degrees in all
        found = look(observer, model, step)
        assert found.converged
        assert found.products <= 4
        assert found.value == pytest.approx(torch.linalg.eigvalsh(model.matrix)[-1].item(), rel=1e-3)


def test_a_look_that_does_not_converge_says_so_and_the_next_goes_on_from_there() -> None:
    model = Quadratic(drifting(0.0))
    observer = Curvature(lambda model: model(), every=1, tolerance=1e-9, max_products=3)
    observer.start(model)
    look(observer, model, 0)
    model.matrix = drifting(1.0)
    residuals = []
    for step in range(1, 30):
        found = look(observer, model, step)
        residuals.append(found.residual)
        if step == 1:
            assert not found.converged
            assert found.products == 3
            assert "not converged" in str(observer.summary(model)["top_eigenvalue"])
    assert found.converged
    assert residuals[-1] < 1e-8 < residuals[0]
    assert found.value == pytest.approx(torch.linalg.eigvalsh(model.matrix)[-1].item(), rel=1e-9)


def test_a_look_at_what_is_not_finite_is_nan_and_the_next_starts_afresh() -> None:
    model, observer = Quadratic(drifting(0.0)), Curvature(lambda model: model(), every=1)
    observer.start(model)
    look(observer, model, 0)
    model.matrix = drifting(0.0) * math.nan
    assert math.isnan(look(observer, model, 1).value)
    model.matrix = drifting(0.0)
    found = look(observer, model, 2)
    assert found.products >= 20
    assert found.value == pytest.approx(torch.linalg.eigvalsh(model.matrix)[-1].item(), rel=1e-3)


def test_it_looks_at_every_so_many_steps_only() -> None:
    steps: list[int] = []

    class Step(Observer):
        def step(self, observation: Observation) -> None:
            steps.append(observation.step)

    looked: list[int] = []

    def loss(model: nn.Module) -> Tensor:
        looked.append(steps[-1])
        return loss_of(model)

    rows, _ = run(RECIPE, observers=[Step(), Curvature(loss, every=4)])
    assert steps == list(range(9))
    assert looked == [0, 4, 8]
    assert all(row["top_eigenvalue_residual"] < 0.03 * row["top_eigenvalue"] for row in rows)


@pytest.mark.parametrize("training", [True, False])
def test_it_is_that_of_the_weights_before_the_step(training: bool) -> None:
    """The same number as from the whole Hessian, at each step of a run; the modes are those that the loss chooses."""
    expected: list[float] = []

    class Dense(Observer):
        def step(self, observation: Observation) -> None:
            twin = copy.deepcopy(observation.model).train(training)
            expected.append(torch.linalg.eigvalsh(dense_hessian(twin))[-1].item())

    class Follows(Curvature):
        def step(self, observation: Observation) -> None:
            super().step(observation)
            found = self.estimate()
            assert found is not None
            assert found.value == pytest.approx(expected[-1], rel=1e-7)

    observer = Follows(lambda model: loss_of(model.train(training)), every=1, tolerance=1e-6, max_products=100)
    run(RECIPE, observers=[Dense(), observer])
    assert len(expected) == 9


DROPOUT = 0.3


def followers() -> list[Observer]:
    """Two of them beside a measurement that sees every gradient and call, and must not see theirs."""
    return [
        NoiseScale(split_every=2, split_share=0.5),
        Curvature(loss_of, every=2),
        Curvature(lambda model: loss_of(model.eval()), every=3, norm="adam"),
    ]


def without_curvature(rows: list[Row]) -> list[Row]:
    return [{name: value for name, value in row.items() if "top_eigenvalue" not in name} for row in rows]


ADAMW = RECIPE.replace(optimizer=AdamW(lr=0.01), ghost_batch_size=None)


def test_following_does_not_change_the_run_nor_what_others_measure() -> None:
    rows, weights = run(ADAMW, toy_model(norm=False, dropout=DROPOUT), observers=followers()[:1])
    watched_rows, watched = run(ADAMW, toy_model(norm=False, dropout=DROPOUT), observers=followers())
    assert_same_state(watched, weights)
    assert "adam_top_eigenvalue" in watched_rows[-1]
    assert without_curvature(watched_rows) == rows


def test_in_a_loop_of_ones_own_it_is_not_seen_by_others_and_dropout_draws_the_same_at_each_look() -> None:
    model = toy_model(norm=False, dropout=DROPOUT)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def rows(*measure: Observer) -> list[dict[str, float]]:
        torch.manual_seed(7)
        watch = rebatch.watch(model, optimizer, batch_size=37, measure=measure)
        found = []
        for _ in range(4):
            optimizer.zero_grad()
            loss_of(model).backward()  # type: ignore[no-untyped-call]
            watch.step()
            found.append(watch.row())
        watch.close()
        return found

    def noise() -> NoiseScale:
        return NoiseScale(split_every=1, split_share=0.5)

    found = rows(Curvature(loss_of, every=1, tolerance=1e-9, max_products=100), noise())
    assert without_curvature(found) == rows(noise())
    assert [row["top_eigenvalue"] for row in found] == pytest.approx([found[0]["top_eigenvalue"]] * 4, rel=1e-9)


@pytest.mark.parametrize("ghost", [None, 4])
def test_running_statistics_of_batch_norm_stay_what_they_were(ghost: int | None) -> None:
    recipe = RECIPE.replace(ghost_batch_size=ghost)
    rows, weights = run(recipe)
    watched_rows, watched = run(recipe, observers=[Curvature(lambda model: loss_of(model.train()), every=1)])
    assert_same_state(watched, weights)
    assert without_curvature(watched_rows) == rows


@pytest.mark.parametrize("stop_after", [1, 4, 7])
def test_a_resumed_run_follows_on_bit_for_bit(stop_after: int, tmp_path: Path) -> None:
    def model() -> nn.Module:
        return toy_model(dropout=DROPOUT)

    def observers() -> list[Observer]:
        return [Curvature(loss_of, every=2), Curvature(loss_of, every=3, norm="adam")]

    recipe = RECIPE.replace(optimizer=AdamW(lr=0.01))
    rows, weights = run(recipe, model(), observers=observers())
    resumed_rows, resumed = stopped_and_resumed(recipe, tmp_path, after=stop_after, model=model, observers=observers)
    assert resumed_rows == rows
    assert_same_state(resumed, weights)


def test_adams_is_that_of_the_hessian_in_adams_metric() -> None:
    """By `rebatch.watch`, in a loop of torch's: nothing before Adam's first step, then as the twin says."""
    model = toy_model(norm=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    watch = rebatch.watch(
        model,
        optimizer,
        batch_size=37,
        measure=[Curvature(loss_of, every=1, norm="adam", tolerance=1e-8, max_products=100)],
    )
    for step in range(4):
        optimizer.zero_grad()
        loss_of(model).backward()  # type: ignore[no-untyped-call]
        watch.step()
        if step == 0:
            assert not watch.summary()
            assert watch.row() == {}
        else:
            known = [adam_denominator(optimizer, weight) for weight in model.parameters()]
            diagonal = [each for each in known if each is not None]
            found = watch.summary()["adam_top_eigenvalue"]
            assert found.estimate == pytest.approx(preconditioned(dense_hessian(model), diagonal), rel=1e-9)
            assert found.low <= found.estimate <= found.high
            assert watch.row()["adam_top_eigenvalue"] == found.estimate
        optimizer.step()
    assert "adam_top_eigenvalue  " in str(watch.summary())
    assert "(converged; " in str(watch.summary())


def test_weights_that_adam_has_not_moved_are_left_out() -> None:
    model = toy_model(norm=False)
    moved = list(model[3].parameters())
    optimizer = torch.optim.Adam(moved, lr=0.01)
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    observer = Curvature(loss_of, norm="adam", tolerance=1e-8)
    observer.start(model)
    observer.step(Observation(0, model, 37, 0.01, torch.zeros(()), optimizer))
    known = [adam_denominator(optimizer, weight) for weight in moved]
    diagonal = [each for each in known if each is not None]
    count = sum(weight.numel() for weight in moved)
    block = dense_hessian(model)[-count:, -count:]
    found = observer.estimate()
    assert found is not None
    assert found.value == pytest.approx(preconditioned(block, diagonal), rel=1e-9)


def test_an_optimizer_without_squared_gradients_has_no_metric_of_adams() -> None:
    with pytest.raises(RequestError, match="needs an optimizer that keeps squared gradients, got SGD"):
        run(RECIPE, observers=[Curvature(loss_of, every=1, norm="adam")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every >= 1, .* got 0, 0.03 and 8"),
        ({"tolerance": 0.0}, "tolerance > 0 .* got 100, 0.0 and 8"),
        ({"max_products": 2}, "max_products >= 3, got 100, 0.03 and 2"),
    ],
)
def test_what_cannot_be_followed_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Curvature(loss_of, **options)  # type: ignore[arg-type]


class Attention(nn.Module):
    """One head over 5 tokens of 3 numbers, causal: torch's fast kernels for it cannot be differentiated twice."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(9, 3, generator=generator, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        query, key, value = (part[:, None] for part in F.linear(inputs, self.weight).chunk(3, dim=-1))
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)


def test_attention_is_differentiated_twice() -> None:
    model = Attention()
    inputs = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss(model: nn.Module) -> Tensor:
        squared: Tensor = model(inputs).square().mean()
        return squared

    observer = Curvature(loss, tolerance=1e-8)
    observer.start(model)
    found = look(observer, model, 0)

    def function(weight: Tensor) -> Tensor:
        query, key, value = (part for part in F.linear(inputs, weight.view(9, 3)).chunk(3, dim=-1))
        scores = query @ key.transpose(1, 2) / math.sqrt(3.0)
        masked = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
        return (masked.softmax(dim=-1) @ value).square().mean()

    hessian: Tensor = torch.func.hessian(function)(model.weight.detach().flatten())
    assert found.value == pytest.approx(torch.linalg.eigvalsh(hessian)[-1].item(), rel=1e-9)
