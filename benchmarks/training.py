"""How fast are trainings, against the loop that most people write and against what the chip can do?

    python benchmarks/training.py
    python benchmarks/training.py --device cuda

Measured side by side, round by round, each side in a process of its own: whole trials (set-up, some steps, evaluation)
of each kind of network; the data pipeline alone; what the framework costs on top of a bare loop; trials an hour with
one process per core. Medians, with the range over the rounds, in Markdown.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import plain_loop
import torch
from torch import Tensor, nn

from nas.arch import Architecture, Gate, Kernel, SelectiveKernel, SplitAttention, Stage, Stem
from nas.cost.formula import cost
from nas.data import ImageData, load
from nas.data.batches import Normalise, draw, on_device, plain_batches, train_batches
from nas.device import DTYPES, autocast, device_name, resolve_device, resolve_precision
from nas.executors import worker
from nas.machine import keep_freed_memory, usable_cores
from nas.models import build
from nas.record import environment
from nas.train import RECIPES, Recipe
from nas.train.schedule import learning_rate
from nas.train.trainer import epoch_generator
from nas.units import format_count

VAL_FRACTION = 0.2
PACKED = ("tiny conv", "small split R2", "mid conv", "mid split R2")
"""Networks whose trials an hour are compared."""


@dataclass(frozen=True)
class Size:
    """Widths of the three stages, side of the images, recipe, and steps of a trial, which are one epoch."""

    widths: tuple[int, int, int]
    side: int
    recipe: str
    steps: int


SIZES = {
    "tiny": Size((8, 16, 16), 8, "digits", 60),
    "small": Size((16, 32, 64), 16, "cifar", 40),
    "mid": Size((32, 64, 128), 32, "cifar", 30),
}
K3, K5 = Kernel(3), Kernel(5)
KINDS: dict[str, Callable[[int], dict[str, Any]]] = {
    "conv": lambda _: {},
    "conv K4": lambda _: {"cardinality": 4},
    "SE": lambda inner: {"gate": Gate(kind="cse", hidden=max(inner // 8, 4))},
    "SK 3+5": lambda inner: {"mixer": SelectiveKernel(kernels=(K3, K5), hidden=max(inner // 4, 4))},
    "split R2": lambda inner: {"mixer": SplitAttention(radix=2, hidden=max(inner // 4, 4))},
    "hybrid 3+5": lambda inner: {"mixer": SplitAttention(radix=2, hidden=max(inner // 4, 4), kernels=(K3, K5))},
}
"""Name -> settings of a stage whose mixer has so many channels."""


@dataclass(frozen=True)
class Case:
    """One kind of network on one size of images, for a number of steps; source: the file of the images."""

    name: str
    arch: Architecture
    macs: int
    side: int
    recipe: Recipe
    steps: int
    source: str
    device: str

    @property
    def images(self) -> int:
        return self.steps * self.recipe.batch_size

    @property
    def data(self) -> dict[str, Any]:
        return {"source": self.source, "image_size": self.side, "val_fraction": VAL_FRACTION, "seed": 0}


# ---- what a side can be asked for; each gives its seconds --------------------------------------------------------


def timed(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def ours(case: Case) -> float:
    """A trial as a search runs it."""
    spec = {
        "trial": 0,
        "key": case.arch.key,
        "arch": case.arch.to_json(),
        "rung": 0,
        "full": True,
        "cost": {"macs": case.macs},
        "seed": 0,
        "budget": {"steps": case.steps},
        "recipe": case.recipe.to_json(),
        "data": case.data,
        "device": case.device,
    }
    with tempfile.TemporaryDirectory() as folder:
        results: list[Any] = []
        seconds = timed(lambda: results.append(worker.evaluate(spec, Path(folder))), resolve_device(case.device))
    if results[0]["status"] != "ok":
        raise RuntimeError(f"{case.name}: {results[0]}")
    return seconds


def without_kernels(case: Case) -> float:
    """Ours without the extra `cpu`; for a process that has not met the kernels."""
    sys.modules["numba"] = None  # type: ignore[assignment]  # what an import makes of a missing package
    return ours(case)


def plain(case: Case) -> float:
    data, device = load(**case.data), resolve_device(case.device)
    return timed(
        lambda: plain_loop.train(case.arch, data, case.recipe, steps=case.steps, device=device),
        device,
    )


def bare(case: Case) -> float:
    """The arithmetic of our trial, and nothing else: no spec, no result, no checkpoint, no report."""
    device = resolve_device(case.device)
    return timed(lambda: _bare(case, load(**case.data), case.recipe, device), device)


def _bare(case: Case, data: ImageData, recipe: Recipe, device: torch.device) -> float:
    precision = resolve_precision(recipe.precision, device)
    model = build(case.arch)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = recipe.bn_momentum
    model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=recipe.momentum, nesterov=True, fused=True)
    loss_sum = torch.zeros((), device=device)
    for step, (x_BCHW, labels_B) in enumerate(our_batches(data, recipe, device)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, case.steps, recipe)
        with autocast(device, precision):
            loss = nn.functional.cross_entropy(model(x_BCHW), labels_B, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        loss_sum += loss.detach() * len(labels_B)
    float(loss_sum)
    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=device)
    val_loss = torch.zeros((), device=device)
    with torch.inference_mode(), autocast(device, precision):
        for x_BCHW, labels_B in plain_batches(on_device(data.val, device), Normalise.of(data), batch_size=512):
            logits_BC = model(x_BCHW)
            right += ((logits_BC.argmax(dim=1) == labels_B) & logits_BC.isfinite().all(dim=1)).sum()
            val_loss += nn.functional.cross_entropy(logits_BC.float(), labels_B, reduction="sum")
    return int(right) / len(data.val) + float(val_loss)


def our_batches(data: ImageData, recipe: Recipe, device: torch.device) -> Any:
    images = on_device(data.train, device)
    drawn = draw(
        len(images),
        crop_padding=recipe.crop_padding,
        horizontal_flip=recipe.horizontal_flip,
        generator=epoch_generator(0, 0),
    )
    return train_batches(
        images, Normalise.of(data), drawn, batch_size=recipe.batch_size, crop_padding=recipe.crop_padding
    )


def our_pipeline(case: Case) -> float:
    """Of ten epochs: one takes some milliseconds only."""
    data, device = load(**case.data), resolve_device(case.device)

    def ten_epochs() -> None:
        for _ in range(10):
            _drain(our_batches(data, case.recipe, device), case.steps)

    return timed(ten_epochs, device) / 10


def plain_pipeline(case: Case) -> float:
    data, device = load(**case.data), resolve_device(case.device)
    batches = ((x.to(device), y.to(device)) for x, y in plain_loop.train_batches(data, case.recipe))
    return timed(lambda: _drain(batches, case.steps), device)


def _drain(batches: Any, steps: int) -> None:
    for _, _ in zip(range(steps), batches, strict=False):
        pass


def peak(case: Case) -> float:
    """Seconds for 10^12 multiply-adds of the best of some large convolutions, forward and backward."""
    device = resolve_device(case.device)
    dtype = DTYPES.get(resolve_precision(case.recipe.precision, device), torch.float32)
    batch = 32 if device.type == "cpu" else 256
    return min(
        _convolution(channels, side, batch, dtype, device) for channels, side in ((128, 32), (256, 16), (512, 8))
    )


def _convolution(channels: int, side: int, batch: int, dtype: torch.dtype, device: torch.device) -> float:
    def made(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device).to(dtype).contiguous(memory_format=torch.channels_last)

    x, weight = made(batch, channels, side, side).requires_grad_(), made(channels, channels, 3, 3).requires_grad_()
    gradient = made(batch, channels, side, side)

    def work() -> None:
        nn.functional.conv2d(x, weight, padding=1).backward(gradient)  # type: ignore[no-untyped-call]
        x.grad = weight.grad = None

    work()
    seconds = min(timed(work, device) for _ in range(5))
    return seconds * 1e12 / (3 * batch * side**2 * 9 * channels**2)


ASKED: dict[str, Callable[[Case], float]] = {
    work.__name__: work for work in (ours, without_kernels, plain, bare, our_pipeline, plain_pipeline, peak)
}


# ---- the sides: processes ----------------------------------------------------------------------------------------


class Side:
    """A process that answers one question at a time. keep: as a search's process, it keeps the memory it frees."""

    def __init__(self, threads: int, *, keep: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other, threads, keep), daemon=True)
        self._process.start()

    def ask(self, name: str, case: Case) -> None:
        self._pipe.send((name, case))

    def answer(self) -> float:
        answer = self._pipe.recv()
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return float(answer)

    def seconds(self, name: str, case: Case) -> float:
        self.ask(name, case)
        return self.answer()


def serve(pipe: Connection, threads: int, keep: bool) -> None:
    torch.set_num_threads(threads)
    if keep:
        keep_freed_memory()
    while True:
        try:
            name, case = pipe.recv()
        except EOFError:  # nobody asks any more
            return
        try:
            pipe.send(ASKED[name](case))
        except Exception as error:
            pipe.send(f"{name} of {case.name}: {type(error).__name__}: {error}")


# ---- the tables --------------------------------------------------------------------------------------------------


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        cases = made_cases(Path(folder), options.device)
        chosen = [case for case in cases.values() if case.name.split()[0] in options.sizes.split(",")]
        print(heading(options), flush=True)
        tables = {
            "trials": lambda: trials(chosen, options.rounds),
            "pipeline": lambda: pipeline([cases[f"{size} conv"] for size in SIZES], options.rounds),
            "overhead": lambda: overhead(cases, options.overhead_rounds),
            "packed": lambda: packed([cases[name] for name in PACKED], options.rounds, options.cores),
            "kernels": lambda: kernels(chosen, options.rounds),
        }
        for name in options.tables.split(","):
            print("\n" + "\n".join(tables[name]()), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--device", default="auto", help="[auto]")
    parser.add_argument("--tables", default="trials,pipeline,overhead,packed", help="[all but kernels]")
    parser.add_argument("--sizes", default=",".join(SIZES), help="of the trials [all]")
    parser.add_argument("--rounds", type=int, default=5, help="[5]")
    parser.add_argument("--overhead-rounds", type=int, default=25, help="[25]")
    parser.add_argument("--cores", type=int, default=usable_cores(), help="processes of the packed trials [all]")
    return parser.parse_args()


def heading(options: argparse.Namespace) -> str:
    where, device = environment(), resolve_device(options.device)
    transforms = "torchvision" if plain_loop.HAS_TORCHVISION else "Pillow"
    return (
        f"{device_name(device)}, {where['cores']} cores, Python {where['python']}, torch {where['versions']['torch']}; "
        f"medians of {options.rounds} rounds (range); plain transforms by {transforms}"
    )


def made_cases(folder: Path, device: str) -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for size_name, size in SIZES.items():
        recipe = RECIPES[size.recipe]
        source = folder / f"{size_name}.npz"
        write_images(source, size, recipe)
        for kind, settings in KINDS.items():
            arch = network(size, settings)
            name = f"{size_name} {kind}"
            macs = cost(arch, size.side).macs
            cases[name] = Case(name, arch, macs, size.side, recipe, size.steps, str(source), device)
    return cases


def write_images(path: Path, size: Size, recipe: Recipe) -> None:
    """Noise: what is in the images changes no time. As many as make `size.steps` batches after the split."""
    rng = np.random.default_rng(0)
    train = size.steps * recipe.batch_size
    labels = np.arange(round(train / (1 - VAL_FRACTION))) % 10
    np.savez(
        path,
        x_train=rng.integers(0, 256, (len(labels), size.side, size.side, 3), dtype=np.uint8),
        y_train=labels,
    )


def network(size: Size, settings: Callable[[int], dict[str, Any]]) -> Architecture:
    """A stage of one bottleneck block for each width, which halves the channels inside."""
    stages = tuple(
        Stage(
            depth=1,
            out_channels=width,
            inner_channels=width // 2,
            stride=1 if index == 0 else 2,
            projects=True,
            **settings(width // 2),
        )
        for index, width in enumerate(size.widths)
    )
    stem = Stem(kind="conv3x3", channels=(size.widths[0],), strides=(1,))
    return Architecture(in_channels=3, num_classes=10, stem=stem, block="bottleneck", stages=stages)


def trials(cases: Sequence[Case], rounds: int) -> list[str]:
    left, right = Side(1, keep=False), Side(1, keep=True)
    fastest = {case.recipe.batch_size: 1e12 / right.seconds("peak", case) for case in cases}
    lines = [
        "**Whole trials, one thread a side**",
        "",
        "| network | MACs | plain, images/s | ours, images/s | times | of the best convolution rate |",
        "|---|---|---|---|---|---|",
    ]
    for case in cases:
        pairs = alternate(left, "plain", right, "ours", case, rounds)
        rate = 3 * case.macs * case.images / statistics.median(seconds for _, seconds in pairs)
        share = rate / fastest[case.recipe.batch_size]
        lines.append(f"| {case.name} | {format_count(case.macs)} | {speeds(case, pairs)} | {share:.1%} |")
    rates = ", ".join(f"{rate / 1e9:.0f}" for rate in dict.fromkeys(fastest.values()))
    return [*lines, "", f"best convolution rates by recipe: {rates} G multiply-adds/s, backward pass included"]


def pipeline(cases: Sequence[Case], rounds: int) -> list[str]:
    left, right = Side(1, keep=False), Side(1, keep=True)
    lines = [
        "**Batches alone, one thread a side**",
        "",
        "| images | plain, images/s | ours, images/s | times |",
        "|---|---|---|---|",
    ]
    for case in cases:
        pairs = alternate(left, "plain_pipeline", right, "our_pipeline", case, rounds)
        lines.append(f"| {case.side} x {case.side}, {case.recipe.batch_size} a batch | {speeds(case, pairs)} |")
    return lines


def overhead(cases: dict[str, Case], rounds: int) -> list[str]:
    """Both in one process, in turns, and without averaged weights, so that the pairs differ by the framework alone."""
    side = Side(1, keep=True)
    lines = [
        f"**A trial through the framework against a bare loop, one process, {rounds} pairs**",
        "",
        "| network | bare, s | on top, ms: median (quartiles) | on top, % |",
        "|---|---|---|---|",
    ]
    for name in ("tiny conv", "small split R2", "mid conv"):
        case = replace(cases[name], recipe=replace(cases[name].recipe, schedule="cycle"))
        pairs = alternate(side, "bare", side, "ours", case, rounds)
        base = statistics.median(a for a, _ in pairs)
        low, middle, high = statistics.quantiles([1e3 * (b - a) for a, b in pairs], n=4)
        lines.append(f"| {name} | {base:.2f} | {middle:.1f} ({low:.1f} to {high:.1f}) | {middle / base / 10:.1f} |")
    return lines


def packed(cases: Sequence[Case], rounds: int, cores: int) -> list[str]:
    """`cores` trials at a time in processes of one thread, against one at a time in a process of `cores` threads.

    crowded: as many processes, each of which has all the threads.
    """
    plain_side, wide = Side(cores, keep=False), Side(cores, keep=True)
    narrow, crowd = ([Side(threads, keep=True) for _ in range(cores)] for threads in (1, cores))
    lines = [
        f"**Trials an hour on {cores} cores**",
        "",
        f"| network | plain, {cores} threads | ours, {cores} threads | crowded | packed: {cores} processes, one thread "
        "| packed over plain | packed over one process |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        ways: list[Callable[[], float]] = [
            lambda case=case: plain_side.seconds("plain", case),  # type: ignore[misc]
            lambda case=case: wide.seconds("ours", case),  # type: ignore[misc]
            lambda case=case: together(crowd, case) / cores,  # type: ignore[misc]
            lambda case=case: together(narrow, case) / cores,  # type: ignore[misc]
        ]
        for way in ways:
            way()
        seconds = [[way() for way in ways] for _ in range(rounds)]
        hourly = [spread([3600 / one for one in way], ".0f") for way in zip(*seconds, strict=True)]
        gains = [spread([row[index] / row[-1] for row in seconds], ".2f") for index in (0, 1)]
        lines.append("| " + " | ".join([case.name, *hourly, *gains]) + " |")
    return lines


def kernels(cases: Sequence[Case], rounds: int) -> list[str]:
    """What the extra `cpu` gains."""
    left, right = Side(1, keep=True), Side(1, keep=True)
    lines = [
        "**Whole trials without and with the compiled kernels, one thread a side**",
        "",
        "| network | MACs | without, images/s | with, images/s | times |",
        "|---|---|---|---|---|",
    ]
    for case in cases:
        pairs = alternate(left, "without_kernels", right, "ours", case, rounds)
        lines.append(f"| {case.name} | {format_count(case.macs)} | {speeds(case, pairs)} |")
    return lines


def together(sides: Sequence[Side], case: Case) -> float:
    """Seconds until the last of them has finished its trial."""
    began = time.perf_counter()
    for side in sides:
        side.ask("ours", case)
    for side in sides:
        side.answer()
    return time.perf_counter() - began


def alternate(left: Side, first: str, right: Side, second: str, case: Case, rounds: int) -> list[tuple[float, float]]:
    """Pairs of seconds, after one round that does not count."""
    return [(left.seconds(first, case), right.seconds(second, case)) for _ in range(rounds + 1)][1:]


def speeds(case: Case, pairs: Sequence[tuple[float, float]]) -> str:
    """The cells of a row: images/s of either side, and how many times faster the second is."""
    first, second = ([case.images / seconds for seconds in side] for side in zip(*pairs, strict=True))
    return f"{spread(first, ',.0f')} | {spread(second, ',.0f')} | {spread([a / b for a, b in pairs], '.2f')}"


def spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
