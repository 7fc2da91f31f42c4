"""Missing data are found by looking at files, and told as reading them would tell it."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from rebatch.data.catalog import CATALOG
from rebatch.errors import RequestError
from rebatch.tasks import TASKS
from rebatch.tasks.presence import require_data

NEED_FILES = [name for name in TASKS if not name.startswith("digits/")]


def lay_out(name: str, folder: Path) -> list[Path]:
    """Files of the published names and sizes, with holes for content."""
    layout = CATALOG[name].layouts[0]
    for file in layout.files:
        path = folder / layout.folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as sparse:
            sparse.truncate(file.size)
    return [folder / layout.folder / file.name for file in layout.files]


@pytest.mark.parametrize("name", NEED_FILES)
def test_missing_data_are_told_as_the_task_itself_tells_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as told:
        TASKS[name].data(0, tmp_path)
    with pytest.raises(RequestError) as found:
        require_data(TASKS[name], tmp_path)
    assert str(found.value) == str(told.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("name", ["mnist", "cifar100"])
def test_every_file_is_looked_at_and_its_size(name: str, tmp_path: Path) -> None:
    task = next(task for task in TASKS.values() if task.name.startswith(f"{name}/"))
    files = lay_out(name, tmp_path)
    require_data(task, tmp_path)  # nothing is read: the files are empty
    files[-1].write_bytes(b"short")
    with pytest.raises(RequestError, match=f"{files[-1].name} is damaged: expected size .* found 5; delete it and run"):
        require_data(task, tmp_path)
    files[-1].unlink()
    with pytest.raises(RequestError, match=f"no file .*{files[-1].name}; run `rebatch data fetch {name}"):
        require_data(task, tmp_path)


def test_image_folders_are_looked_for(tmp_path: Path) -> None:
    for part in ("train", "val"):
        with pytest.raises(RequestError, match=f"no folder .*imagenet/{part}; it must hold"):
            require_data(TASKS["imagenet/alexnet"], tmp_path)
        (tmp_path / "imagenet" / part).mkdir(parents=True)
    require_data(TASKS["imagenet/alexnet"], tmp_path)


def test_digits_need_no_files_and_what_a_user_s_task_reads_is_its_own_business(tmp_path: Path) -> None:
    require_data(TASKS["digits/mlp"], tmp_path)
    require_data(dataclasses.replace(TASKS["mnist/f1"]), tmp_path)


def test_looking_for_files_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rebatch.errors import RequestError; "
        "from rebatch.tasks import TASKS; from rebatch.tasks.presence import require_data\n"
        f"try: require_data(TASKS['mnist/f1'], Path({str(tmp_path)!r}))\n"
        "except RequestError: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
