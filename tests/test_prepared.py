"""Prepared sets: the same images as their folder's, whole or not at all, mapped and not copied, damage is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nas.cli import main
from nas.data import ImageData, load, prepared
from nas.data.batches import Normalise, draw, on_device, plain_batches, train_batches
from nas.data.images import channel_statistics
from nas.data.pictures import Picture, decode_one
from nas.data.prepared import IMAGES, LABELS, META, MOMENTS, prepare

CPU = torch.device("cpu")
ARRAYS = (IMAGES, LABELS, MOMENTS)


def noise(path: Path, seed: int, mode: str = "RGB") -> None:
    """A picture that no other one equals, wider than high."""
    values = np.random.default_rng(seed).integers(0, 256, (10, 14, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).convert(mode).save(path)


def folders(root: Path, count: int = 20, **how: Any) -> Path:
    """Two classes of `count` train pictures and 3 test pictures each; one of either split is broken."""
    for label, name in enumerate(("ant", "bird")):
        for i in range(count):
            noise(root / "train" / name / f"{i:03}.png", 1000 * label + i, **how)
        for i in range(3):
            noise(root / "test" / name / f"{i}.png", 5000 + 1000 * label + i, **how)
    (root / "train" / "bird" / "cut.png").write_bytes((root / "train" / "bird" / "000.png").read_bytes()[:200])
    (root / "test" / "ant" / "text.jpg").write_text("no picture")
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return folders(tmp_path / "photos")


@pytest.fixture
def made(photos: Path, tmp_path: Path) -> Path:
    prepare(photos, tmp_path / "set", size=8)
    return tmp_path / "set"


def epoch(data: ImageData, resident: bool) -> list[torch.Tensor]:
    drawn = draw(len(data.train), crop_padding=2, horizontal_flip=True, generator=torch.Generator().manual_seed(1))
    images = on_device(data.train, CPU, resident=resident)
    return [x for x, _ in train_batches(images, Normalise.of(data), drawn, batch_size=7, crop_padding=2)]


# what is in it


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("train_images", [None, 10])
def test_a_prepared_set_is_its_folder(tmp_path: Path, mode: str, train_images: int | None) -> None:
    """Images, labels, classes, skipped names and statistics, split by split, and so the batches, to the last bit."""
    root = folders(tmp_path / "photos", mode=mode)
    prepare(root, tmp_path / "set", size=8)
    folder = load(str(root), image_size=8, seed=3, train_images=train_images)
    mapped = load(str(tmp_path / "set"), seed=3, train_images=train_images)
    assert (mapped.name, mapped.classes, mapped.size) == (folder.name, folder.classes, 8)
    assert mapped.channels == folder.channels == (3 if mode == "RGB" else 1)
    assert (mapped.mean, mapped.std) == (folder.mean, folder.std)
    for ours, theirs in ((mapped.train, folder.train), (mapped.val, folder.val), (mapped.test(), folder.test())):
        assert len(ours) == len(theirs) > 0
        assert np.array_equal(ours.images_NHWC, theirs.images_NHWC)
        assert np.array_equal(ours.labels, theirs.labels)
        assert ours.skipped == theirs.skipped
    assert mapped.test().skipped == (str(Path("test", "ant", "text.jpg")),)
    for one, other in zip(epoch(mapped, resident=False), epoch(folder, resident=True), strict=True):
        assert torch.equal(one, other)


def test_a_broken_picture_does_not_move_the_split(photos: Path, tmp_path: Path) -> None:
    """The other pictures stay in train and in validation as they were."""
    broken = load(prepared_as(photos, tmp_path / "broken"))
    noise(photos / "train" / "bird" / "cut.png", 77)
    whole = load(prepared_as(photos, tmp_path / "whole"))
    lost = {image.tobytes() for image in whole.train.images_NHWC} - {
        image.tobytes() for image in broken.train.images_NHWC
    }
    lost |= {image.tobytes() for image in whole.val.images_NHWC} - {image.tobytes() for image in broken.val.images_NHWC}
    assert broken.skipped == (str(Path("train", "bird", "cut.png")),)
    assert len(lost) == 1


def prepared_as(root: Path, out: Path, **how: Any) -> str:
    prepare(root, out, size=8, **how)
    return str(out)


def test_the_number_of_workers_changes_nothing(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 3 workers later chunks are done first: the pictures of the first ones take longest."""
    monkeypatch.setattr(prepared, "CHUNK", 3)
    monkeypatch.setattr(prepared, "AHEAD", 2)
    prepared_as(photos, tmp_path / "one", workers=1)

    def uneven(picture: Any, **how: Any) -> Any:
        time.sleep(0.005 if "ant" in picture.name else 0)
        return decode_one(picture, **how)

    monkeypatch.setattr(prepared, "decode_one", uneven)
    prepared_as(photos, tmp_path / "three", workers=3)
    for name in ARRAYS:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()


def test_only_so_many_images_wait_to_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "CHUNK", 2)
    begun: list[int] = []

    def work(some: Sequence[Picture]) -> list[Any]:
        begun.extend(int(picture.name) for picture in some)
        return [picture.name for picture in some]

    pictures = [Picture(str(i), Path()) for i in range(101)]
    in_order: Any = prepared._in_order
    given = in_order(work, pictures, workers=1)
    assert next(given) == "0"
    time.sleep(0.05)
    assert len(begun) <= prepared.AHEAD * 2
    assert list(given) == [str(i) for i in range(1, 101)]


def test_grey_is_one_channel_of_coloured_pictures(photos: Path, tmp_path: Path) -> None:
    data = load(prepared_as(photos, tmp_path / "grey", grey=True))
    assert data.channels == 1
    for path in photos.rglob("*0.png"):
        Image.open(path).convert("L").save(path)
    assert load(prepared_as(photos, tmp_path / "mixed")).channels == 3
    assert data.digest == load(prepared_as(photos, tmp_path / "again", grey=True)).digest


def test_without_a_test_folder_there_is_no_test_split(photos: Path, tmp_path: Path) -> None:
    data = load(prepared_as(photos / "train", tmp_path / "set"))
    assert not data.has_test
    assert len(data.train) + len(data.val) == 40


def test_meta_says_what_was_made(made: Path, photos: Path) -> None:
    meta = json.loads((made / META).read_text())
    assert meta["classes"] == ["ant", "bird"]
    assert (meta["size"], meta["channels"], meta["train"], meta["test"]) == (8, 3, 41, 7)
    assert meta["skipped"] == [[40, "train/bird/cut.png"], [44, "test/ant/text.jpg"]]
    assert meta["source"] == str(photos)
    assert set(meta["sha256"]) == set(ARRAYS)


def test_another_seed_another_digest_a_copy_the_same(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "copy")
    assert load(str(made)).digest == load(str(tmp_path / "copy")).digest
    assert len({load(str(made), seed=seed).digest for seed in range(5)}) == 5


# mapped, not copied


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of 6.9 MB."""
    root = tmp_path_factory.mktemp("larger")
    for i in range(1000):
        noise(root / "photos" / f"{i % 2}" / f"{i}.bmp", i)
    prepare(root / "photos", root / "set", size=48)
    return root / "set"


def test_nothing_holds_the_whole_set(larger: Path) -> None:
    """Loading, statistics, digest and an epoch take a part of the pixels' bytes; the splits share the mapped file."""
    tracemalloc.start()
    try:
        data = load(str(larger), seed=99)
        images = on_device(data.train, CPU)
        drawn = draw(len(images), crop_padding=1, horizontal_flip=True, generator=torch.Generator().manual_seed(0))
        seen = sum(len(y) for _, y in train_batches(images, Normalise.of(data), drawn, batch_size=32, crop_padding=1))
        seen += sum(len(y) for _, y in plain_batches(on_device(data.val, CPU), Normalise.of(data), batch_size=32))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seen == 1000
    assert peak < (larger / IMAGES).stat().st_size / 5
    assert data.train.is_mapped
    assert np.shares_memory(data.train.pool_MHWC, data.val.pool_MHWC)
    assert not data.train.pool_MHWC.flags.writeable


def test_pixels_are_not_read_to_load_a_set(larger: Path, tmp_path: Path) -> None:
    """Its images are overwritten behind its back, their time kept: statistics and digest come from what was written."""
    shutil.copytree(larger, tmp_path / "set")
    images = tmp_path / "set" / IMAGES
    before = load(str(tmp_path / "set"))
    expected = channel_statistics(type(before.train)(before.train.images_NHWC.copy(), before.train.labels))
    stat = images.stat()
    with images.open("rb+") as file:
        file.seek(stat.st_size - 10**6)
        file.write(bytes(10**6))
    os.utime(images, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = load(str(tmp_path / "set"), val_fraction=0.2 + 1e-9)  # the same split, loaded anew
    assert after is not before
    assert (after.digest, after.mean, after.std) == (before.digest, *expected)


# damage


def flip(path: Path, offset: int = -20) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("name", ARRAYS)
def test_a_changed_bit_is_refused_by_name(made: Path, name: str) -> None:
    flip(made / name)
    with pytest.raises(ValueError, match=rf"{name} is damaged, its checksum is not that in meta\.json"):
        load(str(made))


@pytest.mark.parametrize("name", ARRAYS)
def test_a_file_cut_short_is_refused_by_name(made: Path, name: str) -> None:
    os.truncate(made / name, (made / name).stat().st_size - 30)
    with pytest.raises(ValueError, match=f"{name} is damaged or missing"):
        load(str(made))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": 2}, "has the format 2, but this version reads 1: prepare the set again"),
        ({"format": None}, "has the format None"),
        ({"size": 9}, r"images\.npy must be uint8 \(48, 9, 9, 3\), but is uint8 \(48, 8, 8, 3\)"),
        ({"classes": None}, r"meta\.json is damaged"),
        ({"sha256": {}}, r"meta\.json is damaged"),
        ({"colour": "blue"}, r"meta\.json is damaged"),
    ],
)
def test_a_changed_meta_is_refused(made: Path, changed: dict[str, Any], message: str) -> None:
    (made / META).write_text(json.dumps(json.loads((made / META).read_text()) | changed))
    with pytest.raises(ValueError, match=message):
        load(str(made))


@pytest.mark.parametrize("content", ["", "[]", '{"classes": []}'])
def test_a_meta_that_is_none_is_refused(made: Path, content: str) -> None:
    (made / META).write_text(content)
    with pytest.raises(ValueError, match=r"meta\.json is damaged"):
        load(str(made))


def test_a_copy_is_compared_once(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written by the preparation is not read again; a file of another time is, and then has the time."""
    hashed: list[int] = []
    original = prepared._sha256

    def counting(array: Any) -> str:
        hashed.append(array.ndim)
        return original(array)

    monkeypatch.setattr(prepared, "_sha256", counting)
    load(str(made), seed=1)
    assert 4 not in hashed
    os.utime(made / IMAGES, ns=(1, 1))
    load(str(made), seed=2)
    assert hashed.count(4) == 1
    load(str(made), seed=3)
    assert hashed.count(4) == 1


# whole or not at all


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_killed_preparation_leaves_no_set_and_the_next_one_cleans_up(photos: Path, tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal, sys; from nas.data.prepared import prepare; "
        "die = lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done == 25 else None; "
        "prepare(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), size=8, on_image=die)"
    )
    out = tmp_path / "set"
    done = subprocess.run([sys.executable, "-c", code, photos, out], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    left = entries(tmp_path) - {"photos"}
    assert len(left) == 1 and not any(prepared.is_prepared(tmp_path / name) for name in left)
    assert len(load(prepared_as(photos, out)).train) == 32
    assert entries(tmp_path) == {"photos", "set"}


def test_a_set_that_was_moved_aside_by_a_killed_replacement_comes_back(photos: Path, tmp_path: Path) -> None:
    """Killed after the old set had lost its name, and the next replacement fails before it is whole."""
    code = (
        "import os, pathlib, signal, sys; from nas.data.prepared import prepare; "
        "pathlib.Path.rename = lambda old, new, move=pathlib.Path.rename: "
        "(move(old, new), os.kill(os.getpid(), signal.SIGKILL)); "
        "prepare(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), size=6, force=True)"
    )
    out = tmp_path / "set"
    before = load(prepared_as(photos, out)).digest
    assert subprocess.run([sys.executable, "-c", code, photos, out], check=False).returncode == -signal.SIGKILL
    assert not out.exists()

    def stop(*_: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(RuntimeError):
        prepared_as(photos, out, on_image=stop)
    assert load(str(out)).digest == before
    assert entries(tmp_path) == {"photos", "set"}


def test_a_preparation_under_way_is_not_cleaned_away(photos: Path, tmp_path: Path) -> None:
    """A folder of a process that lives, here the test's parent."""
    other = tmp_path / f".set.{os.getppid()}-0123abcd.tmp"
    other.mkdir()
    prepared_as(photos, tmp_path / "set")
    assert other.is_dir()


def test_a_write_that_fails_leaves_nothing(photos: Path, tmp_path: Path) -> None:
    def full(done: int, total: int) -> None:
        if done == total // 2:
            raise OSError(28, "No space left on device")

    with pytest.raises(RuntimeError, match="set could not be written: No space left on device"):
        prepared_as(photos, tmp_path / "set", on_image=full)
    assert entries(tmp_path) == {"photos"}


def test_force_replaces_a_prepared_set_only_when_the_new_one_is_whole(made: Path, photos: Path, tmp_path: Path) -> None:
    before = load(str(made))
    for path in photos.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 48 pictures"):
        prepared_as(photos, made, force=True)
    assert load(str(made)).digest == before.digest
    prepare(folders(tmp_path / "others"), made, size=6, force=True)
    # Whoever has mapped the old one still sees it.
    assert load(str(made)).size == 6
    assert np.array_equal(before.train.images_NHWC[0], before.train.gather(np.array([0]))[0])
    assert entries(tmp_path) == {"photos", "others", "set"}


def test_where_the_new_set_cannot_take_its_name_the_old_one_stays(
    made: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load(str(made)).digest
    original = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError(5, "Input/output error")
        return original(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(RuntimeError, match="set could not be written: Input/output error"):
        prepare(photos, made, size=6, force=True)
    assert load(str(made)).digest == before


# refusals


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"size": 0}, "size must be at least 1, but got 0"),
        ({"workers": -1}, "workers must be at least 1, but got -1"),
        ({"root": "nowhere"}, "nowhere must be a folder of class folders, but is missing"),
        ({"root": "photos/train/ant/000.png"}, "must be a folder of class folders, but is a file"),
        ({"root": "photos/train/ant"}, "must have a folder for each of at least 2 classes, but has 0"),
        ({"root": "empty"}, "must hold pictures .*, but holds none"),
        ({"out": "photos/set"}, "must lie outside of .*photos, where it would be taken for a class"),
        ({"out": "other"}, "other exists already: give another name, or --force to replace it"),
        ({"out": "other", "force": True}, "other is no prepared set, and only such a one is replaced"),
    ],
)
def test_what_cannot_be_prepared_is_refused_before_anything_is_written(
    photos: Path, tmp_path: Path, how: dict[str, Any], message: str
) -> None:
    (tmp_path / "other").mkdir()
    for name in ("ant", "bird"):
        (tmp_path / "empty" / name).mkdir(parents=True)
    given: dict[str, Any] = {"root": "photos", "out": "set", "size": 8} | how
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path / given.pop("root"), tmp_path / given.pop("out"), **given)
    assert entries(tmp_path) == {"photos", "other", "empty"}
    assert entries(photos) == {"train", "test"}


def test_a_disk_that_is_too_small_is_told_before_work_begins(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """48 pictures of 8 * 8 * 3 bytes, with 8 for the label and 2 * 8 * 3 for the moments."""
    needed = 48 * (8 * 8 * 3 + 8 + 48)
    free = needed - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(ValueError, match=r"48 images of 8x8x3 need 1.19e-05 GB, but .* has 1.19e-05 GB free"):
        prepared_as(photos, tmp_path / "new" / "set")
    assert entries(tmp_path) == {"photos"}
    free = needed
    prepared_as(photos, tmp_path / "new" / "set")


# the command


@pytest.fixture
def at_home(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert photos.parent == tmp_path
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("at_home")
def test_the_command_prepares_and_names_the_broken(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "prepare", "photos", "--size", "8", "--out", "set", "--workers", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("pictures: ")]) == 10
    assert "pictures: 48 of 48" in lines[9]
    assert lines[10].startswith("set: 40 train and 6 test images of 8x8x3 in 2 classes, 0.0 MB, in ")
    assert lines[11:] == ["broken and left out, 2:", "  train/bird/cut.png", "  test/ant/text.jpg"]
    assert main(["data", "prepare", "photos", "--size", "8", "--out", "set"]) == 2
    assert capsys.readouterr().err.startswith("nas: set exists already: ")
    assert main(["data", "prepare", "photos", "--size", "8", "--out", "set", "--force", "--grey"]) == 0
    assert load("set").channels == 1
