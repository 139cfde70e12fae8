"""`metrics.json`: that the written files are the searched network, by running both.

Outputs are compared in float32 on the CPU, in eval mode. The accuracy is counted anew with the network that the files
give, so a check that fails means that the files are not what was found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from nas.arch import Architecture
from nas.cost.formula import cost
from nas.cost.measure import measure_module
from nas.data import ImageData, Split
from nas.data.batches import Normalise, on_device, plain_batches
from nas.device import device_name
from nas.evidence import CONFIDENCE, share
from nas.export.batched import BATCH, batched
from nas.export.forms import FORMS
from nas.export.weights import Weights, read_weights
from nas.models import build
from nas.train import evaluate

MODEL, WEIGHTS = "model.py", "model.safetensors"

TOLERANCE = 1e-6
"""Of an output, times the largest output where that is above 1."""
FOLDED_TOLERANCE = 1e-5
"""The same for forms whose batch norms are folded: their weights are other numbers."""
COMPARED_IMAGES = 256
RANDOM_IMAGES = 8
SEED = 0
"""Of the images, where there is no data set."""
ROUNDING = {"fp32": 0.002}
"""Share of the images by which an accuracy measured in a precision may differ from that of another processor in fp32,
one image at least. Of other precisions: `COARSE_ROUNDING`."""
COARSE_ROUNDING = 0.01


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the files are to be held against.

    weights: of the searched network. data: its images, None for a network without any. accuracy, precision: as they
    were recorded on the validation split; accuracy is None where none belongs to these weights.
    """

    architecture: Architecture
    input_size: int
    weights: Weights
    data: ImageData | None = None
    accuracy: float | None = None
    precision: str = "fp32"


def prove(claim: Claim, folder: Path, device: torch.device, *, folded: bool = False) -> dict[str, Any]:
    """Runs the searched network and what lies in the folder: model.py, and model.safetensors and other forms if there.

    device: where the accuracy is counted. folded: the other forms have no batch norms of their own. Raises ValueError
    with the first check that fails.
    """
    searched = build(claim.architecture.canonical())
    searched.load_state_dict(claim.weights)
    networks = {MODEL: loaded(folder / MODEL, claim.weights)}
    if (folder / WEIGHTS).exists():
        networks[WEIGHTS] = loaded(folder / MODEL, read_weights(folder / WEIGHTS))
    x_BCHW, images = images_of(claim)
    its = _outputs(searched, x_BCHW)
    found = {name: _difference(name, _outputs(network, x_BCHW), its) for name, network in networks.items()}
    for form in FORMS.values():
        if (folder / form.file).exists():
            outputs = form.run(folder / form.file, x_BCHW)
            allowed = max(form.tolerance, FOLDED_TOLERANCE) if folded else form.tolerance
            found[form.file] = _difference(form.file, outputs, its, allowed)
    return {
        "outputs": {"images": images, "precision": "fp32", "device": "cpu", "differences": found},
        "cost": _costs(claim, {"searched network": searched, MODEL: networks[MODEL]}),
        "accuracy": _accuracies(claim, networks.get(WEIGHTS, networks[MODEL]), device),
    }


def network_in(model: Path) -> nn.Module:
    """A fresh network of an exported file. Runs the file: it is code. Raises ValueError when it is none of ours."""
    module = ModuleType("model")
    try:
        text = model.read_text(encoding="utf-8")
        exec(compile(text, str(model), "exec"), module.__dict__)  # an import would leave a __pycache__ beside it
        network: nn.Module = module.Network()
    except Exception as error:  # whatever a person may have written into it
        raise ValueError(f"{model} gives no network ({type(error).__name__}: {error})") from None
    return network


def loaded(model: Path, weights: Mapping[str, Tensor]) -> nn.Module:
    """The network of an exported file with these weights. Raises ValueError where they do not fit."""
    network = network_in(model)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"the weights do not fit {model.name}: {' '.join(str(error).split())}") from None
    return network


def images_of(claim: Claim) -> tuple[Tensor, str]:
    """Images to compare outputs on, and what they are."""
    if claim.data is None:
        shape = (RANDOM_IMAGES, claim.architecture.in_channels, claim.input_size, claim.input_size)
        drawn_BCHW = torch.randn(shape, generator=torch.Generator().manual_seed(SEED))
        return drawn_BCHW, f"{RANDOM_IMAGES} images of standard normal noise, seed {SEED}"
    split = claim.data.val
    batches = plain_batches(on_device(split, torch.device("cpu")), Normalise.of(claim.data), batch_size=BATCH)
    parts = [x_BCHW for x_BCHW, _ in islice(batches, math.ceil(COMPARED_IMAGES / BATCH))]
    x_BCHW = torch.cat(parts)
    return x_BCHW, f"{len(x_BCHW)} images of the validation split of {claim.data.name}"


def _outputs(network: nn.Module, x_BCHW: Tensor) -> Tensor:
    return batched(network.eval(), x_BCHW)


def _difference(name: str, mine: Tensor, its: Tensor, tolerance: float = TOLERANCE) -> dict[str, float]:
    """Largest difference of an output, and as a share of the largest output."""
    absolute, largest = float((mine - its).abs().max()), float(its.abs().max())
    allowed = tolerance * max(1.0, largest)
    if not absolute <= allowed:  # also where one of them is no number
        raise ValueError(
            f"{name} is not the searched network: an output differs by {absolute:.3g}, but at most {allowed:.3g} is "
            "rounding"
        )
    return {"max_absolute": absolute, "max_relative": absolute / largest if largest else 0.0, "tolerance": tolerance}


def _costs(claim: Claim, networks: Mapping[str, nn.Module]) -> dict[str, Any]:
    """By formula and, by fvcore, of each network. Raises ValueError where they are not all equal."""
    exact = asdict(cost(claim.architecture, claim.input_size))
    found: dict[str, Any] = {"formula": exact}
    for name, network in networks.items():
        counted = measure_module(network, claim.architecture.in_channels, claim.input_size)
        found[name] = {metric: getattr(counted, metric) for metric in exact}
        if found[name] != exact:
            raise ValueError(f"{name} costs {found[name]}, but the formula gives {exact}")
    return found


def _accuracies(claim: Claim, network: nn.Module, device: torch.device) -> dict[str, Any] | None:
    """Counted anew on validation and test; None without data or where the weights are not the trained ones."""
    if claim.data is None or claim.accuracy is None:
        return None
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    splits = {name: counted(network, split(), claim.data, device) for name, split in splits_of(claim.data).items()}
    right, images = splits["validation"]["right"], len(claim.data.val)
    allowed = max(1, int(ROUNDING.get(claim.precision, COARSE_ROUNDING) * images))
    off = abs(right - round(claim.accuracy * images))
    if off > allowed:
        raise ValueError(
            f"the exported network classifies {right} of {images} validation images rightly, but the recorded accuracy "
            f"is {claim.accuracy:.4f}: {off} images differ, where rounding explains {allowed}"
        )
    return {"device": device_name(device), "precision": "fp32", "recorded": claim.accuracy, **splits}


def splits_of(data: ImageData) -> dict[str, Callable[[], Split]]:
    """What accuracy may be counted on, read when it is asked for."""
    return {"validation": lambda: data.val, **({"test": data.test} if data.has_test else {})}


def counted(
    network: nn.Module, split: Split, data: ImageData, device: torch.device, normalise: Normalise | None = None
) -> dict[str, Any]:
    """The accuracy on a split as JSON values, with its interval; normalised as `evaluate` does."""
    accuracy = evaluate(network, split, data, device=device, normalise=normalise).accuracy
    right = round(accuracy * len(split))
    found = share(right, len(split))
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "confidence": CONFIDENCE,
        "right": right,
        "images": len(split),
    }
