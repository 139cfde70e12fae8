"""A folder of class folders: the folder's name is the class, the pictures in it (at any depth) are its images.

With train/ and test/ (or val/) inside, train/ serves train and validation, and test/ (else val/) is the test split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas.data.images import Labels, Source, Split
from nas.data.pictures import Picture, all_grey, decode, picture_reader

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True)
class ClassFolders:
    """Where the pictures of the two splits lie, and the classes, which are those of train in sorted order."""

    root: Path
    train_root: Path
    test_root: Path | None
    classes: tuple[str, ...]

    @classmethod
    def of(cls, root: Path) -> ClassFolders:
        """Raises ValueError for fewer than two classes."""
        train_root, test_root = _split_roots(root)
        classes = tuple(folder.name for folder in _subfolders(train_root))
        if len(classes) < 2:
            raise ValueError(f"{train_root} must have a folder for each of at least 2 classes, but has {len(classes)}")
        return cls(root, train_root, test_root, classes)

    def train(self) -> tuple[list[Picture], Labels]:
        """Raises ValueError naming a class without pictures."""
        return _scan(self.train_root, self.root, self.classes)

    def test(self) -> tuple[list[Picture], Labels]:
        """No pictures where there is no test split. Raises ValueError also for a class that train lacks."""
        if self.test_root is None:
            return [], np.zeros(0, np.int64)
        return _scan(self.test_root, self.root, self.classes)


def read_folder(root: Path, image_size: int) -> Source:
    """Raises ValueError for fewer than two classes, or naming a class without pictures."""
    found = ClassFolders.of(root)
    pictures, labels = found.train()
    grey = all_grey(pictures)

    def read_test() -> Split:
        files, test_labels = found.test()
        return decode(files, test_labels, size=image_size, grey=grey)

    return Source(
        name=root.resolve().name,
        labels=labels,
        classes=found.classes,
        read=picture_reader(pictures, labels, size=image_size, grey=grey),
        read_test=read_test if found.test_root is not None else None,
    )


def stamp(root: Path) -> tuple[int, ...]:
    """Changes when a picture is added to, or removed from, a folder of the set."""
    return tuple(folder.stat().st_mtime_ns for folder in (root, *sorted(p for p in root.rglob("*") if p.is_dir())))


def _split_roots(root: Path) -> tuple[Path, Path | None]:
    """Where train and test lie; a class may be called "train" too: then it holds pictures, not folders."""
    train = root / "train"
    if not train.is_dir() or not _subfolders(train):
        return root, None
    return train, next((root / name for name in ("test", "val") if (root / name).is_dir()), None)


def _subfolders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _scan(split_root: Path, root: Path, classes: tuple[str, ...]) -> tuple[list[Picture], Labels]:
    pictures: list[Picture] = []
    labels: list[int] = []
    for folder in _subfolders(split_root):
        if folder.name not in classes:
            raise ValueError(f"{folder} is no class of the train split, which has {', '.join(classes)}")
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not files:
            raise ValueError(f"{folder} must hold pictures ({', '.join(SUFFIXES)}), but holds none")
        pictures += [Picture(str(path.relative_to(root)), path) for path in files]
        labels += [classes.index(folder.name)] * len(files)
    return pictures, np.array(labels, dtype=np.int64)
