"""The top eigenvalue against quadratics whose eigenvalues are written down, and against the whole Hessian."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rebatch.measure.curvature import top_eigenvalue
from toy import assert_same_state, state_of, toy_model, toy_splits

DATA = toy_splits().train


def loss_of(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(DATA.inputs), DATA.targets)


def dense_hessian(model: nn.Module) -> Tensor:
    """The twin: one row per weight, by differentiating the gradient's entries one after the other."""
    weights = list(model.parameters())
    gradient = torch.autograd.grad(loss_of(model), weights, create_graph=True)
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
