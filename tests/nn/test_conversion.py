import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from rebatch.errors import RequestError
from rebatch.nn import (
    GhostBatchNorm1d,
    GhostBatchNorm2d,
    GhostBatchNorm3d,
    convert_ghost_batch_norm,
    deferred_running_statistics,
    revert_ghost_batch_norm,
)
from reference.ghost_batch_norm import ManyBatchNorms

PLAIN: list[type[nn.Module]] = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d]


class NormAndActivation(nn.BatchNorm2d):
    pass


def state(model: nn.Module) -> dict[str, object]:
    """Everything that a model is: classes, plain attributes, and which tensors and modules are the very same."""
    return {
        name: (
            type(m),
            {k: id(v) if isinstance(v, dict) else v for k, v in vars(m).items()},
            {k: id(v) for k, v in [*m._parameters.items(), *m._buffers.items(), *m._modules.items()]},
        )
        for name, m in model.named_modules(remove_duplicate=False)
    }


@pytest.mark.parametrize("chunks", [None, 3])
@pytest.mark.parametrize("running", [None, "scaled", "printed"])
def test_converting_and_back_gives_the_same_module_parameters_and_buffers(running: Any, chunks: int | None) -> None:
    model = ManyBatchNorms()
    before, tensors = state(model), copy.deepcopy(model.state_dict())
    assert convert_ghost_batch_norm(model, 5, running=running, chunks=chunks) is model
    with deferred_running_statistics(model):
        assert state(model) != before
    assert revert_ghost_batch_norm(model) is model
    assert state(model) == before
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())


def test_every_batch_norm_gets_ghosts_and_nothing_else_changes() -> None:
    model = convert_ghost_batch_norm(ManyBatchNorms(), 5, running="mean")
    kinds = [type(m) for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert kinds == [GhostBatchNorm2d, GhostBatchNorm2d, GhostBatchNorm3d, GhostBatchNorm1d]
    assert all(
        getattr(m, "ghost_batch_size", 5) == 5 and getattr(m, "running", "mean") == "mean" for m in model.modules()
    )
    assert isinstance(model.norm, nn.GroupNorm)
    assert model.body[1] is model.body[3]
    model(torch.rand(13, 2, 3, 3)).sum().backward()


@pytest.mark.parametrize("plain", PLAIN)
def test_the_model_itself_may_be_a_batch_norm(plain: type[nn.Module]) -> None:
    layer = plain(3)
    assert convert_ghost_batch_norm(layer, 5) is layer
    assert type(layer).__name__ == f"Ghost{plain.__name__}"


def test_a_converted_layer_is_a_ghost_layer_built_directly() -> None:
    torch.manual_seed(0)
    x = torch.rand(13, 3)
    built, converted = (
        GhostBatchNorm1d(3, 5, running="mean"),
        convert_ghost_batch_norm(nn.BatchNorm1d(3), 5, running="mean"),
    )
    assert torch.equal(built(x), converted(x))
    assert repr(built) == repr(converted)
    assert vars(built).keys() == vars(converted).keys()


def test_an_optimizer_built_before_still_moves_the_parameters() -> None:
    model = ManyBatchNorms()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = [p.clone() for p in model.parameters()]
    convert_ghost_batch_norm(model, 5)(torch.rand(13, 2, 3, 3)).pow(3).sum().backward()
    optimizer.step()
    moved = [not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True) if p.grad is not None]
    assert len(moved) > 4
    assert any(moved)


def test_training_flag_dtype_and_hooks_stay() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3, dtype=torch.float64)).eval()
    calls: list[str] = []
    model[0].register_forward_hook(lambda *_: calls.append("called"))
    convert_ghost_batch_norm(model, 5)
    assert not model[0].training
    assert model(torch.rand(7, 3, dtype=torch.float64)).dtype == torch.float64
    assert calls == ["called"]


def test_a_weight_without_a_bias_stays_so() -> None:
    layer = nn.BatchNorm1d(3)
    layer.register_parameter("bias", None)
    convert_ghost_batch_norm(layer, 5)(torch.rand(13, 3)).square().sum().backward()
    assert layer.weight.grad is not None


def test_converting_again_changes_the_ghost_size_and_keeps_how_ghosts_run_unless_told() -> None:
    layer = convert_ghost_batch_norm(GhostBatchNorm1d(3, 5, running="mean"), 7)
    assert (layer.ghost_batch_size, layer.running) == (7, "mean")
    assert convert_ghost_batch_norm(layer, 7, running="sequential").running == "sequential"
    assert convert_ghost_batch_norm(nn.BatchNorm1d(3), 7).running == "sequential"


def test_chunks_last_until_the_next_conversion() -> None:
    layer = convert_ghost_batch_norm(nn.BatchNorm1d(3), 5, chunks=3)
    assert layer.chunks == 3
    x = torch.rand(13, 3)
    layer(x)
    assert layer.num_batches_tracked == 3
    built, converted = GhostBatchNorm1d(3, 5), convert_ghost_batch_norm(layer, 5)
    assert converted.chunks is None
    assert vars(built).keys() == vars(converted).keys()
    assert torch.equal(built(x), converted(x))


def test_reverting_a_model_without_ghosts_changes_nothing() -> None:
    model = ManyBatchNorms()
    before = state(model)
    assert state(revert_ghost_batch_norm(model)) == before


def test_a_converted_model_can_be_copied_and_pickled() -> None:
    model = convert_ghost_batch_norm(ManyBatchNorms(), 5)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert repr(twin) == repr(model)
        assert type(revert_ghost_batch_norm(twin).body[1]) is nn.BatchNorm2d


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.SyncBatchNorm(3), "layer '1', a SyncBatchNorm: it normalizes over all ranks"),
        (nn.LazyBatchNorm2d(), "layer '1', a LazyBatchNorm2d: it does not know its size yet; run one batch"),
        (NormAndActivation(3), "layer '1', a NormAndActivation: it is not torch's own"),
    ],
    ids=["sync", "lazy", "foreign"],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_what_cannot_be_converted_is_refused_and_the_model_left_alone(layer: nn.Module, message: str) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), layer)
    with pytest.raises(RequestError, match=message):
        convert_ghost_batch_norm(model, 5)
    assert type(model[0]) is nn.BatchNorm2d
    with pytest.raises(RequestError, match="cannot give ghosts to the model itself"):
        convert_ghost_batch_norm(layer, 5)


def test_a_ghost_size_below_two_is_refused_before_anything_changes() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    with pytest.raises(RequestError, match="at least 2"):
        convert_ghost_batch_norm(model, 1)
    assert type(model[0]) is nn.BatchNorm2d


def test_a_model_compiled_before_sees_the_conversion() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.BatchNorm1d(3)), torch.rand(13, 3)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(x)
    convert_ghost_batch_norm(model, 5)
    torch.testing.assert_close(compiled(x), copy.deepcopy(model)(x))
    torch.testing.assert_close(compiled(x)[:5].mean(0), torch.zeros(3), atol=1e-5, rtol=0)
