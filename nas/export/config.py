"""`config.json`: one network with its cost, its accuracy and where they come from, readable without this package.

Also how a command is given networks: by such files, or by the names of published ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from nas.arch import Architecture
from nas.cost.formula import cost
from nas.evidence import CONFIDENCE, share
from nas.record import Run, environment, read_json
from nas.zoo import PUBLISHED, Published

JSON = Mapping[str, Any]

FORMAT = 2
"""1 had neither the interval of the accuracy, nor the data set's classes, nor networks without a trial."""


def trial_config(run: Run, trial: int) -> dict[str, Any]:
    """config.json of a trial that was trained in full: architecture, cost, accuracy and how both came to be.

    Raises ValueError for any other trial.
    """
    spec, settings = run.read_spec(trial), run.read_run()
    result = run.read_result(trial)
    if result is None or result.get("status") != "ok":
        raise ValueError(f"trial {trial} of study {run.study} has not finished: pick a complete one")
    if not result.get("full", True):
        raise ValueError(f"trial {trial} of study {run.study} was stopped before its full budget: pick a complete one")
    try:
        return _trial(run, trial, spec, settings, result)
    except KeyError as error:
        raise ValueError(f"the record of trial {trial} in {run.folder} lacks the key {error}") from None


def _trial(run: Run, trial: int, spec: JSON, settings: JSON, result: JSON) -> dict[str, Any]:
    return {
        **_described(Architecture.from_json(spec["arch"]), settings["space"]["fixed"]["input_size"]),
        "latency": _latency(run, spec),
        "accuracy": {
            **_accuracy(result, spec, settings["data"]["val"]),
            "other_seeds": run.other_seeds().get(trial, []),
        },
        "data": {**spec["data"], **settings["data"]},
        "recipe": spec["recipe"],
        "found": _found(run, trial, spec, settings),
        "environment": settings["environment"],
    }


def _found(run: Run, trial: int, spec: JSON, settings: JSON) -> dict[str, Any]:
    """A training in full found nothing: its network comes from where its own config.json says."""
    seed = settings["config"]["seed"]
    if "origin" in settings:
        first = settings["origin"]
        return {"training": run.study, "seed": seed, "origin": first.get("origin", first)}
    return {
        "study": run.study,
        "trial": trial,
        "genotype": spec["genotype"],
        "sampler": settings["config"]["sampler"],
        "seed": seed,
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


def _accuracy(result: JSON, spec: JSON, images: int) -> dict[str, Any]:
    counted = share(round(result["accuracy"] * images), images)
    return {
        "value": result["accuracy"],
        "low": counted.low,
        "high": counted.high,
        "confidence": CONFIDENCE,
        "measured": "validation split, one training",
        "images": images,
        "epochs": result["epochs"],
        "steps": result.get("steps"),
        "seed": spec["seed"],
        "device": result.get("device"),
        "precision": result.get("precision", spec["recipe"].get("precision")),
    }


def network_config(found: FoundNetwork, input_size: int) -> dict[str, Any]:
    """config.json of a network by file or by name: nothing was trained, so nothing is said of that."""
    return {
        **_described(found.architecture, input_size),
        "accuracy": None,
        "data": None,
        "recipe": None,
        "found": origin(found),
        "environment": environment(),
    }


def origin(found: FoundNetwork) -> dict[str, Any]:
    """Where a network by file or by name comes from, as config.json says it."""
    if found.published:
        return {"published": found.published.name, "paper": found.published.paper}
    return {"file": Path(found.label).name}


def _described(arch: Architecture, input_size: int) -> dict[str, Any]:
    canonical = arch.canonical()
    return {
        "format": FORMAT,
        "key": canonical.key,
        "architecture": canonical.to_json(),
        "family": canonical.family,
        "input_size": input_size,
        "cost": asdict(cost(canonical, input_size)),
    }


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
