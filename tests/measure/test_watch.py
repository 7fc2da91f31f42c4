"""Loops that are not ours: what they may do, and what is refused."""

import copy
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import rebatch
from rebatch import RequestError
from rebatch.measure import Curvature, NoiseScale, WeightDistance
from rebatch.observation import Observation, Observer, every
from toy import assert_same_state, state_of, toy_model, toy_splits

DATA = toy_splits().train


def backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def loss_of(model: nn.Module, start: int, stop: int) -> Tensor:
    return F.cross_entropy(model(DATA.inputs[start:stop]), DATA.targets[start:stop])


def watched(
    model: nn.Module, steps: int = 4, *, pieces: int = 3, lr: float = 0.1, **options: Any
) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    """A plain loop with accumulation over `pieces` of 4: what was measured, and the weights."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    watch = rebatch.watch(model, optimizer, batch_size=4 * pieces, **{"measure": [NoiseScale()], **options})
    for step in range(steps):
        optimizer.zero_grad()
        for piece in range(pieces):
            start = 4 * ((step * pieces + piece) % 9)
            backward(loss_of(model, start, start + 4) / pieces)
        watch.step()
        nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        optimizer.step()
    return watch.summary(), state_of(model)


def test_it_measures_what_the_own_loop_measures_and_changes_nothing() -> None:
    summary, weights = watched(toy_model(norm=False), measure=[NoiseScale(), WeightDistance()])
    model = toy_model(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(4):
        optimizer.zero_grad()
        for piece in range(3):
            start = 4 * ((step * 3 + piece) % 9)
            backward(loss_of(model, start, start + 4) / 3)
        nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        optimizer.step()
    assert_same_state(weights, state_of(model))
    moved = [
        (now.detach() - then.detach()).square().sum()
        for now, then in zip(model.parameters(), toy_model(norm=False).parameters(), strict=True)
    ]
    assert summary["weight_distance"].estimate == pytest.approx(float(torch.stack(moved).sum().sqrt()))
    assert summary["weight_distance"].low == summary["weight_distance"].high
    assert summary["noise_scale"].low < summary["noise_scale"].high


def test_the_printed_summary_is_a_table() -> None:
    summary, _ = watched(toy_model(norm=False), measure=[WeightDistance(), NoiseScale()])
    lines = str(summary).splitlines()
    assert [line.split("  ")[0].strip() for line in lines] == [
        "weight_distance",
        "weight_distance_first",
        "noise_scale",
    ]
    assert "over 4 steps" in lines[2]
    with pytest.raises(KeyError, match="'curvature' was not measured in 4 steps; there is: weight_distance"):
        summary["curvature"]


def test_of_two_measures_of_one_name_neither_is_lost() -> None:
    summary, _ = watched(toy_model(norm=False), measure=[NoiseScale(), NoiseScale(window=2)])
    assert set(summary) == {"noise_scale", "noise_scale_2"}
    assert "over 4 steps" in str(summary["noise_scale"])
    assert "over 2 steps" in str(summary["noise_scale_2"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseScale(norm="Adam"), "norm must be 'euclidean' or 'adam', got 'Adam'"),  # type: ignore[arg-type]
        (
            lambda: Curvature(lambda model: torch.zeros(()), norm="l1"),  # type: ignore[arg-type]
            "norm must be 'euclidean' or 'adam', got 'l1'",
        ),
        (lambda: every(0, NoiseScale()), "every needs steps >= 1, got 0"),
        (
            lambda: watched(toy_model(), micro_batch_weights="Equal"),
            "micro_batch_weights must be 'equal' or 'examples', got 'Equal'",
        ),
    ],
)
def test_a_choice_that_there_is_not_is_told_at_once(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(RequestError, match=f"^{message}$"):
        make()


BRACKETS = r"put it in brackets: \[NoiseScale\(\)\]"
OBJECT = r"give an object, such as NoiseScale\(\)"


def test_master_weights_in_another_precision_may_be_what_the_optimizer_moves() -> None:
    model = toy_model(norm=False).bfloat16()
    masters = [parameter.detach().float().requires_grad_() for parameter in model.parameters()]
    rebatch.watch(model, torch.optim.SGD(masters, lr=0.1), batch_size=8, measure=[WeightDistance()])
    copies = [parameter.detach().clone().requires_grad_() for parameter in model.parameters()]
    with pytest.raises(RequestError, match="the optimizer moves none of the model's 4 trained parameters"):
        rebatch.watch(model, torch.optim.SGD(copies, lr=0.1), batch_size=8, measure=[WeightDistance()])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measure": NoiseScale()}, f"measure must be a list of observers, got NoiseScale; {BRACKETS}"),
        ({"measure": "noise_scale"}, f"measure must be a list of observers, got 'noise_scale'; {BRACKETS}"),
        ({"measure": [NoiseScale]}, f"measure needs observers, got the class NoiseScale; {OBJECT}"),
        ({"measure": ["noise_scale"]}, f"measure needs observers, got 'noise_scale'; {OBJECT}"),
        ({"batch_size": None}, "batch_size must be a whole number, got None"),
        ({"optimizer": nn.Linear(2, 3)}, r"optimizer must be one of torch\.optim's, got Linear; .*"),
        (
            {"optimizer": torch.optim.SGD(toy_model().parameters(), lr=0.1)},
            r"the optimizer moves none of the model's 4 trained parameters; watch the model .* model\.parameters\(\)",
        ),
    ],
)
def test_what_cannot_be_watched_is_told_at_once(options: dict[str, Any], message: str) -> None:
    model = toy_model(norm=False)
    given: dict[str, Any] = {
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "batch_size": 8,
        "measure": [NoiseScale()],
        **options,
    }
    with pytest.raises(RequestError, match=f"^{message}$"):
        rebatch.watch(model, **given)


def test_a_class_is_looked_at_now_and_then_by_nobody() -> None:
    with pytest.raises(RequestError, match=f"^every needs observers, got the class NoiseScale; {OBJECT}$"):
        every(2, NoiseScale)  # type: ignore[arg-type]


def test_no_step_has_more_examples_than_the_training_set() -> None:
    assert "noise_scale" in watched(toy_model(norm=False), measure=[NoiseScale(examples=12)])[0]
    with pytest.raises(RequestError, match=r"^a step has 12 examples, and NoiseScale\(examples=11\) says"):
        watched(toy_model(norm=False), steps=1, measure=[NoiseScale(examples=11)])


def moments(model: nn.Module, **options: Any) -> tuple[float, float]:
    found = watched(model, lr=0.0, steps=3, measure=[NoiseScale(split_every=1, split_share=0.5)], **options)[0][
        "noise_scale"
    ]
    return found.trace.estimate, found.square.estimate


def test_loss_scaling_is_undone() -> None:
    plain = moments(toy_model(norm=False).float().double())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    model = toy_model(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    watch = rebatch.watch(model, optimizer, batch_size=12, measure=[NoiseScale()], scaler=scaler)
    for step in range(3):
        optimizer.zero_grad()
        for piece in range(3):
            start = 4 * ((step * 3 + piece) % 9)
            backward(scaler.scale(loss_of(model, start, start + 4) / 3))
        watch.step()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        scaler.step(optimizer)
        scaler.update()
    found = watch.summary()["noise_scale"]
    assert (found.trace.estimate, found.square.estimate) == pytest.approx(plain, rel=1e-9)  # type: ignore[attr-defined]


def test_steps_that_overflow_are_left_out() -> None:
    model = toy_model(norm=False)
    watch = rebatch.watch(model, torch.optim.SGD(model.parameters(), lr=0.0), batch_size=8, measure=[NoiseScale()])
    for step in range(4):
        model.zero_grad()
        for start in (0, 4):
            backward(loss_of(model, start, start + 4) / 2 * (float("inf") if step == 1 else 1.0))
        watch.step()
    assert "over 3 steps" in str(watch.summary())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda model, _: nn.utils.clip_grad_norm_(model.parameters(), 1e-3),
        lambda model, _: [each.grad.mul_(1 / 1024) for each in model.parameters()],
        lambda model, step: [each.grad.add_(1.0) for each in model.parameters()],
    ],
    ids=["clipped", "unscaled", "not zeroed"],
)
def test_a_gradient_that_was_changed_is_refused(spoil: Callable[[nn.Module, int], Any]) -> None:
    model = toy_model(norm=False)
    watch = rebatch.watch(model, torch.optim.SGD(model.parameters(), lr=0.0), batch_size=8, measure=[NoiseScale()])
    for start in (0, 4):
        backward(loss_of(model, start, start + 4) / 2)
    spoil(model, 0)
    with pytest.raises(RequestError, match="was it clipped, unscaled, or not zeroed after the last step"):
        watch.step()


def test_a_batch_size_that_is_not_the_steps_is_refused() -> None:
    model = toy_model(norm=False)
    watch = rebatch.watch(model, torch.optim.SGD(model.parameters(), lr=0.0), batch_size=16, measure=[NoiseScale()])
    for start in (0, 4):
        backward(loss_of(model, start, start + 4) / 2)
    with pytest.raises(
        RequestError, match=r"batch_size is 16, but the first step had 2 calls .* 4 examples .* 8 in all"
    ):
        watch.step()


def test_what_cannot_be_measured_is_refused_in_one_line() -> None:
    model = toy_model(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def fresh(**options: Any) -> rebatch.measure.Watch:
        model.zero_grad()
        return rebatch.watch(model, optimizer, **{"batch_size": 8, "measure": [NoiseScale()], **options})

    watch = fresh()
    with pytest.raises(RequestError, match=r"watch.step\(\) saw no backward"):
        watch.step()
    watch.close()
    watch = fresh()
    loss = loss_of(model, 0, 8)
    loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    with pytest.raises(RequestError, match="two gradients in one micro-batch"):
        backward(loss)
    watch.close()
    watch = fresh()
    loss = loss_of(model, 0, 4) + loss_of(model, 4, 12)
    backward(loss)
    with pytest.raises(RequestError, match=r"called with \[4, 8\] examples before one backward"):
        watch.step()
    watch.close()
    watch = fresh()
    backward((loss_of(model, 0, 8) + loss_of(model, 8, 16)) / 2)
    with pytest.raises(RequestError, match=r"called 2 times for one backward pass.*accumulate over at least 2"):
        watch.step()
    watch.close()
    with pytest.raises(RequestError, match=r"batch_size >= 1 and something to measure, got 8 and \[\]"):
        fresh(measure=[])
    for each in model.parameters():
        each.requires_grad_(False)
    with pytest.raises(RequestError, match="no parameter that is trained"):
        fresh()


class ReturnsItsLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = toy_model(norm=False)

    def forward(self, *, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        logits = self.net(inputs)
        return {"loss": F.cross_entropy(logits, targets), "logits": logits}


def test_a_model_that_returns_its_loss_is_measured_in_micro_batches_and_refused_in_one() -> None:
    def step(pieces: int) -> rebatch.measure.Watch:
        model = ReturnsItsLoss()
        watch = rebatch.watch(model, torch.optim.SGD(model.parameters(), lr=0.0), batch_size=8, measure=[NoiseScale()])
        for _ in range(2):
            model.zero_grad()
            for chosen in torch.arange(8).chunk(pieces):
                backward(model(inputs=DATA.inputs[chosen], targets=DATA.targets[chosen])["loss"] / pieces)
            watch.step()
        return watch

    assert "noise_scale" in step(2).summary()
    with pytest.raises(RequestError, match="do not have one row for each of the 8 examples"):
        step(1)


def words(*, sparse: bool) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(20, 6, sparse=sparse), nn.Flatten(), nn.Linear(6 * 3, 4)).double()


@pytest.mark.parametrize("pieces", [1, 2])
def test_sparse_gradients_of_embeddings_count_as_dense_ones(pieces: int) -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randint(0, 20, (8, 3), generator=generator)
    targets = torch.randint(0, 4, (8,), generator=generator)

    def found(*, sparse: bool) -> tuple[float, float]:
        model = words(sparse=sparse)
        measure = [NoiseScale(split_every=1, split_share=0.5)]
        watch = rebatch.watch(model, torch.optim.SGD(model.parameters(), lr=0.0), batch_size=8, measure=measure)
        for _ in range(2):
            model.zero_grad()
            for chosen in torch.arange(8).chunk(pieces):
                backward(F.cross_entropy(model(inputs[chosen]), targets[chosen]) / pieces)
            watch.step()
        noise: Any = watch.summary()["noise_scale"]
        return noise.trace.estimate, noise.square.estimate

    assert found(sparse=True) == pytest.approx(found(sparse=False), rel=1e-12)


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.first, self.rest, self.reentrant = nn.Linear(6, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 3)), reentrant

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = checkpoint(self.rest, self.first(inputs), use_reentrant=self.reentrant)
        return output


def test_checkpointed_activations_are_repeated_unless_reentrant() -> None:
    def step(pieces: int, *, reentrant: bool) -> rebatch.measure.Summary:
        torch.manual_seed(0)
        model = Checkpointed(reentrant=reentrant)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        watch = rebatch.watch(model, optimizer, batch_size=8, measure=[NoiseScale(split_every=1)])
        inputs, targets = torch.randn(8, 6), torch.arange(8) % 3
        for _ in range(2):
            model.zero_grad()
            for chosen in torch.arange(8).chunk(pieces):
                backward(F.cross_entropy(model(inputs[chosen]), targets[chosen]) / pieces)
            watch.step()
        return watch.summary()

    assert step(1, reentrant=False)["noise_scale"].estimate > 0
    assert step(2, reentrant=True)["noise_scale"].estimate > 0
    with pytest.raises(
        RequestError, match=r"checkpoints activations with use_reentrant=True.*at least 2 micro-batches"
    ):
        step(1, reentrant=True)


def test_size_of_tells_where_the_examples_are() -> None:
    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = toy_model(norm=False)

        def forward(self, inputs: Tensor) -> Tensor:
            logits: Tensor = self.net(inputs.transpose(0, 1).mean(1))
            return logits

    model = TimeFirst()
    watch = rebatch.watch(
        model,
        torch.optim.SGD(model.parameters(), lr=0.0),
        batch_size=8,
        measure=[NoiseScale()],
        size_of=lambda args, kwargs: tree_leaves((args, kwargs))[0].shape[1],
    )
    for _ in range(2):
        model.zero_grad()
        for chosen in torch.arange(8).chunk(2):
            stacked = torch.stack([DATA.inputs[chosen]] * 3)
            backward(F.cross_entropy(model(stacked), DATA.targets[chosen]) / 2)
        watch.step()
    assert "noise_scale" in watch.summary()


def test_unequal_micro_batches_weigh_as_the_loop_says() -> None:
    def found(weights: Any) -> tuple[float, float]:
        model = toy_model(norm=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        watch = rebatch.watch(model, optimizer, batch_size=10, measure=[NoiseScale()], micro_batch_weights=weights)
        for _ in range(2):
            model.zero_grad()
            for start, stop in ((0, 7), (7, 10)):
                share = 0.5 if weights == "equal" else (stop - start) / 10
                backward(loss_of(model, start, stop) * share)
            watch.step()
        noise: Any = watch.summary()["noise_scale"]
        return noise.trace.estimate, noise.square.estimate

    model = toy_model(norm=False)
    pieces = []
    for start, stop in ((0, 7), (7, 10)):
        parts = torch.autograd.grad(loss_of(model, start, stop), list(model.parameters()))
        pieces.append(torch.cat([part.flatten() for part in parts]))
    for weights, shares in (("equal", (0.5, 0.5)), ("examples", (0.7, 0.3))):
        s = sum(share * float(piece.square().sum()) for share, piece in zip(shares, pieces, strict=True))
        b = float((shares[0] * pieces[0] + shares[1] * pieces[1]).square().sum())
        p = shares[0] / 7 + shares[1] / 3
        q = shares[0] ** 2 / 7 + shares[1] ** 2 / 3
        trace = (s - b) / (p - q)
        assert found(weights) == pytest.approx((trace, b - q * trace), rel=1e-9)


def test_frozen_and_shared_parameters_and_evaluation_do_not_disturb() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(5, 5).double(), nn.Linear(5, 5).double()
            self.second.weight = self.first.weight
            self.frozen, self.last = nn.Linear(5, 5).double(), nn.Linear(5, 3).double()
            self.frozen.requires_grad_(False)

        def forward(self, inputs: Tensor) -> Tensor:
            logits: Tensor = self.last(self.frozen(F.relu(self.second(F.relu(self.first(inputs))))))
            return logits

    torch.manual_seed(0)
    model = Tied()
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.0)
    whole, cut = NoiseScale(split_every=1, split_share=0.5), NoiseScale()
    found = []
    for observer, pieces in ((whole, 1), (cut, 2)):
        watch = rebatch.watch(model, optimizer, batch_size=8, measure=[observer])
        for _ in range(2):
            optimizer.zero_grad()
            for chosen in torch.arange(8).chunk(pieces):
                backward(F.cross_entropy(model(DATA.inputs[chosen]), DATA.targets[chosen]) / pieces)
                with torch.no_grad():
                    model(DATA.inputs[:3])
            watch.step()
        watch.close()
        noise: Any = watch.summary()["noise_scale"]
        found.append((noise.trace.estimate, noise.square.estimate))
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_a_compiled_model_is_measured_like_a_plain_one() -> None:
    plain = [moments(toy_model(norm=False), pieces=pieces) for pieces in (1, 3)]
    for pieces, expected in zip((1, 3), plain, strict=True):
        model = torch.compile(toy_model(norm=False), backend="eager")
        assert moments(model, pieces=pieces) == pytest.approx(expected, rel=1e-9)  # type: ignore[arg-type]


def test_autocast_is_repeated() -> None:
    def found(pieces: int) -> float:
        model = toy_model(norm=False).float()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        measure = [NoiseScale(split_every=1, split_share=0.5)]
        watch = rebatch.watch(model, optimizer, batch_size=8, measure=measure)
        for _ in range(2):
            optimizer.zero_grad()
            for chosen in torch.arange(8).chunk(pieces):
                with torch.autocast("cpu", torch.bfloat16):
                    loss = F.cross_entropy(model(DATA.inputs[chosen].float()), DATA.targets[chosen]) / pieces
                backward(loss)
            watch.step()
        return float(watch.summary()["noise_scale"].trace.estimate)  # type: ignore[attr-defined]

    # Rounded differently in float32 it would be off by a hundredth or so; bfloat16's sums differ a little in order.
    assert found(1) == pytest.approx(found(2), rel=2e-3)


def test_every_looks_at_some_steps_only_and_observers_without_pieces_cost_no_hooks() -> None:
    class Counts(Observer):
        seen = 0

        def step(self, observation: Observation) -> None:
            self.seen += 1

    counts, model = Counts(), toy_model(norm=False)
    summary, _ = watched(model, measure=[every(2, counts), every(2, NoiseScale())])
    assert counts.seen == 2
    assert "over 2 steps" in str(summary)
    plain = toy_model(norm=False)
    rebatch.watch(plain, torch.optim.SGD(plain.parameters(), lr=0.1), batch_size=4, measure=[WeightDistance()])
    assert not plain._forward_hooks


def test_a_watch_is_saved_and_taken_up() -> None:
    model = toy_model(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def steps(watch: rebatch.measure.Watch, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            for start in (0, 4):
                backward(loss_of(model, start, start + 4) / 2)
            watch.step()

    first = rebatch.watch(model, optimizer, batch_size=8, measure=[NoiseScale()])
    steps(first, 3)
    state = first.state_dict()
    first.close()
    second = rebatch.watch(model, optimizer, batch_size=8, measure=[NoiseScale()])
    second.load_state_dict(state)
    steps(second, 2)
    assert "over 5 steps" in str(second.summary())
    assert "noise_scale" in second.row() or "trace" in second.row()


class _Around(nn.Module):
    """A net whose outputs, inputs or loss are not as plain as they look."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.net, self.way = toy_model(norm=False), way

    def forward(self, inputs: Tensor) -> Any:
        if self.way == "changed in place":
            inputs = inputs.mul_(1.5)
        hidden = self.net[1](self.net[0](inputs))
        logits = self.net[3](hidden)
        return {"hidden": hidden, "logits": logits, "again": logits}

    def loss(self, start: int, stop: int) -> Tensor:
        found = self(DATA.inputs[start:stop].clone())
        loss = F.cross_entropy(found["logits"], DATA.targets[start:stop])
        return loss + 0.1 * self.net[0].weight.square().sum() if self.way == "penalty" else loss  # type: ignore[operator]


@pytest.mark.parametrize("way", ["outputs of outputs", "changed in place", "penalty"])
def test_a_gradient_that_the_outputs_do_not_account_for_is_refused(way: str) -> None:
    model = _Around(way)
    watch = rebatch.watch(model, torch.optim.SGD(model.parameters(), lr=0.0), batch_size=8, measure=[NoiseScale()])
    backward(model.loss(0, 8))
    with pytest.raises(RequestError, match=r"do not give the step's gradient .* accumulate over at least 2"):
        watch.step()
    watch.close()
    watch = rebatch.watch(model, torch.optim.SGD(model.parameters(), lr=0.0), batch_size=8, measure=[NoiseScale()])
    for _ in range(2):
        model.zero_grad()
        for start in (0, 4):
            backward(model.loss(start, start + 4) / 2)
        watch.step()
    assert "noise_scale" in watch.summary()  # pieces need no outputs


def test_looks_at_the_model_between_steps_do_not_disturb() -> None:
    def trace(disturb: bool, pieces: int) -> float:
        model = toy_model(norm=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        watch = rebatch.watch(model, optimizer, batch_size=8, measure=[NoiseScale(split_every=1, split_share=0.5)])
        for step in range(5):
            optimizer.zero_grad()
            for chosen in torch.arange(8).chunk(pieces):
                if disturb:
                    loss_of(model, 0, 3)  # a loss that nobody differentiates
                backward(F.cross_entropy(model(DATA.inputs[chosen + step]), DATA.targets[chosen + step]) / pieces)
                if disturb:
                    model.eval()(DATA.inputs[:5])
                    model.train()
            watch.step()
            optimizer.step()
        found = watch.summary()["noise_scale"]
        assert found.steps == 5  # type: ignore[attr-defined]
        return float(found.trace.estimate)  # type: ignore[attr-defined]

    for pieces in (1, 2):
        assert trace(True, pieces) == pytest.approx(trace(False, pieces), rel=1e-10)


def test_a_step_that_was_thrown_away_is_not_measured() -> None:
    model = toy_model(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    watch = rebatch.watch(model, optimizer, batch_size=8, measure=[NoiseScale(split_every=1, split_share=0.5)])
    for step in range(10):
        optimizer.zero_grad()
        backward(loss_of(model, step, step + 8))
        if step == 6:
            continue  # a spike, say
        watch.step()
    found = watch.summary()["noise_scale"]
    # The next step looks like one in two pieces, but its gradient is not their sum; nor is the one after it split.
    assert found.steps == 7  # type: ignore[attr-defined]


def test_copies_of_a_watched_model_are_not_watched(tmp_path: Any) -> None:
    model = toy_model(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    watch = rebatch.watch(model, optimizer, batch_size=8, measure=[NoiseScale()], size_of=_seen)
    average = copy.deepcopy(model)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    for _ in range(2):
        optimizer.zero_grad()
        for start in (0, 4):
            backward(loss_of(average, start, start + 4))
            backward(loss_of(loaded, start, start + 4))
            backward(loss_of(model, start, start + 4) / 2)
        watch.step()
    assert watch.summary()["noise_scale"].steps == 2  # type: ignore[attr-defined]
    assert len(SEEN) == 4  # calls of the model itself; what looks at a copy's would keep each of them


SEEN: list[int] = []


def _seen(args: tuple[Any, ...], _: Any) -> int:
    SEEN.append(len(args[0]))
    return SEEN[-1]


def test_steps_of_one_piece_are_measured_again_after_one_of_several() -> None:
    model = toy_model(norm=False)
    watch = rebatch.watch(
        model, torch.optim.SGD(model.parameters(), lr=0.0), batch_size=8, measure=[NoiseScale(split_every=1)]
    )
    for step in range(10):
        model.zero_grad()
        pieces = 2 if step == 4 else 1
        for chosen in torch.arange(8).chunk(pieces):
            backward(F.cross_entropy(model(DATA.inputs[chosen]), DATA.targets[chosen]) / pieces)
        watch.step()
    assert watch.summary()["noise_scale"].steps == 9  # type: ignore[attr-defined]


def test_a_group_may_join_and_a_weight_may_go_without_gradient() -> None:
    model = toy_model(norm=False)
    model.register_parameter("spare", nn.Parameter(torch.zeros(3, dtype=torch.float64)))
    optimizer = torch.optim.Adam(model[0].parameters(), lr=1e-300)
    watch = rebatch.watch(
        model, optimizer, batch_size=8, measure=[NoiseScale(split_every=1), NoiseScale(norm="adam", split_every=1)]
    )
    for step in range(8):
        if step == 4:
            optimizer.add_param_group({"params": [*model[3].parameters(), model.spare]})
        model.zero_grad()
        backward(loss_of(model, 0, 8))
        watch.step()
        optimizer.step()
    summary = watch.summary()
    assert "noise_scale/group 1" in summary
    assert "adam_noise_scale/group 1" in summary


def test_draws_of_the_users_own_are_left_alone() -> None:
    class Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.drawn = toy_model(norm=False), 0.0

        def forward(self, inputs: Tensor) -> Tensor:
            np.random.random()
            random.random()  # such as an augmentation that does not touch this model
            logits: Tensor = self.net(inputs)
            return logits

    def draws(measure: bool) -> tuple[float, float]:
        np.random.seed(0)
        random.seed(0)
        model = Draws()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        watch = rebatch.watch(model, optimizer, batch_size=8, measure=[NoiseScale(split_every=1)]) if measure else None
        for _ in range(3):
            optimizer.zero_grad()
            backward(loss_of(model, 0, 8))
            if watch is not None:
                watch.step()
        return float(np.random.random()), random.random()

    assert draws(True) == draws(False)
