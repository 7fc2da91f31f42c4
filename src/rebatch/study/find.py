"""From what the user wrote to a study: a built-in name or `path/to/file.py:name`."""

from rebatch.errors import RequestError, did_you_mean
from rebatch.study.plan import Study
from rebatch.study.studies import STUDIES
from rebatch.tasks.find import is_file_reference, load_from_file


def find_study(reference: str) -> Study:
    """The study called `reference`.

    Raises:
        RequestError: there is none; a close name is suggested.
    """
    if is_file_reference(reference):
        return load_from_file(reference, Study)
    if reference not in STUDIES:
        raise RequestError(
            f"no study named {reference!r}{did_you_mean(reference, STUDIES)} (your own: path/to/file.py:name)"
        )
    return STUDIES[reference]
