"""Accuracy on a split, and batch-norm statistics for weights that were averaged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas.data import ImageData, Split
from nas.data.batches import Normalise, on_device, plain_batches
from nas.device import Precision, autocast, resolve_precision

EVAL_BATCH = 512
CPU_PIXELS, CPU_BATCH = 2**17, 16
"""On a CPU a batch has no more pixels than that, but so many images: larger maps need memory that training did not,
and took 1.5 to 2.5 times as long the first time, 1.0 to 1.1 times after it (128 or 512 images of 32 x 32)."""


@dataclass(frozen=True)
class Evaluation:
    """accuracy: share (0..1) of the images classified rightly. loss: mean cross-entropy, without label smoothing."""

    accuracy: float
    loss: float


def evaluate(
    model: nn.Module,
    split: Split,
    data: ImageData,
    *,
    device: torch.device,
    batch_size: int | None = None,
    precision: Precision = "fp32",
    normalise: Normalise | None = None,
) -> Evaluation:
    """How well the model, on `device` and in eval mode, classifies the split's images.

    batch_size: None for one that suits the device. normalise: that of `data` by default. An image with a logit that is
    not finite counts as wrong.
    """
    if len(split) == 0:
        raise ValueError("a split to evaluate on needs at least one image, but got 0")
    was_training = model.training
    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), device=device)
    normalise = normalise or Normalise.of(data)
    batch_size = _suitable_batch(split.size, device) if batch_size is None else batch_size
    with torch.inference_mode(), autocast(device, resolve_precision(precision, device)):
        for x_BCHW, labels_B in plain_batches(on_device(split, device), normalise, batch_size=batch_size):
            logits_BC = model(x_BCHW)
            right += ((logits_BC.argmax(dim=1) == labels_B) & logits_BC.isfinite().all(dim=1)).sum()
            loss += nn.functional.cross_entropy(logits_BC.float(), labels_B, reduction="sum")
    model.train(was_training)
    return Evaluation(int(right) / len(split), float(loss) / len(split))


def _suitable_batch(image_size: int, device: torch.device) -> int:
    if device.type != "cpu":
        return EVAL_BATCH
    return max(CPU_BATCH, min(EVAL_BATCH, CPU_PIXELS // image_size**2))


def recalibrate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, device: torch.device, precision: Precision
) -> None:
    """Set the running statistics of every batch norm to the mean over `batches` (arXiv:1803.05407, section 3.2)."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
    model.train()
    with torch.no_grad(), autocast(device, precision):
        for count, (x_BCHW, _) in enumerate(batches, start=1):
            for norm in norms:
                norm.momentum = 1 / count  # the plain mean; None would be it too, but reads a counter from the device
            model(x_BCHW)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
