"""Outputs for many images, some at a time, so that they fit into memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BATCH = 64
"""Images at a time."""


def batched(network: Callable[[Tensor], Tensor], x_BCHW: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([network(part) for part in torch.split(x_BCHW, BATCH)])
