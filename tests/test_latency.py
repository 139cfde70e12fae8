"""Latency: what is timed, in which order and units, on a clock that the tests move; small real runs."""

from __future__ import annotations

import json
import math
import re
import statistics
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import NETWORKS, network
from torch import Tensor, nn

import nas.cli
from nas.arch import Architecture
from nas.cost import latency
from nas.cost.formula import Cost, cost
from nas.cost.latency import Latency, Timed, interleaved, measure_latency, rank_correlations
from nas.evidence import median
from nas.machine import cpu_model
from nas.models import Network, build
from nas.space import SearchSpace
from nas.units import format_count

TWO = {"plain": (network(), 8), "gated": (NETWORKS["gate cse"], 16)}
SPACE = SearchSpace.load("tiny")


class Machine:
    """A clock that only runs move, and a log of who ran."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[int] = []

    def clock(self) -> float:
        return self.now

    def runs(
        self, seconds: Sequence[float], slowdown: Callable[[int], float] = lambda _: 1.0
    ) -> list[Callable[[], None]]:
        def run(index: int) -> Callable[[], None]:
            def one() -> None:
                self.now += seconds[index] * slowdown(index)
                self.log.append(index)

            return one

        return [run(index) for index in range(len(seconds))]


# the order


def test_every_round_times_every_run_once_in_an_order_of_its_own() -> None:
    machine = Machine()
    timed = interleaved(machine.runs([1, 2, 3, 4]), repeats=20, warmup=2, seed=0, clock=machine.clock)
    assert machine.log[:8] == [0, 0, 1, 1, 2, 2, 3, 3]
    pairs = machine.log[8:]
    assert pairs[::2] == pairs[1::2]  # the pass that is not timed, and the one that is
    rounds = [pairs[start : start + 8 : 2] for start in range(0, len(pairs), 8)]
    assert len(rounds) == 20
    assert all(sorted(one) == [0, 1, 2, 3] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 5
    assert [one.seconds for one in timed] == [(seconds,) * 20 for seconds in (1, 2, 3, 4)]


def test_the_order_is_that_of_the_seed() -> None:
    def order(seed: int) -> list[int]:
        machine = Machine()
        interleaved(machine.runs([1, 1, 1]), repeats=10, warmup=1, seed=seed, clock=machine.clock)
        return machine.log

    assert order(1) == order(1) != order(2)


def test_a_drift_of_the_machine_meets_all_runs_alike() -> None:
    """It ends up three times as slow; timed one after the other, the second would look slower by half of that."""
    machine = Machine()
    runs = machine.runs([1, 1], slowdown=lambda _: 1 + len(machine.log) / 100)
    first, second = (
        statistics.median(one.seconds) for one in interleaved(runs, repeats=50, warmup=1, seed=0, clock=machine.clock)
    )
    assert first == pytest.approx(second, rel=0.05)


def test_the_caches_that_others_took_are_not_timed() -> None:
    machine = Machine()
    runs = machine.runs([1, 2, 3], slowdown=lambda index: 1.0 if machine.log[-1:] == [index] else 5.0)
    timed = interleaved(runs, repeats=8, warmup=2, seed=0, clock=machine.clock)
    assert [set(one.seconds) for one in timed] == [{1.0}, {2.0}, {3.0}]


def test_short_passes_are_repeated_until_they_fill_a_millisecond() -> None:
    machine = Machine()
    timed = interleaved(machine.runs([0.0003, 0.002]), repeats=6, warmup=3, seed=0, clock=machine.clock)
    assert [one.passes for one in timed] == [4, 1]
    assert timed[0].seconds == pytest.approx([0.0003] * 6)
    assert machine.log.count(0) == 3 + 6 * (1 + 4)


# what is timed


def test_two_real_networks() -> None:
    found = measure_latency(TWO, batch_size=2, device="cpu", repeats=6, warmup=1)
    assert [one.name for one in found] == ["plain", "gated"]
    for one in found:
        assert 0 < one.low_ms <= one.median_ms <= one.high_ms
        assert one.coverage == 1 - 2 / 2**6
        assert one.images_per_s == pytest.approx(2 * 1000 / one.median_ms)
        assert (one.samples, one.batch_size, one.threads, one.precision) == (6, 2, 1, "fp32")
        assert one.passes >= 1
        assert one.device == cpu_model()


def test_milliseconds_of_a_batch_and_images_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = (0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008)
    monkeypatch.setattr(latency, "interleaved", lambda runs, **_: [Timed(3, seconds) for _ in runs])
    (one,) = measure_latency({"a": TWO["plain"]}, batch_size=64, device="cpu")
    assert one.median_ms == pytest.approx(4)
    assert (one.low_ms, one.high_ms) == pytest.approx((1, 8))
    assert one.coverage == median(seconds).coverage
    assert one.images_per_s == pytest.approx(16_000)
    assert (one.passes, one.samples) == (3, 7)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_networks_run_as_in_use(precision: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eval mode, no gradients, channels_last, weights and images in the precision asked for, before the first pass."""
    seen: list[tuple[bool, ...]] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (x_BCHW,) = inputs
        weights = [weight for weight in module.parameters() if weight.ndim == 4]
        assert x_BCHW.shape == (3, 3, 16, 16)
        seen.append(
            (
                not any(part.training for part in module.modules()),
                torch.is_inference_mode_enabled(),
                not torch.is_autocast_enabled("cpu"),
                all(tensor.dtype == dtype for tensor in (x_BCHW, *module.parameters())),
                all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in (x_BCHW, *weights)),
            )
        )

    def watched(arch: Architecture) -> Network:
        built = build(arch)
        built.register_forward_pre_hook(look)
        return built

    monkeypatch.setattr(latency, "build", watched)
    arch = NETWORKS["gate on attention"]
    measure_latency({"a": (arch, 16)}, batch_size=3, precision=precision, device="cpu", repeats=6, warmup=1)
    assert len(seen) >= 1 + 6 * 2
    assert set(seen) == {(True,) * 5}


def test_threads_are_set_and_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []

    def timed(runs: Sequence[object], **_: object) -> list[Timed]:
        seen.append(torch.get_num_threads())
        if len(seen) > 1:
            raise RuntimeError("the machine fell over")
        return [Timed(1, (1.0,) * 6) for _ in runs]

    monkeypatch.setattr(latency, "interleaved", timed)
    measure_latency(TWO, threads=before + 1, device="cpu")
    assert (seen, torch.get_num_threads()) == ([before + 1], before)
    with pytest.raises(RuntimeError, match="fell over"):
        measure_latency(TWO, threads=before + 2, device="cpu")
    assert (seen, torch.get_num_threads()) == ([before + 1, before + 2], before)


def test_the_networks_are_gone_when_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[weakref.ref[Network]] = []
    left: list[bool] = []

    def watched(arch: Architecture) -> Network:
        found = build(arch)
        built.append(weakref.ref(found))
        return found

    monkeypatch.setattr(latency, "build", watched)
    monkeypatch.setitem(latency._GIVE_BACK, "cpu", lambda: left.extend(ref() is not None for ref in built))
    measure_latency(TWO, device="cpu", repeats=6, warmup=1)
    assert left == [False, False]


def test_timing_disturbs_no_random_numbers() -> None:
    state = torch.get_rng_state()
    measure_latency(TWO, device="cpu", repeats=6, warmup=1, seed=5)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_clock_is_read_when_the_gpu_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[object] = []

    def read() -> float:
        events.append("read")
        return 7.0

    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "synchronize", events.append)
        patch.setattr(time, "perf_counter", read)
        assert latency._clock(torch.device("cuda", 1))() == 7.0
        assert events == [torch.device("cuda", 1), "read"]
        assert latency._clock(torch.device("cpu"))() == 7.0
    assert events[2:] == ["read"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, but got 0"),
        ({"threads": 0}, "threads must be a whole number of at least 1, but got 0"),
        ({"threads": 1.5}, r"threads must be a whole number of at least 1, but got 1\.5"),
        ({"warmup": 0}, "warmup must be a whole number of at least 1, but got 0"),
        ({"repeats": 5}, "repeats must be a whole number of at least 6, but got 5"),
        ({"seed": -1}, "seed must be a whole number of at least 0, but got -1"),
        ({"precision": "fp8"}, "precision must be one of auto, fp32, bf16, fp16, but got 'fp8'"),
        ({"device": "abacus"}, "device must be auto, cpu"),
        ({"networks": {}}, "at least one network"),
        ({"networks": {"a": (network(), 0)}}, "input_size of a must be a whole number of at least 1, but got 0"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_built(
    settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "build", lambda _: pytest.fail("built"))
    with pytest.raises(ValueError, match=message):
        measure_latency(**{"networks": TWO, "device": "cpu", **settings})


# costs against time


def took(ms: float) -> Latency:
    return Latency(
        name="a",
        median_ms=ms,
        low_ms=ms,
        high_ms=ms,
        coverage=0.957,
        samples=30,
        passes=1,
        batch_size=1,
        threads=1,
        precision="fp32",
        device="abacus",
    )


def test_rank_correlations_of_costs_with_time() -> None:
    """macs in order, activations in reverse, params the same for all: of these there is none."""
    costs = [Cost(params=7, macs=n * n, activations=-n) for n in range(1, 7)]
    found = rank_correlations(costs, [took(math.exp(n)) for n in range(1, 7)])
    assert list(found) == ["macs", "activations"]
    assert [rho.value for rho, _ in found.values()] == [1, -1]
    assert [tau.value for _, tau in found.values()] == pytest.approx([1, -1])
    assert found["macs"][0].n == 6


# the command


def run(*words: str | Path) -> int:
    return nas.cli.main(["latency", *map(str, words)])


QUICK = ("--device", "cpu", "--repeats", "6", "--warmup", "1")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two networks as `nas export` writes them."""
    found = []
    for name, (arch, side) in TWO.items():
        found.append(tmp_path / name / "config.json")
        found[-1].parent.mkdir()
        found[-1].write_text(json.dumps({"architecture": arch.to_json(), "input_size": side}))
    return found


def test_the_table_names_networks_costs_and_conditions(files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*files, *QUICK, "--batch-size", "2") == 0
    shown = capsys.readouterr().out
    for file, (arch, side) in zip(files, TWO.values(), strict=True):
        row = next(line for line in shown.splitlines() if f" {file.parent.name}/{file.name} " in line)
        exact = cost(arch, side)
        assert all(format_count(count) in row for count in (exact.macs, exact.params, exact.activations))
    installed = version("torch")  # without the name of the build that some wheels have in `torch.__version__` alone
    assert f"{cpu_model()}, batch 2, fp32, 1 CPU thread, torch {installed}; median of 6" in shown
    assert "interleaved samples, 96.9 % interval" in shown
    assert "correlation" not in shown


def test_five_networks_have_rank_correlations(files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*files, *QUICK, "--space", "tiny", "--samples", "3", "--seed", "1") == 0
    shown = capsys.readouterr().out
    assert "Rank correlation with latency, 5 networks, 95 % interval" in shown
    assert shown.count("activations") == 2


def test_files_of_one_name_are_all_timed(files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two studies may hold the same network, each under best/KEY/config.json."""
    twins = [tmp_path / study / files[0].parent.name / "config.json" for study in ("one", "two")]
    for twin in twins:
        twin.parent.mkdir(parents=True)
        twin.write_text(files[0].read_text())
    assert run(*twins, "resnet18", *QUICK, "--input-size", "32") == 0
    shown = capsys.readouterr().out
    names = [f" {study}/{files[0].parent.name}/config.json " for study in ("one", "two")]
    assert all(name in shown for name in (*names, " resnet18 "))


def test_times_are_shown_to_the_microsecond(
    files: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "measure_latency", lambda *_, **__: [took(1.23456), took(12.5)])
    assert run(*files) == 0
    shown = capsys.readouterr().out
    assert shown.count(" 1.235 ") == 3 and " 810.0 " in shown  # median, low and high
    assert shown.count(" 12.500 ") == 3 and " 80.0 " in shown


def test_input_size_wins_over_that_of_file_and_space(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sides: list[int] = []

    def timed(networks: dict[str, tuple[Architecture, int]], **_: object) -> list[Latency]:
        sides.extend(side for _, side in networks.values())
        return [took(1.0 + index) for index, _ in enumerate(networks)]

    monkeypatch.setattr(latency, "measure_latency", timed)
    assert run(*files, "--space", "tiny", "--samples", "2") == 0
    assert run(*files, "--space", "tiny", "--samples", "2", "--input-size", "12") == 0
    assert sides == [8, 16, SPACE.input_size, SPACE.input_size, 12, 12, 12, 12]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing to time: name published networks or config.json files, or give --space"),
        (("nowhere.json",), "nowhere.json"),
        (("--samples", "3"), "--samples 3 counts random networks of a space: give --space"),
        (("--space", "nowhere"), "space 'nowhere' is neither a file nor a shipped space"),
        (("--space", "tiny", "--samples", "289"), "space tiny has 288 different networks, but 289 are asked for"),
        (("--space", "tiny", "--repeats", "1"), "repeats must be a whole number of at least 6, but got 1"),
        (("--space", "tiny", "--precision", "int8"), "precision must be one of"),
        (("--space", "tiny", "--seed", "-1"), "seed must be a whole number of at least 0, but got -1"),
        (("--space", "tiny", "--device", "abacus"), "device must be"),
    ],
)
def test_a_mistake_is_one_sentence_before_any_timing(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "interleaved", lambda *_, **__: pytest.fail("timed"))
    assert run(*words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("nas: ") and said.count("\n") == 1


def test_a_file_without_input_size_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps(network().to_json()))
    assert run(bare) == 2
    assert "bare.json names no input_size: give --input-size" in capsys.readouterr().err


def test_the_benchmark_prints_both_batches_as_markdown_and_writes_nothing(tmp_path: Path) -> None:
    script = Path(__file__).parent.parent / "benchmarks" / "latency.py"
    settings = ("--space", "tiny", "--samples", "12", "--repeats", "6", "--batch-size", "2", "--device", "cpu")
    done = subprocess.run([sys.executable, script, *settings], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert [line.split(", fp32")[0] for line in done.stdout.splitlines() if line.startswith("#")] == [
        "### tiny, batch 1",
        "### tiny, batch 2",
    ]
    assert "n = 12 networks, seed 0; 6 samples each" in done.stdout
    assert done.stdout.count("\n| activations |") == 2
    pairs = re.findall(r"^\| ([0-9.]+) \|", done.stdout, re.MULTILINE)
    assert pairs and all(float(ratio) >= 1 for ratio in pairs)
    assert list(tmp_path.iterdir()) == []
