"""How a download tells how far it is: a function of the caller's, a bar on standard error, or silence."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import TaskID

Progress = Callable[[str, int, int], None]
"""Called now and then with a file's name, its bytes so far and its bytes in all."""


class PoochBar:
    """The progress bar that pooch drives, as calls of `tell` with the published name and size."""

    def __init__(self, name: str, size: int, tell: Progress) -> None:
        self._name, self._size, self._tell = name, size, tell
        self._done = 0

    @property
    def total(self) -> int:
        """The published size; pooch sets the server's here when an attempt begins."""
        return self._size

    @total.setter
    def total(self, _: int) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin again, as the next attempt does."""
        self._done = 0

    def update(self, more: int) -> None:
        """Count `more` bytes; pooch counts whole chunks, so the last one may be too many."""
        self._done = min(self._done + more, self._size)
        self._tell(self._name, self._done, self._size)

    def close(self) -> None:
        """Nothing to close."""


@contextmanager
def shown(progress: bool | Progress) -> Iterator[Progress]:
    """What to tell of progress: `progress` itself, a bar on standard error if True, nobody if False."""
    if not isinstance(progress, bool):
        yield progress
    elif progress:
        with _bars() as tell:
            yield tell
    else:
        yield lambda *_: None


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich import progress
    from rich.console import Console

    columns = (progress.TextColumn("{task.description}"), progress.DownloadColumn(), progress.TransferSpeedColumn())
    with progress.Progress(*columns, progress.TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)

        yield tell
