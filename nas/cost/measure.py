"""The cost of a network as fvcore counts it on the built module: the oracle that `nas.cost.formula` must equal.

fvcore counts one multiply-add as one flop. Beside convolutions and linear layers it charges 2 per output element of a
batch norm (in eval mode), and nothing for means, pools, products and activation functions, which it lists as
unsupported. So `macs` is its convolution plus its linear count, and its own total is given beside them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nas.arch import Architecture
from nas.models import Network, build

with warnings.catch_warnings():
    # fvcore scripts a loss at import, which torch calls deprecated (2.10 as a DeprecationWarning, 2.15 as a
    # FutureWarning, which people see); nothing here uses that loss.
    warnings.filterwarnings("ignore", message="`torch.jit.script` is ")
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one built network in eval mode and one image.

    params, macs, activations: as in `nas.cost.formula.Cost`. fvcore_total: everything fvcore counted; by_operator: the
    same by operator (conv, linear, batch_norm); unsupported: the operators it could not count, sorted.
    """

    params: int
    macs: int
    activations: int
    fvcore_total: int
    by_operator: dict[str, int]
    unsupported: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Operators:
    """fvcore's count by operator, and the operators it has no count for, sorted."""

    by_operator: dict[str, int]
    unsupported: tuple[str, ...]


def measure(arch: Architecture, input_size: int) -> Measured:
    """Builds `arch` and counts it for one square image of side `input_size` (pixels); draws no random number."""
    with torch.random.fork_rng(devices=[]):
        network = build(arch)
    return measure_network(network, input_size)


def measure_network(network: Network, input_size: int) -> Measured:
    """Counts a network that is already built, by two forward passes; leaves its mode as it was."""
    return measure_module(network, network.arch.in_channels, input_size)


def measure_module(network: nn.Module, in_channels: int, input_size: int) -> Measured:
    """As `measure_network`, of any module with convolutions and a linear layer that takes images of `in_channels`."""
    operators = count_operators(network, in_channels, input_size)
    return Measured(
        params=sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad),
        macs=operators.by_operator["conv"] + operators.by_operator["linear"],
        activations=count_activations(network, in_channels, input_size),
        fvcore_total=sum(operators.by_operator.values()),
        by_operator=operators.by_operator,
        unsupported=operators.unsupported,
    )


def count_operators(network: nn.Module, in_channels: int, input_size: int) -> Operators:
    with _analysis(FlopCountAnalysis, network, in_channels, input_size) as analysis:
        counts = {name: int(count) for name, count in sorted(analysis.by_operator().items())}
        return Operators(counts, tuple(sorted(analysis.unsupported_ops())))


def count_activations(network: nn.Module, in_channels: int, input_size: int) -> int:
    """Output elements of all convolutions."""
    with _analysis(ActivationCountAnalysis, network, in_channels, input_size) as analysis:
        return int(analysis.by_operator()["conv"])


@contextmanager
def _analysis(kind: type[Any], network: nn.Module, in_channels: int, input_size: int) -> Iterator[Any]:
    """An fvcore analysis of `network` in eval mode, which traces when it is first asked."""
    weight = next(network.parameters())
    image = torch.zeros(1, in_channels, input_size, input_size, dtype=weight.dtype, device=weight.device)
    analysis = kind(network, image)
    # Unsupported operators are returned by `measure`, so fvcore need not warn of them; nor of modules it never calls.
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield analysis
    finally:
        network.train(training)
