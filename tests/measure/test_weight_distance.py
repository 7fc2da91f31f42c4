import math

import pytest
import torch
from torch import nn

from rebatch.measure import WeightDistance, weight_distance


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-5)]
)
def test_weight_distance_is_the_norm_of_all_differences_together(dtype: torch.dtype, tolerance: float) -> None:
    numbers = torch.Generator().manual_seed(0)
    then = [torch.randn(shape, generator=numbers).to(dtype) for shape in ((2, 3), (5,), ())]
    now = [torch.randn(tensor.shape, generator=numbers).to(dtype) for tensor in then]
    # The twin: differences as the dtype gives them, then plain Python.
    differences = [x for a, b in zip(now, then, strict=True) for x in (a - b).flatten().tolist()]
    expected = math.sqrt(math.fsum(x * x for x in differences))
    assert weight_distance(now, then).item() == pytest.approx(expected, rel=tolerance)


def test_statistics_of_half_precision_weights_accumulate_in_float32() -> None:
    # 10,000 times 0.01 is lost in bfloat16, whose sum stops growing at 2.
    weights, zeros = torch.full((10_000,), 0.1, dtype=torch.bfloat16), torch.zeros(10_000, dtype=torch.bfloat16)
    assert weight_distance([weights], [zeros]).item() == pytest.approx(10.0, rel=0.01)


def test_the_second_column_is_the_first_weight_that_is_a_matrix_or_a_filter() -> None:
    # A norm before the first convolution has weights, but they are vectors; a frozen layer does not travel.
    body = [nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(3, 5)]
    model = nn.Sequential(*body).double()
    model[1].requires_grad_(False)
    observer = WeightDistance()
    observer.start(model)
    assert {name: float(value) for name, value in observer.row(model).items()} == {
        "weight_distance": 0.0,
        "weight_distance_first": 0.0,
    }
    with torch.no_grad():
        for weight, shift in zip(model.parameters(), (0.1, 0.2, 9.0, 9.0, 0.3, 0.4, 0.5, 0.6), strict=True):
            weight.add_(shift * weight.requires_grad)
    row = observer.row(model)
    # 24 weights of the second convolution moved by 0.3; the norm's 2 and 2, its 3 biases, 15 and 5 of the last layer.
    assert float(row["weight_distance_first"]) == pytest.approx(math.sqrt(24 * 0.09), rel=1e-12)
    total = 2 * 0.01 + 2 * 0.04 + 24 * 0.09 + 3 * 0.16 + 15 * 0.25 + 5 * 0.36
    assert float(row["weight_distance"]) == pytest.approx(math.sqrt(total), rel=1e-12)


def test_the_second_column_of_a_fully_connected_network_is_its_first_layer() -> None:
    model, observer = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 7), nn.Linear(7, 3)).double(), WeightDistance()
    observer.start(model)
    with torch.no_grad():
        for weight, shift in zip(model.parameters(), (9.0, 9.0, 0.3, 9.0, 9.0, 9.0), strict=True):
            weight.add_(shift)
    assert float(observer.row(model)["weight_distance_first"]) == pytest.approx(math.sqrt(35 * 0.09), rel=1e-12)


def test_without_matrices_the_second_column_is_the_first_parameter() -> None:
    model, observer = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3)).double(), WeightDistance()
    observer.start(model)
    with torch.no_grad():
        for weight, shift in zip(model.parameters(), (2.0, 3.0, 5.0, 7.0), strict=True):
            weight.add_(shift)
    assert float(observer.row(model)["weight_distance_first"]) == pytest.approx(math.sqrt(12), rel=1e-12)


def test_tensors_that_do_not_pair_up_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        weight_distance([torch.zeros(2)], [])


def test_layers_have_distances_of_their_own_whose_squares_add_up() -> None:
    model, observer = (
        nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 7), nn.Linear(7, 3)).double(),
        WeightDistance(layers=True),
    )
    model.register_parameter("scale", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    model[2].bias.requires_grad_(False)
    observer.start(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.add_({"scale": 0.7, "0.weight": 0.1, "0.bias": 0.2, "1.weight": 0.3}.get(name, 0.0))
    row = {name: float(value) for name, value in observer.row(model).items()}
    found = {name.partition(":")[2]: value for name, value in row.items() if ":" in name}
    expected = {"scale": 2 * 0.49, "0": 5 * 0.01 + 5 * 0.04, "1": 35 * 0.09, "2": 0.0}
    assert found == {name: pytest.approx(math.sqrt(square), rel=1e-12) for name, square in expected.items()}
    assert math.fsum(value**2 for value in found.values()) == pytest.approx(row["weight_distance"] ** 2, rel=1e-12)


def test_a_model_may_move_to_another_device_after_the_start() -> None:
    model, observer = nn.Linear(3, 2), WeightDistance()
    observer.start(model)
    model.to("meta")  # a device that every machine has
    assert observer.row(model)["weight_distance"].device.type == "meta"
