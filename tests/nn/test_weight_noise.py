"""Dropout and dropconnect put into a built model: where they act, what they leave alone."""

import copy
import pickle
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from rebatch.errors import RequestError
from rebatch.nn import (
    DropConnectConv2d,
    DropConnectLinear,
    add_weight_noise,
    convert_ghost_batch_norm,
    revert_ghost_batch_norm,
)
from rebatch.recipe import Noise
from toy import RECIPE, state_of, toy_model
from training.runs import run

P = 0.3
KINDS = {"dropout": (P, 0.0), "dropconnect": (0.0, P), "both": (P, 0.2)}


def convolutions() -> nn.Sequential:
    """2 x 5 x 5 -> 3, with layers of both kinds after the first."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = [nn.Conv2d(2, 7, 3, bias=False), nn.BatchNorm2d(7), nn.Conv2d(7, 5, 3, stride=2, padding=1)]
        return nn.Sequential(*body, nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(20, 3)).double()


def images(examples: int = 11) -> Tensor:
    return torch.randn(examples, 2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def noisy(model: nn.Sequential, kind: str) -> nn.Sequential:
    dropout, dropconnect = KINDS[kind]
    add_weight_noise(model, dropout=dropout, dropconnect=dropconnect)
    return model


def outputs(layer: nn.Module, x: Tensor, draws: int) -> Tensor:
    """The layer's output at `x` (1, ...) for many draws of the noise, (draws, ...)."""
    torch.manual_seed(2)
    return torch.cat([layer(x) for _ in range(draws)]).detach()


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_names_and_parameters_are_untouched(kind: str) -> None:
    plain, model = convolutions().eval(), convolutions().eval()
    objects = list(model.parameters())
    noisy(model, kind)
    assert torch.equal(model(images()), plain(images()))
    assert all(own is before for own, before in zip(model.parameters(), objects, strict=True))
    assert list(model.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(model.state_dict())
    assert [isinstance(layer, nn.Linear | nn.Conv2d) for layer in model] == [1, 0, 1, 0, 0, 1]
    assert not torch.equal(model.train()(images()), plain.train()(images()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_layer_and_the_inputs_are_spared(kind: str) -> None:
    seen: list[Tensor] = []
    model = convolutions()
    model[0].register_forward_hook(lambda layer, inputs, output: seen.append(output.detach()))
    expected = model[0](images()).detach()
    noisy(model, kind)(images())
    assert torch.equal(seen[-1], expected)
    assert type(model[0]) is nn.Conv2d


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [2, 5], ids=["convolution", "linear"])
def test_the_mean_of_a_layers_output_is_preserved(place: int, kind: str) -> None:
    model = convolutions()
    x = torch.randn((1, 7, 3, 3) if place == 2 else (1, 20), dtype=torch.float64)
    expected = model[place](x).detach().flatten()
    found = outputs(noisy(model, kind)[place], x, 4000).flatten(1)
    z = (found.mean(0) - expected) / (found.std(0) / 4000**0.5)
    assert z.abs().max() < 4


@pytest.mark.parametrize("kind", ["dropout", "dropconnect"])
def test_inputs_or_weights_are_zeroed_with_the_given_chance(kind: str) -> None:
    draws, one = 5000, torch.ones(1, 1, dtype=torch.float64)
    model = nn.Sequential(nn.Identity(), nn.Linear(1, 1), nn.Linear(1, 2, bias=False)).double()
    nn.init.ones_(list(model.parameters())[-1])
    kept = outputs(noisy(model, kind)[2], one, draws) * (1 - P)
    torch.testing.assert_close(kept, kept.round())  # 0 or 1 / (1 - P)
    z = (kept.mean(0) - (1 - P)) / (P * (1 - P) / draws) ** 0.5
    assert z.abs().max() < 4
    both = float((kept[:, 0] == kept[:, 1]).double().mean())  # one input feeds both outputs, each by its own weight
    chance = P**2 + (1 - P) ** 2
    assert both == 1 if kind == "dropout" else abs(both - chance) < 4 * (chance * (1 - chance) / draws) ** 0.5


def test_one_mask_of_weights_serves_the_whole_batch() -> None:
    layer = noisy(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 7)), "dropconnect")[1]
    x = torch.rand(1, 5).expand(13, 5)
    y = layer(x)
    torch.testing.assert_close(y, y[:1].expand(13, 7))
    assert not torch.equal(layer(x), y)
    dropped = noisy(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 7)), "dropout")[1](x)
    assert len({tuple(row) for row in dropped.tolist()}) > 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["noise first", "ghosts first"])
def test_noise_and_ghosts_go_together_in_either_order(order: str, kind: str) -> None:
    model, twin = convolutions(), convolutions()
    steps: list[Callable[[nn.Sequential], nn.Sequential]] = [
        lambda each: noisy(each, kind),
        lambda each: convert_ghost_batch_norm(each, 3),
    ]
    for step in steps if order == "noise first" else steps[::-1]:
        step(model)
    convert_ghost_batch_norm(noisy(twin, kind), 3)
    assert [type(layer) for layer in model] == [type(layer) for layer in twin]
    results = []
    for each in (model, twin):
        torch.manual_seed(3)
        results.append(each(images()))
    assert torch.equal(*results)
    revert_ghost_batch_norm(model)
    assert type(model[1]) is nn.BatchNorm2d
    assert kind == "dropout" or type(model[2]) is DropConnectConv2d


def fingerprint(model: nn.Module) -> list[tuple[type, set[str], int]]:
    return [(type(m), set(vars(m)), len(m._forward_pre_hooks)) for m in model.modules()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("copied", [False, True])
def test_noise_put_in_again_replaces_what_was_there_and_zero_leaves_no_trace(kind: str, copied: bool) -> None:
    model = convolutions()
    calls: list[str] = []
    model[5].register_forward_pre_hook(partial(lambda *_, name: calls.append(name), name="mine"))
    before = fingerprint(model)
    noisy(model, kind)
    once = fingerprint(model)
    if copied:
        model = pickle.loads(pickle.dumps(copy.deepcopy(noisy(convolutions(), kind))))
        before = fingerprint(convolutions())
        once = fingerprint(model)
    assert fingerprint(noisy(model, kind)) == once
    add_weight_noise(model, dropout=0.0, dropconnect=0.5)
    assert type(model[5]) is DropConnectLinear
    assert model[5].dropconnect == 0.5
    add_weight_noise(model, dropout=0.0, dropconnect=0.0)
    assert fingerprint(model) == before
    model(images())
    assert calls == ([] if copied else ["mine"])


@pytest.mark.parametrize("noise", [Noise(dropout=0.5), Noise(dropconnect=0.5)], ids=["dropout", "dropconnect"])
def test_training_twice_is_training_with_the_recipe_at_hand(noise: Noise) -> None:
    """The second run starts from the first one's weights; what noise that one had must not matter."""
    start = toy_model()
    run(RECIPE, start)
    for second in (RECIPE, RECIPE.replace(noise=noise)):
        fresh, used = toy_model(), toy_model()
        run(RECIPE.replace(noise=Noise(dropout=0.3, dropconnect=0.2)), used)
        for model in (fresh, used):
            model.load_state_dict(start.state_dict())
        assert run(second, fresh)[0] == run(second, used)[0]


@pytest.mark.parametrize("noise", [Noise(dropout=0.5), Noise(dropconnect=0.5)], ids=["dropout", "dropconnect"])
def test_a_recipes_noise_reaches_the_run_and_depends_on_the_seed_alone(noise: Noise) -> None:
    recipe = RECIPE.replace(noise=noise)
    torch.manual_seed(1)
    rows, weights = run(recipe)
    torch.manual_seed(2)
    again, _ = run(recipe)
    assert again == rows
    assert rows != run(RECIPE)[0]
    assert rows != run(recipe, seed=2)[0]
    assert weights.keys() == state_of(toy_model()).keys()


def test_a_step_with_dropconnect_is_not_cut() -> None:
    recipe = RECIPE.replace(noise=Noise(dropconnect=0.5))
    with pytest.raises(
        RequestError, match=r"noise.dropconnect zeroes the same weights for the whole step, got 0.5, so"
    ):
        run(recipe, micro_batch_size=4)
    run(RECIPE.replace(noise=Noise(dropout=0.5)), micro_batch_size=4)


def test_a_model_without_a_place_for_the_noise_is_refused() -> None:
    lonely = nn.Sequential(nn.Linear(5, 3), nn.ReLU())
    with pytest.raises(
        RequestError, match=r"noise.dropout 0.1 and noise.dropconnect 0.0 need a linear or 2d .* has none"
    ):
        add_weight_noise(lonely, dropout=0.1, dropconnect=0.0)
    add_weight_noise(lonely, dropout=0.0, dropconnect=0.0)


def test_a_noisy_model_compiles_without_a_graph_break() -> None:
    model = noisy(convolutions(), "both")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert not torch.equal(compiled(images()), compiled(images()))
    expected = model.eval()(images())
    torch.testing.assert_close(compiled(images()), expected)
