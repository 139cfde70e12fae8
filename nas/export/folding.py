"""Batch norms folded into the convolutions before them, for deployment: fewer operations, outputs equal to rounding."""

from __future__ import annotations

from itertools import count, takewhile

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

PAIRS = {"bn": "conv", "conv_bn": "conv", "fc_bn": "fc1"}
"""Name of a batch norm in an exported module -> that of the convolution before it; a hybrid has conv0, conv1, ..."""


def fold(network: nn.Module) -> nn.Module:
    """Folds the batch norms of an exported network, in place, in eval mode. It cannot be trained afterwards."""
    network.eval()
    for module in network.modules():
        for name, before in PAIRS.items():
            norm = getattr(module, name, None)
            if isinstance(norm, nn.BatchNorm2d):
                _fold(module, norm, before)
                setattr(module, name, nn.Identity())
    return network


def _fold(module: nn.Module, norm: nn.BatchNorm2d, before: str) -> None:
    """Into one convolution or, where several stand beside each other, each with its share of the channels."""
    several = takewhile(lambda name: hasattr(module, name), (f"{before}{number}" for number in count()))
    names = [before] if hasattr(module, before) else list(several)
    convs = [module.get_submodule(name) for name in names]
    channels = [conv.out_channels for conv in convs if isinstance(conv, nn.Conv2d)]
    assert sum(channels) == norm.num_features, f"{type(module).__name__} has another layout than exported files"
    for name, conv, part in zip(names, convs, _parts(norm, channels), strict=True):
        assert isinstance(conv, nn.Conv2d)
        setattr(module, name, fuse_conv_bn_eval(conv, part))


def _parts(norm: nn.BatchNorm2d, channels: list[int]) -> list[nn.BatchNorm2d]:
    """A batch norm for each of several neighbouring groups of its channels."""
    tensors = {name: value.split(channels) for name, value in norm.state_dict().items() if value.ndim == 1}
    parts = []
    with torch.no_grad():
        for number, width in enumerate(channels):
            part = nn.BatchNorm2d(width, eps=norm.eps).to(norm.weight).eval()
            part.load_state_dict({name: values[number] for name, values in tensors.items()}, strict=False)
            parts.append(part)
    return parts
