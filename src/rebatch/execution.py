"""How a run is computed on this machine: what a `RunSpec` records and a measurement or the user chooses."""

from typing import Literal

import msgspec

Precision = Literal["float32", "bfloat16", "float64"]
MemoryFormat = Literal["contiguous", "channels_last"]


class Execution(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Precision (bfloat16: autocast over float32 weights), memory format and compilation of a run."""

    precision: Precision = "float32"
    memory_format: MemoryFormat = "contiguous"
    compile: bool = False

    def describe(self) -> str:
        """For tables: `"bfloat16, channels_last, compiled"`."""
        layout = [] if self.memory_format == "contiguous" else [self.memory_format]
        return ", ".join([self.precision, *layout, *(["compiled"] if self.compile else [])])
