"""What can go wrong, in the words a user needs: what, the value, the limit, the way out."""

import difflib
from collections.abc import Iterable


class RequestError(ValueError):
    """The request was wrong and nothing was done (command line: exit status 2)."""


class RunError(RuntimeError):
    """A run or a study could not be finished; what was finished before is kept (exit status 1)."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'sqrt_lr'?"` where a known name is close, else the list of known names.

    >>> did_you_mean("sqr_lr", ["linear_lr", "sqrt_lr"])
    "; did you mean 'sqrt_lr'?"
    >>> did_you_mean("zebra", ["linear_lr", "sqrt_lr"])
    '; there are linear_lr, sqrt_lr'
    """
    known = list(known)
    if close := difflib.get_close_matches(name, known, n=1):
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(known)}"
