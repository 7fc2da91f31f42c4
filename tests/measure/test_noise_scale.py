"""The observer against gradients by hand: in pieces, in parts of a batch, in Adam's norm; and what it refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rebatch
from rebatch import RequestError
from rebatch.measure import NoiseScale
from rebatch.nn import convert_ghost_batch_norm
from rebatch.noise_scale import spread, trace_and_square
from rebatch.observation import Observer
from rebatch.recipe import AdamW, Epochs, Recipe, Sgd
from rebatch.schedule import Constant
from toy import assert_same_state, toy_model, toy_splits
from training.runs import run, stopped_and_resumed

# So low a rate leaves the weights where they are, and each step's gradients are known.
STAND = 1e-300
STILL = Recipe(batch_size=16, optimizer=Sgd(lr=STAND), schedule=Constant(), budget=Epochs(3), last_batch="drop")


class Steps(NoiseScale):
    """Every step's tr(Sigma) and |G|^2, not only their means."""

    @property
    def found(self) -> Tensor:
        assert self._found is not None
        return self._found[: self._kept]


def backward(loss: Tensor) -> None:
    """Typed."""
    loss.backward()  # type: ignore[no-untyped-call]


def gradients(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The mean loss's gradient, flat."""
    loss = F.cross_entropy(model(inputs), targets)
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(model.parameters()))])


def by_hand(model: nn.Module, order: list[Tensor], sizes: list[int], scale: Callable[[Tensor], Tensor]) -> Tensor:
    """The twin: each step's pieces by autograd, one after another."""
    data, rows = toy_splits().train, []
    for batch in order:
        pieces = torch.stack([gradients(model, data.inputs[i], data.targets[i]) for i in torch.split(batch, sizes)])
        weights = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
        whole = (weights[:, None] * pieces).sum(0)
        s, b = (weights * scale(pieces).square().sum(1)).sum(), scale(whole).square().sum()
        rows.append(torch.stack(trace_and_square(s, b, *spread(sizes))))
    return torch.stack(rows)


def batches(steps: int = 6) -> list[Tensor]:
    """The examples of each step of `STILL` with seed 1."""
    from rebatch import draws

    orders = [torch.from_numpy(draws.order(1, epoch, 37)) for epoch in range(3)]
    return [order[start : start + 16] for order in orders for start in (0, 16)][:steps]


@pytest.mark.parametrize("micro_batch_size", [4, 5, 12])
def test_micro_batches_give_what_single_pieces_give(micro_batch_size: int) -> None:
    observer, model = Steps(), toy_model(norm=False)
    run(STILL, model, micro_batch_size=micro_batch_size, observers=[observer])
    sizes = [micro_batch_size] * (16 // micro_batch_size) + [16 % micro_batch_size] * (16 % micro_batch_size > 0)
    expected = by_hand(toy_model(norm=False), batches(), sizes, lambda gradient: gradient)
    torch.testing.assert_close(observer.found.sum(1), expected, rtol=1e-10, atol=1e-12)


def test_a_summed_loss_has_the_noise_scale_of_the_mean() -> None:
    observer, other = Steps(), Steps()
    run(STILL, toy_model(norm=False), micro_batch_size=4, observers=[observer])
    run(STILL.replace(loss_reduction="sum"), toy_model(norm=False), micro_batch_size=4, observers=[other])
    torch.testing.assert_close(observer.found, other.found, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("share", [1 / 8, 1 / 4, 1 / 2])
def test_a_part_of_the_batch_gives_what_two_pieces_give(share: float) -> None:
    observer, part = Steps(split_every=1, split_share=share), round(16 * share)
    run(STILL, toy_model(norm=False), observers=[observer])
    expected = by_hand(toy_model(norm=False), batches(), [part, 16 - part], lambda gradient: gradient)
    torch.testing.assert_close(observer.found.sum(1), expected, rtol=1e-10, atol=1e-12)


def test_a_part_is_shown_only_now_and_then() -> None:
    observer = Steps(split_every=4)
    run(STILL, toy_model(norm=False), observers=[observer])
    expected = by_hand(toy_model(norm=False), [batches()[0], batches()[4]], [2, 14], lambda gradient: gradient)
    torch.testing.assert_close(observer.found.sum(1), expected, rtol=1e-10, atol=1e-12)


def test_dropout_is_repeated_with_the_same_draws() -> None:
    model, data = toy_model(norm=False, dropout=0.4), toy_splits().train
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    observer = Steps(split_every=1)
    watch = rebatch.watch(model, optimizer, batch_size=16, measure=[observer])
    torch.manual_seed(5)
    backward(F.cross_entropy(model(data.inputs[:16]), data.targets[:16]))
    drawn = torch.rand(3)
    watch.step()
    after = torch.rand(3)
    watch.close()
    # The twin: the same draws, the losses of two examples alone.
    torch.manual_seed(5)
    losses = F.cross_entropy(model(data.inputs[:16]), data.targets[:16], reduction="none")
    flat = [
        torch.cat([g.flatten() for g in torch.autograd.grad(part, list(model.parameters()), retain_graph=True)])
        for part in (losses[:2].mean(), losses[2:].mean())
    ]
    whole = (2 * flat[0] + 14 * flat[1]) / 16
    s, b = (2 * flat[0].square().sum() + 14 * flat[1].square().sum()) / 16, whole.square().sum()
    expected = torch.stack(trace_and_square(s, b, *spread([2, 14])))
    torch.testing.assert_close(observer.found[0].sum(0), expected, rtol=1e-10, atol=1e-12)
    torch.manual_seed(5)
    model(data.inputs[:16])
    torch.testing.assert_close(torch.cat([drawn, after]), torch.rand(6), rtol=0, atol=0)  # nobody noticed


def test_adams_norm_divides_by_what_adam_divides_by() -> None:
    recipe, observer = STILL.replace(optimizer=AdamW(lr=STAND, betas=(0.9, 0.95), eps=1e-3)), Steps(norm="adam")
    run(recipe, toy_model(norm=False), micro_batch_size=4, observers=[observer])
    model, data, second, expected = toy_model(norm=False), toy_splits().train, torch.zeros(()), []
    for step, batch in enumerate(batches()):
        if step:
            denominator = (second / (1.0 - 0.95**step)).sqrt() + 1e-3
            scale = denominator.sqrt()
            expected.append(by_hand(model, [batch], [4] * 4, lambda gradient, scale=scale: gradient / scale)[0])  # type: ignore[misc]
        whole = gradients(model, data.inputs[batch], data.targets[batch])
        second = 0.95 * second + 0.05 * whole.square()
    torch.testing.assert_close(observer.found.sum(1), torch.stack(expected), rtol=1e-9, atol=1e-10)
    with pytest.raises(RequestError, match="needs an optimizer that keeps squared gradients, got SGD"):
        run(
            STILL.replace(optimizer=Sgd(lr=STAND, momentum=0.9)),
            toy_model(norm=False),
            micro_batch_size=4,
            observers=[NoiseScale(norm="adam")],
        )


def test_groups_add_up_and_have_their_own() -> None:
    model, data = toy_model(norm=False), toy_splits().train
    first, second = model[0], model[3]
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    groups: list[dict[str, Any]] = [{"params": list(first.parameters())}, {"params": [second.weight], "lr": 0.0}]
    observer = Steps()
    watch = rebatch.watch(model, torch.optim.SGD(groups, lr=0.0), batch_size=12, measure=[observer])
    pieces = torch.split(torch.arange(12), 4)
    for _ in range(2):
        model.zero_grad()
        for part in pieces:
            backward(F.cross_entropy(model(data.inputs[part]), data.targets[part]) / 3)
        watch.step()
    assert second.bias.grad is not None  # moved by no optimizer, so measured by nobody
    summary = watch.summary()
    assert list(summary) == ["noise_scale", "noise_scale/group 0", "noise_scale/group 1"]
    total, *parts = (float(summary[name].trace.estimate) for name in summary)  # type: ignore[attr-defined]
    assert total == pytest.approx(sum(parts))
    flat = torch.stack([gradients(model, data.inputs[part], data.targets[part]) for part in pieces])
    variances = 4 * (flat - flat.mean(0)).square().sum(0) / 2
    own = [variances[: 5 * 7 + 7].sum(), variances[5 * 7 + 7 : -3].sum()]
    torch.testing.assert_close(observer.found[0, :, 0], torch.stack(own), rtol=1e-9, atol=0)


@pytest.mark.parametrize("options", [{}, {"micro_batch_size": 4}], ids=["a part", "micro-batches"])
@pytest.mark.parametrize("model", [lambda: convert_ghost_batch_norm(toy_model(dropout=0.3), 4), toy_model])
def test_measuring_does_not_change_the_run(options: dict[str, Any], model: Callable[[], nn.Module]) -> None:
    rows, weights = run(model=model(), **options)
    watched_rows, watched = run(model=model(), observers=[NoiseScale(split_every=2)], **options)
    assert_same_state(watched, weights)
    assert [{name: row[name] for name in rows[0]} for row in watched_rows] == [
        {name: row[name] for name in rows[0]} for row in rows
    ]


def test_no_hooks_are_left_behind() -> None:
    model = toy_model(norm=False)
    run(STILL, model, micro_batch_size=4, observers=[NoiseScale()])
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert not any(each._backward_hooks for each in model.parameters())


def test_a_resumed_run_goes_on_with_its_estimate(tmp_path: Path) -> None:
    def observers() -> list[Observer]:
        return [NoiseScale(split_every=2, split_share=0.3)]

    def model() -> nn.Module:
        return toy_model(norm=False)

    recipe = STILL.replace(optimizer=Sgd(lr=0.1))
    rows, _ = run(recipe, model(), observers=observers())
    resumed, _ = stopped_and_resumed(recipe, tmp_path, after=3, model=model, observers=observers)
    assert resumed == rows
    assert "trace" in rows[-1]


def test_batch_norm_is_refused_and_ghosts_are_not() -> None:
    with pytest.raises(RequestError, match=r"batch norm \(1\) couples the examples of a batch.*convert_ghost_batch"):
        run(STILL, toy_model(), observers=[NoiseScale()])
    with pytest.raises(RequestError, match=r"allow_batch_norm=True\) measures the loss normalized in these pieces"):
        run(STILL, toy_model(), micro_batch_size=4, allow_batch_norm=True, observers=[NoiseScale()])
    run(
        STILL,
        toy_model(),
        micro_batch_size=4,
        allow_batch_norm=True,
        observers=[NoiseScale(allow_batch_norm=True)],
    )
    whole, cut = Steps(split_every=1, split_share=1 / 4), Steps()
    run(STILL.replace(ghost_batch_size=4), toy_model(), observers=[whole])
    run(STILL.replace(ghost_batch_size=4), toy_model(), micro_batch_size=4, observers=[cut])
    # Both know the batch's gradient; what they think of its noise differs by chance.
    squares = [found.found.sum(1) for found in (whole, cut)]
    b = [square + trace / 16 for trace, square in (found.T for found in squares)]
    torch.testing.assert_close(b[0], b[1], rtol=1e-10, atol=1e-12)
    with pytest.raises(RequestError, match=r"a step of 16 examples cannot be split.*they are one ghost"):
        run(STILL.replace(ghost_batch_size=16), toy_model(), observers=[NoiseScale()])


def test_bad_options_say_what_is_wrong() -> None:
    with pytest.raises(RequestError, match=r"window >= 2, split_every >= 1 and split_share in \(0, 0.5\], got 1, 4"):
        NoiseScale(window=1)


def test_parts_of_batches_are_unbiased() -> None:
    torch.manual_seed(0)
    data = toy_splits(101).train
    model = toy_model(norm=False)
    each = torch.stack([gradients(model, data.inputs[i : i + 1], data.targets[i : i + 1]) for i in range(101)])
    truth = float(each.var(0, correction=0).sum() / each.mean(0).square().sum())
    observer = NoiseScale(split_every=1, window=3000)
    watch = rebatch.watch(model, torch.optim.SGD(model.parameters(), lr=0.0), batch_size=23, measure=[observer])
    for _ in range(3000):
        chosen = torch.randint(101, (23,))
        model.zero_grad()
        backward(F.cross_entropy(model(data.inputs[chosen]), data.targets[chosen]))
        watch.step()
    found = watch.summary()["noise_scale"]
    error = (found.high - found.low) / 4
    assert abs(found.estimate - truth) < 4 * error
    assert error < 0.1 * truth
