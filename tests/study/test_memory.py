"""What is left and what is held: against made-up files of the kernel, and against what a test takes itself."""

from pathlib import Path

import pytest

from rebatch.errors import RequestError
from rebatch.study import memory

linux = pytest.mark.skipif(not memory.can_limit(), reason="reads the files of Linux")


def kernel(root: Path, group: str, files: dict[str, str]) -> Path:
    """A root folder with 8 GiB available, this process in a control group, and that group's files."""
    files = {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    8388608 kB\n", "proc/self/cgroup": group, **files}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_without_control_groups_all_that_the_kernel_names_is_available(tmp_path: Path) -> None:
    assert memory.available(kernel(tmp_path, "0::/\n", {})) == 8 * 2**30


def test_a_container_has_what_is_left_of_its_limit(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/jobs"
    files = {
        f"{group}/memory.max": "1000000000\n",
        f"{group}/memory.current": "700000000\n",
        f"{group}/memory.stat": "anon 400000000\ninactive_file 250000000\n",
        f"{group}/mine/memory.max": "max\n",
    }
    assert memory.available(kernel(tmp_path, "0::/jobs/mine\n", files)) == 550_000_000


def test_control_groups_of_version_1_count_too(tmp_path: Path) -> None:
    mount = "sys/fs/cgroup/memory"  # the path is the host's, of which the container sees the mount alone
    files = {
        f"{mount}/memory.limit_in_bytes": "2000000000\n",
        f"{mount}/memory.usage_in_bytes": "1500000000\n",
        f"{mount}/memory.stat": "total_inactive_file 100000000\n",
    }
    group = "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n"
    assert memory.available(kernel(tmp_path, group, files)) == 600_000_000


@linux
def test_what_is_taken_is_held_and_the_most_is_remembered() -> None:
    memory.forget_most_held()
    before = memory.held()
    block = bytearray(b"x") * 200_000_000
    assert memory.held() - before > 150_000_000
    del block
    assert memory.most_held() - before > 150_000_000
    assert memory.held() - before < 100_000_000


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", "4 PB", "1e9", "GB"])
def test_what_is_no_amount_of_memory_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="written like 4GB"):
        memory.parse_bytes(text)
