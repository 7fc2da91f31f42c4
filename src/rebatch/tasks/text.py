"""`text/char-lm`: a language model over the bytes of any text. Torch is imported by the model and the data alone.

The text is the user's: the `.txt` files of `text/` in the data folder, or files of a task of one's own,

    from rebatch.tasks.text import char_lm

    plays = char_lm("text/plays", ["shakespeare.txt"])

in a file that `--task path/to/file.py:plays` names. An example is a sequence of `length` bytes: `batch_size` counts
sequences, and a batch of B has B x `length` tokens (`Task.tokens_per_example`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rebatch.data.text import count_windows, digest, find_texts, load_windows
from rebatch.execution import Execution
from rebatch.recipe import Recipe
from rebatch.tasks.recipes import CHAR_LM
from rebatch.tasks.task import Sizes, Task

if TYPE_CHECKING:
    from torch import nn

    from rebatch.data.sets import Splits

FOLDER = "text"


def char_lm(
    name: str,
    texts: Sequence[str | Path] | None = None,
    *,
    recipe: Recipe = CHAR_LM,
    length: int = 64,
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
) -> Task:
    """A task called `name`: predict each next byte of `texts`, by default those of `text/` in the data folder.

    The recipe was tuned for the default network; `length` is the number of bytes of a sequence.
    """

    def chosen(data_dir: Path) -> list[Path]:
        return find_texts(data_dir / FOLDER) if texts is None else [Path(text).expanduser() for text in texts]

    def sizes(data_dir: Path) -> Sizes:
        found = chosen(data_dir)
        return Sizes(*count_windows(found, length), digest(found))

    def load(data_dir: Path, _: int) -> Splits:
        return load_windows(chosen(data_dir), length)

    def build() -> nn.Module:
        from rebatch.models.transformer import Transformer

        return Transformer(length=length, width=width, layers=layers, heads=heads)

    return Task(
        name,
        recipe,
        0,
        0,
        0,
        classes=256,
        build=build,
        load=load,
        execution=Execution(),
        sizes=sizes,
        tokens_per_example=length,
    )
