"""The search: proposals, gate, study and record together, on networks that are scored instead of trained."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.trial import FrozenTrial
from scored_search import SECONDS, accuracy, keys_of, search, settings, study_of, trials_of

from nas.arch import Architecture
from nas.cost.formula import cost
from nas.executors import Result, Spec
from nas.pareto import COSTS, DIRECTIONS
from nas.record import Run, read_json
from nas.search import Event, Finished, Proposed, SearchConfig, Started, ehvi, run_search
from nas.search.gate import Gate
from nas.search.known import known
from nas.search.samplers import SAMPLERS, Draw, Proposer, Setting, shared
from nas.seeds import derived_seed
from nas.space import SearchSpace

TRIALS = 30
CAP = 45_000
"""Parameters; about a third of the tiny space is over it."""
COPIED = {11: 14, 25: TRIALS}
"""After so many trials the search is copied as it lies on disk -> how far the copy is then continued."""


def propose(sampler: str, history: Sequence[FrozenTrial], attempts: Sequence[int] = range(8)) -> list[Draw]:
    space = SearchSpace.load("tiny")
    told = Setting(known(Gate(space, {}), ("accuracy", "macs")), accuracy_floor=None)
    proposer = Proposer(
        space, ["maximize", "minimize"], sampler, told, 0, len(history), [shared(one) for one in history]
    )
    return [proposer.draw(attempt) for attempt in attempts]


@pytest.fixture(scope="module", params=SAMPLERS)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A search of 30 trials with each sampler, never interrupted, and copies of it as it was after some trials."""
    out = tmp_path_factory.mktemp(request.param)

    def copy(event: Event) -> None:
        if isinstance(event, Finished) and event.finished in COPIED:
            shutil.copytree(out / "s", out / f"after-{event.finished}" / "s")

    search(out, on_event=copy, sampler=request.param, trials=TRIALS, max_params=CAP)
    return request.param, out


# ---- what every sampler must do ----------------------------------------------------------------------------------


def test_no_network_is_trained_twice_and_none_over_the_cap(finished: tuple[str, Path]) -> None:
    _, out = finished
    trials = trials_of(out)
    assert list(trials["state"]) == ["complete"] * TRIALS
    assert trials["key"].is_unique
    assert trials["params"].max() <= CAP
    assert list(pd.read_csv(out / "s" / "trials.csv")["key"]) == list(trials["key"])


def test_caps_that_hardly_any_network_meets_do_not_end_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a large space of which no random network is within the caps: beyond the startup trials, too."""
    monkeypatch.setattr(ehvi, "WHOLE", 10)
    monkeypatch.setattr(ehvi, "DRAWN", 1)
    cap = sorted(cost(arch, 8).params for arch in SearchSpace.load("tiny"))[ehvi.STARTUP_TRIALS + 3]
    search(tmp_path, sampler="ehvi", trials=ehvi.STARTUP_TRIALS + 3, max_params=cap)
    trials = trials_of(tmp_path)
    assert list(trials["state"]) == ["complete"] * (ehvi.STARTUP_TRIALS + 3)
    assert trials["key"].is_unique and trials["params"].max() <= cap


def test_the_record_is_what_was_scored(finished: tuple[str, Path]) -> None:
    _, out = finished
    run = Run(out, "s")
    for number in range(TRIALS):
        spec, result = run.read_spec(number), run.read_result(number)
        arch = Architecture.from_json(spec["arch"])
        priced = cost(arch, 8)
        assert arch.key == spec["key"] == SearchSpace.load("tiny").decode(spec["genotype"]).key
        assert spec["cost"] == {"macs": priced.macs, "params": priced.params, "activations": priced.activations}
        assert result is not None
        assert result["accuracy"] == accuracy(spec)


def test_the_ledger_counts_every_proposal(finished: tuple[str, Path]) -> None:
    sampler, out = finished
    ledger = read_json(out / "s" / "ledger.json")
    rejected = ledger["rejected"]
    assert ledger["accepted"] == TRIALS
    assert ledger["proposed"] == TRIALS + sum(rejected.values())
    # An eighth of all choices is invalid and a third of the networks over the cap, which ehvi knows.
    assert (sum(rejected.values()) > 0) == (sampler != "ehvi")
    before = [trial.user_attrs["nas"]["rejected"] for trial in study_of(out).trials]
    assert rejected == {reason: sum(row[reason] for row in before) for reason in rejected}
    assert ledger["saved_seconds"] == SECONDS * sum(row["duplicate"] + row["over_cap"] > 0 for row in before)


def test_a_search_that_goes_on_is_the_one_that_never_stopped(finished: tuple[str, Path]) -> None:
    sampler, out = finished
    for stopped, trials in COPIED.items():
        copy = out / f"after-{stopped}"
        summary = search(copy, sampler=sampler, trials=trials, max_params=CAP)
        assert (summary.added, summary.finished) == (trials - stopped, trials)
        assert keys_of(copy) == keys_of(out)[:trials]
    assert read_json(copy / "s" / "ledger.json") == read_json(out / "s" / "ledger.json")


def test_samplers_other_than_random_learn_from_what_was_scored(finished: tuple[str, Path]) -> None:
    sampler, out = finished
    history = study_of(out).trials
    as_scored = propose(sampler, history)
    for trial in history:
        trial.values = [1 - trial.values[0], trial.values[1]]
    assert (propose(sampler, history) == as_scored) == (sampler == "random")


def test_another_seed_gives_another_search(finished: tuple[str, Path], tmp_path: Path) -> None:
    sampler, out = finished
    search(tmp_path, sampler=sampler, trials=3, max_params=CAP, seed=1)
    assert keys_of(tmp_path) != keys_of(out)[:3]
    assert set(trials_of(tmp_path)["seed"]).isdisjoint(trials_of(out)["seed"])


def test_optuna_reads_the_study(finished: tuple[str, Path]) -> None:
    _, out = finished
    study = study_of(out)
    trials = trials_of(out)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert [trial.values for trial in study.trials] == trials[["accuracy", "macs"]].to_numpy().tolist()
    assert [list(trial.user_attrs) for trial in study.trials] == [["nas"]] * TRIALS


def test_a_proposal_depends_on_the_attempt_not_on_the_attempts_before(finished: tuple[str, Path]) -> None:
    """Also with a trial under way, which the samplers take into account."""
    sampler, out = finished
    history = study_of(out).trials
    under_way = optuna.trial.create_trial(
        state=optuna.trial.TrialState.RUNNING, params=history[0].params, distributions=history[0].distributions
    )
    history.append(under_way)
    draws = propose(sampler, history)
    if sampler == "ehvi":
        # It leaves out what earlier attempts proposed, so the attempts are a function of the history in their order.
        assert propose(sampler, history) == draws
        assert len({str(draw) for draw in draws}) == len(draws)
    else:
        assert propose(sampler, history, attempts=[3]) == draws[3:4]
        assert len({str(draw) for draw in draws}) > 1


# ---- objectives, caps, seeds -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["tpe", "local", "nsga2"])
def test_four_objectives(sampler: str, tmp_path: Path) -> None:
    objectives = ("accuracy", *COSTS)
    search(tmp_path, sampler=sampler, trials=12, objectives=objectives)
    study, trials = study_of(tmp_path), trials_of(tmp_path)
    assert [direction.name.lower() for direction in study.directions] == [DIRECTIONS[name] for name in objectives]
    assert [trial.values for trial in study.trials] == trials[list(objectives)].to_numpy().tolist()
    assert (tmp_path / "s" / "front.csv").is_file()


def test_objectives_keep_the_users_order(tmp_path: Path) -> None:
    search(tmp_path, trials=2, objectives=("params", "accuracy"))
    assert [trial.values for trial in study_of(tmp_path).trials] == trials_of(tmp_path)[
        ["params", "accuracy"]
    ].to_numpy().tolist()


def test_the_tighter_cap_wins() -> None:
    digits = SearchSpace.load("digits")
    assert digits.caps == {"macs": 2_000_000, "params": 100_000}
    assert digits.capped(settings(Path(), max_macs="3M", max_params="50k").caps) == {
        "macs": 2_000_000,
        "params": 50_000,
    }
    assert digits.capped(settings(Path(), max_macs="1M").caps) == {"macs": 1_000_000, "params": 100_000}
    assert SearchSpace.load("tiny").capped(settings(Path(), max_macs="1M").caps) == {"macs": 1_000_000}
    assert SearchSpace.load("tiny").capped(settings(Path()).caps) == {}


def test_impossible_caps_end_the_run_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no network of space tiny meets max_macs = 1k: the smallest cost is"):
        search(tmp_path, max_macs="1k")
    assert list(tmp_path.iterdir()) == []


def test_every_trial_trains_with_its_own_recorded_seed(tmp_path: Path) -> None:
    search(tmp_path, trials=5, seed=3)
    seeds = list(trials_of(tmp_path)["seed"])
    assert seeds == [derived_seed("train", 3, number) for number in range(5)]
    assert len(set(seeds)) == 5


# ---- events ------------------------------------------------------------------------------------------------------


def test_events_tell_the_whole_story(tmp_path: Path) -> None:
    events: list[Event] = []
    summary = search(tmp_path, on_event=events.append, trials=3)
    kinds = [type(event).__name__ for event in events]
    assert kinds == ["Started", *["Proposed", "Finished"] * 3, "Ended"]
    assert isinstance(events[0], Started)
    assert events[0].networks == SearchSpace.load("tiny").size()
    trials = trials_of(tmp_path)
    finished = [event for event in events if isinstance(event, Finished)]
    assert [event.accuracy for event in finished] == list(trials["accuracy"])
    assert [event.finished for event in finished] == [1, 2, 3]
    assert [event.key for event in events if isinstance(event, Proposed)] == list(trials["key"])
    assert summary.folder == tmp_path / "s"


class Pool:
    """An executor with three places that gives back what it holds in one go, the last taken first."""

    capacity = 3

    def __init__(self) -> None:
        self.most = 0
        self._held: list[tuple[Spec, Path]] = []

    def submit(self, spec: Spec, folder: Path) -> None:
        self._held.append((spec, folder))
        self.most = max(self.most, len(self._held))

    def wait(self) -> list[Result]:
        held, self._held = self._held[::-1], []
        return [
            {"trial": spec["trial"], "status": "ok", "accuracy": accuracy(spec), "seconds": 1.0} for spec, _ in held
        ]

    def close(self) -> None:
        raise AssertionError("the caller closes the executor that it brings")


def test_an_executor_with_several_places_is_kept_full_and_never_gets_one_network_twice(tmp_path: Path) -> None:
    pool = Pool()
    assert run_search(settings(tmp_path, sampler="tpe", trials=14), executor=pool).finished == 14
    assert pool.most == 3
    keys = [Run(tmp_path, "s").read_spec(number)["key"] for number in range(14)]
    assert len(set(keys)) == 14


# ---- storage and settings ----------------------------------------------------------------------------------------


def test_the_study_is_kept_in_a_write_ahead_log(tmp_path: Path) -> None:
    search(tmp_path, trials=1)
    connection = sqlite3.connect(tmp_path / "s" / "study.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"trails": 3}, "search has the unknown key 'trails'; the known keys are"),
        ({"trials": 0}, "search trials = 0: input should be greater than or equal to 1"),
        ({"sampler": "grid"}, "search sampler = 'grid': the sampler must be one of ehvi, tpe, local, nsga2, random"),
        ({"objectives": ("macs", "params")}, "the objectives must be accuracy and one to three of macs, params, activ"),
        ({"objectives": ("accuracy",)}, "the objectives must be accuracy and one to three of"),
        ({"objectives": ("accuracy", "macs", "macs")}, "the objectives must be accuracy and one to three of"),
        ({"objectives": ("accuracy", "wattage")}, "the objectives must be accuracy and one to three of"),
        ({"objectives": tuple(DIRECTIONS)}, "one to three of macs, params, activations, latency, each once"),
        ({"objectives": ("accuracy", "latency", "latency")}, "one to three of macs, params, activations, latency, eac"),
        (
            {"latency_threads": 2},
            "search latency_threads = 2: it says how latency is timed, which is none of the objec",
        ),
        (
            {"objectives": ("accuracy", "latency"), "latency_batch_size": 0},
            "search latency_batch_size = 0: input shoul",
        ),
        ({"objectives": ("accuracy", "latency"), "latency_precision": "int8"}, "search latency_precision = 'int8': "),
        ({"max_macs": "40 MB"}, "search max_macs = '40 MB': a count must be a whole number of at least 1"),
        ({"study": "../up"}, "search study = '../up': string should match pattern"),
        ({"workers": 0}, "search workers = 0: input should be greater than or equal to 1"),
        ({"trial_timeout_s": 0}, "search trial_timeout_s = 0: input should be greater than 0"),
        ({"trial_timeout_s": "inf"}, "search trial_timeout_s = 'inf': input should be a finite number"),
        ({"val_fraction": 1.0}, "search val_fraction = 1.0: input should be less than 1"),
    ],
)
def test_a_wrong_setting_is_one_sentence(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        settings(Path(), **wrong)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_study_name_is_named() -> None:
    with pytest.raises(ValueError, match="search lacks the key 'study'"):
        SearchConfig.read({})


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"recipe": "resnet"}, "recipe must be one of digits, cifar, imagenet, but got 'resnet'"),
        ({"space": "nowhere"}, "space 'nowhere' is neither a file nor a shipped space"),
        ({"space": "cifar"}, "space cifar has .*in_channels = 3.*the data digits needs"),
        ({"data": "nothing.npz"}, "'nothing.npz' is neither a known name nor an existing path"),
        ({"device": "tpu"}, "device must be auto, cpu, cuda, cuda:N or mps, but got 'tpu'"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    wrong: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=sentence):
        search(tmp_path, **wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_shared_history_is_the_one_that_was_copied(finished: tuple[str, Path]) -> None:
    """A study that is given trials of its own, or shared ones, sees the same, and changes neither."""
    _, out = finished
    trials = study_of(out).trials
    before = [(trial.number, trial.params, trial.values, trial.system_attrs) for trial in trials]
    studies = [optuna.create_study(directions=["maximize", "minimize"]) for _ in range(2)]
    studies[0].add_trials(trials)
    studies[1].add_trials([shared(trial) for trial in trials])
    told, seen = ([repr(trial).partition("(")[2] for trial in study.get_trials()] for study in studies)
    assert told == seen
    assert [(trial.number, trial.params, trial.values, trial.system_attrs) for trial in trials] == before
