import math

import pytest
import torch

from rebatch.measure import weight_distance


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


def test_tensors_that_do_not_pair_up_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        weight_distance([torch.zeros(2)], [])
