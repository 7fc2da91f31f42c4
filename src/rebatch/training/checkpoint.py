"""Stop at any moment, go on bit for bit: a run's whole state in one file, written whole."""

import io
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from rebatch.files import write_whole


class Checkpointer:
    """Keeps a run's state in `path`, at most once every `seconds`; runs shorter than that never write."""

    def __init__(self, path: Path, *, seconds: float = 60.0) -> None:
        self.path, self.seconds = path, seconds
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The saved state, on the CPU, or `None`."""
        if not self.path.exists():
            return None
        state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        return state

    def steps(self) -> int:
        """Finished steps in the saved state, 0 without one."""
        state = self.load()
        return 0 if state is None else int(state["step"])

    def save_if_due(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Write `state()` if the last one is old enough."""
        if time.monotonic() - self._last < self.seconds:
            return
        buffer = io.BytesIO()
        torch.save(dict(state()), buffer)
        write_whole(self.path, buffer.getvalue())
        self._last = time.monotonic()
