"""`README.md`: the exported network for people: what, how found, the numbers, how to load it and to train it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from nas.arch import Architecture
from nas.export.forms import FORMS

JSON = Mapping[str, Any]


def card(config: JSON, metrics: JSON, data: str | None) -> str:
    """The text, from config.json and metrics.json.

    data: the data set as a command in the folder names it, None where there is none.
    """
    arch = Architecture.from_json(config["architecture"])
    parts = [
        f"# {arch.family} network {config['key']}",
        _what(config, arch),
        _genes(arch),
        "## Numbers",
        _numbers(config, metrics),
        "## Load",
        _load(config, metrics),
        "## How it was found",
        _found(config),
        _retrain(config, data),
        "## What was checked",
        _checked(metrics),
    ]
    return "\n\n".join(parts) + "\n"


def _what(config: JSON, arch: Architecture) -> str:
    side = config["input_size"]
    return (
        f"A convolutional network for images of {arch.in_channels} x {side} x {side} and {arch.num_classes} classes. "
        "`model.py` is plain PyTorch and needs nothing else; `config.json` describes the network for ParetoNeSt."
    )


def _genes(arch: Architecture) -> str:
    rows = [("blocks", arch.block), ("stem", arch.stem.kind), *arch.summary().items()]
    rows += [("shortcut", arch.shortcut), ("avd", arch.avd)]
    return _table(("gene", "value; by stage where they differ"), [(name, f"`{value}`") for name, value in rows])


def _numbers(config: JSON, metrics: JSON) -> str:
    price = config["cost"]
    rows = [
        ("parameters", f"{price['params']:,}"),
        ("multiply-adds of one image", f"{price['macs']:,}"),
        ("activations of convolutions", f"{price['activations']:,}"),
    ]
    recorded, found = config["accuracy"], metrics["accuracy"]
    if recorded:
        rows.append(("accuracy as recorded in training, validation", _share(recorded)))
        rows += _other_seeds(recorded)
    rows += [
        (f"accuracy of these files, {split}", _share(found[split]))
        for split in ("validation", "test")
        if found and split in found
    ]
    notes = []
    if recorded:
        notes.append(_trained(recorded))
        if "trial" in config["found"]:
            notes.append("A network picked for its validation accuracy is a little worse on new images.")
    if metrics["weights"].startswith("random"):
        notes.append(f"`model.safetensors` is not trained: {metrics['weights']}.")
    if metrics["weights"] == "none":
        notes.append("There are no weights in this folder.")
    return "\n\n".join([_table(("", ""), rows), *([" ".join(notes)] if notes else [])])


def _other_seeds(recorded: JSON) -> list[tuple[str, str]]:
    """What the same network reached when it was trained again; records of old exports say nothing of it."""
    others = recorded.get("other_seeds", [])
    label = "accuracy of the same network trained with other seeds, validation"
    return [(label, ", ".join(f"{100 * accuracy:.2f} %" for accuracy in others))] if others else []


def _trained(recorded: JSON) -> str:
    length = "1 epoch" if recorded["epochs"] == 1 else f"{recorded['epochs']} epochs"
    return f"Trained for {length} in {recorded['precision']}, seed {recorded['seed']}, without the validation images."


def _share(found: JSON) -> str:
    return (
        f"{100 * found['value']:.2f} % ({100 * found['low']:.2f} to {100 * found['high']:.2f} %, "
        f"{100 * found['confidence']:.0f} % confidence, {found['images']:,} images)"
    )


def _load(config: JSON, metrics: JSON) -> str:
    weights = metrics["weights"] != "none"
    code = [
        "from model import Network",
        *(["from safetensors.torch import load_file"] if weights else []),
        "",
        "network = Network().eval()",
        *(['network.load_state_dict(load_file("model.safetensors"))'] if weights else []),
        f"logits = network(images)  # images: B x {config['architecture']['in_channels']} x H x W, normalised",
    ]
    parts = ["```python\n" + "\n".join(code) + "\n```"]
    if data := config["data"]:
        mean, std = ([round(value, 6) for value in data[name]] for name in ("mean", "std"))
        classes = ", ".join(map(str, data["classes"][:20])) + (", ..." if len(data["classes"]) > 20 else "")
        parts.append(f"Images are `(pixel / 255 - {mean}) / {std}` by channel. Classes: {classes}.")
    return "\n\n".join([*parts, *_other_forms(metrics)])


def _other_forms(metrics: JSON) -> list[str]:
    calls = [form.call for form in FORMS.values() if form.file in metrics["outputs"]["differences"]]
    if not calls:
        return []
    folded = ", its batch norms folded into the convolutions" if metrics["folded"] else ""
    return [
        f"Other files hold the network with its weights{folded}, in eval mode and for any number of images:",
        "```python\n" + "\n".join(f"logits = {call}" for call in calls) + "\n```",
    ]


def _found(config: JSON) -> str:
    found, data = config["found"], config["data"]
    text = _origin(found.get("origin", found))
    if "training" in found:
        text += ", trained in full"
    if data is None:
        return f"{text}."
    versions = config["environment"]["versions"]
    return (
        f"{text} on {data['name']}: {data['train']:,} images to train, {data['val']:,} to validate. "
        f"ParetoNeSt {versions['paretonest']}, PyTorch {versions['torch']}. The recipe is in `config.json`."
    )


def _origin(found: JSON) -> str:
    if "published" in found:
        return f"`{found['published']}`, published in {found['paper']}"
    if "file" in found:
        return f"The network of the file `{found['file']}`"
    return f"Trial {found['trial']} of the study `{found['study']}` (sampler {found['sampler']}, seed {found['seed']})"


def _retrain(config: JSON, data: str | None) -> str:
    """The training goes beside this folder, which an export replaces as a whole."""
    words = f"--arch config.json --data {shlex.quote(data or 'DATA')} --out ../full-{config['key']}"
    begin, budget = "To train it in full", "--epochs 100"
    if "training" in config["found"]:
        begin, budget = "To train it again", f"--epochs {config['accuracy']['epochs']} --seed {config['found']['seed']}"
    where = "in this folder" if data else "in this folder, with your images as DATA"
    return f"{begin}, {where}:\n\n```sh\nnas retrain {words} {budget}\n```"


def _checked(metrics: JSON) -> str:
    outputs = metrics["outputs"]
    rows = [
        (f"`{name}`", f"{found['max_absolute']:.3g}", f"{found['max_relative']:.3g}")
        for name, found in outputs["differences"].items()
    ]
    table = _table(("file", "largest difference of an output", "by the largest output"), rows)
    return (
        f"Against the network as ParetoNeSt builds it, in eval mode, float32, on {outputs['images']}:\n\n{table}\n\n"
        "Parameters and multiply-adds are equal by formula and by fvcore on both. All figures are in `metrics.json`."
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
