"""A network trained in full by the trainer of the searches, and an exported folder scored again."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from nas.arch import Architecture
from nas.cli import main
from nas.data import load
from nas.export.rescore import rescore
from nas.record import Run
from nas.retrain import Retraining, retrain
from nas.space import SearchSpace
from nas.train import RECIPES, EpochReport

CPU = torch.device("cpu")
DIGITS: dict[str, Any] = {"source": "digits", "image_size": None, "val_fraction": 0.2, "seed": 0}


def network() -> Architecture:
    return next(iter(SearchSpace.load("tiny")))


def wanted(**changes: Any) -> Retraining:
    settings = {
        "architecture": network(),
        "origin": {"file": "arch.json"},
        "data": DIGITS,
        "recipe": RECIPES["digits"],
        "epochs": 2,
        "seed": 3,
        "device": "cpu",
    }
    return Retraining(**{**settings, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a network trained for two epochs."""
    return retrain(wanted(), Run(tmp_path_factory.mktemp("results"), "full"), device=CPU)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_training_in_full_is_recorded_like_a_search_and_exported(trained: Path) -> None:
    run = Run(trained.parent.parent.parent, "full")
    (row,) = run.front(("accuracy", "macs")).to_dict("records")
    assert row["state"] == "complete" and row["key"] == network().key == trained.name and row["epochs"] == 2
    config, metrics = read(trained / "config.json"), read(trained / "metrics.json")
    assert config["accuracy"]["value"] == row["accuracy"] == metrics["accuracy"]["validation"]["value"]
    assert config["found"] == {"training": "full", "seed": 3, "origin": {"file": "arch.json"}}
    assert config["accuracy"]["seed"] == 3
    said = (trained / "README.md").read_text()
    assert "The network of the file `arch.json`, trained in full on digits" in said and "picked" not in said
    assert "Trained for 2 epochs in fp32, seed 3" in said


def test_a_stopped_training_goes_on_where_it_was(trained: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(_: EpochReport) -> None:
        raise Stop

    run, seen = Run(tmp_path, "full"), list[int]()
    with pytest.raises(Stop):
        retrain(wanted(), run, device=CPU, on_epoch=stop)
    assert run.read_result(0) is None and not run.path("best").exists()
    folder = retrain(wanted(), run, device=CPU, on_epoch=lambda report: seen.append(report.epoch))
    assert seen == [2]
    whole, parts = load_file(trained / "model.safetensors"), load_file(folder / "model.safetensors")
    assert all(torch.equal(parts[name], value) for name, value in whole.items())


def test_more_epochs_go_on_and_other_settings_are_refused(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained.parent.parent, tmp_path / "full")
    run, seen = Run(tmp_path, "full"), list[int]()
    recipe = replace(RECIPES["digits"], learning_rate=0.1)
    for changes, name in (({"seed": 4}, "seed"), ({"recipe": recipe}, "recipe")):
        with pytest.raises(ValueError, match=f"holds another training or a search: {name} of it differ"):
            retrain(wanted(**changes), run, device=CPU)
    retrain(wanted(epochs=3), run, device=CPU, on_epoch=lambda report: seen.append(report.epoch))
    result = run.read_result(0)
    assert seen == [3] and result is not None and result["epochs"] == 3


def test_a_training_that_diverges_is_no_export(tmp_path: Path) -> None:
    run = Run(tmp_path, "full")
    with pytest.raises(RuntimeError, match="the training failed: the training loss of epoch 1 is"):
        retrain(wanted(recipe=replace(RECIPES["digits"], learning_rate=1e30)), run, device=CPU)
    assert not run.path("best").exists()


def test_an_export_is_scored_again(trained: Path) -> None:
    metrics, found = read(trained / "metrics.json")["accuracy"], rescore(trained, None, CPU)
    assert found == {"validation": metrics["validation"], "test": metrics["test"]}


def write_npz(path: Path, classes: int = 10, **changes: Any) -> Path:
    """A set of other images: the darker half of digits, whose mean is not that of digits."""
    digits = load("digits")
    images, labels = digits.train.images_NHWC, digits.train.labels
    dark = np.argsort(images.mean(axis=(1, 2, 3)), kind="stable")[: len(images) // 2]
    arrays = {"x_train": images[dark], "y_train": labels[dark] % classes}
    np.savez(path, **{**arrays, "x_test": images[dark], "y_test": labels[dark] % classes, **changes})
    return path


def test_other_images_are_normalised_as_those_of_the_training(trained: Path, tmp_path: Path) -> None:
    source = str(write_npz(tmp_path / "dark.npz"))
    found = rescore(trained, source, CPU)["test"]
    test, told = load(source).test(), read(trained / "config.json")["data"]
    x = (test.images_NHWC / 255 - np.array(told["mean"])) / np.array(told["std"])
    namespace: dict[str, Any] = {"__name__": "model"}
    exec((trained / "model.py").read_text(), namespace)
    model = namespace["Network"]().eval()
    model.load_state_dict(load_file(trained / "model.safetensors"))
    with torch.no_grad():
        guesses = model(torch.tensor(x, dtype=torch.float32).permute(0, 3, 1, 2)).argmax(dim=1).numpy()
    assert found["right"] == (guesses == test.labels).sum() and found["images"] == len(test)
    assert load(source).mean != pytest.approx(told["mean"], abs=0.01)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Grey pictures of even and of odd digits."""
    folder = tmp_path / "my photos"
    digits = load("digits")
    for number, label in enumerate(digits.train.labels[:120]):
        place = folder / ("odd" if label % 2 else "even")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.train.images_NHWC[number, :, :, 0]).save(place / f"{number}.png")
    return folder


@pytest.mark.parametrize("prepared", [False, True])
def test_the_card_of_a_network_of_pictures_shows_a_command_that_trains_it(
    prepared: bool, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the exported folder, though the training named the pictures from another one."""
    monkeypatch.chdir(tmp_path)
    source = pictures.name
    if prepared:
        assert main(["data", "prepare", source, "--size", "8", "--out", "prepared set"]) == 0
        source = "prepared set"
    data = {**DIGITS, "source": source, "image_size": 8}
    wants = wanted(architecture=replace(network(), num_classes=2), data=data, epochs=1)
    folder = retrain(wants, Run(tmp_path / "results", "full"), device=CPU)
    assert main(["evaluate", str(folder), "--device", "cpu"]) == 0
    monkeypatch.chdir(folder)
    before = sorted(path.name for path in folder.iterdir())
    nas, *words = shlex.split((folder / "README.md").read_text().split("```sh\n")[1].split("\n```")[0])
    assert nas == "nas" and main([*words, "--device", "cpu"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == before
    again = folder.parent / f"full-{folder.name}" / "best" / folder.name
    first, second = (load_file(place / "model.safetensors") for place in (folder, again))
    assert all(torch.equal(second[name], value) for name, value in first.items())


def test_data_that_does_not_fit_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.py has num_classes = 10, .*needs num_classes = 5"):
        rescore(trained, str(write_npz(tmp_path / "five.npz", classes=5)), CPU)
    labels = np.load(write_npz(tmp_path / "dark.npz"))["y_train"] + 1
    shifted = write_npz(tmp_path / "shifted.npz", y_train=labels, y_test=labels)
    with pytest.raises(ValueError, match=r"has a class '1' where .* was trained on '0'"):
        rescore(trained, str(shifted), CPU)


def test_a_folder_without_weights_or_code_is_named(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "mine")
    (tmp_path / "mine" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"there are no weights .*model\.safetensors"):
        rescore(tmp_path / "mine", None, CPU)
    shutil.copy(trained / "model.safetensors", tmp_path / "mine")
    (tmp_path / "mine" / "model.py").write_text("class Network: pass\nraise OSError('no')\n")
    with pytest.raises(ValueError, match=r"model\.py gives no network \(OSError: no\)"):
        rescore(tmp_path / "mine", None, CPU)
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        rescore(tmp_path, None, CPU)


def test_the_command_line_trains_from_an_export_and_scores(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipe and the data set are those of the file; a schedule may be given."""
    words = ["retrain", "--arch", str(trained / "config.json"), "--epochs", "1", "--device", "cpu"]
    assert main([*words, "--schedule", "cycle", "--out", str(tmp_path / "again")]) == 0
    *progress, place = capsys.readouterr().out.splitlines()
    assert progress[0].startswith("epoch 1 of 1: loss ")
    config, before = read(Path(place) / "config.json"), read(trained / "config.json")
    assert config["recipe"] == {**before["recipe"], "schedule": "cycle"}
    assert config["data"]["digest"] == before["data"]["digest"] and config["key"] == before["key"]
    assert main(["evaluate", place, "--device", "cpu"]) == 0
    right = read(Path(place) / "metrics.json")["accuracy"]["test"]["right"]
    assert f"confidence), {right} of 360 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--arch", "resnet18"), "the network's file names no data set: give --data"),
        (("--arch", "resnet18", "--data", "digits"), "in_channels = 3, num_classes = 1000"),
        (("--arch", "EXPORT", "--recipe", "cake"), "recipe must be one of digits, cifar, imagenet, but got 'cake'"),
        (("--arch", "EXPORT", "--schedule", "late"), "recipe schedule must be one of cycle, branch, average"),
        (("--arch", "EXPORT", "--val-fraction", "2"), "val_fraction must be above 0 and below 1"),
    ],
)
def test_a_mistake_is_one_sentence(
    words: tuple[str, ...], message: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word.replace("EXPORT", str(trained / "config.json")) for word in words]
    assert main(["retrain", *given, "--epochs", "1", "--device", "cpu", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert message in said and said.startswith("nas: ") and said.count("\n") == 1
