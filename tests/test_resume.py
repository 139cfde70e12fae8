"""A search that ends early or goes wrong: resumed by the same command, refused when its settings have changed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from scored_search import accuracy, fraction, keys_of, search, study_of, trials_of

from nas.cost.formula import cost
from nas.executors import Spec
from nas.record import Run, driver_lock
from nas.search import Event, Interrupted, Resumed, SearchStopped
from nas.search.ehvi import LOSS
from nas.search.storage import StudyFileError
from nas.space import SearchSpace

# ---- going on ----------------------------------------------------------------------------------------------------


def test_the_same_command_again_adds_nothing_and_says_so(tmp_path: Path) -> None:
    search(tmp_path, trials=4)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    summary = search(tmp_path, trials=4)
    assert (summary.added, summary.finished) == (0, 4)
    assert summary.ended == "nothing to add: 4 trials are finished, 4 were asked for"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before


def test_more_trials_add_the_difference_and_fewer_take_nothing_away(tmp_path: Path) -> None:
    search(tmp_path, trials=3)
    first = keys_of(tmp_path)
    assert search(tmp_path, trials=5).added == 2
    assert keys_of(tmp_path)[:3] == first
    shrunk = search(tmp_path, trials=2)
    assert (shrunk.added, shrunk.finished) == (0, 5)


def test_a_changed_space_is_refused_with_the_difference(tmp_path: Path) -> None:
    text = SearchSpace.load("tiny").text
    space = tmp_path / "mine.toml"
    space.write_text(text)
    search(tmp_path, space=str(space))
    before = keys_of(tmp_path)
    space.write_text(text.replace("cardinality = [1, 2, 4]", "cardinality = [1, 2]"))
    with pytest.raises(ValueError, match="started with other settings") as error:
        search(tmp_path, space=str(space), trials=9)
    assert str(error.value).splitlines()[1:] == ["  space.genes.cardinality: [1, 2, 4] -> [1, 2]"]
    assert keys_of(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"epochs": 2}, "config.epochs: 3 -> 2"),
        ({"sampler": "tpe"}, "config.sampler: random -> tpe"),
        ({"seed": 1}, "config.seed: 0 -> 1"),
        ({"max_macs": "2M"}, "config.caps.macs: none -> 2000000"),
        ({"objectives": ("accuracy", "params")}, "config.objectives: ['accuracy', 'macs'] -> ['accuracy', 'params']"),
        ({"recipe": "cifar"}, "config.recipe.horizontal_flip: False -> True"),
        ({"precision": "bf16"}, "config.recipe.precision: fp32 -> bf16"),
        ({"train_images": 100}, "config.train_images: none -> 100"),
        ({"val_fraction": 0.3}, "data.digest: "),
    ],
)
def test_other_changes_are_refused_line_by_line(change: dict[str, Any], line: str, started: Path) -> None:
    with pytest.raises(ValueError, match="started with other settings") as error:
        search(started, **change)
    assert any(found.strip().startswith(line) for found in str(error.value).splitlines())


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("started")
    search(out, trials=1)
    return out


def test_trials_device_and_place_may_change(tmp_path: Path) -> None:
    search(tmp_path / "here", trials=2)
    (tmp_path / "here").rename(tmp_path / "there")
    assert search(tmp_path / "there", trials=3, device="cpu").added == 1
    config = Run(tmp_path / "there", "s").read_run()["config"]
    assert (config["trials"], config["device"]) == (3, "cpu")


def test_a_study_with_other_directions_is_refused(tmp_path: Path) -> None:
    search(tmp_path, trials=1)
    (tmp_path / "s" / "study.db").unlink()
    optuna.create_study(
        study_name="s", storage=f"sqlite:///{tmp_path / 's' / 'study.db'}", directions=["minimize", "minimize"]
    )
    with pytest.raises(ValueError, match="directions"):
        search(tmp_path)


def test_a_study_without_its_run_json_is_refused(tmp_path: Path) -> None:
    search(tmp_path, trials=1)
    (tmp_path / "s" / "run.json").unlink()
    with pytest.raises(ValueError, match=r"no run\.json"):
        search(tmp_path)


def test_a_study_file_that_fails_says_why(tmp_path: Path) -> None:
    search(tmp_path, trials=1)
    (tmp_path / "s" / "study.db").write_bytes(b"this is no database, although it is in its place" * 100)
    with pytest.raises(StudyFileError, match=r"study\.db cannot be used: .*not a database"):
        search(tmp_path, trials=2)


def test_a_second_driver_is_refused(tmp_path: Path) -> None:
    with driver_lock(Run(tmp_path, "s")), pytest.raises(ValueError, match="is being searched by process"):
        search(tmp_path)


def test_an_exhausted_space_ends_in_words(tmp_path: Path) -> None:
    tiny = SearchSpace.load("tiny")
    macs = sorted(cost(arch, tiny.input_size).macs for arch in tiny)
    affordable = sum(one <= macs[7] for one in macs)
    for added in (affordable, 0):
        summary = search(tmp_path, trials=100, max_macs=macs[7])
        assert (summary.added, summary.finished) == (added, affordable)
        assert summary.ended == f"space exhausted: all {affordable} networks under the caps are trained"
    assert trials_of(tmp_path)["macs"].max() <= macs[7]


def test_a_search_killed_between_a_loss_and_its_trials_end_goes_on_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are two writes to the study's file."""

    class Killed(BaseException):
        pass

    def loss(spec: Spec) -> float:
        return 3 * (1 - accuracy(spec)) + 0.1 * fraction(spec["key"][::-1])

    def killed(self: optuna.Study, trial: Any, *arguments: Any, **named: Any) -> Any:
        if trial == 9 and named["state"] == optuna.trial.TrialState.COMPLETE:
            raise Killed
        return tell(self, trial, *arguments, **named)

    tell = optuna.Study.tell
    told: dict[str, Any] = {"sampler": "ehvi", "trials": 14, "loss": loss}
    search(tmp_path / "whole", **told)
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", killed)
        with pytest.raises(Killed):
            search(tmp_path / "killed", **told)
    left = study_of(tmp_path / "killed").trials[9]
    assert left.state == optuna.trial.TrialState.RUNNING and LOSS in left.user_attrs
    search(tmp_path / "killed", **told)
    assert keys_of(tmp_path / "killed") == keys_of(tmp_path / "whole")
    assert [trial.user_attrs[LOSS] for trial in study_of(tmp_path / "killed").trials] == [
        trial.user_attrs[LOSS] for trial in study_of(tmp_path / "whole").trials
    ]


# ---- failures and interruptions ----------------------------------------------------------------------------------


def test_failed_trials_are_counted_told_and_explained(tmp_path: Path) -> None:
    def score(spec: Spec) -> float:
        if spec["trial"] == 1:
            raise RuntimeError("no luck")
        return float("nan") if spec["trial"] == 2 else accuracy(spec)

    summary = search(tmp_path, score, trials=4)
    assert (summary.finished, summary.failed) == (4, 2)
    assert list(trials_of(tmp_path)["state"]) == ["complete", "failed", "failed", "complete"]
    told = study_of(tmp_path).trials
    assert [trial.state.name for trial in told] == ["COMPLETE", "FAIL", "FAIL", "COMPLETE"]
    assert [trial.user_attrs["nas"].get("reason") for trial in told] == [
        None,
        "RuntimeError: no luck",
        "the accuracy is nan",
        None,
    ]


def test_a_search_in_which_everything_fails_alike_stops_with_the_reason(tmp_path: Path) -> None:
    def fail(_: Spec) -> float:
        raise RuntimeError("disk full")

    with pytest.raises(SearchStopped, match="first 5 trials all failed for one reason: RuntimeError: disk full"):
        search(tmp_path, fail, trials=20)
    assert list(trials_of(tmp_path)["state"]) == ["failed"] * 5
    assert len(pd.read_csv(tmp_path / "s" / "trials.csv")) == 5
    assert search(tmp_path, trials=8).finished == 8  # mended, it goes on


def test_failures_that_began_at_once_are_one(tmp_path: Path) -> None:
    """What three workers begin together may fail together, and that says nothing of what would come next."""

    def fail(_: Spec) -> float:
        raise RuntimeError("out of memory")

    with pytest.raises(SearchStopped, match="first 7 trials all failed for one reason"):
        search(tmp_path, fail, trials=20, workers=3)


def test_when_dear_networks_fail_cheaper_ones_are_tried(tmp_path: Path) -> None:
    """The first networks of `ehvi` are dear: where they need too much memory, the search must not end with them."""
    sizes = [cost(arch, 8).params for arch in SearchSpace.load("tiny")]

    def score(spec: Spec) -> float:
        if spec["cost"]["params"] > np.median(sizes):
            raise MemoryError
        return accuracy(spec)

    assert search(tmp_path, score, sampler="ehvi", trials=20).finished == 20


def test_a_search_that_had_a_success_does_not_stop_for_failures(tmp_path: Path) -> None:
    def score(spec: Spec) -> float:
        if spec["trial"] > 0:
            raise RuntimeError("disk full")
        return accuracy(spec)

    assert search(tmp_path, score, trials=7).failed == 6


def test_different_failures_do_not_stop_a_search(tmp_path: Path) -> None:
    def fail(spec: Spec) -> float:
        raise RuntimeError(f"reason {spec['trial'] % 2}")

    assert search(tmp_path, fail, trials=7).failed == 7


def test_ctrl_c_finishes_the_trial_under_way(tmp_path: Path) -> None:
    events: list[Event] = []

    def score(spec: Spec) -> float:
        if spec["trial"] == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return accuracy(spec)

    summary = search(tmp_path, score, events.append, trials=5)
    assert summary.interrupted
    assert summary.ended == "interrupted: 3 of 5 trials are finished; the same command goes on"
    assert list(trials_of(tmp_path)["state"]) == ["complete"] * 3
    assert Interrupted(under_way=(2,)) in events
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert search(tmp_path, trials=5).added == 2


def test_ctrl_c_twice_leaves_the_trial_for_the_next_run(tmp_path: Path) -> None:
    def score(spec: Spec) -> float:
        if spec["trial"] == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return accuracy(spec)

    summary = search(tmp_path, score, trials=5)
    assert (summary.interrupted, summary.finished) == (True, 2)
    assert list(trials_of(tmp_path)["state"]) == ["complete", "complete", "running"]
    events: list[Event] = []
    search(tmp_path, on_event=events.append, trials=5)
    assert Resumed(recovered=(), again=(2,)) in events
    search(tmp_path / "uninterrupted", trials=5)
    assert keys_of(tmp_path) == keys_of(tmp_path / "uninterrupted")
