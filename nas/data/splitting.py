"""Seeded, stratified choices of images by their labels alone, before any pixel is read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nas.data.images import Labels

VAL_STREAM, SUBSET_STREAM = 0, 1
"""Random streams of one seed: a smaller train subset must not change the validation split."""


def hold_out(
    labels: Labels, classes: Sequence[str], fraction: float, seed: int, train_images: int | None
) -> tuple[Labels, Labels]:
    """Indices (sorted) of train and validation; every class is in both, with its share of each to within one image.

    Raises ValueError naming a class of fewer than two images, or an impossible `train_images`.
    """
    counts = np.bincount(labels, minlength=len(classes))
    small = [f"{name} has {count}" for name, count in zip(classes, counts, strict=True) if count < 2]
    if small:
        raise ValueError(
            f"every class needs at least 2 images, one to train and one to validate, but {', '.join(small)}"
        )
    total = int(np.clip(round(fraction * len(labels)), len(classes), len(labels) - len(classes)))
    val = stratified(labels, total, np.random.default_rng((seed, VAL_STREAM)), leave=1)
    train = np.setdiff1d(np.arange(len(labels)), val)
    if train_images is None:
        return train, val
    if not len(classes) <= train_images <= len(train):
        raise ValueError(
            f"train_images must be between {len(classes)} (one a class) and {len(train)} (all that validation leaves), "
            f"but got {train_images}"
        )
    chosen = stratified(labels[train], train_images, np.random.default_rng((seed, SUBSET_STREAM)))
    return train[chosen], val


def stratified(labels: Labels, total: int, rng: np.random.Generator, *, leave: int = 0) -> Labels:
    """`total` sorted indices into `labels`, each class by its share, at least one; `leave` of each stay unchosen."""
    counts = np.bincount(labels)
    shares = allot(counts, total, leave=leave)
    chosen = [rng.permutation(np.flatnonzero(labels == label))[:share] for label, share in enumerate(shares)]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def allot(counts: NDArray[np.int64], total: int, *, leave: int = 0) -> NDArray[np.int64]:
    """Whole shares of `counts` that sum to `total`: within 1 of the exact ones unless a bound (1, count - leave) binds.

    The method of largest remainders. Needs len(counts) <= total <= sum(counts - leave).
    """
    exact = counts * (total / counts.sum())
    highest = counts - leave
    shares: NDArray[np.int64] = np.clip(np.floor(exact).astype(np.int64), 1, highest)
    while (missing := total - int(shares.sum())) != 0:
        step = 1 if missing > 0 else -1
        movable = shares < highest if step > 0 else shares > 1
        shares[np.argmax(np.where(movable, step * (exact - shares), -np.inf))] += step
    return shares
