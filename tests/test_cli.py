"""The command line: a whole search from one command, what comes after it, and mistakes answered in one sentence."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from typer import Typer

import nas.cli
from nas import __version__
from nas.arch import Architecture
from nas.cli.searches import read_settings
from nas.cost.formula import cost, cost_by_stage
from nas.machine import cpu_model
from nas.space import SearchSpace, shipped_spaces
from nas.zoo import PUBLISHED

ROOT = Path(__file__).parent.parent


def commands(app: Typer, prefix: str = "") -> list[str]:
    """What can be typed after `nas`, as in "data prepare"."""
    own = [prefix + str(verb.name or verb.callback.__name__) for verb in app.registered_commands if verb.callback]
    groups = [found.typer_instance for found in app.registered_groups if found.typer_instance is not None]
    return own + [name for group in groups for name in commands(group, f"{prefix}{group.info.name} ")]


COMMANDS = commands(nas.cli.app)


def run(*words: str | Path) -> int:
    return nas.cli.main([str(word) for word in words])


def search(out: Path, *words: str | Path, trials: int = 4) -> int:
    settings = ("--space", "tiny", "--epochs", 1, "--train-images", 150, "--device", "cpu", "--max-macs", "600k")
    return run("search", *map(str, settings), "--trials", str(trials), "--out", out, *words)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search of four small trainings."""
    out = tmp_path_factory.mktemp("results")
    assert search(out) == 0
    return out / "tiny-digits"


def test_a_search_leaves_its_whole_record(finished: Path) -> None:
    names = {"run.json", "space.toml", "study.db", "trials.csv", "front.csv", "ledger.json", "report.html"}
    assert names <= {path.name for path in finished.iterdir()}
    trials = pd.read_csv(finished / "trials.csv")
    assert list(trials["trial"]) == [0, 1, 2, 3]
    assert set(trials["state"]) == {"complete"}
    assert trials["key"].is_unique
    assert (trials["macs"] <= 600_000).all()
    assert trials["accuracy"].between(0, 1).all()
    study = optuna.load_study(study_name=finished.name, storage=f"sqlite:///{finished / 'study.db'}")
    for trial in study.trials:
        result = json.loads((finished / f"trials/{trial.number}/result.json").read_text())
        assert len(result["loss_curve"]) == 1
        assert trial.user_attrs["loss"] == pytest.approx((result["val_loss"] * result["loss_curve"][0]) ** 0.5)
    settings = json.loads((finished / "run.json").read_text())["config"]
    assert settings["epochs"] == 1 and settings["train_images"] == 150 and settings["caps"] == {"macs": 600_000}


def test_the_front_on_screen_is_the_front_of_the_trials(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("front", finished) == 0
    shown = capsys.readouterr().out
    trials = pd.read_csv(finished / "trials.csv")
    for accuracy, macs in zip(trials["accuracy"], trials["macs"], strict=True):
        better = trials[(trials["accuracy"] >= accuracy) & (trials["macs"] <= macs)]
        dominated = ((better["accuracy"] > accuracy) | (better["macs"] < macs)).any()
        assert dominated or f"{100 * accuracy:.2f} %" in shown
    assert f"Pareto front: {len(pd.read_csv(finished / 'front.csv'))} network" in shown


def test_knee_and_caps_pick_from_the_front(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("front", finished, "--knee") == 0
    assert "Pareto front: 1 network" in capsys.readouterr().out
    front = pd.read_csv(finished / "front.csv")
    smallest = int(front["macs"].min())
    assert run("front", finished, "--max-macs", str(smallest)) == 0
    assert "Pareto front: 1 network" in capsys.readouterr().out
    assert run("front", finished, "--max-macs", str(smallest - 1)) == 2
    assert "but the smallest network here has" in capsys.readouterr().err


def exported(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """config.json of each folder that the last export named on the screen."""
    return [json.loads((Path(line) / "config.json").read_text()) for line in capsys.readouterr().out.splitlines()]


def test_export_writes_the_picked_network(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    front = pd.read_csv(finished / "front.csv")
    best = front.sort_values("accuracy").iloc[-1]
    assert run("export", finished, "--out", tmp_path / "best") == 0
    (config,) = exported(capsys)
    arch = Architecture.from_json(config["architecture"])
    assert arch.key == config["key"] == best["key"]
    assert config["accuracy"]["value"] == pytest.approx(best["accuracy"])
    assert config["cost"]["macs"] == cost(arch, config["input_size"]).macs == best["macs"]
    assert SearchSpace.load("tiny").contains(arch)
    names = {"config.json", "model.py", "model.safetensors", "metrics.json", "README.md"}
    assert {path.name for path in (tmp_path / "best").iterdir()} == names
    trial = int(front.iloc[0]["trial"])
    assert run("export", finished, "--trial", str(trial)) == 0
    assert [config["found"]["trial"] for config in exported(capsys)] == [trial]


def test_export_writes_several_networks(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    front, trials = pd.read_csv(finished / "front.csv"), pd.read_csv(finished / "trials.csv")
    assert run("export", finished, "--all-front", "--out", tmp_path / "front") == 0
    assert [config["key"] for config in exported(capsys)] == list(front["key"])
    assert {path.name for path in (tmp_path / "front").iterdir()} == set(front["key"])
    assert run("export", finished, "--top", "3") == 0
    values = [config["accuracy"]["value"] for config in exported(capsys)]
    assert values == pytest.approx(sorted(trials["accuracy"])[:-4:-1])
    cap = int(trials["macs"].min())
    assert run("export", finished, "--top", "3", "--max-macs", str(cap), "--out", tmp_path / "small") == 0
    assert [config["cost"]["macs"] for config in exported(capsys)] == [cap]


def test_export_takes_a_network_by_name_or_by_file(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("export", "--arch", "resnet18", "--input-size", "64", "--out", tmp_path / "named") == 0
    (config,) = exported(capsys)
    arch = PUBLISHED["resnet18"].architecture
    assert config["key"] == arch.key and config["cost"]["macs"] == cost(arch, 64).macs and config["accuracy"] is None
    assert not (tmp_path / "named" / "model.safetensors").exists()
    assert run("export", finished, "--knee", "--out", tmp_path / "knee") == 0
    (knee,) = exported(capsys)
    again = ("--arch", tmp_path / "knee" / "config.json", "--random-weights", "3", "--out", tmp_path / "again")
    assert run("export", *again) == 0
    (config,) = exported(capsys)
    assert config["key"] == knee["key"] and config["input_size"] == knee["input_size"]
    assert (tmp_path / "again" / "model.safetensors").exists()


def test_a_record_without_checkpoints_gives_code_and_says_that_weights_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("export", ROOT / "results" / "example", "--knee", "--out", tmp_path / "mine") == 0
    assert "mine: no weights, as its trial has no checkpoint in " in capsys.readouterr().err
    assert (tmp_path / "mine" / "model.py").exists() and not (tmp_path / "mine" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("RUN", "--knee", "--top", "2"), "--knee cannot stand beside --top: pick networks in one way"),
        (("RUN", "--trial", "1", "--max-macs", "1M"), "--trial picks one network"),
        (("RUN", "--trial", "99"), "trial 99 is unknown: pick a complete one of 0, 1, 2, 3"),
        (("RUN", "--max-macs", "1k"), "the smallest network here has"),
        (("RUN", "--input-size", "8"), "--input-size 8 belongs to --arch"),
        (("RUN", "--arch", "resnet18", "--out", "OUT"), "--arch resnet18 names the network"),
        (("--arch", "resnet18"), "--arch resnet18 belongs to no search: give the folder to write as --out"),
        (("--arch", "resnet19", "--out", "OUT"), "'resnet19' is neither a file nor a published network"),
        (("RUN", "--device", "abacus"), "device must be auto, cpu, cuda, cuda:N or mps, but got 'abacus'"),
        ((), "nothing to export: give the folder of a search, or --arch"),
    ],
)
def test_a_mistake_in_an_export_is_one_sentence(
    words: tuple[str, ...], message: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"RUN": str(finished), "OUT": str(tmp_path / "out")}
    assert run("export", *(places.get(word, word) for word in words)) == 2
    shown, said = capsys.readouterr()
    assert message in said and said.startswith("nas: ") and said.count("\n") == 1
    assert shown == "" and not (tmp_path / "out").exists()


def test_cost_of_an_exported_network_equals_fvcore(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("export", finished, "--knee", "--out", tmp_path / "mine") == 0
    capsys.readouterr()
    assert run("cost", tmp_path / "mine" / "config.json") == 0
    shown = capsys.readouterr().out
    assert "equal" in shown
    assert f"{json.loads((tmp_path / 'mine' / 'config.json').read_text())['cost']['macs']:,}" in shown


def test_cost_takes_published_networks_beside_files(finished: Path, tmp_path: Path) -> None:
    """In a process of its own, where fvcore's warnings would reach the screen."""
    assert run("export", finished, "--knee", "--out", tmp_path / "mine") == 0
    words = ["cost", "resnet18", str(tmp_path / "mine" / "config.json"), "--input-size", "32"]
    code = f"import sys, nas.cli; sys.exit(nas.cli.main({words}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    shown = done.stdout
    assert "mine/config.json" in shown and "in print" not in shown  # GFLOPs in print are for 224 pixels
    arch = PUBLISHED["resnet18"].architecture
    assert shown.count("equal") == 2 and f"{cost(arch, 32).macs:,}" in shown
    sentence = re.search(r"fvcore counts nothing for (.*): they are no convolution or linear layer", shown)
    assert sentence is not None
    assert {"add", "max_pool2d", "sum"} <= set(sentence[1].split(", "))
    assert not {"conv", "convolution", "linear", "addmm", "matmul", "bmm", "einsum"} & set(sentence[1].split(", "))


def test_cost_shows_the_figures_in_print_beside_the_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cost", "resnest50", "seresnet101", "--no-measure") == 0
    shown = capsys.readouterr().out
    assert "27,483,240" in shown and "5,371,160,576" in shown and "5.39" in shown and "81.03" in shown
    assert "fvcore" not in shown
    assert "GFLOPs in print" in shown


def test_cost_by_stage_shows_each_part_and_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cost", "resnet50", "resnet18", "--no-measure", "--per-stage") == 0
    shown = capsys.readouterr().out
    for name in ("resnet50", "resnet18"):
        for part, priced in cost_by_stage(PUBLISHED[name].architecture, 224):
            assert re.search(rf"{part} .*{priced.params:,} .*{priced.macs:,} .*{priced.activations:,} ", shown)
        assert re.search(rf"whole .*{PUBLISHED[name].params:,} .*{PUBLISHED[name].macs:,} .* 100.0 ", shown)


def test_cost_lists_every_published_network_without_building_one() -> None:
    code = "import sys, nas.cli; nas.cli.main(['cost', '--list']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    lines = {words[1]: words for line in done.stdout.splitlines() if len(words := line.split()) > 3}
    for name, network in PUBLISHED.items():
        assert {f"{network.params:,}", f"{network.macs:,}", str(network.top1 or "-")} <= set(lines[name])
        assert network.source in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("resnest5",), "'resnest5' is neither a file nor a published network: did you mean resnest50"),
        (("ResNeXt50",), "did you mean resnext50_32x4d or resnext50_2x40d"),
        (
            ("resnet18", "no/config.json"),
            "'no/config.json' is neither a file nor a published network: `nas cost --list`",
        ),
        ((), "name a published network or a config.json: `nas cost --list`"),
        (("resnet18", "--list"), "--list shows all published networks"),
    ],
)
def test_a_network_that_is_not_found_is_one_sentence(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("cost", *words) == 2
    shown, said = capsys.readouterr()
    assert message in said and said.startswith("nas: ") and said.count("\n") == 1
    assert shown == ""


def test_report_is_written_again(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = finished / "report.html"
    before = page.stat().st_size
    page.unlink()
    assert run("report", finished) == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert page.stat().st_size > 0.9 * before


def test_the_same_command_adds_nothing_and_more_trials_add_their_number(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / finished.name)
    before = pd.read_csv(finished / "trials.csv")
    assert search(tmp_path) == 0
    assert "0 added" in capsys.readouterr().out
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / finished.name / "trials.csv"), before)
    assert search(tmp_path, trials=5) == 0
    assert "1 added" in capsys.readouterr().out
    after = pd.read_csv(tmp_path / finished.name / "trials.csv")
    assert len(after) == 5
    pd.testing.assert_frame_equal(after.iloc[:4], before)


def test_a_budget_may_be_given_in_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("search", "--space", "tiny", "--trials", "1", "--train-images", "150", "--out", tmp_path)
    assert run(*command, "--steps", "5") == 0
    assert "1 trials of 5 steps each" in capsys.readouterr().out
    assert json.loads((tmp_path / "tiny-digits/trials/0/result.json").read_text())["steps"] == 5
    assert run(*command, "--steps", "6") == 2
    assert "config.steps: 5 -> 6" in capsys.readouterr().err


def test_the_precision_of_the_trainings_may_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("search", "--space", "tiny", "--trials", "1", "--train-images", "150", "--out", tmp_path)
    for name, words in (("own", ()), ("low", ("--precision", "bf16"))):
        assert run(*command, "--epochs", "1", "--device", "cpu", "--study", name, *words) == 0
    found = [json.loads((tmp_path / name / "trials/0/result.json").read_text()) for name in ("own", "low")]
    assert [result["precision"] for result in found] == ["fp32", "bf16"]
    assert found[0]["val_loss"] != found[1]["val_loss"]
    said = capsys.readouterr().out
    for name in ("fp32", "bf16"):
        assert f"trainings: 1 at a time, in {name}, on {cpu_model()}" in said


def test_a_changed_space_is_refused_with_the_difference(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = tmp_path / "tiny.toml"
    changed.write_text(shipped_spaces()["tiny"].read_text().replace("cardinality = [1, 2, 4]", "cardinality = [1, 2]"))
    assert search(finished.parent, "--space", changed, "--study", finished.name) == 2
    assert "space.genes.cardinality: [1, 2, 4] -> [1, 2]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--space", "nowhere"), "space 'nowhere' is neither a file nor a shipped space"),
        (("--data", "nowhere"), "nowhere"),
        (("--space", "cifar", "--data", "digits"), "space cifar"),
        (("--sampler", "magic"), "sampler = 'magic': the sampler must be one of ehvi, tpe, local, nsga2, random"),
        (("--objectives", "accuracy,beauty"), "objectives"),
        (("--objectives", "macs"), "objectives"),
        (("--max-macs", "many"), "max_macs"),
        (("--max-macs", "1k"), "smallest"),
        (("--trials", "0"), "trials = 0"),
        (("--steps", "0"), "steps = 0"),
        (
            ("--steps", "9", "--epochs", "2"),
            "steps = 9: a budget is given in epochs or in steps, but epochs is 2 as well",
        ),
        (("--sampler", "tpe", "--min-accuracy", "0.9", "--no-halving"), "only ehvi and halving heed min_accuracy"),
        (("--sampler", "tpe", "--min-accuracy", "0.9"), "the sampler is tpe and every training is in full"),
        (("--study", "../elsewhere"), "study"),
        (("--device", "abacus"), "abacus"),
        (("--recipe", "cake"), "recipe"),
        (("--precision", "int8"), "precision = 'int8': input should be 'auto', 'fp32', 'bf16' or 'fp16'"),
        (("--config", "no.toml"), "no.toml cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence_before_any_training(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("search", "--space", "tiny", "--out", tmp_path / "out", *words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("nas: ") and said.count("\n") == 1
    assert not list((tmp_path / "out").rglob("spec.json"))


def test_debug_shows_where_a_mistake_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("front", tmp_path) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert run("front", tmp_path, "--debug") == 2
    assert "Traceback" in capsys.readouterr().err


def test_settings_come_from_a_file_and_options_win(tmp_path: Path) -> None:
    file = tmp_path / "search.toml"
    file.write_text('space = "tiny"\ntrials = 7\nmax_macs = "1M"\nobjectives = ["accuracy", "params"]\n')
    settings = read_settings(file, {"trials": 9})
    assert (settings.trials, settings.max_macs, settings.objectives) == (9, 1_000_000, ("accuracy", "params"))
    assert settings.study == "tiny-digits"
    file.write_text("trails = 7\n")
    with pytest.raises(ValueError, match=r"search\.toml has the unknown key 'trails'; the known keys are data, device"):
        read_settings(file, {})
    file.write_text("trials = \n")
    with pytest.raises(ValueError, match=r"search\.toml is not valid TOML"):
        read_settings(file, {})


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples_and_stands_in_the_readme(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*name.split(), "--help") == 0
    assert f"nas {name} " in capsys.readouterr().out
    assert f"nas {name}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_space_shows_size_costs_extremes_and_genes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "tiny.html"
    assert run("space", "tiny", "--max-macs", "200k", "--html", page) == 0
    shown = capsys.readouterr().out
    priced = [cost(arch, 8) for arch in SearchSpace.load("tiny")]
    within = 100 * sum(one.macs <= 200_000 for one in priced) / len(priced)
    assert "288 different networks" in shown and "Costs of all 288 networks" in shown
    assert f"{within:.3g} % of the networks have macs <= 200k" in shown
    assert "<- cap" in shown and "cheapest by macs" in shown and "dearest by activations" in shown
    assert "width.1" in shown and "1, 2, 4" in shown
    assert str(page) in shown and page.stat().st_size > 10**6


def test_a_space_of_one_network_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shipped_spaces()["tiny"].read_text()
    genes = "depth = [1]\nwidth = { stages = [[16], [32]] }\n"
    (tmp_path / "one.toml").write_text(text[: text.index("[genes]")] + "[genes]\n" + genes)
    assert run("space", tmp_path / "one.toml", "--html", tmp_path / "one.html") == 0
    shown = capsys.readouterr().out
    assert "1 different networks" in shown and "100.0 %" in shown
    assert (tmp_path / "one.html").stat().st_size > 10**6


def test_files_of_one_name_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / study / "best" / "config.json" for study in ("one", "two")]
    for file in files:
        file.parent.mkdir(parents=True)
        arch = next(iter(SearchSpace.load("tiny")))
        file.write_text(json.dumps({"architecture": arch.to_json(), "input_size": 8}))
    assert run("cost", *files, "--no-measure") == 0
    shown = capsys.readouterr().out
    assert " one/best/config.json " in shown and " two/best/config.json " in shown


def test_space_names_an_impossible_cap_with_the_smallest_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("space", "tiny", "--max-macs", "1k") == 2
    assert "meets max_macs = 1k: the smallest cost is 77,120 macs" in capsys.readouterr().err


def test_space_forecasts_a_search(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("space", "tiny", "--trials", "10", "--epochs", "2", "--images", "500", "--device", "cpu") == 0
    shown = capsys.readouterr().out
    assert "10 trainings of 2 epochs of 500 images: about " in shown
    assert "6 networks timed" in shown


def test_version_and_bare_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == f"paretonest {__version__}"
    assert run() == 2
    assert "search" in capsys.readouterr().err


def test_run_search_is_the_door_to_search() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "run_search.py", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "nas search" in done.stdout and "--max-macs" in done.stdout
