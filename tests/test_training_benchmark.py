"""The training benchmark: its plain networks are the same functions, a table comes out of a small real run."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from architectures import NETWORKS

from nas.arch import Architecture
from nas.data import load
from nas.models import build
from nas.train import RECIPES

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def plain_loop() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        return importlib.import_module("plain_loop")


@pytest.mark.parametrize("arch", NETWORKS.values(), ids=NETWORKS)
def test_the_published_forms_give_the_same_numbers(arch: Architecture, plain_loop: ModuleType) -> None:
    """The fast forms, in channels_last, against views and sums in NCHW: float32 outputs, and gradients in float64.

    In float32 the batch norm of the attention amplifies the gradients' rounding.
    """
    torch.manual_seed(0)
    fast, plain = build(arch), build(arch)
    plain.load_state_dict(fast.state_dict())
    plain_loop.published(plain)
    fast = fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x_BCHW = torch.randn(8, 3, 12, 12)
    x_BHWC = x_BCHW.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(fast(x_BHWC), plain(x_BCHW), rtol=1e-5, atol=1e-5)
    for model, images in ((fast.double(), x_BHWC), (plain.double(), x_BCHW)):
        model(images.double()).square().mean().backward()
    for ours, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-10)


def test_the_plain_loop_learns(plain_loop: ModuleType) -> None:
    torch.manual_seed(0)
    data = load("digits")
    accuracy = plain_loop.train(
        replace(NETWORKS["bottleneck split r2"], in_channels=1, num_classes=10),
        data,
        RECIPES["digits"],
        steps=60,
        device=torch.device("cpu"),
    )
    assert accuracy > 0.5


def test_a_small_run_prints_its_table() -> None:
    command = [sys.executable, str(FOLDER / "training.py"), "--rounds", "1", "--tables", "pipeline", "--device", "cpu"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "**Batches alone, one thread a side**" in said
    assert said.count("\n| ") == 4


def test_our_side_runs_a_trial_as_a_search_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    training = importlib.import_module("training")
    images = np.zeros((100, 8, 8, 3), np.uint8), np.arange(100, dtype=np.int64) % 10
    np.savez(tmp_path / "images.npz", x_train=images[0], y_train=images[1], x_test=images[0], y_test=images[1])
    arch = replace(NETWORKS["bottleneck split r2"], in_channels=3, num_classes=10)
    recipe = replace(RECIPES["digits"], batch_size=16)
    case = training.Case("small", arch, 1000, 8, recipe, 2, str(tmp_path / "images.npz"), "cpu")
    assert training.ours(case) > 0
