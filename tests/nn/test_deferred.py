import copy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from rebatch.nn import GhostBatchNorm1d, GhostBatchNorm2d, convert_ghost_batch_norm, deferred_running_statistics
from rebatch.nn.ghost_batch_norm import GhostBatchNorm, Running
from reference.ghost_batch_norm import ManyBatchNorms

GHOST = 5
CUTS = {"one": [18], "even": [10, 8], "uneven": [5, 13], "a ghost each": [5, 5, 5, 3]}


def network(running: Running = "sequential", momentum: float | None = 0.3) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 1), GhostBatchNorm2d(3, GHOST, momentum=momentum, running=running), nn.Tanh()]
    last = [nn.Flatten(), GhostBatchNorm1d(12, GHOST, momentum=momentum, running=running)]
    return nn.Sequential(*layers, *last).double()


def examples() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(18, 2, 2, 2, dtype=torch.float64)


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("running", ["sequential", "mean", "scaled", "printed"])
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_the_cut_into_micro_batches_does_not_change_the_run(
    cut: list[int], running: Running, momentum: float | None, way: str
) -> None:
    whole, parts = network(running, momentum), network(running, momentum)
    for _ in range(2):
        whole(examples()).square().sum().backward()
        with deferred_running_statistics(parts):
            for part in examples().split(cut):  # type: ignore[no-untyped-call]
                parts(part).square().sum().backward()
    assert_close(parts.state_dict(), whole.state_dict(), rtol=1e-10, atol=1e-12)
    for own, expected in zip(parts.parameters(), whole.parameters(), strict=True):
        assert_close(own.grad, expected.grad, rtol=1e-10, atol=1e-10)


def test_buffers_move_only_on_exit() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    with deferred_running_statistics(model):
        model(examples())
        assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert model[1].num_batches_tracked == 4


@pytest.mark.parametrize("shares", [[10, 8], [15, 3], [18, 0]], ids=str)
def test_the_cut_into_ranks_does_not_change_the_run(shares: list[int]) -> None:
    """Rank 0 is replayed with what rank 1 sent; each call of gather is matched to the same call on the other rank."""
    whole, ranks, sent = network(), [network(), network()], []
    whole(examples())
    parts = examples().split(shares)  # type: ignore[no-untyped-call]

    def send(rows: Tensor) -> Tensor:
        sent.append(rows)
        return rows

    for model, gather in ((ranks[1], send), (ranks[0], lambda rows: torch.cat([rows, sent.pop(0)]))):
        part = parts[1] if gather is send else parts[0]
        with deferred_running_statistics(model, gather=gather):
            if len(part):
                model(part)
    assert_close(ranks[0].state_dict(), whole.state_dict(), rtol=1e-10, atol=1e-12)


def test_gather_is_called_once_per_layer_whatever_this_rank_has_seen() -> None:
    shapes: list[tuple[int, ...]] = []

    def gather(rows: Tensor) -> Tensor:
        shapes.append(tuple(rows.shape))
        assert rows.dtype == torch.float64
        return rows

    model = network()
    with deferred_running_statistics(model, gather=gather):
        pass
    with deferred_running_statistics(model, gather=gather):
        model(examples())
    assert shapes == [(0, 6), (0, 24), (4, 6), (4, 24)]
    assert model[1].num_batches_tracked == 4


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("running", ["sequential", "mean", "scaled", "printed"])
def test_a_step_without_ghosts_changes_nothing(running: Running, momentum: float | None) -> None:
    model = network(running, momentum)
    before = copy.deepcopy(model.state_dict())
    with deferred_running_statistics(model):
        pass
    assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_an_exception_drops_the_statistics_and_ends_the_deferral() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(IndexError), deferred_running_statistics(model):
        model(examples())[99]
    assert_close(model.state_dict(), before, rtol=0, atol=0)
    model(examples())
    assert model[1].num_batches_tracked == 4


def test_an_exception_in_gather_ends_the_deferral() -> None:
    def fail(rows: Tensor) -> Tensor:
        raise KeyError

    model = network()
    with pytest.raises(KeyError), deferred_running_statistics(model, gather=fail):
        model(examples())
    assert all(m.pending is None for m in model.modules() if isinstance(m, GhostBatchNorm))


def test_deferring_twice_is_refused_and_leaves_the_outer_block_alone() -> None:
    model = network()
    with deferred_running_statistics(model):
        model(examples())
        with pytest.raises(RuntimeError, match="deferred already"), deferred_running_statistics(model):
            pass
    assert model[1].num_batches_tracked == 4


def test_evaluation_and_layers_without_buffers_defer_nothing() -> None:
    model = convert_ghost_batch_norm(ManyBatchNorms(), GHOST)
    with deferred_running_statistics(model):
        model(torch.rand(13, 2, 3, 3))
        assert model.deep["flat"].pending is None
    before = copy.deepcopy(model.eval().state_dict())
    with deferred_running_statistics(model):
        model(torch.rand(13, 2, 3, 3))
    assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_half_precision_buffers_take_float32_rows() -> None:
    model = GhostBatchNorm1d(3, GHOST, dtype=torch.bfloat16)
    dtypes: list[torch.dtype] = []

    def gather(rows: Tensor) -> Tensor:
        dtypes.append(rows.dtype)
        return rows

    for batches in (0, 1):
        with deferred_running_statistics(model, gather=gather):
            for _ in range(batches):
                model(torch.rand(13, 3, dtype=torch.bfloat16))
    assert dtypes == [torch.float32, torch.float32]


def test_a_compiled_model_defers_without_a_graph_break() -> None:
    whole, parts = network(), network()
    compiled = torch.compile(parts, fullgraph=True, backend="aot_eager")
    whole(examples())
    with deferred_running_statistics(parts):
        for part in examples().split([10, 8]):  # type: ignore[no-untyped-call]
            compiled(part)
    assert_close(parts.state_dict(), whole.state_dict(), rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # torch's own, as inductor loads
def test_many_micro_batches_share_one_compiled_graph() -> None:
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(3, 5), GhostBatchNorm1d(5, 4))
    compiled = torch.compile(model, backend="aot_eager")
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with deferred_running_statistics(model) as collect:
        for _ in range(11):
            compiled(torch.randn(8, 3))
            collect()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before == 1
