"""How much memory is left, how much does this process hold, and how is it kept from holding more? On the CPU, Linux.

What a process holds is counted as resident memory less the pages of files (code, mapped data sets), which the kernel
can drop and read again.
"""

import ctypes
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rebatch.errors import RequestError

# By default so much of what is free is left: a run needs memory beside its steps (evaluation, a checkpoint), and free
# memory in pieces of many sizes cannot all be used. The 5 % that others leave were not enough (Lightning #20231).
MARGIN = 0.1

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

# The files of a control group, by version: limit, use, and the field of memory.stat with what could be dropped.
_V1 = (Path("sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = (Path("sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file")


def parse_bytes(text: str) -> int:
    """Bytes from what people write.

    >>> parse_bytes("4GB"), parse_bytes("1.5 GiB"), parse_bytes("800000000")
    (4000000000, 1610612736, 800000000)

    Raises:
        RequestError: anything else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B|[KMG]IB|)", text.strip().upper())
    if found is None or float(found[1]) == 0:
        raise RequestError(f"an amount of memory is written like 4GB, 512MB or 2GiB, got {text!r}")
    return round(float(found[1]) * _UNITS[found[2] if found[2] != "B" else ""])


def show_bytes(amount: float) -> str:
    """For people: three digits and a unit.

    >>> show_bytes(1_234_000_000), show_bytes(45_600_000), show_bytes(999_999)
    ('1.23 GB', '45.6 MB', '1 MB')
    """
    for unit in ("kB", "MB", "GB"):
        amount /= 1000
        if amount < 999.5:
            return f"{amount:.3g} {unit}"
    return f"{amount / 1000:,.3g} TB"


def can_limit() -> bool:
    """Whether this system says what a process holds, and keeps it to a limit."""
    return sys.platform == "linux"


def available(root: Path = Path("/")) -> int:
    """Bytes that processes may still take: what the kernel says, or a control group (a container's, say) if less."""
    (line,) = (each for each in (root / "proc/meminfo").read_text().splitlines() if each.startswith("MemAvailable:"))
    return min([int(line.split()[1]) * 1024, *_rooms(root)])


def held() -> int:
    """Bytes this process holds now."""
    return _status("VmRSS") - _status("RssFile")


def most_held() -> int:
    """The most bytes it has held since `forget_most_held`, but for pages of files that were dropped meanwhile."""
    return _status("VmHWM") - _status("RssFile")


def forget_most_held() -> None:
    """Give back what is free in the heap, and let `most_held` start again from now, where the system can."""
    with suppress(AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def hold_at_most(limit: int) -> None:
    """Let this process hold at most `limit` bytes: an allocation beyond raises MemoryError, or torch's own error.

    What is limited is RLIMIT_DATA, the private writable memory, which may grow by what is left to `limit`. Not
    RLIMIT_AS: that counts addresses too that nothing lies at, of which CUDA alone takes many gigabytes. If memory runs
    out in spite of it, the kernel is asked to end this process before any other.

    Raises:
        RequestError: the process holds more already.
    """
    import resource

    Path("/proc/self/oom_score_adj").write_text("1000")
    room = limit - held()
    if room <= 0:
        raise RequestError(
            f"a memory limit of {show_bytes(limit)} is less than Python and torch take, which is {show_bytes(held())}; "
            "allow more"
        )
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _status("VmData") + room
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, flags=re.MULTILINE)
    assert found is not None, field
    return int(found[1]) * 1024


def _rooms(root: Path) -> Iterator[int]:
    """What is left in each control group that this process belongs to and that has a limit."""
    with suppress(FileNotFoundError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            mount, *names = _V1 if controllers else _V2
            # In a container the path may be that of the host, and the mount itself the container's own group.
            folder = root / mount / path.strip("/")
            for group in (folder, *folder.parents):
                if group.is_relative_to(root / mount):
                    yield from _room(group, *names)


def _room(group: Path, limit: str, use: str, droppable: str) -> Iterator[int]:
    with suppress(FileNotFoundError, PermissionError, ValueError):  # no limit is written `max`
        most, used = (int((group / name).read_text()) for name in (limit, use))
        fields = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        yield max(0, most - used + int(fields.get(droppable, "0")))
