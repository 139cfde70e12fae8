"""torchvision's data sets by name; one is downloaded only because the user named it. Needs the extra `torchvision`."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nas.data.images import Source, Split, array_reader, codes_of, label_codes
from nas.data.npz import to_bytes_nhwc

ROOT_VARIABLE = "PARETONEST_DATA"


class NamedSet(NamedTuple):
    """How torchvision calls a set and its two splits, and where that class keeps the labels."""

    class_name: str
    train: dict[str, Any]
    test: dict[str, Any]
    labels: str = "targets"


_BY_FLAG: tuple[dict[str, Any], dict[str, Any]] = ({"train": True}, {"train": False})
_BY_NAME: tuple[dict[str, Any], dict[str, Any]] = ({"split": "train"}, {"split": "test"})

SETS: dict[str, NamedSet] = {
    "cifar10": NamedSet("CIFAR10", *_BY_FLAG),
    "cifar100": NamedSet("CIFAR100", *_BY_FLAG),
    "mnist": NamedSet("MNIST", *_BY_FLAG),
    "fashionmnist": NamedSet("FashionMNIST", *_BY_FLAG),
    "kmnist": NamedSet("KMNIST", *_BY_FLAG),
    "usps": NamedSet("USPS", *_BY_FLAG),
    "svhn": NamedSet("SVHN", *_BY_NAME, labels="labels"),
    "stl10": NamedSet("STL10", *_BY_NAME, labels="labels"),
}


def data_root() -> Path:
    """Where downloads are kept: $PARETONEST_DATA, else paretonest/data in the user's cache folder."""
    given = os.environ.get(ROOT_VARIABLE)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else cache / "paretonest" / "data"


def read_set(name: str) -> Source:
    """Raises ValueError with the line to install when torchvision is missing, and when the set cannot be had."""
    named = SETS[name]
    train = _download(name, named, named.train)
    labels, values = label_codes(np.asarray(getattr(train, named.labels)), f"labels of {name}")
    images_NHWC = to_bytes_nhwc(np.asarray(train.data), f"images of {name}")

    def read_test() -> Split:
        test = _download(name, named, named.test)
        test_labels = codes_of(np.asarray(getattr(test, named.labels)), values, f"test labels of {name}")
        return Split(to_bytes_nhwc(np.asarray(test.data), f"test images of {name}"), test_labels)

    classes = tuple(str(label) for label in getattr(train, "classes", values))
    return Source(
        name=name,
        labels=labels,
        classes=classes if len(classes) == len(values) else values,
        read=array_reader(images_NHWC, labels),
        read_test=read_test,
    )


def _download(name: str, named: NamedSet, split: dict[str, Any]) -> Any:
    try:
        datasets = importlib.import_module("torchvision.datasets")
    except ImportError:
        raise ValueError(
            f'the data set {name} needs torchvision, which is missing: pip install "paretonest[torchvision]"'
        ) from None
    except RuntimeError as error:  # a torchvision of another torch fails as it registers its operators
        raise ValueError(f"torchvision does not fit the installed torch ({error}): install a matching pair") from None
    try:
        return getattr(datasets, named.class_name)(root=str(data_root()), download=True, **split)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"the data set {name} could not be downloaded to {data_root()}: {error}") from None
