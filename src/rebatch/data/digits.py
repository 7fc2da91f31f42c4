"""scikit-learn's digits: real data that ships in a wheel and needs no network."""

import torch

from rebatch.data.sets import DataSet


def load_digits() -> DataSet:
    """1,797 images of 8 x 8 pixels, 10 classes (Alpaydin and Kaynak, 1998): inputs (1797, 64) float32 from 0 to 1."""
    from sklearn import datasets

    pixels, labels = datasets.load_digits(return_X_y=True)
    return DataSet(torch.from_numpy(pixels).float() / 16, torch.from_numpy(labels).long())
