"""The built-in studies by name, one folder or file per source."""

from rebatch.study.plan import Study
from rebatch.study.studies.hoffer_2017.diffusion import DIFFUSION
from rebatch.study.studies.hoffer_2017.distance import DISTANCE
from rebatch.study.studies.hoffer_2017.epoch import EPOCH
from rebatch.study.studies.hoffer_2017.gap import GAP
from rebatch.study.studies.hoffer_2017.ghosts import GHOSTS
from rebatch.study.studies.hoffer_2017.increments import INCREMENTS
from rebatch.study.studies.hoffer_2017.landscape import LANDSCAPE
from rebatch.study.studies.hoffer_2017.learning_rate import LEARNING_RATE
from rebatch.study.studies.hoffer_2017.momentum_reset import MOMENTUM_RESET
from rebatch.study.studies.hoffer_2017.noise import NOISE_STUDY
from rebatch.study.studies.hoffer_2017.optimizers import OPTIMIZERS
from rebatch.study.studies.hoffer_2017.overfit import OVERFIT
from rebatch.study.studies.hoffer_2017.random_walk import RANDOM_WALK
from rebatch.study.studies.hoffer_2017.regime import REGIME
from rebatch.study.studies.hoffer_2017.schedule import SCHEDULE
from rebatch.study.studies.hoffer_2017.updates import UPDATES
from rebatch.study.studies.mini_batches.bagging import BAGGING
from rebatch.study.studies.mini_batches.gradient_error import GRADIENT_ERROR
from rebatch.study.studies.mini_batches.hardware_batch import HARDWARE_BATCH
from rebatch.study.studies.mini_batches.quadratic_model import QUADRATIC_MODEL
from rebatch.study.studies.mini_batches.saddle_escape import SADDLE_ESCAPE
from rebatch.study.studies.mini_batches.small_batches import SMALL_BATCHES
from rebatch.study.studies.page_2018.batch import BATCH
from rebatch.study.studies.page_2018.directions import DIRECTIONS
from rebatch.study.studies.page_2018.forgetting import FORGETTING
from rebatch.study.studies.page_2018.summed import SUMS
from rebatch.study.studies.page_2018.sweep import SWEEP
from rebatch.study.studies.rebatch.close_gap import CLOSE_GAP
from rebatch.study.studies.rebatch.late_switch import LATE_SWITCH
from rebatch.study.studies.rebatch.rate_sweep import RATE_SWEEP

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        GAP,
        UPDATES,
        LEARNING_RATE,
        GHOSTS,
        NOISE_STUDY,
        INCREMENTS,
        REGIME,
        SCHEDULE,
        OVERFIT,
        DISTANCE,
        DIFFUSION,
        LANDSCAPE,
        RANDOM_WALK,
        EPOCH,
        OPTIMIZERS,
        MOMENTUM_RESET,
        BATCH,
        SWEEP,
        FORGETTING,
        SUMS,
        DIRECTIONS,
        GRADIENT_ERROR,
        SADDLE_ESCAPE,
        CLOSE_GAP,
        LATE_SWITCH,
        QUADRATIC_MODEL,
        HARDWARE_BATCH,
        BAGGING,
        SMALL_BATCHES,
        RATE_SWEEP,
    )
}
