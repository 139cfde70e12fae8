"""The default data: scikit-learn's embedded digits, 1,797 greyscale images of 8x8 pixels, 10 classes, nothing fetched.

Source: E. Alpaydin, C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI; the copy is part of scikit-learn.
"""

from __future__ import annotations

import numpy as np

from nas.data.images import Source, Split, array_reader
from nas.data.splitting import stratified

TEST_IMAGES = 360
TEST_SEED = 0
"""The test split is the same for every seed of a search: 360 images, stratified, drawn with this seed."""


def read_digits() -> Source:
    """The 1,437 images outside the fixed test split; values 0..16 are scaled to 0..255."""
    from sklearn.datasets import load_digits  # 2.6 s: only for those who train on it

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = labels.astype(np.int64)
    test = stratified(labels, TEST_IMAGES, np.random.default_rng(TEST_SEED))
    rest = np.setdiff1d(np.arange(len(labels)), test)
    return Source(
        name="digits",
        labels=labels[rest],
        classes=tuple("0123456789"),
        read=array_reader(pixels[rest], labels[rest]),
        read_test=lambda: Split(pixels[test], labels[test]),
    )
