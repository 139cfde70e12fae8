"""`config.json`: one network with its cost, its accuracy and where they come from, readable without this package.

Also how a command is given networks: by such files, or by the names of published ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from nas.arch import Architecture
from nas.pareto import COSTS
from nas.record import Run, read_json, write_json
from nas.zoo import PUBLISHED, Published

FORMAT = 1


def network_config(run: Run, trial: int) -> dict[str, Any]:
    """The network of a finished trial as plain JSON: architecture, cost, accuracy and how both came to be."""
    spec = run.read_spec(trial)
    result = run.read_result(trial)
    if result is None or result.get("status") != "ok":
        raise ValueError(f"trial {trial} of study {run.study} has not finished: pick a complete one")
    arch = Architecture.from_json(spec["arch"]).canonical()
    settings = run.read_run()
    return {
        "format": FORMAT,
        "key": arch.key,
        "architecture": arch.to_json(),
        "family": arch.family,
        "input_size": settings["space"]["fixed"]["input_size"],
        "cost": {name: spec["cost"][name] for name in COSTS},
        "latency": _latency(run, spec),
        "accuracy": {
            "value": result["accuracy"],
            "measured": "validation split, one training",
            "epochs": result["epochs"],
            "seed": spec["seed"],
        },
        "data": {**spec["data"], "digest": settings["data"]["digest"]},
        "recipe": spec["recipe"],
        "found": {
            "study": run.study,
            "trial": trial,
            "genotype": spec["genotype"],
            "sampler": settings["config"]["sampler"],
        },
        "environment": settings["environment"],
    }


def _latency(run: Run, spec: Mapping[str, Any]) -> dict[str, Any] | None:
    """As predicted and, for a network that was timed on the front, measured; None where latency was no objective."""
    model, front = run.read_latency(), run.read_front_latency()
    if "latency" not in spec["cost"] or model is None:
        return None
    return {
        "predicted_ms": spec["cost"]["latency"],
        "predicted_on": model["conditions"],
        "measured_ms": run.measured_ms().get(spec["key"]),
        "measured_on": front and front["conditions"],
    }


def write_config(run: Run, trial: int, folder: Path | None = None) -> Path:
    """Write config.json into `folder` (default: best/<key> of the study) and return its path."""
    config = network_config(run, trial)
    path = (folder if folder is not None else run.path("best", str(config["key"]))) / "config.json"
    write_json(path, config)
    return path


def read_architecture(path: Path) -> tuple[Architecture, int | None]:
    """The architecture in a config.json, or in a bare architecture's JSON, and the input size if the file has one."""
    value: Mapping[str, Any] = read_json(path)
    try:
        return Architecture.from_json(value.get("architecture", value)), value.get("input_size")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


@dataclass(frozen=True, slots=True)
class FoundNetwork:
    """A network that a command was given.

    input_size (pixels) is None where the file names none; `published` is None for a network from a file.
    """

    label: str
    architecture: Architecture
    input_size: int | None
    published: Published | None = None


def find_network(source: str) -> FoundNetwork:
    """The network in a file (a config.json, or a bare architecture's JSON), or the published one of that name.

    Raises ValueError, with the names that come close, when it is neither.
    """
    path = Path(source)
    if path.is_file():
        return FoundNetwork(source, *read_architecture(path))
    if source in PUBLISHED:
        published = PUBLISHED[source]
        return FoundNetwork(source, published.architecture, published.input_size, published)
    begins = [name for name in PUBLISHED if name.startswith(source.lower())]
    close = begins[:5] or get_close_matches(source.lower(), PUBLISHED)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise ValueError(f"{source!r} is neither a file nor a published network: {hint}`nas cost --list` shows the names")
