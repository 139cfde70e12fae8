"""Trainings on a device whose tensors have no values: what reads one back, or needs one of another device, fails.

It has no code of its own for lists of tensors or for autocast either, like Apple's GPUs for some. So what passes here
waits for no GPU within a step and asks nothing of it that only CUDA has.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from architectures import NETWORKS

from nas.data import Split
from nas.data.batches import Images, Normalise, draw, on_device, plain_batches, train_batches
from nas.models import gates, mixers
from nas.train import RECIPES
from nas.train.evaluation import recalibrate
from nas.train.state import Training, start

META = torch.device("meta")
IMAGES, SIZE, CLASSES = 12, 16, 5
NORMALISE = Normalise(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
RECIPE = replace(RECIPES["cifar"], precision="fp32", schedule="average", batch_size=4)


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (gates, mixers):  # torch knows no autocast there, and refuses to say whether it is on
        monkeypatch.setattr(module, "no_autocast", lambda _: nullcontext())


@pytest.fixture(params=[True, False], ids=["resident", "streamed"])
def images(request: pytest.FixtureRequest) -> Images:
    pixels = np.zeros((IMAGES, SIZE, SIZE, 3), np.uint8)
    return on_device(Split(pixels, np.arange(IMAGES) % CLASSES), META, resident=request.param)


def batches(images: Images) -> list[tuple[torch.Tensor, torch.Tensor]]:
    drawn = draw(IMAGES, crop_padding=4, horizontal_flip=True, generator=torch.Generator().manual_seed(0))
    return list(train_batches(images, NORMALISE, drawn, batch_size=4, crop_padding=4))


def test_batches_are_made_there(images: Images) -> None:
    for x_BCHW, labels_B in [*batches(images), *plain_batches(images, NORMALISE, batch_size=4)]:
        assert x_BCHW.shape == (4, 3, SIZE, SIZE)
        assert x_BCHW.is_contiguous(memory_format=torch.channels_last)
        assert x_BCHW.device == labels_B.device == META


@pytest.mark.parametrize("name", NETWORKS)
def test_steps_of_every_network_stay_there(name: str) -> None:
    training = start(NETWORKS[name], RECIPE, 0, META)
    split = Split(np.zeros((IMAGES, SIZE, SIZE, 3), np.uint8), np.arange(IMAGES) % CLASSES)
    made = batches(on_device(split, META, resident=True))
    for x_BCHW, labels_B in made:
        training.take_step(x_BCHW, labels_B, 0.1, RECIPE)
    assert RECIPE.clip_norm is not None
    assert training.average is not None
    assert [parameter.grad.device for parameter in training.parameters if parameter.grad is not None] == [META] * len(
        training.parameters
    )
    with training.averaged() as model:
        recalibrate(model, made, device=META, precision="fp32")
        assert evaluated(training, made[0][0]).shape == (4, CLASSES)


def evaluated(training: Training, x_BCHW: torch.Tensor) -> torch.Tensor:
    training.model.eval()
    with torch.inference_mode():
        logits_BC: torch.Tensor = training.model(x_BCHW)
    return logits_BC


def test_what_is_read_back_there_is_an_error() -> None:
    with pytest.raises(RuntimeError):
        float(torch.zeros((), device=META))
    with pytest.raises(RuntimeError):
        torch.zeros(3, device=META) + torch.zeros(3)
