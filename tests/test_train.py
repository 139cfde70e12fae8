"""Training: the recipe and its schedule, learning for real, the same numbers again and in parts, faults in words."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nas.arch import Architecture, Conv, Gate, Kernel, Mixer, SelectiveKernel, SplitAttention, Stage, Stem
from nas.data import ImageData, Split, load
from nas.data.batches import train_batches
from nas.device import Precision
from nas.models import build
from nas.train import (
    RECIPES,
    EpochReport,
    Recipe,
    TrainResult,
    evaluate,
    evaluation,
    load_weights,
    recipe_for,
    train,
    trainer,
)
from nas.train.checkpoint import read_checkpoint, save_checkpoint
from nas.train.schedule import learning_rate
from nas.train.state import Training

CPU = torch.device("cpu")
DIGITS = RECIPES["digits"]
CYCLE = replace(DIGITS, schedule="cycle")


def tiny(**changed: Any) -> Architecture:
    """A squeeze-and-excitation bottleneck network of two blocks for 8x8 grey images, about 2,600 parameters."""
    gate = Gate(kind="cse", hidden=4)
    return Architecture(
        in_channels=1,
        num_classes=10,
        stem=Stem(kind="conv3x3", channels=(8,), strides=(1,)),
        block="bottleneck",
        stages=(
            Stage(depth=1, out_channels=16, inner_channels=8, stride=1, projects=True, gate=gate),
            replace(
                Stage(depth=1, out_channels=16, inner_channels=8, stride=2, projects=True, cardinality=2), **changed
            ),
        ),
    )


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load("digits", train_images=200)


def quick(
    data: ImageData,
    recipe: Recipe = DIGITS,
    *,
    arch: Architecture | None = None,
    epochs: int = 2,
    seed: int = 0,
    **how: Any,
) -> TrainResult:
    return train(arch or tiny(), data, recipe, epochs=epochs, seed=seed, device="cpu", **how)


class Clock:
    """A monotonic clock that stands still."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Interrupted(Exception):
    """What the tests raise from on_epoch."""


def stop_after(epoch: int) -> Callable[[EpochReport], None]:
    def on_epoch(report: EpochReport) -> None:
        if report.epoch == epoch:
            raise Interrupted

    return on_epoch


# recipe


def test_a_recipe_survives_json() -> None:
    for recipe in RECIPES.values():
        assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"learningrate": 1}, "unknown key 'learningrate'; the known keys are optimizer, learning_rate"),
        ({"learning_rate": 0}, "learning_rate must be above 0, but got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number, but got nan"),
        ({"learning_rate": "0.1"}, "learning_rate must be a finite number, but got '0.1'"),
        ({"momentum": 1.0}, "momentum must be above 0 and below 1, but got 1.0"),
        ({"weight_decay": -1e-4}, "weight_decay must be at least 0"),
        ({"label_smoothing": 1}, "label_smoothing must be at least 0 and below 1"),
        ({"clip_norm": 0}, "clip_norm must be above 0, or null, but got 0"),
        ({"clip_norm": "2"}, "clip_norm must be a finite number or null, but got '2'"),
        ({"batch_size": 1}, "batch_size must be at least 2, but got 1"),
        ({"batch_size": 2.5}, "batch_size must be a whole number, but got 2.5"),
        ({"batch_size": True}, "batch_size must be a whole number, but got True"),
        ({"warmup_fraction": 1.0}, "warmup_fraction must be at least 0 and below 1"),
        ({"crop_padding": -1}, "crop_padding must be at least 0"),
        ({"horizontal_flip": 1}, "horizontal_flip must be true or false, but got 1"),
        ({"bn_momentum": 0}, "bn_momentum must be above 0 and at most 1"),
        ({"precision": "int8"}, "precision must be one of auto, fp32, bf16, fp16, but got 'int8'"),
        ({"optimizer": "adam"}, "optimizer must be one of sgd_nesterov, but got 'adam'"),
    ],
)
def test_recipe_mistakes_are_told_in_words(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.from_json(DIGITS.to_json() | changed)


def test_a_recipe_lacking_a_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="recipe lacks the key 'momentum'"):
        Recipe.from_json({key: value for key, value in DIGITS.to_json().items() if key != "momentum"})


def test_a_recipe_recorded_before_gradients_were_clipped_does_not_clip() -> None:
    older = {key: value for key, value in RECIPES["cifar"].to_json().items() if key != "clip_norm"}
    assert Recipe.from_json(older) == replace(RECIPES["cifar"], clip_norm=None)


@pytest.mark.parametrize(
    ("size", "channels", "name"),
    [
        (8, 1, "digits"),
        (28, 1, "digits"),
        (32, 3, "cifar"),
        (64, 3, "cifar"),
        (224, 3, "imagenet"),
        (224, 1, "imagenet"),
    ],
)
def test_the_preset_follows_the_images(size: int, channels: int, name: str) -> None:
    split = Split(np.zeros((2, size, size, channels), np.uint8), np.array([0, 1]))
    assert recipe_for(ImageData(name="x", source="x", classes=("a", "b"), train=split, val=split)) == name


# schedule


@given(total=st.integers(1, 500), warmup=st.floats(0, 0.9))
def test_the_rate_rises_to_its_peak_then_falls_to_the_last_step(total: int, warmup: float) -> None:
    recipe = replace(CYCLE, warmup_fraction=warmup, learning_rate=0.5)
    rates = [learning_rate(step, total, recipe) for step in range(total)]
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.5)
    assert min(rates) > 0
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak + 1 :] == sorted(rates[peak + 1 :], reverse=True)
    assert abs(peak - warmup * total) <= 1.5


def test_presets_average_their_weights_so_that_larger_budgets_continue_smaller_ones() -> None:
    assert {recipe.schedule for recipe in RECIPES.values()} == {"average"}


def test_the_rate_of_ten_steps_on_paper() -> None:
    """Two of ten steps warm up: 1/2, 2/2; then eight steps from 8/8 down to 1/8."""
    recipe = replace(CYCLE, warmup_fraction=0.2, learning_rate=1.0)
    expected = [1 / 2, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    assert [learning_rate(step, 10, recipe) for step in range(10)] == pytest.approx(expected)


# learning


def test_a_tiny_network_learns_the_digits() -> None:
    """Chance is 0.1."""
    data = load("digits")
    result = quick(data, epochs=4)
    assert result.status == "ok"
    assert result.accuracy is not None
    assert result.accuracy > 0.8
    assert result.loss_curve[-1] < result.loss_curve[0]
    assert (result.epochs, result.steps, result.device, result.precision) == (4, 4 * 18, "cpu", "fp32")
    assert result.seconds > 0
    assert result.images_per_s == pytest.approx(4 * len(data.train) / result.seconds)
    assert result.parameters == sum(parameter.numel() for parameter in build(tiny()).parameters())


@pytest.mark.parametrize(
    "mixer",
    [
        Conv(),
        SelectiveKernel(kernels=(Kernel(3), Kernel(3, 2)), hidden=8),
        SplitAttention(radix=2, hidden=8),
        SplitAttention(radix=2, hidden=8, kernels=(Kernel(3), Kernel(3, 2))),
    ],
    ids=["conv", "sk", "split", "hybrid"],
)
def test_every_mixer_learns_the_digits(mixer: Mixer) -> None:
    """Chance is 0.1."""
    result = quick(load("digits"), arch=tiny(mixer=mixer), epochs=3)
    assert result.accuracy is not None
    assert result.accuracy > 0.8


def test_the_accuracy_is_that_of_the_trained_weights_on_validation(digits: ImageData, tmp_path: Path) -> None:
    result = quick(digits, checkpoint=tmp_path / "checkpoint")
    model = build(tiny())
    model.load_state_dict(load_weights(tmp_path / "checkpoint"))
    assert evaluate(model, digits.val, digits, device=CPU).accuracy == result.accuracy
    mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in (digits.mean, digits.std))
    x_BCHW = (torch.tensor(digits.val.images_NHWC).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.inference_mode():
        logits_BC = model.eval()(x_BCHW)
    labels_B = torch.tensor(digits.val.labels)
    assert (logits_BC.argmax(dim=1) == labels_B).double().mean() == pytest.approx(result.accuracy)
    loss = -logits_BC.log_softmax(dim=1)[torch.arange(len(labels_B)), labels_B].mean()
    assert float(loss) == pytest.approx(result.val_loss, rel=1e-5)


def test_evaluate_does_not_depend_on_the_batch_nor_change_the_model(digits: ImageData) -> None:
    model = build(tiny()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    accuracies = {evaluate(model, digits.val, digits, device=CPU, batch_size=size).accuracy for size in (1, 7, 512)}
    assert len(accuracies) == 1
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("size", "device", "images"), [(8, "cpu", 512), (32, "cpu", 128), (224, "cpu", 16), (224, "cuda", 512)]
)
def test_a_cpu_evaluates_as_many_pixels_at_a_time_as_a_step_has(size: int, device: str, images: int) -> None:
    assert evaluation._suitable_batch(size, torch.device(device)) == images


def test_an_output_that_is_not_finite_is_never_right(digits: ImageData) -> None:
    model = build(tiny())
    nn.init.constant_(model.classifier.weight, float("nan"))
    assert evaluate(model, digits.val, digits, device=CPU).accuracy == 0.0


def test_an_absurd_learning_rate_diverges_with_a_reason(digits: ImageData, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    result = quick(digits, replace(DIGITS, learning_rate=1e30), epochs=3, checkpoint=checkpoint)
    assert (result.status, result.accuracy, result.val_loss) == ("diverged", None, None)
    assert result.epochs < 3
    assert result.reason is not None
    assert f"training loss of epoch {result.epochs} is" in result.reason
    json.dumps(result.to_json(), allow_nan=False)
    again = quick(digits, replace(DIGITS, learning_rate=1e30), epochs=3, checkpoint=checkpoint)
    assert (again.status, again.reason, again.epochs) == (result.status, result.reason, result.epochs)


def test_when_a_training_diverges_does_not_depend_on_its_checkpoints(digits: ImageData, tmp_path: Path) -> None:
    recipe = replace(DIGITS, learning_rate=1e30)
    found = [quick(digits, recipe, checkpoint=tmp_path / str(s), checkpoint_every_s=s) for s in (0.0, 1e9)]
    assert [(one.status, one.steps, one.epochs) for one in found] == [("diverged", 4, 1)] * 2


def test_every_setting_of_the_recipe_acts(digits: ImageData) -> None:
    """Each changed setting gives another loss curve, but for the two that only change how the same is computed."""
    base = quick(digits, CYCLE).loss_curve
    changes: dict[str, Any] = {
        "learning_rate": 0.1,
        "momentum": 0.5,
        "weight_decay": 0.1,
        "label_smoothing": 0.0,
        "clip_norm": 0.1,
        "batch_size": 32,
        "warmup_fraction": 0.5,
        "crop_padding": 1,
        "horizontal_flip": True,
        "precision": "bf16",
        "zero_init_residual": True,
    }
    for name, value in changes.items():
        assert quick(digits, replace(CYCLE, **{name: value})).loss_curve != base, name
    assert quick(digits, replace(CYCLE, channels_last=False)).loss_curve == pytest.approx(base, rel=1e-3)
    other_bn = quick(digits, replace(CYCLE, bn_momentum=0.01))  # acts in evaluation only
    assert other_bn.loss_curve == base
    assert other_bn.accuracy != quick(digits, CYCLE).accuracy
    branch, average = (replace(CYCLE, schedule=name) for name in ("branch", "average"))
    acting = {quick(digits, recipe).loss_curve for recipe in (CYCLE, branch, replace(branch, warmup_steps=3))}
    assert len(acting) == 3
    ends = [quick(digits, recipe) for recipe in (branch, average, replace(branch, cooldown_fraction=0.5))]
    assert len({(end.loss_curve, end.accuracy) for end in ends}) == 3
    tried = {*changes, "channels_last", "bn_momentum", "schedule", "warmup_steps", "cooldown_fraction"}
    assert {field.name for field in fields(Recipe)} == {*tried, "optimizer"}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_learns_too(digits: ImageData, precision: Any) -> None:
    result = quick(digits, replace(DIGITS, precision=precision), epochs=6)
    assert result.precision == precision
    assert result.accuracy is not None
    assert result.accuracy > 0.5


def test_weight_decay_spares_batch_norm_and_biases(digits: ImageData, tmp_path: Path) -> None:
    quick(digits, replace(DIGITS, learning_rate=1e-9, weight_decay=1e8), epochs=1, checkpoint=tmp_path / "checkpoint")
    untouched = load_weights(tmp_path / "checkpoint")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start = build(tiny()).state_dict()
    for name, parameter in build(tiny()).named_parameters():
        shrunk = float(untouched[name].norm()) < 0.9 * float(start[name].norm())
        assert shrunk == (parameter.ndim > 1), name


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_step_is_as_long_as_the_cut_gradients_allow(digits: ImageData, tmp_path: Path, precision: Precision) -> None:
    """The first step of Nesterov's momentum m along gradients of norm c moves the weights by rate (1 + m) c."""
    recipe = replace(DIGITS, precision=precision, weight_decay=0.0, schedule="cycle", clip_norm=1e-2)
    train(tiny(), digits, recipe, steps=1, seed=0, device="cpu", checkpoint=tmp_path / "checkpoint")
    there = load_weights(tmp_path / "checkpoint")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start = {name: value.detach() for name, value in build(tiny()).named_parameters()}
    moved = math.sqrt(sum(float((there[name] - value).square().sum()) for name, value in start.items()))
    assert moved == pytest.approx(learning_rate(0, 1, recipe) * (1 + recipe.momentum) * 1e-2, rel=1e-3)


def test_gradients_within_the_norm_are_left_as_they_are(digits: ImageData) -> None:
    assert quick(digits, replace(DIGITS, clip_norm=1e6)).loss_curve == quick(digits, DIGITS).loss_curve


def test_reports_come_once_an_epoch(digits: ImageData) -> None:
    reports: list[EpochReport] = []
    result = quick(digits, epochs=3, on_epoch=reports.append)
    assert [(report.epoch, report.epochs) for report in reports] == [(1, 3), (2, 3), (3, 3)]
    assert tuple(report.loss for report in reports) == result.loss_curve
    assert all(report.images_per_s > 0 for report in reports)


def test_steps_may_run_compiled(digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the backend that compiles nothing: what is compiled is the network of the steps, and its weights are ours."""
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, _inputs: Any) -> Any:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    compile_network = partial(torch.compile, backend=backend)
    monkeypatch.setattr(torch, "compile", compile_network)
    plain = quick(digits, checkpoint=tmp_path / "plain")
    assert graphs == []
    compiled = quick(digits, checkpoint=tmp_path / "compiled", compiled=True)
    assert max(graphs) > 20
    assert compiled.loss_curve == pytest.approx(plain.loss_curve, rel=1e-4)
    assert load_weights(tmp_path / "compiled").keys() == load_weights(tmp_path / "plain").keys()


# seeds


def test_same_seed_same_result_other_seed_another(digits: ImageData) -> None:
    results = [quick(digits, seed=seed) for seed in (1, 1, 2)]
    assert results[0].loss_curve == results[1].loss_curve
    assert results[0].accuracy == results[1].accuracy
    assert results[0].loss_curve != results[2].loss_curve


def test_every_epoch_and_seed_has_its_own_order(digits: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[tuple[int, ...]] = []

    def recording(*arguments: Any, **how: Any) -> Any:
        orders.append(tuple(arguments[2].order.tolist()))
        return train_batches(*arguments, **how)

    monkeypatch.setattr(trainer, "train_batches", recording)
    for seed in (0, 0, 1):
        quick(digits, CYCLE, seed=seed)
    assert orders[:2] == orders[2:4]
    assert len(set(orders)) == 4


def test_training_neither_uses_nor_disturbs_torch_s_global_generator(digits: ImageData) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = quick(digits, epochs=1)
        after = torch.rand(3)
        torch.manual_seed(1)
        assert torch.equal(after, torch.rand(3))
        torch.manual_seed(2)
        assert quick(digits, epochs=1).loss_curve == first.loss_curve


def test_two_descriptions_of_one_network_train_alike(digits: ImageData) -> None:
    kernels = (Kernel(), Kernel(dilation=2))
    one, two = (tiny(mixer=SelectiveKernel(kernels=order, hidden=4)) for order in (kernels, kernels[::-1]))
    assert one != two
    assert one.key == two.key
    assert quick(digits, arch=one, epochs=1).loss_curve == quick(digits, arch=two, epochs=1).loss_curve


# checkpoints


@settings(deadline=None, max_examples=3)
@given(stop=st.integers(1, 3))
def test_a_training_in_two_parts_equals_one_in_one_go(
    digits: ImageData, tmp_path_factory: pytest.TempPathFactory, stop: int
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    recipe = replace(DIGITS, crop_padding=1, horizontal_flip=True)
    whole = quick(digits, recipe, epochs=4, checkpoint=folder / "whole")
    with pytest.raises(Interrupted):
        quick(digits, recipe, epochs=4, checkpoint=folder / "parts", on_epoch=stop_after(stop))
    reports: list[EpochReport] = []
    parts = quick(digits, recipe, epochs=4, checkpoint=folder / "parts", on_epoch=reports.append)
    assert [report.epoch for report in reports] == list(range(stop + 1, 5))
    assert parts.loss_curve == whole.loss_curve
    assert parts.accuracy == whole.accuracy
    assert parts.notes == (f"continued after step {4 * stop} of 16",)
    weights, expected = load_weights(folder / "parts"), load_weights(folder / "whole")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kills", [(1,), (6,), (2, 3, 9)])
def test_a_training_killed_within_an_epoch_loses_no_more_than_a_step(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: tuple[int, ...]
) -> None:
    """With a checkpoint after every step, epochs of 4 steps, each kill coming in the middle of the step it names."""
    monkeypatch.setattr(trainer, "SAVING_SHARE", math.inf)
    whole = quick(digits, epochs=3, checkpoint=tmp_path / "whole")
    taken: list[int] = []
    left = list(kills)
    take_step = Training.take_step

    def killed(training: Training, *arguments: Any) -> None:
        if left and training.step == left[0]:
            left.pop(0)
            raise KeyboardInterrupt
        taken.append(training.step)
        take_step(training, *arguments)

    monkeypatch.setattr(Training, "take_step", killed)
    reports: list[int] = []
    in_parts = partial(
        quick,
        digits,
        epochs=3,
        checkpoint=tmp_path / "parts",
        checkpoint_every_s=0.0,
        on_epoch=lambda r: reports.append(r.epoch),
    )
    for _ in kills:
        with pytest.raises(KeyboardInterrupt):
            in_parts()
    parts = in_parts()
    assert taken == list(range(12))
    assert reports == [1, 2, 3]
    assert (parts.loss_curve, parts.evaluations) == (whole.loss_curve, whole.evaluations)
    weights, expected = load_weights(tmp_path / "parts"), load_weights(tmp_path / "whole")
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_finished_training_is_not_trained_again(digits: ImageData, tmp_path: Path) -> None:
    first = quick(digits, checkpoint=tmp_path / "checkpoint")
    again = quick(digits, checkpoint=tmp_path / "checkpoint", on_epoch=stop_after(1))
    assert (again.accuracy, again.loss_curve, again.seconds) == (first.accuracy, first.loss_curve, first.seconds)


@pytest.mark.parametrize(("every_s", "written"), [(0.0, [True, True]), (1e9, [False, False])])
def test_checkpoints_are_written_as_often_as_asked(
    digits: ImageData, tmp_path: Path, every_s: float, written: list[bool]
) -> None:
    path = tmp_path / "checkpoint"
    there: list[bool] = []
    quick(digits, checkpoint=path, checkpoint_every_s=every_s, on_epoch=lambda _: there.append(path.exists()))
    assert there == written
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]  # written at the end, no temporary file left


def test_checkpoints_that_take_long_are_written_less_often(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of 1,000 s, checkpoints of 100 s, asked for every 2,500 s: one every 10,000 s, and at the end."""
    clock = Clock()
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=clock))
    written: list[int] = []

    def save(_path: Path, content: dict[str, Any]) -> None:
        written.append(content["step"])
        clock.now += 100

    take_step = Training.take_step

    def timed(training: Training, *arguments: Any) -> None:
        clock.now += 1000
        take_step(training, *arguments)

    monkeypatch.setattr(trainer, "save_checkpoint", save)
    monkeypatch.setattr(Training, "take_step", timed)
    quick(digits, epochs=8, checkpoint=tmp_path / "checkpoint", checkpoint_every_s=2500.0)
    assert written == [3, 13, 23, 32]


def test_a_failed_write_leaves_the_old_checkpoint(digits: ImageData, tmp_path: Path) -> None:
    quick(digits, checkpoint=tmp_path / "checkpoint")
    before = (tmp_path / "checkpoint").read_bytes()
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(tmp_path / "checkpoint", {"model": lambda: None})
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("checkpoint", before)]


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("seed", {"seed": 1}),
        ("budget", {"epochs": 3}),
        ("recipe", {"recipe": replace(CYCLE, momentum=0.8)}),
        ("key", {"arch": tiny(depth=2)}),
        ("data", {"data": "digits of another split"}),
    ],
)
def test_another_training_s_checkpoint_is_refused(
    digits: ImageData, tmp_path: Path, name: str, changed: dict[str, Any]
) -> None:
    quick(digits, CYCLE, checkpoint=tmp_path / "checkpoint")
    before = (tmp_path / "checkpoint").read_bytes()
    if "data" in changed:
        changed = {"data": load("digits", train_images=200, seed=1)}
    with pytest.raises(ValueError, match=f"checkpoint belongs to another training: its {name} differ"):
        quick(**{"data": digits, "recipe": CYCLE, "checkpoint": tmp_path / "checkpoint", **changed})
    assert (tmp_path / "checkpoint").read_bytes() == before


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def tensors_only(path: Path) -> None:
    torch.save(torch.zeros(2), path)


class Exploit:
    """Unpickling it would make a file."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.victim,)


@pytest.mark.parametrize(
    "damage",
    [
        cut_short,
        tensors_only,
        lambda path: torch.save({"format": 1, "weights": {}}, path),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("no checkpoint"),
        lambda path: torch.save({"format": 1, "model": Exploit(path.with_name("victim"))}, path),
    ],
    ids=["cut", "foreign", "lacking", "empty", "text", "pickle"],
)
def test_a_damaged_checkpoint_is_set_aside_and_said(
    digits: ImageData, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    path = tmp_path / "checkpoint"
    clean = quick(digits, checkpoint=path)
    damage(path)
    content = path.read_bytes()
    with pytest.raises(ValueError, match="checkpoint"):
        load_weights(path)
    result = quick(digits, checkpoint=path)
    assert result.loss_curve == clean.loss_curve
    assert (tmp_path / "checkpoint.corrupt").read_bytes() == content
    assert "moved to checkpoint.corrupt, training started again" in result.notes[0]
    assert not (tmp_path / "victim").exists()
    assert quick(digits, checkpoint=path).accuracy == clean.accuracy


def test_a_checkpoint_of_a_later_format_is_refused_and_kept(digits: ImageData, tmp_path: Path) -> None:
    torch.save({"format": 5, "tree": {}}, tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="has checkpoint format 5, but this version reads 4"):
        quick(digits, checkpoint=tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint").exists()


def test_a_checkpoint_of_the_format_before_is_continued(digits: ImageData, tmp_path: Path) -> None:
    """Then every tensor stood by itself."""
    whole = quick(digits, epochs=2, checkpoint=tmp_path / "whole")
    quick(digits, epochs=1, checkpoint=tmp_path / "old")
    torch.save({"format": 3, **read_checkpoint(tmp_path / "old")}, tmp_path / "old")
    old = quick(digits, epochs=2, checkpoint=tmp_path / "old")
    assert old.loss_curve == whole.loss_curve
    assert old.notes == (f"continued after step {whole.steps // 2} of {whole.steps}",)


def test_a_checkpoint_gives_back_what_was_saved(tmp_path: Path) -> None:
    """Values, types, and the layout in memory, which the momentum must share with the weights."""
    image = torch.arange(24.0).view(1, 2, 3, 4)
    tensors = {
        "contiguous": image,
        "channels_last": image.contiguous(memory_format=torch.channels_last) + 1,
        "number": torch.tensor(3, dtype=torch.int64),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "none": torch.zeros(0),
        "part": torch.arange(10.0)[2:8:2],
    }
    content = {"model": tensors, "average": [image[0], None], "evaluations": {7: (0.5, None)}, "place": "here"}
    save_checkpoint(tmp_path / "checkpoint", content)
    read = read_checkpoint(tmp_path / "checkpoint")
    assert read.keys() == content.keys()
    assert (read["evaluations"], read["place"]) == (content["evaluations"], content["place"])
    assert torch.equal(read["average"][0], image[0])
    assert read["average"][1] is None
    for name, tensor in tensors.items():
        assert read["model"][name].dtype == tensor.dtype
        assert torch.equal(read["model"][name], tensor)
        memory = read["model"][name].untyped_storage().nbytes()
        assert memory == tensor.numel() * tensor.element_size(), "saved elsewhere, it must not take the others with it"
    assert read["model"]["channels_last"].stride() == tensors["channels_last"].stride()
    assert read["model"]["contiguous"].is_contiguous()


def test_missing_weights_are_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no checkpoint .*nothing"):
        load_weights(tmp_path / "nothing")


# arguments and results


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, but got 0"),
        ({"seed": -1}, "seed of a training must be at least 0, but got -1"),
        ({"arch": replace(tiny(), num_classes=7)}, "architecture has num_classes = 7, but .* needs num_classes = 10"),
    ],
)
def test_bad_arguments_are_told_in_words(digits: ImageData, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quick(**{"data": digits, **changed})


def test_a_result_is_plain_json(digits: ImageData) -> None:
    result = quick(digits, epochs=1)
    value = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert value == result.to_json()
    assert value["val_loss"] == result.val_loss
    assert replace(result, val_loss=float("inf")).to_json()["val_loss"] is None
    assert value["accuracy"] == result.accuracy
    assert value["loss_curve"] == list(result.loss_curve)
