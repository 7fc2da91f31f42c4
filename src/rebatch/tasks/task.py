"""A task is data about a task: model + data + reference recipe. Torch is imported only by `.model()` and `.data()`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from rebatch.errors import RequestError
from rebatch.execution import Execution
from rebatch.recipe import Recipe
from rebatch.tasks.checks import check_model, check_sizes, check_splits, checked_fields

if TYPE_CHECKING:
    from torch import nn

    from rebatch.data.sets import Splits


FLOAT32 = Execution()


class Sizes(NamedTuple):
    """How many examples the files of a data folder give, and what identifies their content."""

    train: int
    validation: int
    test: int
    digest: str


@dataclass(frozen=True)
class Task:
    """What to train, on what, and the recipe that was tuned for it.

    Attributes:
        name: `data/model`.
        recipe: the reference recipe, tuned at its batch size on the validation split.
        train, validation, test: number of examples of the three splits. What is chosen is chosen on the validation
            split; the test set is read once, after the last step. 0 where `sizes` must look at the data first.
        classes: number of classes; a diverged run counts as 100/classes percent.
        build: makes a new model with fresh weights from torch's global generator.
        load: the three splits, from a data folder and a seed.
        seed_draws_split: whether the seed draws the split too (small data), or the split is the same for all seeds.
        execution: how runs are computed; "auto" measures on this machine when a study is planned.
        regimes: further recipes by name: "code" is what the paper's released code does where that looks like a slip,
            "planned" what it plans and then cuts short, "batch-512" what the author tuned at that batch size.
        prepare: what a fresh model takes from the training data before its first step, such as whitened patches.
        sizes: for data that the user brings: how many examples a data folder gives, without torch.
        tokens_per_example: targets of one example, each of them predicted: the length of a language model's sequences.
        digest: identifies such data in a run; `sized` sets it.

    Raises:
        RequestError: a field is not what it must be; what `build` and `load` return is looked at once it is there.
    """

    name: str
    recipe: Recipe
    train: int
    validation: int
    test: int
    classes: int
    build: Callable[[], nn.Module]
    load: Callable[[Path, int], Splits]
    seed_draws_split: bool = False
    execution: Execution | Literal["auto"] = FLOAT32
    regimes: Mapping[str, Recipe] = field(default_factory=dict, hash=False)
    prepare: Callable[[nn.Module, Splits], object] | None = None
    sizes: Callable[[Path], Sizes] | None = None
    tokens_per_example: int = 1
    digest: str = ""

    def __post_init__(self) -> None:
        for name, value in checked_fields(self).items():
            object.__setattr__(self, name, value)

    @property
    def chance(self) -> float:
        """Accuracy of a guess, in percent: what a diverged run counts as."""
        return 100.0 / self.classes

    def sized(self, data_dir: Path | None = None) -> Task:
        """The task with the numbers of examples that the data folder gives; itself where they are always the same.

        Raises:
            RequestError: the data are not there, or too few.
        """
        if self.sizes is None:
            return self
        from rebatch.data.folder import data_dir as choose

        found = self.sizes(choose(data_dir))
        check_sizes(self.name, found)
        return replace(self, **found._asdict())

    def regime(self, name: str) -> Recipe:
        """The recipe of `regimes` called `name`.

        Raises:
            RequestError: the task has none of that name.
        """
        if name in self.regimes:
            return self.regimes[name]
        known = ", ".join(self.regimes) or "none"
        raise RequestError(
            f"task {self.name} has no regime {name!r}, it has {known}; leave it out for the reference recipe"
        )

    def model(self, seed: int = 0, data: Splits | None = None) -> nn.Module:
        """A fresh model, whose weights depend on `seed` and on `data` alone; torch's global generator stays as it was.

        `data` is what the run will train on; a task with `prepare` needs it.

        Raises:
            RequestError: `build` returned no model.
        """
        import torch

        from rebatch import draws

        with torch.random.fork_rng():
            torch.manual_seed(int(draws.generator(seed, "model").integers(2**62)))
            model = self.build()
        check_model(self.name, model)
        if self.prepare is not None and data is not None:
            self.prepare(model, data)
        return model

    def data(self, seed: int = 0, data_dir: Path | None = None) -> Splits:
        """The three splits; `data_dir` is the folder of published data files, the user's cache folder by default.

        Raises:
            RequestError: the data are not there, not as many as the task promises, or nothing to train on: labels
                beyond the task's classes, targets or inputs of a wrong type.
        """
        from rebatch.data.folder import data_dir as choose

        splits = check_splits(self, self.load(choose(data_dir), seed))
        sizes = (len(splits.train), len(splits.validation), len(splits.test))
        promised = self.sized(data_dir)
        expected = (promised.train, promised.validation, promised.test)
        if sizes != expected:
            raise RequestError(f"task {self.name} promises splits of {expected} examples, its data has {sizes}")
        return splits
