"""A training as most people write it, to compare with: a DataLoader of Pillow images, fp32, NCHW, `.item()` each step.

The networks are the same, with the same weights; attention is written as it is published, as a view to
B x M x C x H x W and a sum over M. torchvision's transforms are used where it is installed.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from nas.arch import Architecture
from nas.data import ImageData, Split
from nas.models import build
from nas.models.conv import Conv2d
from nas.models.mixers import SelectiveKernelMixer, SplitAttentionMixer
from nas.train import Recipe
from nas.train.schedule import learning_rate

Transform = Callable[[Image.Image], Tensor]
HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None


class PillowImages(Dataset[tuple[Tensor, int]]):
    """As torchvision's CIFAR10: an array in memory, made a Pillow image for the transforms."""

    def __init__(self, split: Split, transform: Transform) -> None:
        self.images_NHWC = split.images_NHWC
        self.labels = split.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.images_NHWC[index].squeeze())
        return self.transform(image), self.labels[index]


def train(arch: Architecture, data: ImageData, recipe: Recipe, *, steps: int, device: torch.device) -> float:
    """The accuracy on the validation split after `steps` steps."""
    model = published(build(arch)).to(device)
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate(min(step, steps - 1), steps, recipe) / recipe.learning_rate
    )
    model.train()
    loss_sum, right = 0.0, 0
    for x_BCHW, labels_B in islice(train_batches(data, recipe), steps):
        x_BCHW, labels_B = x_BCHW.to(device), labels_B.to(device)
        optimizer.zero_grad()
        logits_BC = model(x_BCHW)
        loss = criterion(logits_BC, labels_B)
        loss.backward()
        optimizer.step()
        schedule.step()
        loss_sum += loss.item() * len(labels_B)
        right += (logits_BC.argmax(dim=1) == labels_B).sum().item()
    return evaluate(model, data, recipe.batch_size, device)


def evaluate(model: nn.Module, data: ImageData, batch_size: int, device: torch.device) -> float:
    model.eval()
    right = 0
    with torch.no_grad():
        for x_BCHW, labels_B in DataLoader(PillowImages(data.val, transform(data)), batch_size=batch_size):
            logits_BC = model(x_BCHW.to(device))
            right += (logits_BC.argmax(dim=1) == labels_B.to(device)).sum().item()
    return right / len(data.val)


def train_batches(data: ImageData, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Epoch after epoch."""
    images = PillowImages(data.train, transform(data, recipe))
    loader = DataLoader(images, batch_size=recipe.batch_size, shuffle=True, drop_last=True)
    while True:
        yield from loader


def transform(data: ImageData, recipe: Recipe | None = None) -> Transform:
    """Crop and flip, where a recipe is given, then a normalised tensor C x H x W."""
    make = _torchvision_transform if HAS_TORCHVISION else _pillow_transform
    padding, flip = (recipe.crop_padding, recipe.horizontal_flip) if recipe is not None else (0, False)
    return make(data, padding, flip)


def _torchvision_transform(data: ImageData, padding: int, flip: bool) -> Transform:
    from torchvision import transforms

    crop = [transforms.RandomCrop(data.size, padding=padding)] if padding else []
    mirror = [transforms.RandomHorizontalFlip()] if flip else []
    composed: Transform = transforms.Compose(
        [*crop, *mirror, transforms.ToTensor(), transforms.Normalize(data.mean, data.std)]
    )
    return composed


def _pillow_transform(data: ImageData, padding: int, flip: bool) -> Transform:
    mean_C11, std_C11 = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))

    def apply(image: Image.Image) -> Tensor:
        if padding:
            left, top = random.randint(0, 2 * padding), random.randint(0, 2 * padding)
            image = ImageOps.expand(image, padding).crop((left, top, left + data.size, top + data.size))
        if flip and random.random() < 0.5:
            image = ImageOps.mirror(image)
        pixels_HWC = torch.from_numpy(np.array(image)).view(data.size, data.size, -1)
        x_CHW = pixels_HWC.permute(2, 0, 1).contiguous().float().div(255)
        return (x_CHW - mean_C11) / std_C11

    return apply


def published(model: nn.Module) -> nn.Module:
    """The same network, in place, its attention and its convolutions computed as people write them."""
    forms: dict[type, Callable[..., Tensor]] = {
        SplitAttentionMixer: _split_attention,
        SelectiveKernelMixer: _selective_kernel,
        Conv2d: nn.Conv2d.forward,
    }
    for module in model.modules():
        for kind, forward in forms.items():
            if isinstance(module, kind):
                module.forward = partial(forward, module)
    return model


def _split_attention(mixer: Any, x_BCHW: Tensor) -> Tensor:
    v_BCHW = mixer.conv_bn(mixer.convolve(x_BCHW)).relu()
    batch, channels, height, width = v_BCHW.shape
    return _attend(mixer, v_BCHW.reshape(batch, mixer.branches, channels // mixer.branches, height, width))


def _selective_kernel(mixer: Any, x_BCHW: Tensor) -> Tensor:
    parts = x_BCHW.chunk(mixer.branches, dim=1) if mixer.split_input else [x_BCHW] * mixer.branches
    return _attend(mixer, torch.stack([getattr(mixer, f"branch{m}")(part) for m, part in enumerate(parts)], dim=1))


def _attend(mixer: Any, maps_BMCHW: Tensor) -> Tensor:
    pooled_BC11 = maps_BMCHW.sum(dim=1).mean(dim=(2, 3), keepdim=True)
    weights_BMC11: Tensor = mixer.weights(mixer.logits(pooled_BC11))
    return (maps_BMCHW * weights_BMC11).sum(dim=1)
