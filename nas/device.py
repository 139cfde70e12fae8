"""Where a network runs and in which precision; what the machine lacks is refused in words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

from nas.machine import cpu_model

Precision = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
FUSED = ("cpu", "cuda", "mps")
"""Device types for which torch has a fused SGD."""


def resolve_device(name: str) -> torch.device:
    """auto (CUDA, else MPS, else CPU) | cpu | cuda | cuda:N | mps. Raises ValueError for what this machine lacks."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise ValueError(f"device must be auto, cpu, cuda, cuda:N or mps, but got {name!r}")
    device = torch.device(name)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device {name} needs Apple's Metal, which this machine or this torch lacks: use cpu or auto")
    if device.type == "cuda":
        return _cuda(name, device)
    return device


def _cuda(name: str, device: torch.device) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise ValueError(f"device {name} needs a CUDA GPU, which this machine or this torch lacks: use cpu or auto")
    index = 0 if device.index is None else device.index
    if index >= count:
        raise ValueError(f"device {name} does not exist: this machine has {count} CUDA devices, cuda:0 the first")
    return torch.device("cuda", index)


def device_name(device: torch.device) -> str:
    """What people call it: the GPU's name, or the CPU's model."""
    return _NAMES[device.type](device)


_NAMES: dict[str, Callable[[torch.device], str]] = {
    "cpu": lambda _: cpu_model(),
    "cuda": lambda device: torch.cuda.get_device_name(device),
    "mps": lambda _: torch.backends.mps.get_name(),
}


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """fp32, bf16 or fp16; "auto" is bf16 where the device gains from it, else fp32."""
    if precision != "auto":
        return precision
    return "bf16" if device.type in _GAINS_FROM_BF16 and _GAINS_FROM_BF16[device.type](device) else "fp32"


def _cpu_gains_from_bf16() -> bool:
    """With AMX, whose convolutions are 7 times those in fp32.

    By the vector instructions alone (AVX-512 bf16) they were half as fast, and trainings .75 to .88 times as fast, on
    an Intel Xeon; on an AMD this was not measured.
    """
    found: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.10 may lack it
    return bool(found.get("amx_bf16"))


_GAINS_FROM_BF16: dict[str, Callable[[torch.device], bool]] = {
    "cpu": lambda _: _cpu_gains_from_bf16(),
    "cuda": lambda device: torch.cuda.get_device_capability(device) >= (8, 0),
}


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """The context in which layers compute in `precision` (resolved); nothing for fp32."""
    return torch.autocast(device.type, dtype=DTYPES[precision]) if precision in DTYPES else nullcontext()
