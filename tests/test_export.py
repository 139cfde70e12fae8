"""What leaves a search: files that run without us, proven to be the network that was found, or not written at all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch
from architectures import MIXER_KINDS, NETWORKS, STEMS, combined, covering
from exported import difference, images, lively, network_of, source
from recorded_runs import make_run
from safetensors.torch import load_file

from nas.arch import Architecture, Avd, BlockKind, GateKind, Shortcut
from nas.cost.formula import cost
from nas.data import load
from nas.evidence import share
from nas.export import folder as folder_module
from nas.export.config import find_network, read_architecture, trial_config
from nas.export.folder import FILES, of_network, of_trial, write_export
from nas.export.folding import fold
from nas.export.forms import FORMS
from nas.export.onnx import run_onnx, save_onnx
from nas.export.pick import most_accurate, require_complete
from nas.export.source import model_source
from nas.export.weights import random_weights, read_weights, save_weights
from nas.record import Run, write_json
from nas.search.config import SearchConfig
from nas.search.driver import run_search

CPU = torch.device("cpu")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two small trainings on digits."""
    root = tmp_path_factory.mktemp("results")
    settings: dict[str, Any] = {"space": "tiny", "study": "small", "trials": 2, "epochs": 2, "device": "cpu"}
    run_search(SearchConfig.read({**settings, "out": root, "sampler": "random"}, where="test"))
    return Run(root, "small")


@pytest.fixture
def own(searched: Run, tmp_path: Path) -> Run:
    """A copy of that search which a test may spoil."""
    shutil.copytree(searched.folder, tmp_path / "results" / searched.study)
    return Run(tmp_path / "results", searched.study)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_an_export_holds_five_files_that_agree(searched: Run, tmp_path: Path) -> None:
    folder = write_export(of_trial(searched, 0), tmp_path / "mine", device=CPU)
    assert {path.name for path in folder.iterdir()} == set(FILES)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    config, metrics, result = read(folder / "config.json"), read(folder / "metrics.json"), searched.read_result(0)
    assert result is not None
    arch, input_size = read_architecture(folder / "config.json")
    assert arch.key == config["key"] == metrics["key"] == searched.read_spec(0)["key"] and input_size == 8
    price = cost(arch, 8)
    counts = {"params": price.params, "macs": price.macs, "activations": price.activations}
    assert config["cost"] == counts
    assert metrics["cost"] == dict.fromkeys(("formula", "searched network", "model.py"), counts)
    for found in metrics["outputs"]["differences"].values():
        assert found["max_absolute"] <= 1e-6 and found["max_relative"] <= 1e-6
    assert set(metrics["outputs"]["differences"]) == {"model.py", "model.safetensors"}
    weights = load_file(folder / "model.safetensors")
    assert sum(weights[name].numel() for name in weights if name.endswith(("weight", "bias"))) == price.params
    assert metrics["accuracy"]["recorded"] == metrics["accuracy"]["validation"]["value"] == result["accuracy"]
    assert metrics["accuracy"]["test"]["images"] == len(load("digits").test())


def test_the_files_alone_give_the_recorded_accuracy(searched: Run, tmp_path: Path) -> None:
    """In a process without nas: the images of validation, normalised as config.json says, counted by hand."""
    folder = write_export(of_trial(searched, 1), tmp_path / "mine", device=CPU)
    data = load(**searched.read_spec(1)["data"])
    np.savez(tmp_path / "val.npz", x=data.val.images_NHWC, y=data.val.labels)
    script = f"""
import json, sys
sys.modules["nas"] = None
sys.path.insert(0, {str(folder)!r})
import numpy as np, torch
from model import Network
from safetensors.torch import load_file
network = Network().eval()
network.load_state_dict(load_file({str(folder / "model.safetensors")!r}))
told = json.load(open({str(folder / "config.json")!r}))["data"]
val = np.load({str(tmp_path / "val.npz")!r})
x = (val["x"] / 255 - np.array(told["mean"])) / np.array(told["std"])
labels = network(torch.tensor(x, dtype=torch.float32).permute(0, 3, 1, 2)).argmax(dim=1).numpy()
print((labels == val["y"]).sum())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) == read(folder / "metrics.json")["accuracy"]["validation"]["right"]


def lines_of(text: str) -> list[list[str]]:
    """The lines of each piece of Python in a text, without comments."""
    pieces = [piece.split("```")[0] for piece in text.split("```python\n")[1:]]
    return [[line.split("  #")[0] for line in piece.splitlines() if line] for piece in pieces]


def test_the_card_shows_how_to_load_and_its_lines_run(searched: Run, tmp_path: Path) -> None:
    """In a process without nas."""
    folder = write_export(of_trial(searched, 0), tmp_path / "mine", device=CPU, forms=["pt2", "torchscript"])
    text = (folder / "README.md").read_text()
    five, others = lines_of(text)
    assert len(five) == 5 and len(others) == 2
    assert five == lines_of((ROOT / "README.md").read_text())[0]
    script = ["import sys", "sys.modules['nas'] = None", "import torch", "images = torch.ones(2, 1, 8, 8)", *five]
    script += ["wanted = logits", "print(tuple(logits.shape))"]
    for line in others:
        script += [line, "print(torch.allclose(logits, wanted, rtol=0, atol=1e-5))"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(script)], capture_output=True, text=True, check=True, cwd=folder
    )
    assert done.stdout.split("\n") == ["(2, 10)", "True", "True", ""]
    config, metrics = read(folder / "config.json"), read(folder / "metrics.json")
    for said in (config["key"], f"{config['cost']['macs']:,}", f"{100 * metrics['accuracy']['test']['value']:.2f} %"):
        assert said in text


def test_config_says_how_sure_the_accuracy_is_and_where_it_comes_from(searched: Run) -> None:
    config, spec, result = trial_config(searched, 0), searched.read_spec(0), searched.read_result(0)
    assert result is not None
    interval = share(round(result["accuracy"] * 287), 287)
    found = config["accuracy"]
    assert (found["value"], found["low"], found["high"]) == (result["accuracy"], interval.low, interval.high)
    assert (found["images"], found["confidence"]) == (287, 0.95)
    assert (found["epochs"], found["seed"]) == (2, spec["seed"])
    assert config["recipe"] == spec["recipe"] and config["data"]["digest"] == load("digits").digest
    assert config["data"]["source"] == "digits" and len(config["data"]["classes"]) == 10
    assert config["found"] == {
        "study": "small",
        "trial": 0,
        "genotype": spec["genotype"],
        "sampler": "random",
        "seed": searched.read_run()["config"]["seed"],
    }
    assert config["environment"]["versions"]["torch"] == version("torch")


def spoil_text(old: str, new: str) -> Callable[[Architecture, int, str], str]:
    def source(arch: Architecture, input_size: int, origin: str) -> str:
        text = model_source(arch, input_size, origin)
        assert old in text
        return text.replace(old, new)

    return source


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("+ self.shortcut(x_BCHW)", "- self.shortcut(x_BCHW)", "model.py is not the searched network: an output diff"),
        ("self.classifier(", "self.classifier(float('nan') * ", "an output differs by nan"),
        ("self.bn = ", "self.norm = ", "the weights do not fit model.py"),
        (
            "self.relu = relu\n",
            "self.relu = relu\n        self.more = nn.Parameter(self.bn.weight[:1])\n",
            "do not fit",
        ),
        ("class Network", "class Net", "model.py gives no network (AttributeError"),
    ],
)
def test_a_file_that_is_not_the_network_is_not_left(
    old: str, new: str, message: str, searched: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it take the place of an export that was there."""
    place = write_export(of_trial(searched, 0), tmp_path / "mine", device=CPU)
    before = contents(place)
    monkeypatch.setattr(folder_module, "model_source", spoil_text(old, new))
    for folder in (place, tmp_path / "another"):
        with pytest.raises(ValueError) as caught:
            write_export(of_trial(searched, 0), folder, device=CPU)
        assert message in str(caught.value) and "\n" not in str(caught.value)
    assert contents(place) == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_costlier_file_is_refused(searched: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same outputs by more work."""
    twice = "return 0 * self.classifier(features_BCHW.mean(dim=(2, 3))) + self.classifier("
    spoiled = spoil_text("return self.classifier(", twice)
    monkeypatch.setattr(folder_module, "model_source", spoiled)
    with pytest.raises(ValueError, match=r"model\.py costs .*, but the formula gives "):
        write_export(of_trial(searched, 0), tmp_path / "mine", device=CPU)
    assert list(tmp_path.iterdir()) == []


def test_other_weights_than_the_recorded_ones_are_refused(own: Run, tmp_path: Path) -> None:
    """An accuracy in the record that the checkpoint does not have."""
    result = own.read_result(0)
    assert result is not None
    write_json(own.trial_folder(0) / "result.json", {**result, "accuracy": result["accuracy"] - 5 / 287})
    with pytest.raises(
        ValueError, match=r"validation images rightly, but the recorded accuracy is .*: 5 images differ"
    ):
        write_export(of_trial(own, 0), tmp_path / "mine", device=CPU)
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 1), ("bf16", 2)])
def test_an_accuracy_recorded_in_bf16_may_differ_by_one_percent(
    precision: str, allowed: int, own: Run, tmp_path: Path
) -> None:
    """Of 287 images, the files being counted in float32; one image, where it was recorded in float32."""
    result = own.read_result(0)
    assert result is not None
    for off in (allowed, allowed + 1):
        rounded = {**result, "accuracy": result["accuracy"] - off / 287, "precision": precision}
        write_json(own.trial_folder(0) / "result.json", rounded)
        if off == allowed:
            folder = write_export(of_trial(own, 0), tmp_path / "mine", device=CPU)
            assert f"Trained for 2 epochs in {precision}, seed " in (folder / "README.md").read_text()
        else:
            with pytest.raises(ValueError, match=rf"{off} images differ, where rounding explains {allowed}"):
                write_export(of_trial(own, 0), tmp_path / "other", device=CPU)


def test_spoilt_weights_on_disk_are_noticed(searched: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save_spoilt(path: Path, weights: dict[str, torch.Tensor], about: dict[str, str]) -> None:
        save_weights(path, {**weights, "classifier.bias": weights["classifier.bias"] + 1e-3}, about)

    monkeypatch.setattr(folder_module, "save_weights", save_spoilt)
    with pytest.raises(ValueError, match=r"model\.safetensors is not the searched network"):
        write_export(of_trial(searched, 0), tmp_path / "mine", device=CPU)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_never_replaced(searched: Run, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds thesis\.tex, which no export wrote: name a new folder"):
        write_export(of_trial(searched, 0), tmp_path, device=CPU)
    with pytest.raises(ValueError, match=r"thesis\.tex is a file: name a folder to export into"):
        write_export(of_trial(searched, 0), tmp_path / "thesis.tex", device=CPU)
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}
    for name in ("empty", "used/__pycache__"):
        (tmp_path / name).mkdir(parents=True)
    assert write_export(of_trial(searched, 0), tmp_path / "used", device=CPU).exists()
    assert write_export(of_trial(searched, 0), tmp_path / "empty", device=CPU).exists()


def test_without_a_checkpoint_there_are_no_weights_unless_drawn_ones_are_asked_for(own: Run, tmp_path: Path) -> None:
    own.checkpoint(0).unlink()
    folder = write_export(of_trial(own, 0), tmp_path / "bare", device=CPU)
    assert {path.name for path in folder.iterdir()} == set(FILES) - {"model.safetensors"}
    metrics = read(folder / "metrics.json")
    assert metrics["weights"] == "none" and metrics["accuracy"] is None
    assert set(metrics["outputs"]["differences"]) == {"model.py"}
    assert "safetensors" not in (folder / "README.md").read_text()
    drawn = [write_export(of_trial(own, 0, random_seed=seed), tmp_path / str(seed), device=CPU) for seed in (1, 2)]
    files = [load_file(folder / "model.safetensors") for folder in drawn]
    again = random_weights(of_trial(own, 0).architecture, 1)
    assert all(torch.equal(files[0][name], value) for name, value in again.items())
    assert not torch.equal(files[0]["classifier.weight"], files[1]["classifier.weight"])
    assert read(drawn[0] / "metrics.json")["accuracy"] is None
    assert "not trained: random, seed 1" in (drawn[0] / "README.md").read_text()


def test_drawing_weights_disturbs_no_other_draw() -> None:
    state = torch.get_rng_state()
    random_weights(NETWORKS["gate scse"], 5)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="the seed of random weights must be at least 0 and below"):
        random_weights(NETWORKS["gate scse"], -1)


def test_a_damaged_checkpoint_is_named(own: Run) -> None:
    own.checkpoint(0).write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"checkpoint\.pt cannot be read as a checkpoint"):
        of_trial(own, 0)


def test_a_changed_data_set_is_refused(own: Run) -> None:
    settings = own.read_run()
    own.write_run({**settings, "data": {**settings["data"], "digest": "0" * 64}})
    with pytest.raises(ValueError, match="the data set digits has changed since the search"):
        of_trial(own, 0)


def test_only_trials_trained_in_full_are_exported(own: Run) -> None:
    result = own.read_result(1)
    assert result is not None
    write_json(own.trial_folder(1) / "result.json", {**result, "full": False})
    with pytest.raises(ValueError, match="trial 1 of study small was stopped before its full budget"):
        of_trial(own, 1)
    with pytest.raises(ValueError, match=r"trial 1 is stopped before its full budget, so that .*complete one of 0"):
        require_complete(own.trials(), 1)
    (own.trial_folder(1) / "result.json").unlink()
    with pytest.raises(ValueError, match="trial 1 of study small has not finished"):
        of_trial(own, 1)


@pytest.mark.parametrize("name", ["gate on attention", "stem deep", "basic avd after"])
def test_a_network_from_a_file_is_compared_on_drawn_images(name: str, tmp_path: Path) -> None:
    arch = NETWORKS[name]
    write_json(tmp_path / "arch.json", arch.to_json())
    found = find_network(str(tmp_path / "arch.json"))
    assert found.input_size is None
    folder = write_export(of_network(found, 16, random_seed=0), tmp_path / "out", device=CPU)
    metrics = read(folder / "metrics.json")
    assert metrics["outputs"]["images"] == "8 images of standard normal noise, seed 0"
    assert metrics["outputs"]["differences"]["model.safetensors"]["max_absolute"] == 0
    again, side = read_architecture(folder / "config.json")
    assert again == arch.canonical() and side == 16
    assert read(folder / "config.json")["found"] == {"file": "arch.json"}


def test_a_config_of_the_first_format_is_still_read(tmp_path: Path) -> None:
    arch = NETWORKS["bottleneck sk"]
    old = {"format": 1, "key": arch.key, "architecture": arch.to_json(), "family": "SK-Net", "input_size": 8}
    write_json(tmp_path / "config.json", {**old, "accuracy": {"value": 0.9, "epochs": 3}})
    assert read_architecture(tmp_path / "config.json") == (arch, 8)


def test_weights_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there are no weights .*none\.safetensors"):
        read_weights(tmp_path / "none.safetensors")
    (tmp_path / "half.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(ValueError, match=r"half\.safetensors cannot be read as safetensors"):
        read_weights(tmp_path / "half.safetensors")


def test_the_most_accurate_are_picked_cheaper_ones_first_among_equals() -> None:
    rows = pd.DataFrame({"trial": [0, 1, 2, 3], "accuracy": [0.5, 0.9, 0.9, 0.7], "macs": [1, 9, 8, 1]})
    assert most_accurate(rows, ("accuracy", "macs"), 3) == [2, 1, 3]
    assert most_accurate(rows, ("accuracy", "macs"), 9) == [2, 1, 3, 0]
    with pytest.raises(ValueError, match="no finished network to pick from"):
        most_accurate(rows[:0], ("accuracy", "macs"), 1)


ONNX = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")), reason="needs the extra onnx"
)


@ONNX
def test_onnx_runtime_gives_the_same_outputs(searched: Run, tmp_path: Path) -> None:
    folder = write_export(of_trial(searched, 0), tmp_path / "mine", device=CPU, forms=["onnx"])
    _, (call,) = lines_of((folder / "README.md").read_text())
    assert call == f"logits = {FORMS['onnx'].call}"
    assert {path.name for path in folder.iterdir()} == {*FILES, "model.onnx"}
    found = read(folder / "metrics.json")["outputs"]["differences"]["model.onnx"]
    assert found["max_absolute"] > 0 and found["max_relative"] <= found["tolerance"] == 1e-5
    assert write_export(of_trial(searched, 0), folder, device=CPU) == folder  # replaced by one without
    assert not (folder / "model.onnx").exists()


@ONNX
@pytest.mark.parametrize(
    ("folded", "genes"),
    [
        (folded, genes)
        for folded, *genes in covering(
            (False, True),
            get_args(BlockKind),
            (*MIXER_KINDS, "hybrid r4"),
            get_args(GateKind),
            get_args(Shortcut),
            tuple(STEMS),
            get_args(Avd),
        )
    ],
    ids=str,
)
def test_onnx_runtime_takes_any_kind_of_network_and_any_number_of_images(
    folded: bool, genes: Sequence[str], tmp_path: Path
) -> None:
    """Each two genes stand together in some network, of one block."""
    whole = combined(*genes)
    arch = replace(whole, stages=whole.stages[1:])
    network, exported = lively(arch, dtype=torch.float32).eval(), network_of(source(arch)).eval()
    exported.load_state_dict(network.state_dict())
    x_BCHW = images(arch, 70, dtype=torch.float32)
    save_onnx(fold(exported) if folded else exported, tmp_path / "model.onnx", x_BCHW[:2])
    with torch.no_grad():
        for count in (1, 3, 70):
            mine = run_onnx(tmp_path / "model.onnx", x_BCHW[:count])
            assert difference(mine, network(x_BCHW[:count])) <= 1e-5


@pytest.mark.parametrize("form", ["pt2", "torchscript"])
def test_a_form_of_torch_is_the_network_without_its_code(form: str, searched: Run, tmp_path: Path) -> None:
    folder = write_export(of_trial(searched, 0), tmp_path / "mine", device=CPU, forms=[form])
    file = FORMS[form].file
    assert {path.name for path in folder.iterdir()} == {*FILES, file}
    found = read(folder / "metrics.json")["outputs"]["differences"][file]
    assert found["max_relative"] <= found["tolerance"] == 1e-6
    assert f"`{file}`" in (folder / "README.md").read_text()


@pytest.mark.parametrize("form", ["pt2", "torchscript"])
@pytest.mark.parametrize(
    "name", ["bottleneck sk split input", "bottleneck hybrid r4", "gate scse", "avd after", "stem deep"]
)
def test_forms_of_torch_take_any_number_of_images(name: str, form: str, tmp_path: Path) -> None:
    network = lively(NETWORKS[name], dtype=torch.float32).eval()
    exported = network_of(source(NETWORKS[name])).eval()
    exported.load_state_dict(network.state_dict())
    x_BCHW = images(NETWORKS[name], 70, dtype=torch.float32)
    FORMS[form].save(exported, tmp_path / "file", x_BCHW[:2])
    del exported
    with torch.no_grad():
        for count in (1, 3, 70):
            mine = FORMS[form].run(tmp_path / "file", x_BCHW[:count])
            assert difference(mine, network(x_BCHW[:count])) <= 1e-6


@pytest.mark.parametrize("name", NETWORKS)
def test_folded_networks_give_the_same_outputs_without_batch_norms(name: str) -> None:
    network = lively(NETWORKS[name]).eval()
    exported = network_of(source(NETWORKS[name])).double()
    exported.load_state_dict(network.state_dict())
    folded = fold(exported)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    x_BCHW = images(NETWORKS[name], 3)
    with torch.no_grad():
        assert difference(folded(x_BCHW), network(x_BCHW)) <= 1e-12


def test_other_forms_may_be_folded(searched: Run, tmp_path: Path) -> None:
    plain = write_export(of_trial(searched, 0), tmp_path / "plain", device=CPU, forms=["pt2"])
    folder = write_export(of_trial(searched, 0), tmp_path / "folded", device=CPU, forms=["pt2"], folded=True)
    metrics = read(folder / "metrics.json")
    assert (metrics["folded"], read(plain / "metrics.json")["folded"]) == (True, False)
    assert metrics["outputs"]["differences"]["model.pt2"]["tolerance"] == 1e-5
    kept, weights = (read_weights(place / "model.safetensors") for place in (folder, plain))
    assert kept.keys() == weights.keys() and all(torch.equal(kept[name], weights[name]) for name in weights)
    operations = {
        place.name: {str(node.target) for node in torch.export.load(place / "model.pt2").graph.nodes}
        for place in (plain, folder)
    }
    assert any("batch_norm" in one for one in operations["plain"])
    assert not any("batch_norm" in one for one in operations["folded"])
    with pytest.raises(ValueError, match=r"batch norms are folded in other forms than model.py"):
        write_export(of_trial(searched, 0), tmp_path / "none", device=CPU, folded=True)


def test_a_form_that_differs_is_refused_and_leaves_nothing(
    searched: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(FORMS["pt2"], run=lambda path, x_BCHW: FORMS["torchscript"].run(path, x_BCHW) + 1e-3)
    monkeypatch.setitem(FORMS, "pt2", replace(wrong, save=FORMS["torchscript"].save))
    with pytest.raises(ValueError, match=r"model\.pt2 is not the searched network: an output differs by 0\.001"):
        write_export(of_trial(searched, 0), tmp_path / "mine", device=CPU, forms=["pt2"])
    assert list(tmp_path.iterdir()) == []


def test_onnx_without_its_packages_names_the_line_that_installs_them(
    searched: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r'needs onnx, which is missing: pip install "paretonest\[onnx\]"'):
        write_export(of_trial(searched, 0), tmp_path / "mine", device=CPU, forms=["onnx"])
    assert list(tmp_path.iterdir()) == []


def test_onnx_without_weights_is_refused(own: Run, tmp_path: Path) -> None:
    own.checkpoint(0).unlink()
    with pytest.raises(ValueError, match=r"model\.onnx holds weights, but there are none to export"):
        write_export(of_trial(own, 0), tmp_path / "mine", device=CPU, forms=["onnx"])


def test_a_record_that_lacks_a_key_is_named(tmp_path: Path) -> None:
    """A hand-made record: its run.json knows no image size."""
    run = make_run(tmp_path, trials=3)
    with pytest.raises(ValueError, match=r"the record of trial 0 in .*/made lacks the key 'space'"):
        of_trial(run, 0)
