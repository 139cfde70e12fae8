"""Batches on the device: the gather equals a slow reference, every image comes once, the layout is channels_last."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from nas.data import Split
from nas.data.batches import Draw, Normalise, draw, on_device, plain_batches, steps_per_epoch, train_batches

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
    batches = list(train_batches(on_device(split, CPU), PLAIN, drawn, batch_size=batch_size, crop_padding=padding))
    images = torch.cat([x_BCHW for x_BCHW, _ in batches]).permute(0, 2, 3, 1).numpy()
    return images, torch.cat([labels_B for _, labels_B in batches]).tolist()


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
    batches = [
        *train_batches(images, normalise, drawn, batch_size=3, crop_padding=1),
        *plain_batches(images, normalise, batch_size=4),
    ]
    for x_BCHW, labels_B in batches:
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
    batches = list(plain_batches(on_device(split, CPU), PLAIN, batch_size=3))
    assert [len(labels_B) for _, labels_B in batches] == [3, 3, 1]
    joined: Tensor = torch.cat([x_BCHW for x_BCHW, _ in batches])
    assert np.array_equal(joined.permute(0, 2, 3, 1).numpy().round(), split.images_NHWC)
    assert torch.cat([labels_B for _, labels_B in batches]).tolist() == split.labels.tolist()


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
