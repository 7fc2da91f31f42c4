"""What batch size does to a run: one file per quantity, a pure estimator on top, a small observer below."""

from rebatch.measure.weight_distance import WeightDistance, weight_distance

__all__ = ["WeightDistance", "weight_distance"]
