"""Are the mini-batch gradients of one epoch uncorrelated? (They are not quite: an epoch is drawn without replacement.)

At fixed weights, two batches of the same permutation have the cross covariance -C/(N - 1) whatever their size, with C
the covariance of one example's gradient, because the gradients of an epoch must add up to their known sum; drawn with
replacement it is 0. Against a batch's own covariance C/M (N - M)/(N - 1) that is a correlation of -M/(N - M): nothing
for 128 of 50,000 examples, -0.09 for 4,096.
"""

import numpy as np
import torch
from torch import Tensor

from rebatch.measure.increments import Gradient, covariance_trace_values
from rebatch.statistics import Contrast, paired_contrast


def exact_cross_trace(per_example: Tensor, *, replacement: bool = False) -> float:
    """tr cov(g_batch, g_other batch of the epoch) = -tr C/(N - 1) from all examples' gradients (N, D), in float64."""
    if replacement:
        return 0.0
    gradients = per_example.double()
    n = len(gradients)
    return -float((gradients - gradients.mean(0)).square().sum()) / n / (n - 1)


def batch_correlation(batch_size: int, examples: int) -> float:
    """The correlation of two batches of one epoch, tr cross / tr own = -M/(N - M).

    >>> round(batch_correlation(4096, 50_000), 3)
    -0.089
    """
    return -batch_size / (examples - batch_size)


def sample_epochs(
    gradient: Gradient,
    examples: int,
    batch_size: int,
    *,
    batches: int,
    epochs: int,
    rng: np.random.Generator,
    replacement: bool = False,
) -> Tensor:
    """Gradients of the first `batches` batches of `epochs` independent epochs, all at fixed weights.

    Shape (epochs, batches, D), on the gradient's device and in its dtype. All batches of an epoch tell more than two,
    but need not be taken.

    Raises:
        ValueError: an epoch has fewer full batches.
    """
    if batches < 2 or (not replacement and batches * batch_size > examples):
        raise ValueError(
            f"batches must be from 2 to {examples // batch_size} of {batch_size} in {examples} examples, got {batches}"
        )
    ones = torch.ones(batch_size, dtype=torch.float64)
    found = []
    for _ in range(epochs):
        order = torch.from_numpy(rng.choice(examples, (batches, batch_size), replace=replacement))
        found.append(torch.stack([gradient(indices, ones).detach() for indices in order]))
    return torch.stack(found)


def cross_covariance_trace(gradients: Tensor) -> Contrast:
    """The trace of the covariance of two batches of an epoch, the mean over pairs; gradients (epochs, batches, D).

    Unbiased: with K batches, tr cov(sum of an epoch) - sum of tr cov(batch k) = K (K - 1) tr cross, each a sample
    covariance over epochs. The standard error is that of the jackknife over epochs. The full batch, all of an epoch's
    batches together, has a known sum and so no variance: taken with every batch, the estimate is precise.

    Raises:
        ValueError: fewer than 2 batches or 3 epochs.
    """
    if gradients.dim() != 3 or gradients.shape[1] < 2:
        raise ValueError(f"expected (epochs, 2 or more batches, D), got {tuple(gradients.shape)}")
    k = gradients.shape[1]
    own = [covariance_trace_values(gradients[:, batch]) for batch in range(k)]
    together = covariance_trace_values(gradients.sum(1, dtype=torch.float64))
    return paired_contrast((together - np.sum(own, axis=0)) / (k * (k - 1)))
