"""How the examples of one step are cut: into ghosts, ranks and micro-batches. Integers only."""

import math
from itertools import accumulate, pairwise

from rebatch.errors import RequestError
from rebatch.recipe import Recipe


def ghost_sizes(examples: int, ghost_batch_size: int) -> list[int]:
    """Sizes of the contiguous ghosts of a batch of `examples` (Hoffer et al., 2017, Algorithm 1).

    A remainder is a ghost of its own; a remainder of one joins the ghost before it, since one example has no variance;
    a batch smaller than one ghost is one ghost.

    >>> ghost_sizes(10, 4), ghost_sizes(9, 4), ghost_sizes(3, 4)
    ([4, 4, 2], [4, 5], [3])
    """
    whole, rest = divmod(examples, ghost_batch_size)
    sizes = [ghost_batch_size] * whole
    if rest == 1 and sizes:
        sizes[-1] += 1
    elif rest:
        sizes.append(rest)
    return sizes


def chunk_sizes(examples: int, chunks: int) -> list[int]:
    """Sizes of `chunks` contiguous ghosts as `torch.chunk` cuts them, which is what the paper's released code does.

    The last may be small, and there may be fewer; a last one of one example joins the ghost before it.

    >>> chunk_sizes(848, 32)[-2:], chunk_sizes(9, 4)
    ([27, 11], [3, 3, 3])
    """
    return ghost_sizes(examples, max(2, math.ceil(examples / chunks)))


def cut(sizes: list[int], parts: int) -> list[list[int]]:
    """Deal whole pieces, in order, to `parts` contiguous shares as even as whole pieces allow; some may be empty.

    >>> cut([4, 4, 4, 5], 3)
    [[4], [4, 4], [5]]
    """
    ends = [round(len(sizes) * part / parts) for part in range(parts + 1)]
    return [sizes[start:end] for start, end in pairwise(ends)]


def micro_batch_sizes(pieces: list[int], micro_batch_size: int) -> list[int]:
    """Join neighbouring pieces (ghosts, or single examples) into micro-batches of at most `micro_batch_size`.

    A piece is never split: one that is larger than `micro_batch_size` is a micro-batch of its own.

    >>> micro_batch_sizes([4, 4, 4, 5], 8)
    [8, 4, 5]
    """
    sizes: list[int] = []
    for piece in pieces:
        if sizes and sizes[-1] + piece <= micro_batch_size:
            sizes[-1] += piece
        else:
            sizes.append(piece)
    return sizes


def is_cut(recipe: Recipe, micro_batch_size: int | None, ranks: int) -> bool:
    """Whether some step of the run is computed in several pieces."""
    sizes = (micro_batch_size, recipe.piece_size)
    return ranks > 1 or any(size is not None and size < max(recipe.batch_sizes) for size in sizes)


def refuse_split_ghosts(micro_batch_size: int, ghost_batch_size: int) -> None:
    """A micro-batch holds whole ghosts.

    Raises:
        RequestError: `micro_batch_size` is not a positive multiple of `ghost_batch_size`.
    """
    if micro_batch_size < 1 or micro_batch_size % ghost_batch_size:
        raise RequestError(
            f"micro_batch_size must be a positive multiple of ghost_batch_size={ghost_batch_size}, got "
            f"{micro_batch_size}; try {max(ghost_batch_size, micro_batch_size - micro_batch_size % ghost_batch_size)}"
        )


def offsets(sizes: list[int]) -> list[tuple[int, int]]:
    """(start, stop) of consecutive pieces of the given sizes.

    >>> offsets([4, 5])
    [(0, 4), (4, 9)]
    """
    return list(pairwise(accumulate(sizes, initial=0)))
