import os
import pickle
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from data.image_folders import write_folders, write_image
from rebatch import draws
from rebatch.batching import batch_bounds
from rebatch.data.augment import Flip, Normalize
from rebatch.data.batches import BatchSource, planned, prepare
from rebatch.data.decoders import Decoders, default_processes
from rebatch.data.decoding import decode
from rebatch.data.images import DecodeCrop, ImageFiles, find_images
from rebatch.data.sets import DataSet
from rebatch.errors import RequestError, RunError
from rebatch.recipe import Epochs, Recipe, Sgd

EXAMPLES = 19
RECIPE = Recipe(batch_size=7, optimizer=Sgd(lr=0.1), budget=Epochs(2))


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = write_folders(tmp_path_factory.mktemp("images"), EXAMPLES, 3)
    return find_images(folder / "train")[0]


def files_of(paths: list[str], processes: int = 1) -> ImageFiles:
    return ImageFiles(paths, resize=41, crop=32, processes=processes)


def source_of(files: ImageFiles) -> BatchSource:
    data = DataSet(torch.arange(EXAMPLES), torch.arange(EXAMPLES) % 3)
    normalize = Normalize((0.5,) * 3, (0.5,) * 3, decode=files.centres)
    return BatchSource(data, (DecodeCrop(files), Flip()), normalize, seed=5)


def test_a_batch_is_rebuilt_from_the_tables_of_its_epoch(paths: list[str]) -> None:
    indices = torch.tensor([7, 2, 18, 2])
    crops = DecodeCrop(files_of(paths)).draw(partial(draws.generator, 5, "crop"), 3, EXAMPLES)
    flips = Flip().draw(partial(draws.generator, 5, "flip"), 3, EXAMPLES)
    inputs, targets = source_of(files_of(paths)).batch(3, indices)
    for image, number in zip(inputs, indices.tolist(), strict=True):
        pixels = decode(paths[number], (int(crops[number, 0]), int(crops[number, 1])), 41, 32)
        pixels = pixels[:, :, ::-1] if flips[number, 0] else pixels
        expected = (torch.from_numpy(pixels.copy()).double() / 255 - 0.5) / 0.5
        torch.testing.assert_close(image.double(), expected, rtol=0, atol=1e-6)  # float32
    assert targets.tolist() == [1, 2, 0, 2]


def test_evaluation_sees_the_centre(paths: list[str]) -> None:
    files = files_of(paths)
    data = DataSet(torch.arange(EXAMPLES), torch.arange(EXAMPLES))
    inputs, targets = prepare(data, slice(3, 6), Normalize((0.0,) * 3, (1 / 255,) * 3, decode=files.centres))
    expected = np.stack([decode(paths[number], None, 41, 32) for number in (3, 4, 5)])
    assert torch.equal(inputs.round().to(torch.uint8), torch.from_numpy(expected))
    assert targets.tolist() == [3, 4, 5]


def epochs(source: BatchSource, pieces: list[tuple[int, int]] | None = None) -> Iterator[Tensor]:
    """All inputs of two epochs, in the pieces that a step is cut into, joined per step."""
    for step in range(6):
        epoch, start, stop = batch_bounds(step, EXAMPLES, RECIPE)
        order = torch.from_numpy(draws.order(5, epoch, EXAMPLES))[start:stop]
        cuts = [order[a:b] for a, b in pieces or [(0, 7)] if a < len(order)]
        yield torch.cat([source.batch(epoch, cut)[0] for cut in cuts])


def whole(examples: int) -> list[tuple[int, int]]:
    return [(0, examples)]


def test_neither_processes_nor_cuts_nor_working_ahead_change_a_bit(paths: list[str]) -> None:
    expected = list(epochs(source_of(files_of(paths))))
    ahead = source_of(files_of(paths, processes=3))
    ahead.expect(planned(RECIPE, EXAMPLES, whole, seed=5, steps=range(6)))
    wrong = source_of(files_of(paths))
    wrong.expect(planned(RECIPE, EXAMPLES, whole, seed=6, steps=range(6)))  # told something else than what is asked
    cut = source_of(files_of(paths, processes=2))
    for found in (epochs(ahead), epochs(wrong), epochs(cut, [(0, 3), (3, 4), (4, 7)])):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_what_will_be_asked_for_is_begun_but_not_all_of_it(paths: list[str]) -> None:
    files = files_of(paths)
    source = source_of(files)
    source.expect(planned(RECIPE, EXAMPLES, whole, seed=5, steps=range(100)))
    pending = []
    for _ in epochs(source):
        pending.append(files.pending)
    assert all(7 <= count <= 21 for count in pending)  # the next batch at least, and never more than three


def test_the_plan_is_what_a_run_asks_for(paths: list[str]) -> None:
    halves = {7: [(0, 3), (3, 7)], 5: [(0, 5)]}
    plan = planned(RECIPE, EXAMPLES, halves.__getitem__, seed=5, steps=range(2, 5))
    first, second = (torch.from_numpy(draws.order(5, epoch, EXAMPLES)) for epoch in (0, 1))
    expected = [(0, first[14:19]), (1, second[:3]), (1, second[3:7]), (1, second[7:10]), (1, second[10:14])]
    assert [(epoch, indices.tolist()) for epoch, indices in plan] == [(e, i.tolist()) for e, i in expected]


def test_a_damaged_file_ends_in_one_line_and_others_can_still_be_read(paths: list[str], tmp_path: Path) -> None:
    bad = write_image(tmp_path / "bad.jpg")
    bad.write_bytes(bad.read_bytes()[:300])
    files = files_of([paths[0], str(bad)])
    with pytest.raises(RequestError, match=r"bad\.jpg is damaged or no image: ") as caught:
        files.centres(torch.tensor([0, 1]))
    assert "\n" not in str(caught.value)
    assert files.pending == 0
    assert files.centres(torch.tensor([0])).shape == (1, 3, 32, 32)


def test_a_decoding_process_that_dies_is_told(paths: list[str]) -> None:
    decoders = Decoders(1)
    request = ([(paths[0], None)], 41, 32)
    assert decoders.submit(request).result().shape == (1, 3, 32, 32)
    os.kill(decoders._all[0].pid, signal.SIGKILL)
    with pytest.raises(RunError, match="a decoding process ended with status -9; is memory short"):
        decoders.submit(request).result()
    decoders.close()


def test_after_a_decoding_process_that_dies_or_answers_nonsense_a_fresh_one_answers(
    paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoders = Decoders(1)
    request = ([(paths[0], None)], 41, 32)
    expected = decoders.submit(request).result()
    for spoil in ("dies", "answers nonsense"):
        with monkeypatch.context() as patch:
            if spoil == "dies":
                decoders._all[0].kill()
            else:
                patch.setattr("pickle.load", lambda _: pickle.loads(b"nonsense"))
            with pytest.raises(RunError, match="a decoding process ended with status -9"):
                decoders.submit(request).result()
        np.testing.assert_array_equal(decoders.submit(request).result(), expected)
        assert len(decoders._all) == 1
    decoders.close()


def test_processes_are_shared_among_ranks_and_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = default_processes()
    assert 1 <= alone <= 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    assert default_processes() == 1
    with pytest.raises(RequestError, match="at least 1 decoding process, got 0"):
        Decoders(0)


def test_paths_and_targets_are_sorted_and_other_files_are_left_out(tmp_path: Path) -> None:
    for name in ("b/2.JPEG", "b/10.png", "a/x.jpg"):
        write_image(tmp_path / name)
    (tmp_path / "b" / "readme.txt").write_text("no image")
    (tmp_path / "b" / ".hidden.png").write_text("no image")
    (tmp_path / "notes.txt").write_text("no class")
    paths, targets, classes = find_images(tmp_path)
    assert [str(Path(path).relative_to(tmp_path)) for path in paths] == ["a/x.jpg", "b/10.png", "b/2.JPEG"]
    assert (targets, classes) == ([0, 1, 1], ["a", "b"])


def test_a_folder_that_is_laid_out_otherwise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no folder .*absent; it must hold one folder of images per class"):
        find_images(tmp_path / "absent")
    with pytest.raises(RequestError, match="must hold class folders, found 0 folders"):
        find_images(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(RequestError, match=r"no images in .*a \(looked for .jpeg, .jpg, .png, .webp\)"):
        find_images(tmp_path)
    with pytest.raises(RequestError, match="the 2 class folders of the training images, found 1 folders, 'a' among"):
        find_images(tmp_path, ["b", "c"])


def test_without_pillow_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rebatch.data.images.find_spec", lambda name: None)
    with pytest.raises(
        RequestError, match=r"need Pillow, which is not installed; run `pip install 'rebatch\[images\]'"
    ):
        find_images(tmp_path)


def test_a_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="crop must be from 1 to resize=32 pixels, got 33"):
        ImageFiles([], resize=32, crop=33)
