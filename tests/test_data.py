"""The data layer: what each kind of source gives, what is refused, and that the splits are what they say."""

from __future__ import annotations

import io
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from nas.data import ImageData, Split, load
from nas.data.images import channel_statistics
from nas.data.splitting import allot, hold_out, stratified


def numbered(count: int, size: int = 4, channels: int = 3) -> NDArray[np.uint8]:
    """Images that can be told apart: image i has the value i in every pixel."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, size, size, channels)).copy()


def arrays_file(path: Path, **changed: Any) -> str:
    """An .npz of 20 numbered images of 2 classes, and 4 test images."""
    arrays: dict[str, Any] = {
        "x_train": numbered(20),
        "y_train": np.arange(20) % 2,
        "x_test": numbered(4),
        "y_test": np.array([0, 1, 0, 1]),
    }
    np.savez(path, **{name: value for name, value in (arrays | changed).items() if value is not None})
    return str(path)


def values(split: Split) -> list[int]:
    """Which numbered images a split holds."""
    return [int(value) for value in split.images_NHWC[:, 0, 0, 0]]


def rows(split: Split) -> set[bytes]:
    return {image.tobytes() for image in split.images_NHWC}


# digits


def test_digits_are_all_there_once() -> None:
    data = load("digits")
    splits = (data.train, data.val, data.test())
    assert sum(len(split) for split in splits) == 1797
    assert (data.channels, data.size, data.num_classes, data.name) == (1, 8, 10, "digits")
    assert max(int(split.images_NHWC.max()) for split in splits) == 255
    assert all(split.images_NHWC.dtype == np.uint8 and split.labels.dtype == np.int64 for split in splits)


def test_digits_test_images_are_in_no_other_split() -> None:
    data = load("digits")
    assert len(data.test()) == 360
    assert not rows(data.test()) & (rows(data.train) | rows(data.val))


def test_digits_test_split_is_the_same_for_every_seed() -> None:
    assert rows(load("digits", seed=1).test()) == rows(load("digits", seed=2).test())


# splits


@settings(deadline=None)
@given(
    st.lists(st.integers(2, 30), min_size=2, max_size=6),
    st.floats(0.05, 0.9),
    st.integers(0, 1000),
)
def test_hold_out_is_stratified_and_a_partition(counts: list[int], fraction: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    names = [str(i) for i in range(len(counts))]
    train, val = hold_out(labels, names, fraction, seed, None)
    assert sorted([*train, *val]) == list(range(len(labels)))
    exact = len(val) / len(labels)
    free = all(1 <= exact * count <= count - 1 for count in counts)  # a bound on one class shifts the others' shares
    for label, count in enumerate(counts):
        held = int((labels[val] == label).sum())
        assert 1 <= held <= count - 1
        assert not free or abs(held - exact * count) < 1


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.data())
def test_allot_sums_and_keeps_its_bounds(counts: list[int], data: st.DataObject) -> None:
    total = data.draw(st.integers(len(counts), sum(counts)))
    shares = allot(np.array(counts), total)
    assert shares.sum() == total
    assert all(1 <= share <= count for share, count in zip(shares, counts, strict=True))


def test_allot_gives_exact_shares_where_they_are_whole() -> None:
    assert list(allot(np.array([10, 20, 30]), 12)) == [2, 4, 6]
    assert list(allot(np.array([10, 20, 30]), 13)) == [2, 4, 7]  # exact 2.17, 4.33, 6.5: the largest remainder is 0.5


def test_another_seed_draws_other_images() -> None:
    labels = np.zeros(100, dtype=np.int64)
    first, again, other = (stratified(labels, 50, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert list(first) == list(again)
    assert list(first) != list(other)


def test_train_images_is_a_stratified_part_of_train_and_leaves_validation_alone() -> None:
    whole, part = load("digits", seed=3), load("digits", seed=3, train_images=100)
    assert len(part.train) == 100
    assert set(np.bincount(part.train.labels)) <= {9, 10, 11}
    assert rows(part.train) < rows(whole.train)
    assert np.array_equal(part.val.images_NHWC, whole.val.images_NHWC)


def test_the_digest_covers_all_that_a_search_sees() -> None:
    """Images, labels, which split they are in, and the classes: any change gives another digest, a copy the same."""
    images, labels = numbered(6), np.array([0, 1, 0, 1, 0, 1])

    def digest(order: list[int] | None = None, flipped: int | None = None, pixel: int | None = None, **how: Any) -> str:
        shown, told = images.copy(), labels.copy()
        if flipped is not None:
            told[flipped] = 1 - told[flipped]
        if pixel is not None:
            shown[pixel, 0, 0, 0] += 100
        order = order or list(range(6))
        train, val = (Split(shown[part], told[part]) for part in (order[:4], order[4:]))
        given: dict[str, Any] = {"name": "x", "source": "x", "classes": ("a", "b")} | how
        return ImageData(train=train, val=val, **given).digest

    changed = [
        digest(flipped=0),
        digest(flipped=5),
        digest(pixel=0),
        digest(pixel=5),
        digest(order=[0, 1, 2, 5, 4, 3]),
        digest(classes=("a", "c")),
    ]
    assert len({digest(), *changed}) == 7
    assert digest(name="y", source="y") == digest()


def test_same_arguments_same_digest_other_seed_another(tmp_path: Path) -> None:
    first = load(arrays_file(tmp_path / "a.npz")).digest
    assert load(arrays_file(tmp_path / "copy.npz")).digest == first
    assert load(arrays_file(tmp_path / "a.npz"), seed=1).digest != first


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    before = load(arrays_file(tmp_path / "a.npz"))
    after = load(arrays_file(tmp_path / "a.npz", x_train=numbered(20, size=5)))
    assert (before.size, after.size) == (4, 5)


def test_a_set_is_loaded_once_and_cannot_be_changed(tmp_path: Path) -> None:
    source = arrays_file(tmp_path / "a.npz")
    data = load(source)
    assert load(source) is data
    with pytest.raises(ValueError, match="read-only"):
        data.train.images_NHWC[0] = 0


def test_a_relative_path_means_the_present_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files of one name, length and time: only the folder tells them apart."""
    for name, first in (("one", 0), ("two", 100)):
        (tmp_path / name).mkdir()
        arrays_file(tmp_path / name / "a.npz", x_train=numbered(20) + np.uint8(first))
        os.utime(tmp_path / name / "a.npz", (0, 0))
        monkeypatch.chdir(tmp_path / name)
        assert min(values(load("a.npz").train)) // 100 == first // 100


def test_statistics_are_those_of_the_train_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 5, 3)).astype(np.uint8)
    mean, std = channel_statistics(Split(images, np.zeros(7, np.int64)))
    assert mean == pytest.approx((images / 255).mean(axis=(0, 1, 2)))
    assert std == pytest.approx((images / 255).std(axis=(0, 1, 2)))
    assert channel_statistics(Split(np.zeros((1, 2, 2, 1), np.uint8), np.zeros(1, np.int64))) == ((0.0,), (1 / 255,))


# arrays in an .npz


def test_npz_arrays_are_split_and_test_is_read_on_request(tmp_path: Path) -> None:
    data = load(arrays_file(tmp_path / "a.npz", classes=np.array(["cat", "dog"])))
    assert data.classes == ("cat", "dog")
    assert sorted(values(data.train) + values(data.val)) == list(range(20))
    assert all(value % 2 == label for value, label in zip(values(data.train), data.train.labels, strict=True))
    assert values(data.test()) == [0, 1, 2, 3]
    assert list(data.test().labels) == [0, 1, 0, 1]


SCATTERED = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    "images",
    [SCATTERED.transpose(0, 3, 1, 2), SCATTERED / 255, (SCATTERED / 255).astype(np.float32)],
    ids=["NCHW", "float64", "float32"],
)
def test_npz_layouts_mean_the_same_images(tmp_path: Path, images: NDArray[Any]) -> None:
    expected = load(arrays_file(tmp_path / "nhwc.npz", x_train=SCATTERED))
    assert load(arrays_file(tmp_path / "other.npz", x_train=images)).digest == expected.digest


def test_npz_greyscale_without_a_channel_axis(tmp_path: Path) -> None:
    data = load(arrays_file(tmp_path / "a.npz", x_train=numbered(20)[..., 0], x_test=numbered(4)[..., 0]))
    assert data.channels == 1
    assert data.test().images_NHWC.shape == (4, 4, 4, 1)


def test_labels_that_are_not_contiguous_are_mapped_in_sorted_order(tmp_path: Path) -> None:
    labels = np.array([7, 3] * 10)
    data = load(arrays_file(tmp_path / "a.npz", y_train=labels[:, None], y_test=np.array([3, 7, 7, 3])))
    assert data.classes == ("3", "7")
    assert all((value % 2 == 0) == (label == 1) for value, label in zip(values(data.val), data.val.labels, strict=True))
    assert list(data.test().labels) == [0, 1, 1, 0]


def test_labels_may_be_names(tmp_path: Path) -> None:
    data = load(arrays_file(tmp_path / "a.npz", y_train=np.array(["dog", "cat"] * 10), x_test=None))
    assert data.classes == ("cat", "dog")
    assert not data.has_test
    with pytest.raises(ValueError, match="has no test split"):
        data.test()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"x_train": None},
            r"must have the arrays x_train and y_train, or train_jpeg.*but has x_test, y_test, y_train",
        ),
        ({"x_train": numbered(20).astype(np.int64)}, "must be uint8 .* or floats from 0 to 1, but is int64"),
        ({"x_train": numbered(20) / 10}, r"floats from 0 to 1, but goes from 0 to 1.9"),
        ({"x_train": numbered(20) * np.nan}, "floats from 0 to 1, but goes from nan"),
        ({"x_train": np.zeros((20, 4, 5, 3), np.uint8)}, "not square"),
        ({"x_train": np.zeros((20, 3, 3, 3), np.uint8)}, "ambiguous"),
        ({"x_train": np.zeros((20, 16), np.uint8)}, r"must have the shape .*, but has \(20, 16\)"),
        ({"x_train": numbered(19)}, "one image for each label, but has 19 for 20"),
        ({"y_train": np.arange(20) / 2}, "y_train of .* must be a list of whole numbers or strings, but is float64"),
        ({"y_train": np.zeros(20, int)}, "at least 2 classes, but has 1"),
        ({"y_train": np.array([0] * 19 + [5])}, "every class needs at least 2 images.*but 5 has 1"),
        ({"x_train": np.array([None] * 20)}, "x_train of .* cannot be read"),
        ({"classes": np.array(["cat"])}, "classes of .* must be 2 names"),
    ],
)
def test_npz_mistakes_are_told_in_words(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(arrays_file(tmp_path / "a.npz", **changed))


def test_npz_test_label_that_train_lacks_is_refused(tmp_path: Path) -> None:
    data = load(arrays_file(tmp_path / "a.npz", y_test=np.array([0, 1, 0, 9])))
    with pytest.raises(ValueError, match="has the label '9', which no train image has"):
        data.test()


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut"])
def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.npz cannot be read as an \.npz file"):
        load(str(tmp_path / "bad.npz"))


# JPEG in an .npz


def jpeg(value: int, size: int = 8, mode: str = "RGB") -> bytes:
    """A one-coloured picture, which JPEG keeps to within a few grey levels."""
    file = io.BytesIO()
    Image.new(mode, (size, size), (value,) * 3 if mode == "RGB" else value).save(file, "JPEG", quality=95)
    return file.getvalue()


def jpeg_arrays(split: str, files: list[bytes]) -> dict[str, Any]:
    return {
        f"{split}_jpeg": np.frombuffer(b"".join(files), np.uint8),
        f"{split}_offsets": np.cumsum([0, *map(len, files)]),
        f"{split}_labels": np.arange(len(files), dtype=np.uint8) % 2,
    }


def jpeg_file(path: Path, **changed: Any) -> str:
    """An .npz of 20 JPEG pictures, the value of image i near 10 i, and 4 test pictures near 200."""
    arrays = jpeg_arrays("train", [jpeg(10 * i) for i in range(20)]) | jpeg_arrays("test", [jpeg(200)] * 4)
    np.savez(path, **(arrays | {"classes": np.array(["even", "odd"])} | changed))
    return str(path)


def test_jpeg_layout_gives_the_pictures_with_their_labels(tmp_path: Path) -> None:
    data = load(jpeg_file(tmp_path / "j.npz"))
    assert (data.channels, data.size, data.classes) == (3, 8, ("even", "odd"))
    numbers = [round(value / 10) for value in values(data.train) + values(data.val)]
    assert sorted(numbers) == list(range(20))
    assert [number % 2 for number in numbers] == [*data.train.labels, *data.val.labels]
    assert np.abs(data.test().images_NHWC.astype(int) - 200).max() <= 3


def test_jpeg_greyscale_pictures_have_one_channel(tmp_path: Path) -> None:
    grey = jpeg_arrays("train", [jpeg(10 * i, mode="L") for i in range(20)])
    assert load(jpeg_file(tmp_path / "grey.npz", **grey)).channels == 1
    mixed = jpeg_arrays("train", [jpeg(10 * i, mode="L" if i else "RGB") for i in range(20)])
    assert load(jpeg_file(tmp_path / "mixed.npz", **mixed)).channels == 3


def test_only_the_chosen_jpeg_pictures_are_decoded(tmp_path: Path) -> None:
    """All but the needed pictures, and all test pictures, are replaced by rubbish: nobody notices before test()."""
    source = jpeg_file(tmp_path / "whole.npz")
    chosen = load(source, train_images=4)
    needed = {round(value / 10) for value in values(chosen.train) + values(chosen.val)}
    files = [jpeg(10 * i) if i in needed else b"rubbish" for i in range(20)]
    damaged = jpeg_arrays("train", files) | jpeg_arrays("test", [b"rubbish"] * 4)
    part = load(jpeg_file(tmp_path / "part.npz", **damaged), train_images=4)
    assert part.digest == chosen.digest
    assert part.skipped == ()
    with pytest.raises(ValueError, match="none of the 4 pictures can be read, the first is test image 0"):
        part.test()


def test_broken_jpeg_pictures_are_left_out_and_named(tmp_path: Path) -> None:
    files = [jpeg(10 * i) for i in range(20)]
    files[3] = files[3][: len(files[3]) // 2]
    data = load(jpeg_file(tmp_path / "j.npz", **jpeg_arrays("train", files)))
    assert data.skipped == ("train image 3",)
    for split in (data.train, data.val):
        assert [round(value / 10) % 2 for value in values(split)] == list(split.labels)
    assert len(data.train) + len(data.val) == 19


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_offsets": np.arange(21)}, "train_offsets of .* must be whole numbers rising from 0 to the"),
        ({"train_labels": np.arange(19) % 2}, "one image for each label, but has 20 for 19"),
        (jpeg_arrays("train", [jpeg(9, size=8 + i // 10) for i in range(20)]), "is 9x9 pixels, but .* are 8x8"),
    ],
)
def test_jpeg_mistakes_are_told_in_words(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(jpeg_file(tmp_path / "j.npz", **changed))


# folders


def picture(path: Path, value: int = 100, size: tuple[int, int] = (10, 10), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, (value,) * 3 if mode == "RGB" else value).save(path)


def class_folders(root: Path, classes: tuple[str, ...] = ("bird", "ant"), count: int = 5, **how: Any) -> Path:
    for label, name in enumerate(classes):
        for i in range(count):
            picture(root / name / f"{i}.png", value=50 * (label + 1) + i, **how)
    return root


def test_folders_are_the_classes_in_sorted_order(tmp_path: Path) -> None:
    data = load(str(class_folders(tmp_path / "zoo")), image_size=6)
    assert (data.name, data.classes, data.channels, data.size) == ("zoo", ("ant", "bird"), 3, 6)
    assert not data.has_test
    everything = zip(values(data.train) + values(data.val), [*data.train.labels, *data.val.labels], strict=True)
    assert sorted(everything) == [(50 + i, 1) for i in range(5)] + [(100 + i, 0) for i in range(5)]


def test_train_and_test_subfolders_are_the_splits(tmp_path: Path) -> None:
    class_folders(tmp_path / "train")
    class_folders(tmp_path / "val", count=2)
    assert len(load(str(tmp_path), image_size=6).test()) == 4
    class_folders(tmp_path / "test", classes=("ant",), count=3)
    data = load(str(tmp_path), image_size=6)
    assert data.classes == ("ant", "bird")
    assert len(data.train) + len(data.val) == 10
    assert values(data.test()) == [50, 51, 52]
    assert list(data.test().labels) == [0, 0, 0]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert load(str(class_folders(tmp_path, ("car", "train"))), image_size=6).classes == ("car", "train")


def test_pictures_are_scaled_by_the_shorter_side_and_cut_in_the_centre(tmp_path: Path) -> None:
    """Twice as wide as high, thirds black, white, black: after the cut the middle half is left, mostly white."""
    for name in ("a", "b"):
        for i in range(2):
            wide = Image.new("L", (48, 24))
            wide.paste(255, (16, 0, 32, 24))
            (tmp_path / name).mkdir(exist_ok=True)
            wide.save(tmp_path / name / f"{i}.png")
    image = load(str(tmp_path), image_size=12).train.images_NHWC[0, 6, :, 0]
    assert image[0] < 20 < 235 < image[3]
    assert np.array_equal(image, image[::-1])


def test_grey_pictures_stay_grey_only_if_all_are(tmp_path: Path) -> None:
    class_folders(tmp_path, mode="L")
    assert load(str(tmp_path), image_size=6).channels == 1
    picture(tmp_path / "ant" / "new.png")
    assert load(str(tmp_path), image_size=6).channels == 3


def test_broken_pictures_are_left_out_and_named(tmp_path: Path) -> None:
    class_folders(tmp_path)
    (tmp_path / "ant" / "cut.jpg").write_bytes(jpeg(100, size=64)[:300])
    (tmp_path / "bird" / "text.png").write_text("no picture")
    data = load(str(tmp_path), image_size=6)
    assert sorted(data.skipped) == [str(Path("ant", "cut.jpg")), str(Path("bird", "text.png"))]
    assert len(data.train) + len(data.val) == 10


@pytest.mark.parametrize(
    ("classes", "extra", "message"),
    [
        (("ant",), None, "at least 2 classes, but has 1"),
        (("ant", "bird"), "empty", "empty must hold pictures .*, but holds none"),
        (("ant", "bird"), "broken", "no readable (train|validation) image of the class broken.*pictures are broken"),
    ],
)
def test_folder_mistakes_are_told_in_words(
    tmp_path: Path, classes: tuple[str, ...], extra: str | None, message: str
) -> None:
    class_folders(tmp_path, classes)
    if extra is not None:
        (tmp_path / extra).mkdir()
    if extra == "broken":
        for i in range(3):
            (tmp_path / extra / f"{i}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        load(str(tmp_path), image_size=6)


def test_a_folder_needs_an_image_size(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="need an image_size"):
        load(str(class_folders(tmp_path)))


# torchvision


def test_a_named_set_without_torchvision_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(ValueError, match=r'pip install "paretonest\[torchvision\]"'):
        load("cifar10")


def test_a_torchvision_of_another_torch_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a pair fails with a RuntimeError as torchvision is imported."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("torchvision", "torchvision.datasets"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ValueError, match="torchvision does not fit the installed torch"):
        load("cifar100")


class FakeSet:
    """The interface of torchvision's SVHN (split by name, NCHW, `labels`) and CIFAR10 (by flag, NHWC, `targets`)."""

    made: list[dict[str, Any]]

    def __init__(self, **arguments: Any) -> None:
        self.made.append(arguments)
        is_train = arguments.get("train", arguments.get("split") == "train")
        images = numbered(20 if is_train else 4)
        self.labels = np.arange(len(images)) % 2
        self.targets = [int(label) for label in self.labels]
        self.data = images if "train" in arguments else images.transpose(0, 3, 1, 2)
        self.classes = ["zero", "one"]


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_a_named_set_is_kept_in_the_data_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeSet.made = []
    fake = types.ModuleType("torchvision.datasets")
    vars(fake).update(CIFAR10=FakeSet, SVHN=FakeSet)
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", fake)
    monkeypatch.setenv("PARETONEST_DATA", str(tmp_path / name))
    data = load(name, seed=12345)
    assert (data.classes, data.size, len(data.train) + len(data.val)) == (("zero", "one"), 4, 20)
    assert len(FakeSet.made) == 1  # test is not touched before it is asked for
    assert values(data.test()) == [0, 1, 2, 3]
    assert all(made["root"] == str(tmp_path / name) and made["download"] for made in FakeSet.made)


# arguments


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"digits, cifar10.*\.npz file.*class folders.*'nonesuch' is neither"):
        load("nonesuch")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(ValueError, match="is a file of another kind"):
        load(str(tmp_path / "a.csv"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"val_fraction": 0.0}, "val_fraction must be above 0 and below 1, but got 0.0"),
        ({"val_fraction": 1.0}, "val_fraction must be above 0 and below 1, but got 1.0"),
        ({"seed": -1}, "seed of the data split must be at least 0, but got -1"),
        ({"train_images": 0}, "train_images must be at least 1, but got 0"),
        ({"train_images": 5000}, r"train_images must be between 10 .* and 1150 .*, but got 5000"),
        ({"train_images": 9}, r"train_images must be between 10 .*, but got 9"),
    ],
)
def test_bad_arguments_are_told_in_words(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("digits", **arguments)


def test_require_names_what_differs_and_how_to_mend_it() -> None:
    data: ImageData = load("digits")
    data.require(in_channels=1, num_classes=10, input_size=8, where="space digits")
    with pytest.raises(
        ValueError, match=r"^space x has in_channels = 3, input_size = 32, but .* in_channels = 1, input"
    ):
        data.require(in_channels=3, num_classes=10, input_size=32, where="space x")
