"""A search that ends early or goes wrong: resumed by the same command, refused when its settings have changed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from scored_search import accuracy, keys_of, search, settings, study_of, trials_of

from nas.cost.formula import cost
from nas.executors import Spec
from nas.executors.inline import InlineExecutor
from nas.record import Run, driver_lock, read_json
from nas.search import Event, Interrupted, Resumed, SearchConfig, SearchStopped, run_search
from nas.search.storage import Store
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
        ({"epochs": 2}, "config.epochs: 5 -> 2"),
        ({"sampler": "tpe"}, "config.sampler: random -> tpe"),
        ({"seed": 1}, "config.seed: 0 -> 1"),
        ({"max_macs": "2M"}, "config.caps.macs: none -> 2000000"),
        ({"objectives": ("accuracy", "params")}, "config.objectives: ['accuracy', 'macs'] -> ['accuracy', 'params']"),
        ({"recipe": "cifar"}, "config.recipe.horizontal_flip: False -> True"),
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


# ---- killed processes --------------------------------------------------------------------------------------------

FORK = multiprocessing.get_context("forkserver") if os.name == "posix" else None
PRELOAD = ["nas.search", "nas.executors.worker", "alembic.script", "sklearn.datasets", "sklearn.model_selection"]
TRIALS = 14
"""Past the ten random trials with which TPE begins."""
MOMENTS: dict[str, tuple[type, str, int]] = {
    "run.json is written": (Run, "write_run", 1),
    "ten values are told": (Store, "complete", 10),
    "a trial is in the study": (Store, "add", 1),
    "its spec is written": (Run, "write_spec", 1),
    "its result is written": (InlineExecutor, "wait", 1),
    "the result found is told": (Store, "complete", 1),
    "the ledger is written": (Run, "write_ledger", 2),
}
"""What had just been done when the process died -> the method that did it, and at which of its calls."""


def run_and_die(owner: type, method: str, count: int, run: Callable[[], object]) -> None:
    """Kill this process, as the system would, after `count` calls of a method."""
    original = getattr(owner, method)
    calls = 0

    def deadly(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        result = original(*arguments, **named)
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, method, deadly)
    run()


def scored(out: Path, moment: str) -> None:
    run_and_die(*MOMENTS[moment], run=lambda: search(out, sampler="tpe", trials=TRIALS))


def slowly(out: Path) -> None:
    def score(spec: Spec) -> float:
        time.sleep(0.02)
        return accuracy(spec)

    search(out, score, sampler="tpe", trials=TRIALS)


def real(out: Path) -> SearchConfig:
    return settings(out, trials=3, epochs=1, train_images=100)


def trained(out: Path) -> None:
    run_and_die(InlineExecutor, "submit", 2, run=lambda: run_search(real(out)))


def killed(target: Callable[..., None], *arguments: Any, after: float | None = None) -> None:
    """Run in a process of its own, which kills itself, or is killed after so many seconds."""
    assert FORK is not None
    FORK.set_forkserver_preload(PRELOAD)
    child = FORK.Process(target=target, args=arguments)
    child.start()
    child.join(after)
    if after is not None:
        child.kill()
        child.join()
    assert child.exitcode == -signal.SIGKILL


def record_of(out: Path) -> tuple[Any, Any, Any]:
    """What must not depend on how often a search was killed: trials, study and ledger."""
    trials = trials_of(out).drop(columns=["seconds", "images_per_s"])
    study = [(trial.state.name, trial.values, trial.params) for trial in study_of(out).trials]
    return trials.to_csv(), study, read_json(out / "s" / "ledger.json")


posix = pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    search(out, sampler="tpe", trials=TRIALS)
    return out


@posix
def test_a_search_killed_after_each_of_its_steps_ends_as_one_never_killed(tmp_path: Path, uninterrupted: Path) -> None:
    for moment in MOMENTS:
        killed(scored, tmp_path, moment)
    assert 0 < search(tmp_path, sampler="tpe", trials=TRIALS).added < TRIALS
    assert record_of(tmp_path) == record_of(uninterrupted)


@posix
def test_a_search_killed_at_any_time_ends_as_one_never_killed(tmp_path: Path, uninterrupted: Path) -> None:
    for after in (0.9, 1.2):
        killed(slowly, tmp_path, after=after)
    search(tmp_path, sampler="tpe", trials=TRIALS)
    assert record_of(tmp_path) == record_of(uninterrupted)


@posix
def test_a_result_that_was_not_told_is_recovered_and_not_trained_again(tmp_path: Path) -> None:
    killed(scored, tmp_path, "its result is written")
    events: list[Event] = []

    def score(_: Spec) -> float:
        raise AssertionError("nothing is left to train")

    summary = search(tmp_path, score, events.append, sampler="tpe", trials=1)
    assert Resumed(recovered=(0,), again=()) in events
    assert (summary.added, summary.failed) == (1, 0)


@posix
def test_real_trainings_killed_and_resumed_give_the_same_accuracies(tmp_path: Path) -> None:
    killed(trained, tmp_path / "killed")
    assert run_search(real(tmp_path / "killed")).added == 2
    run_search(real(tmp_path / "never"))
    resumed, never = trials_of(tmp_path / "killed"), trials_of(tmp_path / "never")
    columns = ["key", "state", "accuracy", "seed", "epochs"]
    pd.testing.assert_frame_equal(resumed[columns], never[columns])
    assert list(never["state"]) == ["complete"] * 3
