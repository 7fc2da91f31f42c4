"""What `page-sweep` varies: one setting, and the name of its arm."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Point:
    """One setting of the sweep; its name is that of its arm."""

    equal_updates: bool
    batch_size: int
    examples: int
    factor: float

    @property
    def name(self) -> str:
        """`batch 128, n 45000, f 0.25`."""
        mode = ", equal updates" if self.equal_updates else ""
        return f"batch {self.batch_size}, n {self.examples}, f {self.factor:g}{mode}"

    @staticmethod
    def of(name: str) -> "Point":
        """The point that an arm's name stands for.

        >>> Point.of("batch 128, n 45000, f 0.25")
        Point(equal_updates=False, batch_size=128, examples=45000, factor=0.25)
        """
        found = _NAME.fullmatch(name)
        assert found is not None, name
        size, examples, factor, mode = found.groups()
        return Point(mode is not None, int(size), int(examples), float(factor))


_NAME = re.compile(r"batch (\d+), n (\d+), f ([\d.]+)(, equal updates)?")
