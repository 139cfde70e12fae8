"""Searches for accuracy and latency: the model before the first trial, its predictions, the front's times after it."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scored_search import accuracy, keys_of, settings, study_of, trials_of
from timed import Abacus, by_activations

import nas.cli
from nas import report
from nas.arch import Architecture
from nas.cost.formula import cost
from nas.cost.landscape import Landscape
from nas.cost.latency_model import LatencyModel
from nas.executors import Spec
from nas.executors.scored import ScoredExecutor
from nas.pareto import non_dominated
from nas.record import Run, read_json
from nas.report import front, style, tables
from nas.search import Event, Finished, Summary, run_search
from nas.search import latency as objective
from nas.search.events import FrontTimed, Modelled, Started, Timing
from nas.search.gate import Gate, Unseen
from nas.search.known import known
from nas.search.latency import FRONT_ROUNDS, NETWORKS, ROUNDS, networks_to_time
from nas.search.samplers import SAMPLERS, to_params
from nas.space import SearchSpace

TINY = SearchSpace.load("tiny")
BOTH = ("accuracy", "latency")
CAP = 45_000


def search(
    out: Path, timer: Abacus | None = None, score: Any = accuracy, on_event: Any = lambda _: None, **changes: Any
) -> Summary:
    executor = ScoredExecutor(score)
    config = settings(out, **{"objectives": BOTH, "sampler": "ehvi", **changes})
    return run_search(config, executor=executor, on_event=on_event, timer=timer or Abacus())


def model_of(out: Path) -> LatencyModel:
    model = LatencyModel.recorded(Run(out, "s"))
    assert model is not None
    return model


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Abacus, list[Event]]:
    """A search of 16 trials with ehvi, under a cap, and a copy of it as it was after nine."""
    out = tmp_path_factory.mktemp("latency")
    timer, events = Abacus(), list[Event]()

    def watch(event: Event) -> None:
        events.append(event)
        if isinstance(event, Finished) and event.finished == 9:
            shutil.copytree(out / "s", out / "copy" / "s")

    search(out, timer, on_event=watch, trials=16, max_params=CAP, latency_batch_size=4, latency_threads=2)
    return out, timer, events


Done = tuple[Path, Abacus, list[Event]]
SAME = {"max_params": CAP, "latency_batch_size": 4, "latency_threads": 2}

# ---- the model ---------------------------------------------------------------------------------------------------


def test_the_model_is_fitted_to_timed_networks_before_the_first_trial(finished: Done) -> None:
    out, timer, events = finished
    asked = timer.calls[0]
    assert len(asked["networks"]) == NETWORKS
    assert {name: asked[name] for name in ("batch_size", "threads", "precision", "device", "repeats")} == {
        "batch_size": 4,
        "threads": 2,
        "precision": "fp32",
        "device": "auto",
        "repeats": ROUNDS,
    }
    for key, (arch, side) in asked["networks"].items():
        assert arch.key == key and side == TINY.input_size and TINY.contains(arch)
        assert cost(arch, side).params <= CAP
    model = model_of(out)
    assert [one.key for one in model.timed] == list(asked["networks"])
    assert (model.seed, model.conditions.batch_size, model.conditions.threads) == (asked["seed"], 4, 2)
    kinds = [type(event) for event in events]
    assert kinds[:3] == [Timing, Modelled, Started]
    assert events[0] == Timing(NETWORKS, "for the latency model")
    assert events[1] == Modelled(model)


def test_the_timed_networks_can_be_read_back(finished: Done) -> None:
    out, timer, _ = finished
    genotypes = read_json(out / "s" / "latency.json")["networks"]
    assert [TINY.decode(genotype).key for genotype in genotypes.values()] == list(genotypes)
    assert list(genotypes) == list(timer.calls[0]["networks"])


def test_trials_cost_what_the_recorded_model_predicts(finished: Done) -> None:
    out, _, _ = finished
    run, model = Run(out, "s"), model_of(out)
    trials = trials_of(out)
    for row in trials.to_dict("records"):
        spec = run.read_spec(row["trial"])
        arch = Architecture.from_json(spec["arch"])
        assert spec["cost"]["latency"] == row["latency_ms"] == model.of_network(arch, TINY.input_size)
    told = [trial.values for trial in study_of(out).trials]
    assert told == trials[["accuracy", "latency_ms"]].to_numpy().tolist()
    assert trials["params"].max() <= CAP
    assert trials["key"].is_unique


def test_the_front_is_that_of_accuracy_and_predicted_latency(finished: Done) -> None:
    out, _, _ = finished
    trials = trials_of(out)
    mask = non_dominated(np.stack([-trials["accuracy"], trials["latency_ms"]], axis=1))
    written = pd.read_csv(out / "s" / "front.csv")
    assert sorted(written["trial"]) == sorted(trials["trial"][mask])
    assert written["latency_ms"].is_monotonic_increasing
    assert list(written.columns) == list(trials.columns)


def test_what_the_sampler_knows_is_what_the_gate_says() -> None:
    """Of all networks: the costs of a table, in the order of the objectives, caps kept."""
    networks = networks_to_time(TINY, {}, next(iter(TINY)), seed=0)
    timer = Abacus()
    sized = {key: (arch, TINY.input_size) for key, arch in networks.items()}
    times = timer(sized, batch_size=1, threads=1, precision="fp32", repeats=15)
    model = LatencyModel.of(networks, TINY.input_size, times, "x", 0)
    gate = Gate(TINY, {"params": CAP}, latency=model)
    every = list(TINY)
    params = [to_params(TINY.genes, TINY.encode(arch)) for arch in every]
    table = {gene.name: np.array([one[gene.name] for one in params], dtype=object) for gene in TINY.genes}
    for ordered in (gene.name for gene in TINY.genes if gene.ordered):
        table[ordered] = table[ordered].astype(np.int64)
    found = known(gate, ("latency", "accuracy", "macs")).costs(table)
    for arch, (latency, macs) in zip(every, found.tolist(), strict=True):
        price = gate.price(arch)
        if gate.within(price):
            assert (latency, macs) == (price["latency"], price["macs"])
        else:
            assert math.isnan(latency) and math.isnan(macs)


def test_networks_of_an_enumerated_space_are_predicted_too(tmp_path: Path) -> None:
    """The last networks of a small space are found without the sampler."""
    macs = sorted(cost(arch, 8).macs for arch in TINY)[5]
    summary = search(tmp_path, sampler="random", trials=50, max_macs=macs)
    assert "space exhausted" in summary.ended
    assert trials_of(tmp_path)["latency_ms"].gt(0).all()
    gate = Gate(TINY, {"macs": macs}, latency=model_of(tmp_path))
    assert all("latency" in candidate.cost for candidate in Unseen(gate, 0).under_caps)


def test_without_the_objective_nothing_is_timed(tmp_path: Path) -> None:
    timer = Abacus()
    search(tmp_path, timer, objectives=("accuracy", "macs"), trials=3)
    assert timer.calls == []
    assert not list((tmp_path / "s").glob("*latency*"))
    assert "latency" not in Run(tmp_path, "s").read_spec(0)["cost"]
    assert trials_of(tmp_path)[["latency_ms", "measured_ms"]].isna().all(axis=None)


# ---- samplers and orders -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("objectives", [("latency", "accuracy"), ("params", "latency", "accuracy", "macs")])
def test_every_sampler_takes_objectives_in_any_order(sampler: str, objectives: tuple[str, ...], tmp_path: Path) -> None:
    search(tmp_path, sampler=sampler, objectives=objectives, trials=12)
    columns = ["latency_ms" if name == "latency" else name for name in objectives]
    trials = trials_of(tmp_path)
    assert [trial.values for trial in study_of(tmp_path).trials] == trials[columns].to_numpy().tolist()
    first = next(name for name in columns if name != "accuracy")
    assert pd.read_csv(tmp_path / "s" / "front.csv")[first].is_monotonic_increasing


def test_halving_takes_latency_as_a_cost(tmp_path: Path) -> None:
    search(tmp_path, steps=320, halving=True, trials=20, score=lambda spec: accuracy(spec) - 0.1 / (spec["rung"] + 1))
    states = trials_of(tmp_path)["state"].value_counts()
    assert 0 < states["complete"] < 20
    assert states.sum() == 20


def test_ehvi_looks_where_latency_is_low(tmp_path: Path) -> None:
    """All networks are equally accurate, so that only a faster one than all before adds to the front."""
    search(tmp_path, score=lambda _: 0.9, trials=14)
    everything = [model_of(tmp_path).of_network(arch, 8) for arch in TINY]
    assert trials_of(tmp_path)["latency_ms"].min() == min(everything)


# ---- going on ----------------------------------------------------------------------------------------------------


def test_a_search_that_goes_on_reads_the_model_again(finished: Done, tmp_path: Path) -> None:
    """Also on another device, which would have timed otherwise."""
    out, _, _ = finished
    shutil.copytree(out / "copy" / "s", tmp_path / "s")
    before = (tmp_path / "s" / "latency.json").read_bytes()
    timer, events = Abacus(lambda *_: 77.0, device="another device"), list[Event]()
    search(tmp_path, timer, on_event=events.append, trials=16, device="cpu", **SAME)
    assert keys_of(tmp_path) == keys_of(out)
    assert list(trials_of(tmp_path)["latency_ms"]) == list(trials_of(out)["latency_ms"])
    assert (tmp_path / "s" / "latency.json").read_bytes() == before
    assert [len(call["networks"]) for call in timer.calls] == [len(pd.read_csv(tmp_path / "s" / "front.csv"))]
    assert Modelled(model_of(out)) in events
    assert read_json(tmp_path / "s" / "front_latency.json")["conditions"]["device"] == "another device"
    assert pd.read_csv(tmp_path / "s" / "front.csv")["measured_ms"].eq(77.0).all()


def test_a_search_killed_while_it_timed_starts_over(tmp_path: Path) -> None:
    def killed(*_: Any) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, Abacus(killed))
    assert Run(tmp_path, "s").exists() and not (tmp_path / "s" / "latency.json").exists()
    assert search(tmp_path, trials=3).finished == 3


def test_a_lost_model_is_refused_because_another_would_predict_otherwise(tmp_path: Path) -> None:
    search(tmp_path, trials=2)
    (tmp_path / "s" / "latency.json").unlink()
    with pytest.raises(ValueError, match=r"latency\.json is missing: restore it or choose another study name"):
        search(tmp_path, trials=4)


def test_a_damaged_model_is_named(tmp_path: Path) -> None:
    search(tmp_path, trials=2)
    path = tmp_path / "s" / "latency.json"
    path.write_text(json.dumps(read_json(path) | {"form": "?"}))
    with pytest.raises(ValueError, match=r"s/latency\.json holds no latency model that can be read"):
        search(tmp_path, trials=4)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"latency_batch_size": 8}, "config.latency.batch_size: 1 -> 8"),
        ({"latency_threads": 3}, "config.latency.threads: 1 -> 3"),
        ({"latency_precision": "bf16"}, "config.latency.precision: fp32 -> bf16"),
    ],
)
def test_another_way_of_timing_is_another_search(change: dict[str, Any], line: str, tmp_path: Path) -> None:
    search(tmp_path, trials=1)
    with pytest.raises(ValueError, match="started with other settings") as error:
        search(tmp_path, trials=2, **change)
    assert str(error.value).splitlines()[1:] == [f"  {line}"]


# ---- which networks are timed ------------------------------------------------------------------------------------


def test_timed_networks_differ_and_are_spread_over_the_costs() -> None:
    space = SearchSpace.load("cifar")
    networks = networks_to_time(space, {}, next(iter(space)), seed=0)
    assert len(networks) == NETWORKS
    assert [arch.key for arch in networks.values()] == list(networks)
    macs = np.log([cost(arch, 32).macs for arch in networks.values()])
    assert np.diff(macs).max() < 5 * np.ptp(macs) / NETWORKS
    drawn = np.log([cost(arch, 32).macs for arch in space.sample_different(NETWORKS, random.Random(0))])
    assert np.ptp(macs) > np.ptp(drawn)
    assert list(networks_to_time(space, {}, next(iter(space)), seed=0)) == list(networks)
    assert list(networks_to_time(space, {}, next(iter(space)), seed=1)) != list(networks)


def test_tight_caps_are_kept_and_still_leave_networks_to_time() -> None:
    """Of cifar, 8 random walks in 10,000 or so are this cheap."""
    space = SearchSpace.load("cifar")
    landscape = Landscape(space)
    caps = {"macs": round(1.25 * landscape.cheapest("macs").value)}
    networks = networks_to_time(space, caps, landscape.require_within(caps), seed=0)
    assert len(networks) == NETWORKS
    assert all(cost(arch, 32).macs <= caps["macs"] for arch in networks.values())


def test_a_space_of_few_networks_is_timed_to_the_last_one() -> None:
    macs = sorted(cost(arch, 8).macs for arch in TINY)[10]
    caps = {"macs": macs}
    within = {arch.key for arch in TINY if cost(arch, 8).macs <= macs}
    assert set(networks_to_time(TINY, caps, Landscape(TINY).require_within(caps), seed=0)) == within


# ---- the front, timed --------------------------------------------------------------------------------------------


def test_the_front_is_timed_as_the_model_was_and_recorded(finished: Done) -> None:
    out, timer, events = finished
    model, written = timer.calls
    rows = pd.read_csv(out / "s" / "front.csv")
    assert list(written["networks"]) == list(dict.fromkeys(written["networks"]))
    assert set(written["networks"]) == set(rows["key"])
    assert written["repeats"] == FRONT_ROUNDS
    assert {name: written[name] for name in ("batch_size", "threads", "precision")} == {
        name: model[name] for name in ("batch_size", "threads", "precision")
    }
    value = read_json(out / "s" / "front_latency.json")
    for one in value["networks"]:
        arch, side = written["networks"][one["key"]]
        expected = by_activations(arch, side)
        assert (one["median_ms"], one["low_ms"], one["high_ms"]) == (expected, expected * 0.98, expected * 1.02)
    assert (value["samples"], value["conditions"]["device"]) == (FRONT_ROUNDS, "abacus")
    measured = trials_of(out).set_index("key")["measured_ms"]
    assert measured.notna().sum() == len(rows)
    assert rows["measured_ms"].tolist() == [by_activations(*written["networks"][key]) for key in rows["key"]]
    assert events[-2] == FrontTimed(
        len(rows), str(model_of(out).conditions), float((rows["latency_ms"] / rows["measured_ms"] - 1).abs().median())
    )


def test_a_front_is_timed_once_and_anew_when_it_changes(tmp_path: Path) -> None:
    timer = Abacus()
    search(tmp_path, timer, trials=4)
    assert len(timer.calls) == 2
    search(tmp_path, timer, trials=4)
    assert len(timer.calls) == 2
    before = set(pd.read_csv(tmp_path / "s" / "front.csv")["key"])
    search(tmp_path, timer, trials=14)
    after = set(pd.read_csv(tmp_path / "s" / "front.csv")["key"])
    assert before != after
    assert len(timer.calls) == 3
    assert set(timer.calls[2]["networks"]) == after


def test_auto_precision_is_timed_at_the_end_as_it_was_for_the_model(tmp_path: Path) -> None:
    class Half(Abacus):
        def __call__(self, networks: Any, **asked: Any) -> Any:
            return super().__call__(networks, **asked | {"precision": "bf16" if asked["precision"] == "auto" else "?"})

    timer = Abacus()
    search(tmp_path, Half(), trials=1, latency_precision="auto")
    (tmp_path / "s" / "front_latency.json").unlink()
    search(tmp_path, timer, trials=1, latency_precision="auto")
    assert [call["precision"] for call in timer.calls] == ["bf16"]


def test_an_interrupted_search_times_no_front_until_it_is_over(tmp_path: Path) -> None:
    def score(spec: Spec) -> float:
        if spec["trial"] == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return accuracy(spec)

    timer = Abacus()
    assert search(tmp_path, timer, score, trials=5).interrupted
    assert len(timer.calls) == 1
    assert not (tmp_path / "s" / "front_latency.json").exists()
    search(tmp_path, timer, trials=5)
    assert len(timer.calls) == 2


def test_a_failure_while_the_front_is_timed_costs_no_trial(tmp_path: Path) -> None:
    class Breaks(Abacus):
        def __call__(self, networks: Any, **asked: Any) -> Any:
            if self.calls:
                raise RuntimeError("out of memory")
            return super().__call__(networks, **asked)

    with pytest.raises(RuntimeError, match="out of memory"):
        search(tmp_path, Breaks(), trials=3)
    assert len(pd.read_csv(tmp_path / "s" / "trials.csv")) == 3
    search(tmp_path, trials=3)
    assert (tmp_path / "s" / "front_latency.json").exists()


# ---- the report --------------------------------------------------------------------------------------------------


def test_the_picture_shows_predicted_and_measured_latency_of_the_front(finished: Done) -> None:
    out, _, _ = finished
    recorded = report.read(Run(out, "s"))
    shown = front.info(recorded)
    rows = trials_of(out).set_index("trial")
    for point in shown.points:
        assert point.costs == {"latency": rows["latency_ms"][point.trial]}
        assert (point.measured is not None) == point.on_front
        if point.measured is not None:
            assert point.measured.median_ms == rows["measured_ms"][point.trial]
            assert "latency measured" in point.hover
        assert "latency predicted" in point.hover
    assert str(model_of(out)) in shown.caption
    assert "Open circles with bars: the front's networks as measured afterwards on abacus, batch 4" in shown.caption
    assert "96.5 % intervals" in shown.caption
    figure = front.figure(shown)
    (trace,) = [trace for trace in figure.data if trace.name == "measured"]
    timed = [point for point in shown.points if point.measured is not None]
    assert list(trace.x) == [point.measured.median_ms for point in timed if point.measured]
    assert list(trace.y) == [point.accuracy for point in timed]
    assert list(trace.error_x.array) == pytest.approx([0.02 * x for x in trace.x])
    assert list(trace.error_x.arrayminus) == pytest.approx([0.02 * x for x in trace.x])
    assert figure.layout.xaxis.title.text == "latency in ms (log scale)"
    low, high = figure.layout.xaxis.range
    assert low < math.log10(min(trace.x)) and math.log10(max(trace.x)) < high


def test_times_far_from_the_predictions_are_in_sight_and_those_off_the_front_are_not(
    finished: Done, tmp_path: Path
) -> None:
    shutil.copytree(finished[0] / "s", tmp_path / "s")
    path = tmp_path / "s" / "front_latency.json"
    value = read_json(path)
    rows = trials_of(tmp_path)
    off = rows[rows["measured_ms"].isna()].iloc[0]
    for one in value["networks"]:
        one.update({name: 10 * one[name] for name in ("median_ms", "low_ms", "high_ms")})
    value["networks"].append({"key": off["key"], "median_ms": 1.0, "low_ms": 0.9, "high_ms": 1.1})
    path.write_text(json.dumps(value))
    shown = front.info(report.read(Run(tmp_path, "s")))
    (dominated,) = [point for point in shown.points if point.trial == off["trial"]]
    assert dominated.measured is None and "measured" not in dominated.hover
    _, high = front.figure(shown).layout.xaxis.range
    assert high > math.log10(max(one["high_ms"] for one in value["networks"]))


def test_the_page_states_the_model_its_error_and_both_latencies(finished: Done) -> None:
    out, _, _ = finished
    run, model = Run(out, "s"), model_of(out)
    recorded = report.read(run)
    rows = {row[0]: row[1] for row in tables.latency(recorded).rows}
    assert rows["model"] == str(model)
    assert rows["terms"] == model.form
    used = {name: f"{value:.3g}" for name, value in model.coefficients_ms.items() if value}
    assert {name: rows[f"ms for each of {name}"] for name in used} == used
    table = tables.front(recorded)
    labels = [label for label, _ in table.headers]
    shown = [dict(zip(labels, row, strict=True)) for row in table.rows]
    for row, wanted in zip(shown, pd.read_csv(run.front_csv).to_dict("records"), strict=True):
        measured = wanted["measured_ms"]
        assert row["latency predicted"] == style.milliseconds(wanted["latency_ms"])
        interval = f"({0.98 * measured:.4g} to {1.02 * measured:.4g})"
        assert row["measured (interval)"] == f"{style.milliseconds(measured)} {interval}"
    page = report.render(recorded)
    assert '<section id="latency">' in page
    assert "Latency is predicted, from 32 networks timed on abacus" in page


def test_before_the_front_is_timed_the_report_says_so(finished: Done) -> None:
    out, _, _ = finished
    recorded = report.read(Run(out / "copy", "s"))
    shown = front.info(recorded)
    assert "have not been timed yet" in shown.caption
    assert all(point.measured is None for point in shown.points)
    assert all(trace.name != "measured" for trace in front.figure(shown).data)
    table = tables.front(recorded)
    column = [label for label, _ in table.headers].index("measured (interval)")
    assert {row[column] for row in table.rows} == {"–"}
    report.render(recorded)


def test_a_run_without_the_objective_shows_no_latency(tmp_path: Path) -> None:
    search(tmp_path, objectives=("accuracy", "macs"), trials=3)
    recorded = report.read(Run(tmp_path, "s"))
    assert tables.latency(recorded).rows == ()
    assert "latency predicted" not in [label for label, _ in tables.front(recorded).headers]
    page = report.render(recorded)
    assert 'id="latency"' not in page
    assert "atency is predicted" not in page


@pytest.mark.parametrize("broken", [{"networks": 3}, {"networks": [{"key": "x"}]}])
def test_damaged_times_of_the_front_are_named(broken: dict[str, Any], finished: Done, tmp_path: Path) -> None:
    shutil.copytree(finished[0] / "s", tmp_path / "s")
    path = tmp_path / "s" / "front_latency.json"
    path.write_text(json.dumps(read_json(path) | broken))
    with pytest.raises(ValueError, match=r"front_latency\.json is damaged"):
        report.read(Run(tmp_path, "s"))


# ---- the command, with a real stopwatch --------------------------------------------------------------------------


def test_a_search_by_command_times_for_real(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(objective, "NETWORKS", 6)
    monkeypatch.setattr(objective, "ROUNDS", 6)
    monkeypatch.setattr(objective, "FRONT_ROUNDS", 6)
    fixed = ["--space", "tiny", "--epochs", "1", "--train-images", "150", "--device", "cpu", "--out", str(tmp_path)]
    words = ["search", *fixed, "--trials", "4", "--objectives", "accuracy,latency", "--latency-batch-size", "2"]
    assert nas.cli.main(words) == 0
    said = capsys.readouterr().out
    model = LatencyModel.recorded(Run(tmp_path, "tiny-digits"))
    assert model is not None and len(model.timed) == 6
    assert f"latency is predicted from {model}" in said
    assert "timing 6 networks for the latency model, side by side" in said
    assert "predicted_ms" in said and "measured_ms" in said
    rows = pd.read_csv(tmp_path / "tiny-digits" / "front.csv")
    assert rows["measured_ms"].gt(0).all()
    for value in (*rows["latency_ms"], *rows["measured_ms"]):
        assert f" {value:.3f} " in said
    folder = str(tmp_path / "tiny-digits")
    assert nas.cli.main(["front", folder, "--knee"]) == 0
    assert f"latency is predicted from {model}" in capsys.readouterr().out
    assert nas.cli.main(["export", folder, "--out", str(tmp_path / "best")]) == 0
    config = read_json(tmp_path / "best" / "config.json")
    row = rows.sort_values("accuracy").iloc[-1]
    assert set(config["cost"]) == {"params", "macs", "activations"}
    assert config["latency"]["predicted_ms"] == pytest.approx(row["latency_ms"])
    assert config["latency"]["measured_ms"] == pytest.approx(row["measured_ms"])
    assert config["latency"]["measured_on"] == config["latency"]["predicted_on"]
    assert config["latency"]["predicted_on"]["batch_size"] == 2


def test_how_latency_is_timed_needs_the_objective(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nas.cli.main(["search", "--out", str(tmp_path), "--latency-threads", "2"]) == 2
    said = capsys.readouterr().err
    assert "search latency_threads = 2: it says how latency is timed, which is none of the objectives" in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
