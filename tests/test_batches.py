"""Batches on the device: the gather equals a slow reference, every image comes once, the layout is channels_last."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from nas.data import Split, batches
from nas.data.batches import (
    LONG,
    SHORT,
    DeviceImages,
    Draw,
    Normalise,
    StreamedImages,
    _moves,
    _one_ahead,
    _pixel_rows,
    draw,
    on_device,
    plain_batches,
    steps_per_epoch,
    train_batches,
)

CPU = torch.device("cpu")
PLAIN = Normalise(mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)
"""Leaves the pixel values as they are."""


def random_split(images: int, size: int, channels: int = 3, seed: int = 0) -> Split:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (images, size, size, channels)).astype(np.uint8)
    return Split(pixels, rng.integers(0, 5, images))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def epoch(split: Split, drawn: Draw, *, padding: int, batch_size: int = 4) -> tuple[NDArray[np.float32], list[int]]:
    """All batches of an epoch joined, as NHWC."""
    parts = list(train_batches(on_device(split, CPU), PLAIN, drawn, batch_size=batch_size, crop_padding=padding))
    images = torch.cat([x_BCHW for x_BCHW, _ in parts]).permute(0, 2, 3, 1).numpy()
    return images, torch.cat([labels_B for _, labels_B in parts]).tolist()


def slow_reference(split: Split, drawn: Draw, padding: int) -> NDArray[np.uint8]:
    """Pad with black, cut, mirror: one image after another."""
    out = []
    choices = (tensor.tolist() for tensor in (drawn.order, drawn.top, drawn.left, drawn.flip))
    for index, top, left, flip in zip(*choices, strict=True):
        image = split.images_NHWC[index]
        size = len(image)
        padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
        crop = padded[top : top + size, left : left + size]
        out.append(crop[:, ::-1] if flip else crop)
    return np.stack(out)


@settings(deadline=None, max_examples=40)
@given(
    images=st.integers(2, 9),
    size=st.integers(1, 6),
    padding=st.integers(0, 8),
    flip=st.booleans(),
    seed=st.integers(0, 999),
)
def test_crops_and_flips_equal_the_slow_reference(images: int, size: int, padding: int, flip: bool, seed: int) -> None:
    split = random_split(images, size, seed=seed)
    drawn = draw(images, crop_padding=padding, horizontal_flip=flip, generator=seeded(seed))
    got, labels = epoch(split, drawn, padding=padding)
    assert np.abs(got - slow_reference(split, drawn, padding)).max() < 1e-3
    assert labels == split.labels[drawn.order.numpy()].tolist()


def test_without_padding_and_flip_a_batch_is_plain_indexing() -> None:
    split = random_split(10, 4)
    drawn = draw(10, crop_padding=0, horizontal_flip=False, generator=seeded(0))
    assert not drawn.flip.any()
    got, _ = epoch(split, drawn, padding=0)
    assert np.array_equal(got.round(), split.images_NHWC[drawn.order.numpy()])


def test_draws_reach_every_offset_and_both_flips() -> None:
    drawn = draw(2000, crop_padding=2, horizontal_flip=True, generator=seeded(0))
    for offsets in (drawn.top, drawn.left):
        assert set(offsets.tolist()) == {0, 1, 2, 3, 4}
    assert 900 < int(drawn.flip.sum()) < 1100  # 1000 +- 4.5 standard deviations of 22
    assert sorted(drawn.order.tolist()) == list(range(2000))


def test_same_seed_same_batches_other_seed_others() -> None:
    split = random_split(12, 5)

    def images(seed: int) -> NDArray[np.float32]:
        return epoch(split, draw(12, crop_padding=1, horizontal_flip=True, generator=seeded(seed)), padding=1)[0]

    assert np.array_equal(images(1), images(1))
    assert not np.array_equal(images(1), images(2))


@pytest.mark.parametrize("channels", [1, 3])
def test_batches_are_channels_last_and_float32(channels: int) -> None:
    split = random_split(6, 4, channels)
    images = on_device(split, CPU)
    normalise = Normalise((0.5,) * channels, (0.25,) * channels)
    drawn = draw(6, crop_padding=1, horizontal_flip=True, generator=seeded(0))
    parts = [
        *train_batches(images, normalise, drawn, batch_size=3, crop_padding=1),
        *plain_batches(images, normalise, batch_size=4),
    ]
    for x_BCHW, labels_B in parts:
        assert x_BCHW.shape == (len(labels_B), channels, 4, 4)
        assert x_BCHW.dtype == torch.float32
        assert x_BCHW.stride() == (16 * channels, 1, 4 * channels, channels)


def test_normalised_pixels_and_black_padding() -> None:
    """A white image moved one pixel down: (1 - 0.5) / 0.25 = 2 inside, (0 - 0.5) / 0.25 = -2 in the first row."""
    split = Split(np.full((2, 2, 2, 1), 255, np.uint8), np.array([0, 1]))
    moved = Draw(*(torch.tensor(values) for values in ([0, 1], [0, 0], [1, 1], [False, False])))
    x_BCHW, _ = next(
        train_batches(on_device(split, CPU), Normalise((0.5,), (0.25,)), moved, batch_size=2, crop_padding=1)
    )
    assert torch.allclose(x_BCHW[0, 0], torch.tensor([[-2.0, -2.0], [2.0, 2.0]]))


def test_plain_batches_keep_order_and_every_image() -> None:
    split = random_split(7, 3)
    parts = list(plain_batches(on_device(split, CPU), PLAIN, batch_size=3))
    assert [len(labels_B) for _, labels_B in parts] == [3, 3, 1]
    joined: Tensor = torch.cat([x_BCHW for x_BCHW, _ in parts])
    assert np.array_equal(joined.permute(0, 2, 3, 1).numpy().round(), split.images_NHWC)
    assert torch.cat([labels_B for _, labels_B in parts]).tolist() == split.labels.tolist()


@given(images=st.integers(2, 200), batch_size=st.integers(2, 70))
def test_an_epoch_is_cut_into_nearly_equal_batches_of_at_least_two(images: int, batch_size: int) -> None:
    sizes = [len(part) for part in torch.arange(images).tensor_split(steps_per_epoch(images, batch_size))]
    assert sum(sizes) == images
    assert min(sizes) >= 2
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch_size or (batch_size == 2 and max(sizes) == 3)


@pytest.mark.parametrize(("images", "batch_size"), [(1, 8), (0, 8), (8, 1)])
def test_too_few_images_for_batch_norm_are_refused(images: int, batch_size: int) -> None:
    with pytest.raises(ValueError, match="at least 2 images and batches of 2"):
        steps_per_epoch(images, batch_size)


def test_images_go_to_a_device_once() -> None:
    split = random_split(4, 3)
    assert on_device(split, CPU) is on_device(split, CPU)


# streamed


def mapped_split(folder: Path, split: Split, rows: NDArray[np.int64] | None = None) -> Split:
    """The same images, or some rows of them, mapped from a file."""
    np.save(folder / "images.npy", split.images_NHWC)
    labels = split.labels if rows is None else split.labels[rows]
    return Split(np.load(folder / "images.npy", mmap_mode="r"), labels, rows=rows)


def equal(ones: Iterable[tuple[Tensor, Tensor]], others: Iterable[tuple[Tensor, Tensor]]) -> bool:
    """Bit for bit, with the same layout, and as many."""
    return all(
        torch.equal(x, y) and x.stride() == y.stride() and torch.equal(a, b)
        for (x, a), (y, b) in zip(ones, others, strict=True)
    )


ODD = Normalise(mean=(0.1, 0.2, 0.3), std=(0.7, 0.11, 0.13))


@settings(deadline=None, max_examples=40)
@given(
    images=st.integers(2, 20),
    size=st.integers(1, 6),
    padding=st.integers(0, 7),
    batch_size=st.integers(2, 9),
    seed=st.integers(0, 999),
    share=st.floats(0, 1),
)
def test_streamed_batches_are_the_resident_ones(
    images: int, size: int, padding: int, batch_size: int, seed: int, share: float
) -> None:
    """Also for rows of a pool, and from the middle of an epoch on."""
    whole = random_split(images + 5, size, seed=seed)
    rows = np.random.default_rng(seed).permutation(images + 5)[:images]
    split = Split(whole.images_NHWC, whole.labels[rows], rows=rows)
    resident, streamed = (on_device(split, CPU, resident=choice) for choice in (True, False))
    assert isinstance(resident, DeviceImages) and isinstance(streamed, StreamedImages)
    assert equal(*(plain_batches(each, ODD, batch_size=batch_size) for each in (resident, streamed)))
    drawn = draw(images, crop_padding=padding, horizontal_flip=True, generator=seeded(seed))
    how: dict[str, Any] = {"batch_size": batch_size, "crop_padding": padding}
    every = list(train_batches(resident, ODD, drawn, **how))
    assert equal(every, train_batches(streamed, ODD, drawn, **how))
    first = round(share * len(every))
    for each in (resident, streamed):
        assert equal(every[first:], train_batches(each, ODD, drawn, **how, first=first))


def test_the_batches_before_the_first_are_not_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    split = random_split(12, 2)
    asked: list[int] = []
    original = Split.gather

    def counting(self: Split, indices: NDArray[np.int64], out: Any = None) -> Any:
        asked.extend(indices.tolist())
        return original(self, indices, out)

    monkeypatch.setattr(Split, "gather", counting)
    drawn = draw(12, crop_padding=0, horizontal_flip=False, generator=seeded(0))
    images = on_device(split, CPU, resident=False)
    list(train_batches(images, PLAIN, drawn, batch_size=4, crop_padding=0, first=2))
    assert asked == drawn.order[8:].tolist()


def test_a_split_is_streamed_where_it_does_not_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """300 bytes fit when half of what is free is as much; a mapped file is never copied to the CPU."""
    for free, kind in ((600, DeviceImages), (599, StreamedImages), (None, DeviceImages)):
        monkeypatch.setattr(batches, "available_memory_bytes", lambda free=free: free)
        assert type(on_device(random_split(4, 5), CPU)) is kind
    split = mapped_split(tmp_path, random_split(4, 5))
    assert isinstance(on_device(split, CPU), StreamedImages)
    assert isinstance(on_device(split, CPU, resident=True), DeviceImages)


def test_a_copy_in_many_parts_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    split = random_split(11, 3)
    monkeypatch.setattr(batches, "COPY_BYTES", 3 * 27)
    parts = plain_batches(on_device(split, CPU, resident=True), PLAIN, batch_size=11)
    assert np.array_equal(next(parts)[0].permute(0, 2, 3, 1).numpy().round(), split.images_NHWC)


def test_the_next_batch_is_made_while_the_present_one_is_used() -> None:
    """For CUDA: in order, one ahead and no more, and a failure comes out where its batch would have."""
    made: list[int] = []

    def work(part: Tensor) -> Tensor:
        made.append(int(part))
        if part == 3:
            raise OSError("the disk fails")
        return part * 10

    ahead = _one_ahead(work, list(torch.arange(5)))
    assert int(next(ahead)) == 0
    assert made[0] == 0 and set(made) <= {0, 1}
    assert [int(next(ahead)), int(next(ahead))] == [10, 20]
    with pytest.raises(OSError, match="the disk fails"):
        next(ahead)
    assert list(_one_ahead(work, [])) == []


def test_rows_choose_and_order_the_images_of_a_pool(tmp_path: Path) -> None:
    pool = random_split(6, 2)
    rows = np.array([4, 0, 5])
    split = mapped_split(tmp_path, pool, rows)
    assert np.array_equal(split.images_NHWC, pool.images_NHWC[rows])
    assert np.array_equal(split.gather(np.array([2, 0])), pool.images_NHWC[[5, 4]])
    with pytest.raises(ValueError, match="3 images need as many labels, but got 2"):
        Split(pool.images_NHWC, pool.labels[:2], rows=rows)


def test_a_table_of_more_than_two_thousand_million_pixels_is_addressed_rightly() -> None:
    """The last image of 2^29 of 2 x 2 pixels, as it is and cropped beyond its lower right corner."""
    black = 2**31
    move = (torch.tensor([0, 1]), torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool))
    [(line_BH, column_BW)] = _moves(2, [move], LONG)
    rows = _pixel_rows(2, torch.tensor([2**29 - 1] * 2), line_BH, column_BW, black)
    assert rows.tolist() == [[[black - 4, black - 3], [black - 2, black - 1]], [[black - 1, black], [black, black]]]


@pytest.mark.parametrize(("outside", "dtype"), [(SHORT, torch.int32), (LONG, torch.int64)])
def test_rows_outside_the_image_are_black_in_the_largest_table(outside: int, dtype: torch.dtype) -> None:
    """Whatever its place: nothing overflows."""
    black = min(outside, 2**40) - 1
    move = (torch.tensor([-1, 0, 2]), torch.tensor([-1, 2, 0]), torch.tensor([False, True, False]))
    [(line_BH, column_BW)] = _moves(2, [move], outside)
    assert line_BH.dtype == column_BW.dtype == dtype
    last = black // 4 - 1
    rows = _pixel_rows(2, torch.tensor([last] * 3), line_BH, column_BW, black)
    assert rows.tolist() == [[[black, black], [black, 4 * last]], [[black, black]] * 2, [[black, black]] * 2]


@pytest.mark.parametrize("steps", [1, 31, 32, 33, 70])
def test_moves_are_those_of_their_batch_however_many_there_are(steps: int) -> None:
    drawn = draw(3 * steps + 1, crop_padding=2, horizontal_flip=True, generator=seeded(0))
    parts = list(zip(*(choice.tensor_split(steps) for choice in (drawn.top, drawn.left, drawn.flip)), strict=True))
    together = list(_moves(4, parts, SHORT))
    assert len(together) == steps
    for part, (line_BH, column_BW) in zip(parts, together, strict=True):
        [(alone_BH, alone_BW)] = _moves(4, [part], SHORT)
        assert torch.equal(line_BH, alone_BH) and torch.equal(column_BW, alone_BW)


def test_a_split_of_more_pixels_than_fit_is_addressed_by_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SHORT", 2**5)
    split = random_split(9, 4)
    drawn = draw(9, crop_padding=3, horizontal_flip=True, generator=seeded(0))
    got, _ = epoch(split, drawn, padding=3)
    assert np.abs(got - slow_reference(split, drawn, 3)).max() < 1e-3
