"""Stop at any moment, go on bit for bit: a run's whole state in one file, written whole."""

import io
import pickle
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from rebatch.errors import RunError
from rebatch.files import write_whole


class Checkpointer:
    """Keeps a run's state in `path`, at most once every `seconds`; runs shorter than that never write."""

    def __init__(self, path: Path, *, seconds: float = 60.0) -> None:
        self.path, self.seconds = path, seconds
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The saved state, on the CPU, or `None`.

        Raises:
            RunError: the file is damaged.
        """
        return self._read()

    def steps(self) -> int:
        """Finished steps in the saved state, 0 without one; raises as `load`."""
        state = self._read(mmap=True)  # the weights stay on the disk
        return 0 if state is None else int(state["step"])

    def _read(self, *, mmap: bool = False) -> dict[str, Any] | None:
        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True, mmap=mmap)
        except (RuntimeError, EOFError, LookupError, pickle.UnpicklingError) as error:
            # Too little memory is a RuntimeError too; torch's own words advise what must not be done.
            raise RunError(
                f"the checkpoint {self.path} is damaged, unless memory is short; delete it, and its run starts again"
            ) from error
        return state

    def save_if_due(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Write `state()` if the last one is old enough."""
        if time.monotonic() - self._last < self.seconds:
            return
        buffer = io.BytesIO()
        torch.save(dict(state()), buffer)
        write_whole(self.path, buffer.getvalue())
        self._last = time.monotonic()
