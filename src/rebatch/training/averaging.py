"""The average of a run's weights: kept beside them, put in their place to be evaluated and at the end.

Averaged are the parameters and, with the same shares, the running statistics of batch norm, as Page's code and
airbench do: statistics of the newest weights do not fit averaged ones, and statistics that lag as the weights do need
no pass over the data to be measured anew. Whole numbers, such as counts of batches, are not averaged.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rebatch.averaging import Averaging, Lookahead, share_of_newest
from rebatch.rules.state import same_correction


class WeightAverage:
    """The average of the weights of `model` as `averaging` says; None keeps none.

    `progress` is the part of the run that lies behind it after so many steps.
    """

    def __init__(self, averaging: Averaging | None, progress: Callable[[int], float], model: nn.Module) -> None:
        self._averaging, self._progress, self._model = averaging, progress, model
        self._average = [_copy(tensor) for tensor in self._live()]
        self._began, self._ahead = False, 0.0

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Take in the weights after `step` steps, where it is their turn; lookahead puts the average in their place."""
        averaging = self._averaging
        if averaging is None or step % averaging.every > 0:
            return
        share = share_of_newest(averaging, step + self._ahead, self._progress(step))
        live = [tensor.to(average.dtype) for tensor, average in zip(self._live(), self._average, strict=True)]
        torch._foreach_lerp_(self._average, live, share)
        self._began = True
        if isinstance(averaging, Lookahead):
            self.keep()

    @torch.no_grad()
    def keep(self) -> None:
        """Put the average in the place of the weights; before it has taken in any, there is none."""
        if self._began:
            torch._foreach_copy_(self._live(), self._average)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The average in the place of the weights, which are put back, bit for bit."""
        if not self._began:
            yield
            return
        kept = [live.clone() for live in self._live()]
        self.keep()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._live(), kept)

    def _live(self) -> list[Tensor]:
        """What is averaged, as the model holds it at the moment."""
        if self._averaging is None:
            return []
        state = (*self._model.parameters(), *self._model.buffers())
        return [tensor.detach() for tensor in state if tensor.is_floating_point()]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; nothing where no average is kept."""
        if self._averaging is None:
            return {}
        return {"average": self._average, "began": self._began, "ahead": self._ahead}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up `state_dict` again."""
        for average, saved in zip(self._average, state.get("average", ()), strict=True):
            average.copy_(saved)
        self._began, self._ahead = state.get("began", False), state.get("ahead", 0.0)

    def carry(self, state: Mapping[str, Any], before: Averaging | None, step: int) -> None:
        """Take up an average that was kept as `before` says for `step` steps, and keep it on as ours says.

        It is an average of weights at any batch size; what counts on is how much weight its newest must have
        (`rebatch.rules.state.same_correction`). Without one before, ours begins here.
        """
        averaging = self._averaging
        if averaging is None:
            return
        passed = 0.0
        if before is not None:
            self.load_state_dict(state)
            counted = before.every * (step // before.every) + self._ahead
            passed = same_correction(counted, before.decay, averaging.decay)
        self._ahead = passed - averaging.every * (step // averaging.every)


def _copy(tensor: Tensor) -> Tensor:
    """To be averaged into: never in half precision, which would lose small shares."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
