import torch

from rebatch.data.digits import load_digits


def test_digits_are_all_there_and_scaled() -> None:
    digits = load_digits()
    assert digits.inputs.shape == (1_797, 64)
    assert digits.inputs.dtype == torch.float32
    assert (digits.inputs.min().item(), digits.inputs.max().item()) == (0.0, 1.0)
    assert torch.equal(digits.inputs * 16, (digits.inputs * 16).round())
    assert digits.targets.dtype == torch.int64
    assert digits.targets.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
