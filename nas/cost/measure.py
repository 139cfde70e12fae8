"""The cost of a network as fvcore counts it on the built module: the oracle that `nas.cost.formula` must equal.

fvcore counts one multiply-add as one flop. Beside convolutions and linear layers it charges 2 per output element of a
batch norm (in eval mode), and nothing for means, pools, products and activation functions, which it lists as
unsupported. So `macs` is its convolution plus its linear count, and its own total is given beside them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch

from nas.arch import Architecture
from nas.models import Network, build

with warnings.catch_warnings():
    # fvcore scripts a loss at import, which torch 2.10 and newer call deprecated; nothing here uses that loss.
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=DeprecationWarning)
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


def measure(arch: Architecture, input_size: int) -> Measured:
    """Builds `arch` and counts it for one square image of side `input_size` (pixels); draws no random number."""
    with torch.random.fork_rng(devices=[]):
        network = build(arch)
    return measure_network(network, input_size)


def measure_network(network: Network, input_size: int) -> Measured:
    """Counts a network that is already built; leaves its mode as it was."""
    weight = network.classifier.weight
    image = torch.zeros(1, network.arch.in_channels, input_size, input_size, dtype=weight.dtype, device=weight.device)
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            flops = _quiet(FlopCountAnalysis(network, image))
            activations = _quiet(ActivationCountAnalysis(network, image))
            by_operator = {name: int(count) for name, count in sorted(flops.by_operator().items())}
            unsupported = tuple(sorted(flops.unsupported_ops()))
            convolved = int(activations.by_operator()["conv"])
    finally:
        network.train(training)
    return Measured(
        params=sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad),
        macs=by_operator["conv"] + by_operator["linear"],
        activations=convolved,
        fvcore_total=sum(by_operator.values()),
        by_operator=by_operator,
        unsupported=unsupported,
    )


def _quiet(analysis: Any) -> Any:
    """Unsupported operators are returned by `measure`, so fvcore need not warn of them; nor of untraced modules."""
    return analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
