"""The reader of the neutral descriptions in which published networks are exchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

from nas.arch import (
    Architecture,
    Conv,
    Gate,
    GateKind,
    Kernel,
    Mixer,
    SelectiveKernel,
    SplitAttention,
    Stage,
    Stem,
)

POSITION = "after_last_bn_before_add"
COMBINE = "sum"
STRIDE_IN = ("mixer", "conv1_1x1", "avd_pool")


def architecture_from_reference(description: Mapping[str, Any]) -> Architecture:
    """The architecture of a neutral description (the "arch" entry of a case in reference_models.json).

    Entries per stage (depths, out_channels, stage_strides, inner_channels, cardinality, first_block_projects, hidden,
    attention_groups) are a list with one value for each stage, or one value for all; at least one is a list.
    Raises ValueError, naming the key, for unknown, missing or contradictory entries.
    """
    _check_keys(
        description,
        "description",
        required=(
            *("in_channels", "num_classes", "stem", "block", "stride_in", "shortcut", "avd", "mixer", "gate"),
            *_STAGE_KEYS,
        ),
    )
    count = _stage_count(description)
    per_stage = {name: _per_stage(description[key], key, count) for key, name in _STAGE_KEYS.items()}
    mixers = _mixers(description["mixer"], count)
    gates = _gates(description["gate"], count)
    rows = [{name: values[i] for name, values in per_stage.items()} for i in range(count)]
    return Architecture(
        in_channels=description["in_channels"],
        num_classes=description["num_classes"],
        stem=_stem(description["stem"]),
        block=description["block"],
        stages=tuple(
            Stage(**row, mixer=mixer, gate=gate) for row, mixer, gate in zip(rows, mixers, gates, strict=True)
        ),
        avd=description["avd"],
        stride_in=_stride_in(description, any(row["stride"] != 1 for row in rows)),
        shortcut=description["shortcut"],
    )


_STAGE_KEYS = {
    "depths": "depth",
    "out_channels": "out_channels",
    "inner_channels": "inner_channels",
    "stage_strides": "stride",
    "cardinality": "cardinality",
    "first_block_projects": "projects",
}
"""Key of a description -> field of Stage."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_keys(value: object, where: str, *, required: tuple[str, ...] = (), optional: tuple[str, ...] = ()) -> None:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be an object, but got {value!r}")
    for key in required:
        _require(key in value, f"{where} lacks the key {key!r}")
    known = (*required, *optional)
    for key in value:
        _require(key in known, f"{where} has the unknown key {key!r}: expected {', '.join(known)}")


def _check_choice(value: object, where: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, f"{where} must be one of {', '.join(choices)}, but got {value!r}")


def _check_bool(value: object, where: str) -> None:
    _require(isinstance(value, bool), f"{where} must be true or false, but got {value!r}")


def _stage_count(description: Mapping[str, Any]) -> int:
    lists = (len(description[key]) for key in _STAGE_KEYS if isinstance(description[key], (list, tuple)))
    count = next(lists, 0)
    _require(count > 0, f"depths must be a list with one value for each stage, but got {description['depths']!r}")
    return count


def _per_stage(value: Any, where: str, count: int) -> list[Any]:
    values = list(value) if isinstance(value, (list, tuple)) else [value] * count
    _require(len(values) == count, f"{where} must have one value for each of the {count} stages, but got {value!r}")
    for entry in values:
        if where == "first_block_projects":
            _check_bool(entry, where)
        else:
            whole = isinstance(entry, int) and not isinstance(entry, bool) and entry >= 1
            _require(whole, f"{where} must be whole numbers of at least 1, but got {value!r}")
    return values


def _stem(value: Any) -> Stem:
    _check_keys(value, "stem", required=("kind", "channels", "strides", "pool"))
    for key in ("channels", "strides"):
        _require(isinstance(value[key], (list, tuple)), f"stem {key} must be a list, but got {value[key]!r}")
    return Stem(
        kind=value["kind"], channels=tuple(value["channels"]), strides=tuple(value["strides"]), pool=value["pool"]
    )


def _stride_in(description: Mapping[str, Any], strided: bool) -> Any:
    """Architecture's stride_in: there, an avd pool takes over the stride without being asked."""
    stride_in, avd = description["stride_in"], description["avd"]
    _check_choice(stride_in, "stride_in", STRIDE_IN)
    if stride_in == "avd_pool":
        _require(avd != "none", "stride_in avd_pool needs avd before_mixer or after_mixer, but got avd none")
        return "mixer"
    pooled = avd != "none" and strided
    _require(not pooled, f"stride_in must be avd_pool when avd is {avd}, but got {stride_in!r}")
    return stride_in


def _mixers(value: Any, count: int) -> list[Mixer]:
    kind = value.get("kind") if isinstance(value, Mapping) else None
    _check_choice(kind, "mixer kind", tuple(_MIXERS))
    return _MIXERS[str(kind)](value, count)


def _conv(value: Mapping[str, Any], count: int) -> list[Mixer]:
    _check_keys(value, "mixer", required=("kind",))
    return [Conv()] * count


_ATTENTION_KEYS = ("attention_groups", "attention_bias")


def _attention(value: Mapping[str, Any], count: int, *, bias: bool) -> list[dict[str, Any]]:
    """hidden, attention_groups and attention_bias of each stage."""
    attention_bias = value.get("attention_bias", bias)
    _check_bool(attention_bias, "mixer attention_bias")
    hidden = _per_stage(value["hidden"], "mixer hidden", count)
    groups = _per_stage(value.get("attention_groups", 1), "mixer attention_groups", count)
    return [
        {"hidden": h, "attention_groups": g, "attention_bias": attention_bias}
        for h, g in zip(hidden, groups, strict=True)
    ]


def _selective_kernel(value: Mapping[str, Any], count: int) -> list[Mixer]:
    optional = ("split_input", *_ATTENTION_KEYS)
    _check_keys(value, "mixer", required=("kind", "branches", "hidden"), optional=optional)
    split_input = value.get("split_input", False)
    _check_bool(split_input, "mixer split_input")
    branches = value["branches"]
    _require(isinstance(branches, (list, tuple)), f"mixer branches must be a list, but got {branches!r}")
    kernels = tuple(_kernel(branch) for branch in branches)
    return [
        SelectiveKernel(kernels=kernels, split_input=split_input, **attention)
        for attention in _attention(value, count, bias=False)
    ]


def _kernel(value: Any) -> Kernel:
    _check_keys(value, "mixer branch", required=("kernel",), optional=("dilation",))
    return Kernel(value["kernel"], value.get("dilation", 1))


def _split_attention(value: Mapping[str, Any], count: int) -> list[Mixer]:
    _check_keys(value, "mixer", required=("kind", "radix", "hidden"), optional=_ATTENTION_KEYS)
    return [SplitAttention(radix=value["radix"], **attention) for attention in _attention(value, count, bias=True)]


_MIXERS: dict[str, Callable[[Mapping[str, Any], int], list[Mixer]]] = {
    "conv": _conv,
    "selective_kernel": _selective_kernel,
    "split_attention": _split_attention,
}

_GATE_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "none": (("kind",), ()),
    "cse": (("kind", "hidden"), ("bias", "position")),
    "sse": (("kind",), ("bias", "position")),
    "scse": (("kind", "hidden"), ("bias", "position", "combine")),
}
"""Gate kind -> its required and its optional keys."""


def _gates(value: Any, count: int) -> list[Gate]:
    kind = value.get("kind") if isinstance(value, Mapping) else None
    _check_choice(kind, "gate kind", get_args(GateKind))
    required, optional = _GATE_KEYS[str(kind)]
    _check_keys(value, "gate", required=required, optional=optional)
    _check_choice(value.get("position", POSITION), "gate position", (POSITION,))
    _check_choice(value.get("combine", COMBINE), "gate combine", (COMBINE,))
    bias = value.get("bias", True)
    _check_bool(bias, "gate bias")
    _require(bias or kind != "sse", "gate bias of an sse gate must be true, but got False")
    if "hidden" not in required:
        return [Gate(kind=value["kind"])] * count
    hidden = _per_stage(value["hidden"], "gate hidden", count)
    return [Gate(kind=value["kind"], hidden=h, bias=bias) for h in hidden]
