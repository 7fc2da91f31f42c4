"""The loop, gradients over micro-batches, evaluation, checkpoints."""

from rebatch.training.checkpoint import Checkpointer
from rebatch.training.continuing import EarlierRun
from rebatch.training.evaluation import Evaluation, evaluate
from rebatch.training.gradients import SummedLoss, cross_entropy
from rebatch.training.loop import train
from rebatch.training.run import Row

__all__ = ["Checkpointer", "EarlierRun", "Evaluation", "Row", "SummedLoss", "cross_entropy", "evaluate", "train"]
