"""Do scores of untrained networks say anything about accuracy that MACs do not?

    python benchmarks/zero_cost.py --rows rows/fidelity_cifar10.csv --data cifar10.npz --max-macs 40e6

Takes the networks that `fidelity.py` trained (same space and same choosing options) and its rows, and prints the rank
correlation of each score with the accuracy of the longest trainings, alone and with the MACs held fixed (partial).

synflow: sum of |w dR/dw| for all-positive weights and inputs of ones (arXiv:2006.05467), here its logarithm.
naswot: log-determinant of how alike a batch's ReLU patterns are (arXiv:2006.04647).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import fidelity
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nas.arch import Architecture
from nas.data import load
from nas.data.batches import Normalise, on_device, plain_batches
from nas.evidence import partial_spearman, spearman
from nas.models import build
from nas.space import SearchSpace
from nas.train.recipe import Schedule


def main() -> None:
    options = parse()
    space = SearchSpace.load(options.space)
    data = load(options.data, image_size=space.input_size, val_fraction=0.1, train_images=10_000)
    batch = next(iter(plain_batches(on_device(data.train, CPU), Normalise.of(data), batch_size=128)))[0]
    rows = fidelity.read(options.rows)
    print("| networks | score | Spearman | with MACs held fixed |\n|---|---|---|---|")
    networks = fidelity.chosen(space, options.networks, options.band_quantile, options.max_macs)
    macs = {arch.key: float(price) for _, arch, price in networks}
    for regime in sorted({row.regime for row in rows}):
        accuracy = longest([row for row in rows if row.regime == regime], options.reference)
        archs = {arch.key: arch for name, arch, _ in networks if name == regime and arch.key in accuracy}
        truth = [accuracy[key] for key in archs]
        prices = [macs[key] for key in archs]
        print(f"| {regime}, {len(archs)} | MACs | {spearman(prices, truth):.2f} | - |")
        for name, score in SCORES.items():
            scores = [score(arch, batch) for arch in archs.values()]
            alone, beside = spearman(scores, truth), partial_spearman(scores, truth, prices)
            print(f"| {regime}, {len(archs)} | {name} | {alone:.2f} | {beside:.2f} |")


CPU = torch.device("cpu")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rows", type=Path, required=True, help="rows of fidelity.py")
    parser.add_argument("--data", required=True, help="as for fidelity.py")
    parser.add_argument("--space", default="cifar", help="[cifar]")
    parser.add_argument("--networks", type=int, default=24, help="as for fidelity.py [24]")
    parser.add_argument("--band-quantile", type=float, default=0.1, help="as for fidelity.py [0.1]")
    parser.add_argument("--reference", default="average", choices=get_args(Schedule), help="[average]")
    parser.add_argument("--max-macs", type=float, default=math.inf, help="as for fidelity.py [none]")
    return parser.parse_args()


def longest(rows: list[fidelity.Row], reference: Schedule) -> dict[str, float]:
    """Key -> mean accuracy over the seeds of the longest training by the schedule `reference`."""
    budget = max(row.budget for row in rows)
    found: dict[str, list[float]] = {}
    for row in rows:
        if (row.schedule, row.budget) == (reference, budget):
            found.setdefault(row.key, []).append(row.accuracy)
    seeds = max(map(len, found.values()))
    return {key: float(np.mean(values)) for key, values in found.items() if len(values) == seeds}


def synflow(arch: Architecture, x_BCHW: Tensor) -> float:
    """Batch norm passes on what it gets: in eval mode with fresh statistics it is the identity."""
    model = seeded(arch).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    model(torch.ones(1, *x_BCHW.shape[1:], dtype=torch.float64)).sum().backward()
    flow = sum(float((p.detach() * p.grad).abs().sum()) for p in model.parameters() if p.grad is not None)
    return math.log(flow)


def naswot(arch: Architecture, x_BCHW: Tensor) -> float:
    patterns = ReluPatterns()
    with torch.no_grad(), patterns:
        seeded(arch).train()(x_BCHW)
    return float(np.linalg.slogdet(patterns.kernel_BB)[1])


class ReluPatterns(TorchDispatchMode):
    """Sums up, over all ReLUs, how many places two images have alike, on or off."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernel_BB: NDArray[np.float64] = np.zeros((1, 1))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.relu.default:
            on = (given.flatten(1) > 0).float()
            self.kernel_BB = self.kernel_BB + (on @ on.T + (1 - on) @ (1 - on).T).double().numpy()
        return given


def seeded(arch: Architecture) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(arch)


SCORES: dict[str, Callable[[Architecture, Tensor], float]] = {"synflow": synflow, "naswot": naswot}

if __name__ == "__main__":
    main()
