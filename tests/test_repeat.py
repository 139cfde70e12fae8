"""Trainings with other seeds: recorded beside the trials, the same but for the seed, added to and never lost."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recorded_runs import failure, genotype, result, spec
from scored_search import SECONDS, search

from nas import report
from nas.cli import main
from nas.evidence import SeedNoise, seed_noise
from nas.executors import Spec
from nas.executors.scored import ScoredExecutor
from nas.executors.worker import evaluate
from nas.export.config import trial_config
from nas.export.folder import of_trial, write_export
from nas.record import Run, read_json, write_json
from nas.repeat import repeat
from nas.report import front, tables
from nas.seeds import derived_seed


def by_seed(spec: Spec) -> float:
    """Each seed brings other luck, none of it more than .05."""
    return float(0.5 + 0.4 * spec["cost"]["params"] / 100_000 + 0.05 * (spec["seed"] % 101) / 100)


def scored(score: Callable[[Spec], float] = by_seed) -> ScoredExecutor:
    return ScoredExecutor(score, seconds=SECONDS)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    search(tmp_path, trials=8)
    return Run(tmp_path, "s")


def front_of(run: Run) -> list[int]:
    found: list[int] = run.front(["accuracy", "macs"])["trial"].tolist()
    return found


def test_the_networks_of_the_front_are_trained_with_other_seeds(run: Run) -> None:
    trials_before, front_before = run.trials(), front_of(run)
    done = repeat(run, seeds=2, executor=scored())
    assert (done.wanted, done.added, done.interrupted) == (2 * len(front_before), 2 * len(front_before), False)
    rows = run.repeats()
    assert sorted(zip(rows["trial"], rows["repeat"], strict=True)) == sorted(
        (trial, number) for trial in front_before for number in (1, 2)
    )
    assert set(rows["state"]) == {"complete"}
    seeds = [*rows["seed"], *trials_before["seed"]]
    assert len(set(seeds)) == len(seeds)
    for trial, number, seed in zip(rows["trial"], rows["repeat"], rows["seed"], strict=True):
        own, again = run.read_spec(trial), read_json(run.repeat_folder(trial, number) / "spec.json")
        assert again == {**own, "repeat": number, "seed": seed, "device": "auto"}
        assert rows.loc[(rows["trial"] == trial) & (rows["repeat"] == number), "accuracy"].item() == by_seed(again)
    # The search does not know of them.
    assert run.trials().equals(trials_before)
    assert front_of(run) == front_before


def test_seeds_follow_from_the_trials_own(run: Run) -> None:
    repeat(run, seeds=2, trials=[0], executor=scored())
    first = run.repeats()["seed"].tolist()
    repeat(run, seeds=3, trials=[0], executor=scored())
    assert run.repeats()["seed"].tolist()[:2] == first
    own = run.read_spec(0)["seed"]
    assert first == [derived_seed("repeat", own, 1), derived_seed("repeat", own, 2)]


def test_the_same_call_adds_what_is_missing_only(run: Run) -> None:
    repeat(run, seeds=1, trials=[0, 1], executor=scored())
    before = run.repeats()

    def no_such(spec: Spec) -> float:
        assert spec["repeat"] == 2
        return by_seed(spec)

    done = repeat(run, seeds=2, trials=[1, 0, 1], executor=scored(no_such))
    assert (done.wanted, done.added) == (4, 2)
    after = run.repeats()
    assert after[after["repeat"] == 1].reset_index(drop=True).equals(before)
    assert repeat(run, seeds=2, trials=[0, 1], executor=scored(no_such)).added == 0


def test_ctrl_c_keeps_what_is_finished_and_the_same_call_goes_on(run: Run) -> None:
    class Interrupted(ScoredExecutor):
        left = 2

        def wait(self):  # type: ignore[no-untyped-def]
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            return super().wait()

    done = repeat(run, seeds=2, trials=[0, 1], executor=Interrupted(by_seed))
    assert (done.wanted, done.added, done.interrupted) == (4, 2, True)
    assert (run.folder / "repeats.csv").is_file()
    assert run.repeats()["state"].tolist().count("complete") == 2
    done = repeat(run, seeds=2, trials=[0, 1], executor=scored())
    assert (done.added, done.interrupted) == (2, False)
    whole = Run(run.root, "s").repeats()
    assert whole["state"].tolist() == ["complete"] * 4


def test_a_failed_training_is_recorded_and_left_out_of_the_evidence(run: Run) -> None:
    def fails(spec: Spec) -> float:
        if spec["repeat"] == 1:
            raise RuntimeError("no luck")
        return by_seed(spec)

    repeat(run, seeds=2, trials=[0], executor=scored(fails))
    rows = run.repeats()
    assert rows["state"].tolist() == ["failed", "complete"] and rows["reason"][0] == "RuntimeError: no luck"
    assert list(run.other_seeds()) == [0] and len(run.other_seeds()[0]) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": 0}, "seeds must be at least 1, but got 0"),
        ({"seeds": 1, "trials": [99]}, "trial 99 is unknown: pick a complete one"),
        ({"seeds": 1, "trials": []}, "no finished network to pick from"),
    ],
)
def test_what_cannot_be_repeated_is_said_before_any_training(run: Run, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        repeat(run, executor=scored(lambda _: pytest.fail("trained")), **changes)
    assert run.repeats().empty


def test_a_network_stopped_at_a_rung_has_no_accuracy_to_compare(tmp_path: Path) -> None:
    search(tmp_path, trials=24, halving=True, steps=320)
    run = Run(tmp_path, "s")
    rows = run.trials()
    stopped = int(rows.loc[rows["state"] == "stopped", "trial"].iloc[0])
    with pytest.raises(ValueError, match=f"trial {stopped} is stopped before its full budget"):
        repeat(run, seeds=1, trials=[stopped], executor=scored())
    repeat(run, seeds=1, executor=scored(lambda spec: 0.5 * spec["full"] + 0.1 * (spec["budget"]["steps"] == 320)))
    assert set(run.repeats()["accuracy"]) == {0.6}


@pytest.mark.parametrize("data", [None, {"digest": "other"}])
def test_other_data_is_refused(run: Run, data: dict[str, str] | None) -> None:
    run.write_run({**run.read_run(), "data": data})
    with pytest.raises(ValueError, match=r"the data digits is not what .* was searched on"):
        repeat(run, seeds=1, executor=scored())


def test_real_trainings_differ_by_seed_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ["--space", "tiny", "--trials", "2", "--steps", "4", "--no-halving", "--train-images", "200"]
    assert main(["search", *config, "--study", "s", "--out", str(tmp_path)]) == 0
    run = Run(tmp_path, "s")
    assert main(["repeat", str(run.folder), "--trials", "0", "--seeds", "1"]) == 0
    spoken = capsys.readouterr().out
    assert "1 network, trained again with 1 other seed in all" in spoken and "1 of 1 trainings added" in spoken
    assert "Trained again: 1 network " in spoken
    own, again = run.read_result(0), run.read_repeat(0, 1)
    assert own is not None and again is not None
    assert again["repeat"] == 1 and again["loss_curve"] != own["loss_curve"]
    assert [again[name] for name in ("trial", "key", "steps", "parameters", "precision")] == [
        own[name] for name in ("trial", "key", "steps", "parameters", "precision")
    ]
    # With the trial's own seed the same training comes out, bit for bit.
    folder = run.repeat_folder(0, 1)
    (folder / "checkpoint.pt").unlink()
    same = evaluate({**read_json(run.trial_folder(0) / "spec.json"), "repeat": 1}, folder)
    assert (same["loss_curve"], same["accuracy"]) == (own["loss_curve"], own["accuracy"])
    assert main(["front", str(run.folder)]) == 0
    assert "other seeds" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["1,x", "", "-1", "1;2"])
def test_trials_are_numbers_joined_by_commas(run: Run, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repeat", str(run.folder), "--trials", text]) == 2
    assert f"--trials must be numbers joined by commas, as in 3,7,12, but got {text!r}" in capsys.readouterr().err


# what the report says


def repeated_run(root: Path) -> Run:
    """Trial 0 on the front with 3 other seeds, trial 1 with one and one that failed, trial 2 dominated."""
    run = Run(root, "made")
    run.write_run({"config": {"objectives": ["accuracy", "macs"]}})
    for trial, (accuracy, macs) in enumerate([(0.8, 1_000), (0.9, 2_000), (0.7, 3_000)]):
        run.write_spec(trial, spec(trial, genotype(), macs=macs))
        run.write_result(trial, result(trial, accuracy))
    others = {(0, 1): 0.76, (0, 2): 0.78, (0, 3): 0.80, (1, 1): 0.85, (1, 2): None}
    for (trial, number), value in others.items():
        run.write_repeat_spec(trial, number, {"seed": number})
        outcome = failure(trial, "loss became nan") if value is None else result(trial, value)
        write_json(run.repeat_folder(trial, number) / "result.json", outcome)
    return run


def test_the_report_shows_other_seeds_and_what_they_say(tmp_path: Path) -> None:
    recorded = report.read(repeated_run(tmp_path))
    assert recorded.others == {0: [0.76, 0.78, 0.80], 1: [0.85]}
    shown = front.info(recorded)
    assert [point.others for point in shown.points] == [pytest.approx((76, 78, 80)), pytest.approx((85,)), ()]
    assert (
        "2 networks, trained again with 4 other seeds in all, came out 3.50 points lower in accuracy than when found "
        "(mean, standard error 1.50); the standard deviation between trainings of one network is 2.00 points"
    ) in shown.caption
    (dashes,) = (trace for trace in front.figure(shown).data if trace.name == "other seeds")
    assert list(zip(dashes.x, dashes.y, strict=True)) == [
        (1_000, pytest.approx(76)),
        (1_000, pytest.approx(78)),
        (1_000, pytest.approx(80)),
        (2_000, pytest.approx(85)),
    ]
    assert "with other seeds 76.00" in dashes.hovertext[0]
    table = tables.front(recorded)
    assert table.headers[2] == ("other seeds (mean, range)", True)
    assert [row[2].replace("\u00a0", " ") for row in table.rows] == [
        "78.00 % (76.00 to 80.00, n = 3)",
        "85.00 % (n = 1)",
    ]
    assert report.render(recorded).count("other seeds (mean, range)") == 1


def test_without_repeats_nothing_is_said_of_them(run: Run) -> None:
    recorded = report.read(run)
    assert recorded.seed_noise is None
    assert "other seeds" not in report.render(recorded)
    run.write_tables(["accuracy", "macs"])
    assert not (run.folder / "repeats.csv").exists()


def test_foreign_folders_are_no_repeats(run: Run) -> None:
    for name in ("x", "1-0", "01-1", "1-1-1"):
        folder = run.folder / "repeats" / name
        folder.mkdir(parents=True)
        (folder / "spec.json").write_text("{}")
    assert run.repeats().empty


# the figures


def test_seed_noise_derived_on_paper() -> None:
    # Others' means .6 and .5; squared deviations .01 + .01 and 0 + 0, two degrees of freedom.
    found = seed_noise([0.7, 0.8], [[0.5, 0.7], [0.5, 0.5]])
    assert found.deviation == pytest.approx(math.sqrt(0.02 / 2))
    assert found.luck == pytest.approx(0.2) and found.luck_error == pytest.approx(0.1)
    assert (found.networks, found.trainings) == (2, 4)


def test_one_other_seed_says_nothing_of_the_spread() -> None:
    found = seed_noise([0.7], [[0.75]])
    assert math.isnan(found.deviation) and math.isnan(found.luck_error)
    assert (
        str(found) == "1 network, trained again with 1 other seed in all, came out 5.00 points higher in accuracy "
        "than when found (mean)"
    )


@given(
    st.lists(st.tuples(st.floats(0, 1), st.lists(st.floats(0, 1), min_size=1, max_size=4)), min_size=1, max_size=6),
    st.floats(-1, 1),
)
def test_noise_does_not_depend_on_the_level(pairs: list[tuple[float, list[float]]], shift: float) -> None:
    def of(by: float) -> SeedNoise:
        return seed_noise([own + by for own, _ in pairs], [[one + by for one in others] for _, others in pairs])

    plain, moved = of(0.0), of(shift)
    assert moved.luck == pytest.approx(plain.luck, abs=1e-9)
    assert moved.deviation == pytest.approx(plain.deviation, abs=1e-7, nan_ok=True)


@pytest.mark.parametrize(("found", "others"), [([], []), ([0.5], []), ([0.5], [[]])])
def test_nothing_to_compare_is_refused(found: list[float], others: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="as many accuracies as lists of others"):
        seed_noise(found, others)


def test_an_export_says_what_its_network_reached_with_other_seeds(run: Run, tmp_path: Path) -> None:
    first, *_ = front_of(run)
    other = next(trial for trial in run.trials()["trial"] if trial != first)
    repeat(run, seeds=2, trials=[first], executor=scored())
    config = trial_config(run, first)
    assert config["accuracy"]["other_seeds"] == run.other_seeds()[first]
    assert trial_config(run, other)["accuracy"]["other_seeds"] == []
    for trial, says in ((first, True), (other, False)):
        folder = write_export(of_trial(run, trial), tmp_path / f"export-{trial}", device=torch.device("cpu"))
        row = ", ".join(f"{100 * accuracy:.2f} %" for accuracy in run.other_seeds()[first])
        text = (folder / "README.md").read_text()
        assert (f"trained with other seeds, validation | {row} |" in text) == says
        assert ("other seeds" in text) == says
