"""What batch size does to a run: one file per quantity, a pure estimator on top, a small observer below."""

from rebatch.measure.curvature import Curvature, TopEigenvalue, top_eigenvalue
from rebatch.measure.epoch_correlation import (
    batch_correlation,
    cross_covariance_trace,
    exact_cross_trace,
    sample_epochs,
)
from rebatch.measure.forgetting import Decay, Forgetting, Replay, fit_decay
from rebatch.measure.increments import (
    Moments,
    Setting,
    covariance_trace,
    mean_step_ratio,
    mean_step_square,
    sample_moments,
    sample_updates,
    trace_ratio,
    update_moments,
)
from rebatch.measure.landscape import (
    Landscape,
    Spread,
    fit_alpha,
    hessian_traces,
    landscape,
    loss_along,
    random_direction,
    spread,
    taylor_curve,
    taylor_line,
    taylor_ratio,
    undisturbed,
)
from rebatch.measure.noise_scale import NoiseScale, NoiseScaleEstimate, estimate_noise_scale
from rebatch.measure.preconditioner import adam_denominator
from rebatch.measure.random_walk import (
    flat_potential,
    fractional_potential,
    log_time_exponent,
    mean_square_distance,
    walk,
)
from rebatch.measure.sharpness import Sharpness, adaptive_sharpness, keskar_sharpness
from rebatch.measure.watch import Summary, Watch
from rebatch.measure.weight_distance import WeightDistance, weight_distance
from rebatch.stability import adam_stable_lr, edge, optimum, stable_lr, stable_lr_of, unstable

__all__ = [
    "Curvature",
    "Decay",
    "Forgetting",
    "Landscape",
    "Moments",
    "NoiseScale",
    "NoiseScaleEstimate",
    "Replay",
    "Setting",
    "Sharpness",
    "Spread",
    "Summary",
    "TopEigenvalue",
    "Watch",
    "WeightDistance",
    "adam_denominator",
    "adam_stable_lr",
    "adaptive_sharpness",
    "batch_correlation",
    "covariance_trace",
    "cross_covariance_trace",
    "edge",
    "estimate_noise_scale",
    "exact_cross_trace",
    "fit_alpha",
    "fit_decay",
    "flat_potential",
    "fractional_potential",
    "hessian_traces",
    "keskar_sharpness",
    "landscape",
    "log_time_exponent",
    "loss_along",
    "mean_square_distance",
    "mean_step_ratio",
    "mean_step_square",
    "optimum",
    "random_direction",
    "sample_epochs",
    "sample_moments",
    "sample_updates",
    "spread",
    "stable_lr",
    "stable_lr_of",
    "taylor_curve",
    "taylor_line",
    "taylor_ratio",
    "top_eigenvalue",
    "trace_ratio",
    "undisturbed",
    "unstable",
    "update_moments",
    "walk",
    "weight_distance",
]
