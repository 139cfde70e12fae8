"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomic(path: Path, content: str | bytes | Callable[[BinaryIO], object], *, name_lasts: bool = True) -> None:
    """Write `path` whole or not at all, also when the process or the machine dies: a reader never sees a half.

    A temporary file beside it is flushed to the disk, then takes its name. Text is written as UTF-8; a function writes
    into the open file itself. Missing folders are made. name_lasts: whether the name, too, is flushed; if not, a
    machine without power may come back with what was there before, unless a later file of the folder was flushed so.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 (the one call that must be seen to be atomic)
    finally:
        temporary.unlink(missing_ok=True)
    if name_lasts:
        _sync_folder(path.parent)


@contextmanager
def folder_atomic(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when the block ends well, in place of what was there; else it goes.

    Whoever is killed in the moment between the old folder and the new leaves neither under the name: the next that
    writes the same `path` begins by putting the old one back. It removes what else a killed process left there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    old = temporary.with_suffix(".old")
    try:
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
        _sync_folder(temporary)
        if path.exists():
            path.rename(old)
        try:
            temporary.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    finally:
        for folder in (temporary, old):
            shutil.rmtree(folder, ignore_errors=True)
    _sync_folder(path.parent)


def _remove_left(path: Path) -> None:
    """Tidies up after processes that are no more; where a process cannot be asked after without harm, none."""
    if os.name != "posix":
        return
    form = re.compile(rf"\.{re.escape(path.name)}\.(\d+)-[0-9a-f]{{8}}\.(tmp|old)")
    for folder in list(path.parent.iterdir()):
        match = form.fullmatch(folder.name)
        if match is None or not folder.is_dir() or _is_alive(int(match[1])):
            continue
        if match[2] == "old" and not path.exists():  # the only whole one that there is
            folder.rename(path)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _sync_folder(folder: Path) -> None:
    """Make the new name durable."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
