"""Budgets and schedules: what a budget costs, what a larger one continues, and that rungs change nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.arch import Architecture, Conv, Stage, Stem
from nas.data import ImageData, load
from nas.data.batches import Normalise, on_device, plain_batches
from nas.models import build
from nas.train import RECIPES, EpochReport, Recipe, TrainResult, load_weights, train
from nas.train.checkpoint import read_checkpoint
from nas.train.evaluation import evaluate, recalibrate
from nas.train.recipe import Schedule
from nas.train.schedule import average_weight, learning_rate, trunk_steps

SCHEDULES: tuple[Schedule, ...] = ("cycle", "branch", "average")
CONTINUED: tuple[Schedule, ...] = ("branch", "average")
"""Schedules in which a larger budget goes on from a smaller one."""
EPOCH = 4
"""Steps of an epoch of the 200 digits."""

ARCH = Architecture(
    in_channels=1,
    num_classes=10,
    stem=Stem(kind="conv3x3", channels=(8,), strides=(1,)),
    block="bottleneck",
    stages=(Stage(depth=1, out_channels=16, inner_channels=8, stride=2, projects=True, mixer=Conv()),),
)


def recipe(schedule: Schedule, **changes: Any) -> Recipe:
    return replace(RECIPES["digits"], schedule=schedule, warmup_steps=3, **changes)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load("digits", train_images=200)


def quick(data: ImageData, schedule: Schedule, **how: Any) -> TrainResult:
    return train(ARCH, data, how.pop("recipe", recipe(schedule)), seed=0, device="cpu", **how)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# rates


def test_the_rates_of_a_branch_on_paper() -> None:
    """A budget of 12 with a quarter of cool-down: 9 steps of trunk, 3 of which warm up, then 3/4, 2/4, 1/4."""
    wanted = [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1, 3 / 4, 2 / 4, 1 / 4]
    branch = recipe("branch", learning_rate=1.0, cooldown_fraction=0.25)
    assert trunk_steps(12, branch) == 9
    assert [learning_rate(step, 12, branch) for step in range(12)] == pytest.approx(wanted)
    average = recipe("average", learning_rate=1.0)
    assert [learning_rate(step, 5, average) for step in range(5)] == pytest.approx([1 / 3, 2 / 3, 1, 1, 1])


@given(
    budgets=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    fraction=st.floats(0.01, 0.99),
    warmup=st.integers(0, 60),
    schedule=st.sampled_from(CONTINUED),
)
def test_the_trunk_does_not_depend_on_the_budget(
    budgets: tuple[int, int], fraction: float, warmup: int, schedule: Schedule
) -> None:
    how = replace(recipe(schedule, cooldown_fraction=fraction), warmup_steps=warmup)
    trunks = [
        [learning_rate(step, budget, how) for step in range(trunk_steps(budget, how))] for budget in sorted(budgets)
    ]
    assert trunks[1][: len(trunks[0])] == trunks[0]
    rates = [learning_rate(step, budgets[0], how) for step in range(budgets[0])]
    assert all(0 < rate <= how.learning_rate for rate in rates)
    cooling = rates[trunk_steps(budgets[0], how) :]
    assert cooling == sorted(cooling, reverse=True)


def test_the_average_forgets_the_beginning() -> None:
    """The shares of all steps add up to 1, and the last half of 80 steps has nearly all of it."""
    shares: list[float] = []
    for step in range(1, 81):
        shares = [share * (1 - average_weight(step)) for share in shares] + [average_weight(step)]
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares)
    assert 0.99 < sum(shares[40:]) < 1


# budgets


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_epochs_and_steps_are_two_words_for_one_budget(digits: ImageData, schedule: Schedule) -> None:
    epochs, steps = quick(digits, schedule, epochs=2), quick(digits, schedule, steps=2 * EPOCH)
    assert (epochs.accuracy, epochs.loss_curve) == (steps.accuracy, steps.loss_curve)
    assert epochs.steps == steps.steps == 2 * EPOCH


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({}, "a budget must be given in epochs or in steps, but got neither"),
        ({"epochs": 1, "steps": 1}, "a budget must be given in epochs or in steps, but got"),
        ({"steps": 0}, "steps must be at least 1, but got 0"),
        ({"epochs": -1}, "epochs must be at least 1, but got -1"),
    ],
)
def test_a_budget_is_given_once(digits: ImageData, budget: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quick(digits, "cycle", **budget)


def test_a_budget_of_a_part_of_an_epoch_is_trained_to_the_step(digits: ImageData) -> None:
    result = quick(digits, "cycle", steps=EPOCH + 1)
    assert (result.steps, result.spent_steps, result.epochs, len(result.loss_curve)) == (EPOCH + 1, EPOCH + 1, 2, 2)
    assert result.loss_curve[0] == quick(digits, "cycle", steps=EPOCH + 1).loss_curve[0]


def test_what_branches_take_is_counted(digits: ImageData, tmp_path: Path) -> None:
    """Budgets of 8 and 16 with a quarter of cool-down: a trunk of 12 steps, branches of 2 and 4."""
    small = quick(digits, "branch", steps=8, checkpoint=tmp_path / "c")
    large = quick(digits, "branch", steps=16, checkpoint=tmp_path / "c")
    assert (small.steps, small.spent_steps) == (8, 8)
    assert (large.steps, large.spent_steps) == (16, 12 + 2 + 4)
    assert large.seconds > small.seconds


# rungs


@settings(deadline=None, max_examples=4)
@given(rungs=st.sets(st.integers(2, 19), min_size=1, max_size=3), schedule=st.sampled_from(CONTINUED))
def test_a_training_in_rungs_equals_one_in_one_go(
    digits: ImageData, tmp_path_factory: pytest.TempPathFactory, rungs: set[int], schedule: Schedule
) -> None:
    """Bit for bit, and each rung's accuracy is that of a training to that budget alone. Rungs may divide an epoch."""
    folder = tmp_path_factory.mktemp("rungs")
    how = recipe(schedule, crop_padding=1, horizontal_flip=True)
    climbed = [
        quick(digits, schedule, recipe=how, steps=budget, checkpoint=folder / "rungs")
        for budget in [*sorted(rungs), 20]
    ]
    whole = quick(digits, schedule, recipe=how, steps=20, checkpoint=folder / "whole")
    assert climbed[-1].accuracy == whole.accuracy
    assert climbed[-1].loss_curve == whole.loss_curve
    contents = [read_checkpoint(folder / name) for name in ("rungs", "whole")]
    assert same(contents[0]["model"], contents[1]["model"])
    assert same(load_weights(folder / "rungs"), load_weights(folder / "whole"))
    alone = quick(digits, schedule, recipe=how, steps=min(rungs))
    assert (climbed[0].accuracy, climbed[0].loss_curve) == (alone.accuracy, alone.loss_curve)


class Stop(Exception):
    pass


@pytest.mark.parametrize("schedule", CONTINUED)
def test_a_training_stopped_anywhere_goes_on_as_if_it_had_not(
    digits: ImageData, tmp_path: Path, schedule: Schedule
) -> None:
    """Also in the middle of a cool-down, which then begins again from the trunk."""
    whole = quick(digits, schedule, steps=19, checkpoint=tmp_path / "whole")
    parts = len(whole.loss_curve) + 2

    def stop(_: EpochReport) -> None:
        raise Stop

    for _ in range(parts):
        with pytest.raises(Stop):
            quick(digits, schedule, steps=19, checkpoint=tmp_path / "parts", on_epoch=stop)
        if read_checkpoint(tmp_path / "parts")["step"] >= trunk_steps(19, recipe(schedule)):
            break
    result = quick(digits, schedule, steps=19, checkpoint=tmp_path / "parts")
    assert (result.accuracy, result.loss_curve) == (whole.accuracy, whole.loss_curve)
    assert same(load_weights(tmp_path / "parts"), load_weights(tmp_path / "whole"))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_reached_budget_is_answered_at_once_and_an_earlier_one_refused(
    digits: ImageData, tmp_path: Path, schedule: Schedule
) -> None:
    path = tmp_path / "checkpoint"
    first = quick(digits, schedule, steps=12, checkpoint=path)
    again = quick(digits, schedule, steps=12, checkpoint=path)
    assert (again.accuracy, again.spent_steps, again.seconds) == (first.accuracy, first.spent_steps, first.seconds)
    message = "belongs to another training: its budget" if schedule == "cycle" else "beyond a budget of 5 steps"
    with pytest.raises(ValueError, match=message):
        quick(digits, schedule, steps=5, checkpoint=path)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_saved_weights_are_those_that_were_evaluated(digits: ImageData, tmp_path: Path, schedule: Schedule) -> None:
    result = quick(digits, schedule, steps=30, checkpoint=tmp_path / "checkpoint")
    model = build(ARCH)
    model.load_state_dict(load_weights(tmp_path / "checkpoint"))
    assert evaluate(model, digits.val, digits, device=torch.device("cpu")).accuracy == result.accuracy
    trunk = read_checkpoint(tmp_path / "checkpoint")["model"]
    assert same(trunk, load_weights(tmp_path / "checkpoint")) == (schedule == "cycle")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_learns(schedule: Schedule) -> None:
    """Chance is 0.1."""
    accuracy = quick(load("digits"), schedule, epochs=4).accuracy
    assert accuracy is not None
    assert accuracy > 0.7


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_can_diverge(digits: ImageData, schedule: Schedule) -> None:
    result = quick(digits, schedule, recipe=recipe(schedule, learning_rate=1e30), epochs=4)
    assert (result.status, result.accuracy) == ("diverged", None)
    assert result.steps < 4 * EPOCH


# batch-norm statistics


def test_recalibration_gives_the_mean_statistics_of_the_batches(digits: ImageData) -> None:
    """For the first batch norm on paper: mean over batches of the batch mean, and of the unbiased batch variance."""
    model = build(ARCH)
    batches = list(plain_batches(on_device(digits.train, torch.device("cpu")), Normalise.of(digits), batch_size=50))
    recalibrate(model, batches, device=torch.device("cpu"), precision="fp32")
    layer: Any = model.stem[0]
    with torch.no_grad():
        maps = [layer.conv(x_BCHW) for x_BCHW, _ in batches]
    means = torch.stack([x_BCHW.mean(dim=(0, 2, 3)) for x_BCHW in maps]).mean(dim=0)
    variances = torch.stack([x_BCHW.var(dim=(0, 2, 3)) for x_BCHW in maps]).mean(dim=0)
    torch.testing.assert_close(layer.bn.running_mean, means)
    torch.testing.assert_close(layer.bn.running_var, variances)
    assert layer.bn.momentum == 0.1


@pytest.mark.parametrize(("batch_size", "batches"), [(64, 8), (200, 3)])
def test_averaged_weights_are_recalibrated_on_512_images(
    monkeypatch: pytest.MonkeyPatch, batch_size: int, batches: int
) -> None:
    seen: list[int] = []

    def counted(model: Any, given: Iterable[Any], **how: Any) -> None:
        kept = list(given)
        seen.append(len(kept))
        recalibrate(model, kept, **how)

    monkeypatch.setattr("nas.train.trainer.recalibrate", counted)
    train(ARCH, load("digits"), recipe("average", batch_size=batch_size), steps=2, seed=0, device="cpu")
    assert seen == [batches]
