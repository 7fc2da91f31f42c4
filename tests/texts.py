"""Made text for the language model: nothing is downloaded."""

from pathlib import Path

from rebatch import draws

WORDS = ["batch", "size", "learning", "rate", "noise", "scale", "steps", "loss", "gradient", "momentum", "decay"]


def made_text(words: int, seed: int = 0) -> str:
    """So many words, drawn evenly, with spaces between them."""
    chosen = draws.generator(seed, "text").integers(0, len(WORDS), words)
    return " ".join(WORDS[word] for word in chosen)


def lay_out(data_dir: Path, words: int = 400) -> Path:
    """A data folder with two texts."""
    folder = data_dir / "text"
    folder.mkdir(parents=True)
    for number in (0, 1):
        (folder / f"{number}.txt").write_text(made_text(words // 2, number))
    return data_dir
