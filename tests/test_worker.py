"""The worker: one network trained, its result on disk before it is returned, every failure in one line."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.arch import Architecture
from nas.data import load
from nas.executors import NOTHING, worker
from nas.executors.inline import InlineExecutor
from nas.executors.scored import ScoredExecutor
from nas.record import read_json
from nas.space import SearchSpace
from nas.train import RECIPES, train

ARCH = next(iter(SearchSpace.load("tiny")))
DATA: dict[str, Any] = {
    "source": "digits",
    "image_size": 8,
    "val_fraction": 0.2,
    "seed": 0,
    "train_images": 100,
}


def spec(**changes: Any) -> dict[str, Any]:
    return {
        "format": 1,
        "study": "s",
        "trial": 7,
        "key": ARCH.key,
        "arch": ARCH.to_json(),
        "genotype": {},
        "cost": {"macs": 1, "params": 1, "activations": 1},
        "seed": 3,
        "rung": 0,
        "budget": {"epochs": 1},
        "full": True,
        "recipe": RECIPES["digits"].to_json(),
        "data": DATA,
        "device": "cpu",
        **changes,
    }


def test_the_result_is_that_of_the_training_and_lies_on_disk(tmp_path: Path) -> None:
    result = worker.evaluate(spec(), tmp_path)
    direct = train(ARCH, load(**DATA), RECIPES["digits"], epochs=1, seed=3, device="cpu")
    assert (result["status"], result["accuracy"]) == ("ok", direct.accuracy)
    assert result["loss_curve"] == list(direct.loss_curve)
    assert (result["trial"], result["key"], result["epochs"], result["steps"]) == (7, ARCH.key, 1, direct.steps)
    assert result["versions"]["torch"] == metadata.version("torch")
    assert read_json(tmp_path / "result.json") == result
    assert not (tmp_path / "error.txt").exists()


def test_a_training_goes_on_from_the_checkpoint_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = worker.evaluate(spec(), tmp_path)
    monkeypatch.setattr("nas.train.state.Training.take_step", lambda *_: pytest.fail("a step was taken again"))
    assert worker.evaluate(spec(), tmp_path)["accuracy"] == first["accuracy"]


def test_an_exception_becomes_a_reason_of_one_line_and_a_traceback_on_disk(tmp_path: Path) -> None:
    result = worker.evaluate(spec(data={**DATA, "source": "nowhere.npz"}), tmp_path)
    assert result["status"] == "error"
    assert result["reason"].startswith("ValueError: data must be one of")
    assert "\n" not in result["reason"]
    assert result["accuracy"] is None
    assert read_json(tmp_path / "result.json") == result
    assert "Traceback" in (tmp_path / "error.txt").read_text()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
        (RuntimeError("first line\nsecond line"), "RuntimeError: first line"),
        (KeyError(), "KeyError"),
    ],
)
def test_reasons(error: Exception, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(worker, "train", fail)
    assert worker.evaluate(spec(), tmp_path)["reason"] == reason


def test_a_keyboard_interrupt_passes_and_leaves_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "train", interrupt)
    with pytest.raises(KeyboardInterrupt):
        worker.evaluate(spec(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_diverged_training_is_a_result(tmp_path: Path) -> None:
    result = worker.evaluate(spec(recipe={**RECIPES["digits"].to_json(), "learning_rate": 1e30}), tmp_path)
    assert result["status"] == "diverged"
    assert result["accuracy"] is None
    assert result["reason"]
    assert read_json(tmp_path / "result.json") == result


def test_inline_trains_what_was_submitted(tmp_path: Path) -> None:
    executor = InlineExecutor(worker.evaluate)
    executor.submit(spec(), tmp_path)
    assert not (tmp_path / "result.json").exists()
    (result,) = executor.wait()
    assert result == read_json(tmp_path / "result.json")


def test_the_scored_result_has_the_fields_of_a_trained_one(tmp_path: Path) -> None:
    executor = ScoredExecutor(lambda spec: Architecture.from_json(spec["arch"]).stages[0].depth / 10)
    executor.submit(spec(), tmp_path)
    (scored,) = executor.wait()
    assert scored["accuracy"] == ARCH.stages[0].depth / 10
    assert scored == read_json(tmp_path / "result.json")
    assert set(scored) == {
        "format",
        "trial",
        "key",
        "rung",
        "full",
        "attempts",
        *NOTHING,
        "started",
        "finished",
        "versions",
    }
