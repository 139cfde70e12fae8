"""What a search says of a machine that could train faster."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from nas.device import Precision
from nas.executors import advice as module
from nas.executors.advice import advice

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: 4)
    monkeypatch.setattr(module, "available_memory_bytes", lambda: None)
    monkeypatch.setattr(module, "find_spec", lambda _: None)


@pytest.mark.parametrize(
    ("workers", "precision", "words"),
    [
        (1, "bf16", ["--workers 4"]),
        (3, "fp32", ["--workers 4"]),
        (4, "bf16", ['pip install "paretonest[cpu]"']),
        (5, "bf16", ['pip install "paretonest[cpu]"']),
        (4, "fp32", []),
    ],
)
def test_idle_cores_come_first_then_the_extra_of_those_who_train_in_bf16(
    workers: int, precision: Precision, words: Sequence[str]
) -> None:
    said = advice(workers=workers, device=CPU, precision=precision)
    assert len(said) == len(words)
    assert all(word in line for word, line in zip(words, said, strict=True))


def test_who_has_the_extra_is_not_told_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: object() if name == "numba" else None)
    assert advice(workers=4, device=CPU, precision="bf16") == ()


@pytest.mark.parametrize(("gigabytes", "workers", "words"), [(64, 1, "--workers 4"), (3.5, 1, "--workers 3")])
def test_no_more_workers_are_advised_than_have_room(
    gigabytes: float, workers: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "available_memory_bytes", lambda: int(gigabytes * 2**30))
    (said,) = advice(workers=workers, device=CPU, precision="fp32")
    assert words in said
    monkeypatch.setattr(module, "available_memory_bytes", lambda: 2**29)
    assert advice(workers=workers, device=CPU, precision="bf16") == ()


def test_a_gpu_needs_no_advice() -> None:
    assert advice(workers=1, device=torch.device("cuda", 0), precision="bf16") == ()
