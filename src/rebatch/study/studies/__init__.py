"""The built-in studies by name, one file per source."""

from rebatch.study.plan import Study
from rebatch.study.studies import hoffer_2017

STUDIES: dict[str, Study] = {study.name: study for study in (hoffer_2017.GAP,)}
