"""What is on disk: whole files, safe paths, one driver, and the tables that are made from it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded_runs import failure, genotype, make_run, result, spec

from nas import record
from nas.atomic import write_atomic
from nas.record import Run

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ON_DISK = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path, "made")


# writing whole files


def test_a_crash_before_the_replace_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    record.write_json(path, {"old": 1})
    seen = []

    def crash(source: Path, target: Path) -> None:
        seen.append((json.loads(Path(source).read_bytes()), Path(source).parent, target))
        raise OSError("no power")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="no power"):
        record.write_json(path, {"new": 2})
    assert record.read_json(path) == {"old": 1}
    assert seen == [({"new": 2}, tmp_path, path)]  # complete, and on the same disk, before it took the name
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]


def test_content_and_folder_reach_the_disk_around_the_replace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    fsync, replace = os.fsync, os.replace

    def traced_fsync(descriptor: int) -> None:
        steps.append("folder" if os.path.isdir(f"/dev/fd/{descriptor}") else "content")  # noqa: PTH112
        fsync(descriptor)

    def traced_replace(source: Path, target: Path) -> None:
        steps.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "replace", traced_replace)
    write_atomic(tmp_path / "new" / "file", b"\x00\xff")
    assert steps == ["content", "replace", "folder"]
    assert (tmp_path / "new" / "file").read_bytes() == b"\x00\xff"


def test_a_value_that_is_no_json_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    record.write_json(tmp_path / "file.json", {"old": 1})
    with pytest.raises(ValueError, match=r"file\.json must hold plain JSON values"):
        record.write_json(tmp_path / "file.json", {"bad": {1, 2}})
    assert record.read_json(tmp_path / "file.json") == {"old": 1}


def test_nan_is_written_as_null_so_that_every_reader_can_parse_it(tmp_path: Path) -> None:
    record.write_json(tmp_path / "file.json", {"loss_curve": [2.5, float("nan"), (float("inf"), -1.0)]})
    assert record.read_json(tmp_path / "file.json") == {"loss_curve": [2.5, None, [None, -1.0]]}


@pytest.mark.parametrize("content", [b"", b'{"trial": 1', b"[1, 2]", b"\xff\xfe", b"[" * 100_000])
def test_damaged_files_are_named_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(content)
    for reader in (record.read_json, record.read_json_or_none):
        with pytest.raises(ValueError, match=r"result\.json is damaged .*delete it"):
            reader(path)


def test_missing_files_are_an_error_or_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run\.json is missing"):
        record.read_json(tmp_path / "run.json")
    assert record.read_json_or_none(tmp_path / "run.json") is None


# names and paths


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "-x", "_x", "x" * 65, "x" * 600, "a\n", "a b", "a\0", "ä"]
)
def test_hostile_study_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="study name must be") as caught:
        Run(tmp_path, name)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("name", ["a", "7", "A.b-c_9", "x" * 64, "a.."])
def test_plain_study_names_are_folders_of_the_root(tmp_path: Path, name: str) -> None:
    assert Run(tmp_path, name).folder == tmp_path / name
    assert list(tmp_path.iterdir()) == []


def test_links_that_lead_out_of_the_root_are_refused(tmp_path: Path) -> None:
    root, outside = tmp_path / "results", tmp_path / "outside"
    (root / "study" / "trials").mkdir(parents=True)
    outside.mkdir()
    (outside / "spec.json").write_text("{}")
    (outside / "run.json").write_text("{}")
    (root / "away").symlink_to(outside)
    (root / "study" / "trials" / "0").symlink_to(outside)
    (root / "study" / "run.json").symlink_to(outside / "run.json")
    (root / "study" / "ledger.json").symlink_to("ledger.json")
    study = Run(root, "study")
    attempts: list[Any] = [
        lambda: Run(root, "away").folder,
        lambda: Run(root, "away").write_run({}),
        lambda: study.read_run(),
        lambda: study.checkpoint(0),
        lambda: study.trials(),
        lambda: study.read_ledger(),
    ]
    for attempt in attempts:
        with pytest.raises(ValueError, match="leads out of the results folder"):
            attempt()
    assert (outside / "run.json").read_text() == "{}"


def test_a_root_that_is_itself_a_link_is_fine(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "results").symlink_to(tmp_path / "disk")
    Run(tmp_path / "results", "made").write_run({"a": 1})
    assert (tmp_path / "disk" / "made" / "run.json").is_file()


@pytest.mark.parametrize("trial", [-1, True, 1.0, "1", "../x"])
def test_trials_are_whole_numbers(run: Run, trial: Any) -> None:
    with pytest.raises(ValueError, match="trial must be a whole number"):
        run.trial_folder(trial)


# round trips


@ON_DISK
@given(st.dictionaries(st.text(), JSON, max_size=4), st.integers(0, 10**6))
def test_specs_and_results_come_back_equal(run: Run, value: dict[str, Any], trial: int) -> None:
    value |= {"trial": trial, "status": "error"}
    run.write_spec(trial, value)
    run.write_result(trial, value)
    assert run.read_spec(trial) == run.read_result(trial) == value


def test_run_space_and_ledger_come_back_equal(run: Run) -> None:
    assert not run.exists()
    assert run.read_ledger() == record.empty_ledger()
    with pytest.raises(ValueError, match=r"space\.toml is missing"):
        run.read_space()
    run.write_run({"config": {"study": "made"}})
    run.write_space('name = "Größe"\r\n')
    run.write_ledger({"proposed": 3, "accepted": 2})
    assert run.exists()
    assert run.read_run() == {"config": {"study": "made"}}
    assert run.path("space.toml").read_bytes() == 'name = "Größe"\r\n'.encode()
    assert run.read_ledger() == record.empty_ledger() | {"proposed": 3, "accepted": 2}


def test_specs_and_results_must_name_their_trial(run: Run) -> None:
    with pytest.raises(ValueError, match="of trial 3 must name that trial, but it names 4"):
        run.write_spec(3, {"trial": 4})
    with pytest.raises(ValueError, match="of trial 3 must name that trial, but it names None"):
        run.write_result(3, {"status": "error"})


@pytest.mark.parametrize("accuracy", [None, float("nan"), "0.5"])
def test_an_ok_result_needs_an_accuracy(run: Run, accuracy: Any) -> None:
    with pytest.raises(ValueError, match="is ok, but its accuracy is"):
        run.write_result(0, {"trial": 0, "status": "ok", "accuracy": accuracy})


def test_a_running_trial_has_no_result(run: Run) -> None:
    run.write_spec(0, spec(0, genotype()))
    assert run.read_result(0) is None


# tables


def test_every_recorded_value_stands_in_its_column(run: Run) -> None:
    genes = genotype(depth=2, cardinality=2, mixer="sk", gate="cse")
    run.write_spec(12, spec(12, genes, macs=500, params=40, activations=7))
    run.write_result(12, result(12, 0.75, epochs=6, seconds=2.5, images_per_s=100.0))
    (row,) = run.trials().to_dict("records")
    assert row == {
        "trial": 12,
        "state": "complete",
        "accuracy": 0.75,
        "macs": 500,
        "params": 40,
        "activations": 7,
        "latency_ms": pytest.approx(math.nan, nan_ok=True),
        "measured_ms": pytest.approx(math.nan, nan_ok=True),
        "family": "mixed",
        "mechanisms": "SE-Net+SK-Net",
        "depth": "2-2-2",
        "width": "16-32-64",
        "cardinality": "2",
        "mixer": "sk3+5",
        "gate": "cse/4-cse/8-cse/16",
        "key": run.read_spec(12)["key"],
        "reference": "",
        "epochs": 6,
        "seconds": 2.5,
        "images_per_s": 100.0,
        "reason": "",
        "seed": 1012,
    }


def test_states_follow_from_what_is_there(run: Run) -> None:
    for trial in (10, 2, 3, 4, 5):
        run.write_spec(trial, spec(trial, genotype()))
    run.write_result(2, result(2))
    run.write_result(3, failure(3, "loss became nan"))
    run.write_result(4, failure(4, "", status="error"))
    record.write_json(run.path("trials", "5", "result.json"), {"status": "ok"})  # by another hand, without accuracy
    run.path("trials", "notes").mkdir()
    run.path("trials", "007").mkdir()
    run.path("trials", "007", "spec.json").write_text("{}")
    frame = run.trials()
    assert frame["trial"].tolist() == [2, 3, 4, 5, 10]
    assert frame["state"].tolist() == ["complete", "failed", "failed", "failed", "running"]
    assert frame["reason"].tolist() == ["", "loss became nan", "status error", "status ok", ""]
    assert frame["accuracy"].isna().tolist() == [False, True, True, True, True]
    assert frame["epochs"].isna().tolist() == [False, False, False, True, True]


def test_dtypes_do_not_depend_on_the_rows(tmp_path: Path) -> None:
    empty, one, many = Run(tmp_path, "empty"), Run(tmp_path, "one"), make_run(tmp_path, trials=22)
    one.write_spec(0, spec(0, genotype()))
    frames = [empty.trials(), one.trials(), many.trials(), empty.front(["accuracy", "macs"])]
    assert [len(frame) for frame in frames] == [0, 1, 22, 0]
    for frame in frames:
        assert frame.dtypes.to_dict() == frames[2].dtypes.to_dict()
        assert list(frame.columns) == list(record.COLUMNS)


@pytest.mark.parametrize("broken", [{"arch": None}, {"cost": {}}, {"cost": None}, {"seed": "x"}])
def test_a_damaged_spec_is_named(run: Run, broken: dict[str, Any]) -> None:
    run.write_spec(3, spec(3, genotype()) | broken)
    with pytest.raises(ValueError, match=r"3.spec\.json is damaged"):
        run.trials()


def test_the_front_is_what_no_complete_trial_dominates(run: Run) -> None:
    #          accuracy, macs, params
    trials = [
        (0.90, 300, 9),
        (0.80, 100, 9),
        (0.80, 200, 1),
        (0.90, 300, 9),
        (0.95, 900, 9),
        (None, 1, 1),
        (0.7, 100, 9),
    ]
    for trial, (accuracy, macs, params) in enumerate(trials):
        run.write_spec(trial, spec(trial, genotype(), macs=macs, params=params))
        run.write_result(trial, result(trial, accuracy) if accuracy else failure(trial, "nan"))
    assert run.front(["accuracy", "macs"])["trial"].tolist() == [1, 0, 3, 4]
    assert run.front(["params", "accuracy", "macs"])["trial"].tolist() == [2, 4, 0, 3, 1]
    assert run.front(["accuracy"])["trial"].tolist() == [4]
    assert run.front(["macs"])["trial"].tolist() == [1, 6]
    assert run.front(["accuracy", "macs"]).index.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="wattage"):
        run.front(["accuracy", "wattage"])
    with pytest.raises(ValueError, match="objective 'latency' must be finite"):
        run.front(["accuracy", "latency"])


def test_tables_are_written_and_read_back(tmp_path: Path) -> None:
    run = make_run(tmp_path, trials=22)
    run.write_tables(["accuracy", "macs"])
    trials, front = pd.read_csv(run.trials_csv), pd.read_csv(run.front_csv)
    assert list(trials.columns) == list(front.columns) == list(record.COLUMNS)
    assert trials["macs"].tolist() == run.trials()["macs"].tolist()
    assert front["trial"].tolist() == run.front(["accuracy", "macs"])["trial"].tolist()
    assert trials["state"].value_counts().to_dict() == {"complete": 19, "failed": 2, "running": 1}


@pytest.mark.parametrize("reason", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", '=HYPERLINK("http://x")'])
def test_a_spreadsheet_does_not_run_a_cell(run: Run, reason: str) -> None:
    run.write_spec(0, spec(0, genotype()))
    run.write_result(0, failure(0, reason))
    run.write_tables(["accuracy", "macs"])
    assert pd.read_csv(run.trials_csv)["reason"].tolist() == ["'" + reason]
    assert run.trials()["reason"].tolist() == [reason]


# one driver


HOLD = """
import sys
from pathlib import Path
from nas.record import Run, driver_lock
with driver_lock(Run(Path(sys.argv[1]), "made")):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(root: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def test_a_study_held_by_another_process_is_refused_until_that_ends(run: Run) -> None:
    with hold(run.root) as process:
        with (
            pytest.raises(ValueError, match=f"'made' is being searched by process {process.pid} on "),
            record.driver_lock(run),
        ):
            pytest.fail("two drivers at once")
        process.communicate()
    with record.driver_lock(run):
        assert record.read_json(run.path("driver.json"))["pid"] == os.getpid()
    assert not run.path("driver.json").exists()


def test_the_lock_of_a_killed_process_is_free(run: Run) -> None:
    with hold(run.root) as process:
        process.kill()
    with record.driver_lock(run):
        assert record.read_json(run.path("driver.json"))["pid"] == os.getpid()


def test_the_lock_is_released_after_an_error_and_other_studies_are_free(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[filelock.BaseFileLock] = []  # a lock that is forgotten is released as well

    def remembered(path: Path, lock: type[filelock.BaseFileLock] = filelock.FileLock) -> filelock.BaseFileLock:
        alive.append(lock(path))
        return alive[-1]

    monkeypatch.setattr(filelock, "FileLock", remembered)
    with pytest.raises(KeyError), record.driver_lock(run), record.driver_lock(Run(run.root, "other")):
        raise KeyError
    with record.driver_lock(run):
        assert len(alive) == 3


# where it ran


def test_environment_is_plain_json_and_names_versions() -> None:
    value = record.environment()
    assert json.loads(json.dumps(value)) == value
    assert value["python"] == ".".join(str(part) for part in sys.version_info[:3])
    assert value["cores"] >= 1
    assert value["cpu"]
    assert value["versions"]["pandas"] == pd.__version__


def test_environment_does_not_import_torch() -> None:
    code = "import sys; from nas.record import environment; print(environment()['cuda'], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"


def test_environment_lists_the_devices_of_a_torch_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 2, get_device_name=lambda index: f"GPU {index}"
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert record.environment()["cuda"] == ["GPU 0", "GPU 1"]
    monkeypatch.setattr(cuda, "is_available", lambda: False)
    assert record.environment()["cuda"] == []
