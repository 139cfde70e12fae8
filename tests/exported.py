"""Exported files as modules, and networks whose every number has an effect."""

from __future__ import annotations

import ast
from typing import Any

import torch
from torch import nn

from nas.arch import Architecture
from nas.export.source import model_source
from nas.models import build

SIDE = 16


def source(arch: Architecture, side: int = SIDE) -> str:
    return model_source(arch, side, "A network of the tests.")


def network_of(text: str, **arguments: Any) -> nn.Module:
    """The network of a file, which may import nothing but torch."""
    tree = ast.parse(text)
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert imported <= {"torch"}
    namespace: dict[str, Any] = {"__name__": "model"}
    exec(compile(tree, "model.py", "exec"), namespace)
    network: nn.Module = namespace["Network"](**arguments)
    return network


def lively(arch: Architecture, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The searched network with drawn biases, scales and statistics: in a fresh one they are all 0 or 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(arch.canonical()).to(dtype)
        with torch.no_grad():
            for name, value in network.state_dict().items():
                if value.ndim == 1 and value.is_floating_point():
                    value.uniform_(0.5, 1.5) if name.endswith(("bn.weight", "running_var")) else value.normal_(0, 0.3)
    return network


def images(arch: Architecture, count: int = 3, side: int = SIDE, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, arch.in_channels, side, side, generator=generator, dtype=dtype)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, as a share of the largest value where that is above 1."""
    return float((a - b).abs().max() / b.abs().max().clamp(min=1))
