"""Every golden file: outputs, input gradients and running statistics, in both modes and both precisions.

The files are those of tests/golden, or of the folder that GOLDEN_DIR names; a file holds one block as `config`, its
weights by name, its input and what it must give back (computed in float64, stored as float32).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas.arch import BlockSpec, Conv, Gate, Kernel, Mixer, SelectiveKernel, SplitAttention
from nas.models.blocks import ResidualBlock
from nas.models.gates import build_gate
from nas.models.mixers import build_mixer

FOLDER = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parent / "golden")
FILES = sorted(FOLDER.glob("*.npz"))

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5}
"""Largest error over the largest value of the expected array."""

TRAINING_GRADIENT_FLOAT32 = 1e-4
"""Batch norm of four 1x1 maps divides by the deviation of four numbers: where they nearly agree, its gradient carries
float32 rounding up to 1.3e-5 (the largest of 120 random blocks; 6e-8 for the same blocks in float64)."""

NAMES = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}
"""Last part of a golden weight's name -> of ours, where they differ."""

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Golden:
    config: Config
    arrays: Mapping[str, np.ndarray]

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(self.arrays[name]).to(dtype)

    def named(self, prefix: str) -> dict[str, Tensor]:
        """The arrays under `prefix`, in float64, by our names."""
        found = [name for name in self.arrays if name.startswith(prefix)]
        return {_our_name(name.removeprefix(prefix)): self.tensor(name, torch.float64) for name in found}


def _our_name(name: str) -> str:
    head, _, last = name.rpartition(".")
    return f"{head}.{NAMES.get(last, last)}"


def _load(path: Path) -> Golden:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    meta = json.loads(str(arrays.pop("meta")))
    return Golden(meta["config"], arrays)


def _has_bias(config: Config, names: set[str], layer: str, key: str = "bias") -> bool:
    """As the configuration says, else whether the file has the bias of `layer`."""
    return bool(config.get(key, f"{layer}.bias" in names))


def _gate(config: Config, names: set[str], prefix: str = "") -> Gate:
    if config["kind"] in ("none", "sse"):
        return Gate(kind=config["kind"])
    layer = f"{prefix}cse.fc1" if config["kind"] == "scse" else f"{prefix}fc1"
    return Gate(kind=config["kind"], hidden=config["hidden"], bias=_has_bias(config, names, layer))


def _mixer(config: Config, names: set[str], cardinality: int, prefix: str = "") -> Mixer:
    if config["kind"] == "conv":
        return Conv()
    bias = _has_bias(config, names, f"{prefix}fc1", "attention_bias")
    if config["kind"] == "selective_kernel":
        return SelectiveKernel(
            kernels=tuple(Kernel(branch["kernel"], branch["dilation"]) for branch in config["branches"]),
            hidden=config["hidden"],
            split_input=config.get("split_input", False),
            attention_groups=config.get("attention_groups", 1),
            attention_bias=bias,
        )
    assert config["kind"] == "split_attention"
    return SplitAttention(
        radix=config["radix"],
        hidden=config["hidden"],
        attention_groups=config.get("attention_groups", cardinality),
        attention_bias=bias,
    )


def _gate_module(config: Config, names: set[str]) -> nn.Module:
    return build_gate(_gate(config, names), config["channels"])


def _selective_kernel_module(config: Config, names: set[str]) -> nn.Module:
    groups = config["groups"]
    sizes = (config["channels_in"], config["channels_out"])
    return build_mixer(_mixer(config, names, groups), *sizes, stride=config["stride"], cardinality=groups)


def _split_attention_module(config: Config, names: set[str]) -> nn.Module:
    groups = config["cardinality"]
    sizes = (config["channels"], config["channels"])
    return build_mixer(_mixer(config, names, groups), *sizes, stride=config["stride"], cardinality=groups)


def _block_module(config: Config, names: set[str]) -> nn.Module:
    projects = config["shortcut"] != "identity"
    return ResidualBlock(
        BlockSpec(
            kind=config["block"],
            in_channels=config["cin"],
            inner_channels=config["inner"],
            out_channels=config["cout"],
            stride=config["stride"],
            cardinality=config["cardinality"],
            mixer=_mixer(config["mixer"], names, config["cardinality"], "mix."),
            gate=_gate(config["gate"], names, "gate."),
            projects=projects,
            avd=config["avd"],
            stride_in="mixer",
            shortcut=config["shortcut"] if projects else "strided_conv1x1",
        )
    )


MODULES: dict[str, Callable[[Config, set[str]], nn.Module]] = {
    "cse": _gate_module,
    "sse": _gate_module,
    "scse": _gate_module,
    "selective_kernel": _selective_kernel_module,
    "split_attention": _split_attention_module,
    "residual_block": _block_module,
}


def _module(golden: Golden, dtype: torch.dtype) -> nn.Module:
    """The block of a file with the file's weights; every name must be on both sides."""
    weights = golden.named("w/")
    module = MODULES[golden.config["kind"]](golden.config, set(weights)).double()
    counters = {name for name in module.state_dict() if name.endswith("num_batches_tracked")}
    assert set(weights) == set(module.state_dict()) - counters
    module.load_state_dict(weights, strict=False)
    return module.to(dtype)


def _tolerance(name: str, dtype: torch.dtype) -> float:
    loose = name == "gx_train" and dtype == torch.float32
    return TRAINING_GRADIENT_FLOAT32 if loose else TOLERANCE[dtype]


def _assert_close(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    assert actual.shape == expected.shape, what
    error = (actual.detach().double() - expected).abs().max().item()
    scale = expected.abs().max().item()
    assert error <= tolerance * scale, f"{what}: error {error:.2e} of {scale:.2e}"


def test_there_are_golden_files() -> None:
    assert FILES, f"no .npz file in {FOLDER}"


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden(path: Path, mode: str, dtype: torch.dtype) -> None:
    golden = _load(path)
    module = _module(golden, dtype).train(mode == "train")
    x_BCHW = golden.tensor("x", dtype).requires_grad_()
    y_BCHW = module(x_BCHW)
    y_BCHW.backward(golden.tensor("gy", dtype))
    gradient = x_BCHW.grad
    assert gradient is not None
    for actual, name in ((y_BCHW, f"y_{mode}"), (gradient, f"gx_{mode}")):
        _assert_close(actual, golden.tensor(name, torch.float64), _tolerance(name, dtype), name)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_running_statistics(path: Path, dtype: torch.dtype) -> None:
    golden = _load(path)
    module = _module(golden, dtype).train()
    module(golden.tensor("x", dtype))
    after = golden.named("after/")
    buffers = {name: b for name, b in module.named_buffers() if not name.endswith("num_batches_tracked")}
    assert set(after) == set(buffers)
    for name, expected in after.items():
        _assert_close(buffers[name], expected, TOLERANCE[dtype], name)
