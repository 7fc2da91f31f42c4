"""The built-in studies by name, one folder or file per source."""

from rebatch.study.plan import Study
from rebatch.study.studies.hoffer_2017.gap import GAP
from rebatch.study.studies.hoffer_2017.momentum_reset import MOMENTUM_RESET

STUDIES: dict[str, Study] = {study.name: study for study in (GAP, MOMENTUM_RESET)}
