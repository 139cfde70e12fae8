"""Architecture values: frozen, validated, canonical descriptions of one network, with a stable key and JSON both ways.

An architecture is a stem, stages of residual blocks, a global average pool and a linear classifier:

    bottleneck: t -> 1x1 -> [avd pool] -> mixer -> [avd pool] -> 1x1 -> gate -> + shortcut -> ReLU
    basic:      t -> [avd pool] -> mixer -> [avd pool] -> 3x3 -> gate -> + shortcut -> ReLU

The mixer is a plain grouped convolution (ResNet, ResNeXt), selective kernels (SK-Net), split attention (ResNeSt) or
the hybrid, split attention whose splits have different kernels. Nothing here knows of torch; widths are given
explicitly, so no rounding rule hides in the model or in its cost.

Papers: ResNet arXiv:1512.03385, ResNeXt arXiv:1611.05431, SE-Net arXiv:1709.01507, scSE arXiv:1803.02579,
SK-Net arXiv:1903.06586, ResNeSt arXiv:2004.08955, the "D" stem and shortcut arXiv:1812.01187.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

FORMAT = 1

GENES = ("depth", "width", "cardinality", "mixer", "gate")
"""The entries of `Architecture.summary`."""

BlockKind = Literal["basic", "bottleneck"]
Avd = Literal["none", "before_mixer", "after_mixer"]
StrideIn = Literal["mixer", "conv1_1x1"]
Shortcut = Literal["strided_conv1x1", "avgpool_then_conv1x1"]
StemKind = Literal["conv7x7", "deep_3x3", "conv3x3"]
StemPool = Literal["none", "max3x3_s2_pad1", "max3x3_s2_pad0_ceil"]
GateKind = Literal["none", "cse", "sse", "scse"]

STEM_CONVS: dict[str, tuple[int, int]] = {"conv7x7": (1, 7), "deep_3x3": (3, 3), "conv3x3": (1, 3)}
"""Stem kind -> (number of convolutions, kernel size)."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_count(name: str, value: object, minimum: int = 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ValueError(f"{name} must be a whole number of at least {minimum}, but got {value!r}")


CHOICES: dict[str, tuple[str, ...]] = {
    "stem kind": get_args(StemKind),
    "stem pool": get_args(StemPool),
    "gate kind": get_args(GateKind),
    "block": get_args(BlockKind),
    "avd": get_args(Avd),
    "stride_in": get_args(StrideIn),
    "shortcut": get_args(Shortcut),
}
"""What must be one of a few -> all that it may be."""


def _require_choice(name: str, value: object) -> None:
    if value not in CHOICES[name]:
        raise ValueError(f"{name} must be one of {', '.join(CHOICES[name])}, but got {value!r}")


@dataclass(frozen=True, slots=True, order=True)
class Kernel:
    """A square convolution kernel of odd `size`; `dilation` spreads its taps."""

    size: int = 3
    dilation: int = 1

    def __post_init__(self) -> None:
        _require_count("kernel size", self.size)
        _require(self.size % 2 == 1, f"kernel size must be odd, but got {self.size}")
        _require_count("kernel dilation", self.dilation)

    @property
    def reach(self) -> int:
        """Side of the receptive field: 5 for a true 5x5 and for a 3x3 with dilation 2."""
        return self.dilation * (self.size - 1) + 1

    @property
    def padding(self) -> int:
        return self.dilation * (self.size - 1) // 2

    def canonical(self) -> Kernel:
        return Kernel(1) if self.size == 1 else self


@dataclass(frozen=True, slots=True, kw_only=True)
class Stem:
    """The first convolutions, each followed by batch norm and ReLU, and an optional max pool."""

    kind: StemKind
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    pool: StemPool = "none"

    def __post_init__(self) -> None:
        _require_choice("stem kind", self.kind)
        _require_choice("stem pool", self.pool)
        convs, _ = STEM_CONVS[self.kind]
        for name, values in (("channels", self.channels), ("strides", self.strides)):
            _require(isinstance(values, tuple), f"stem {name} must be a tuple, but got {values!r}")
            _require(len(values) == convs, f"stem {name} of a {self.kind} stem must be {convs} long, but got {values}")
            for value in values:
                _require_count(f"stem {name}", value)

    @property
    def kernel(self) -> Kernel:
        return Kernel(STEM_CONVS[self.kind][1])

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "channels": list(self.channels),
            "strides": list(self.strides),
            "pool": self.pool,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv:
    """Plain grouped convolution, BN, ReLU (ResNet; ResNeXt when the stage's cardinality exceeds 1)."""

    kernel: Kernel = Kernel()

    def canonical(self, _inner: bool = True) -> Conv:
        return Conv(kernel=self.kernel.canonical())


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectiveKernel:
    """Branches with different kernels, softmax attention across them (SK-Net, section 3.1).

    `hidden` is the attention's width d; with `split_input` branch m sees only the m-th part of the input channels.
    """

    kernels: tuple[Kernel, ...]
    hidden: int
    split_input: bool = False
    attention_groups: int = 1
    attention_bias: bool = False

    def __post_init__(self) -> None:
        _require(len(self.kernels) >= 1, "selective kernel needs at least one kernel, but got ()")
        _require_attention(self.hidden, self.attention_groups)

    @property
    def branches(self) -> int:
        return len(self.kernels)

    def canonical(self, inner: bool = True) -> Mixer:
        """Kernels in order where branches can trade places; one branch under a softmax is a plain convolution."""
        kernels = _in_order(self.kernels, inner or not self.split_input)
        if len(kernels) == 1:
            return Conv(kernel=kernels[0])
        return self if kernels == self.kernels else replace(self, kernels=kernels)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitAttention:
    """Split attention (ResNeSt, section 3.1): radix-softmax over R splits, sigmoid for R = 1.

    `kernels` has one entry (all splits alike: ResNeSt) or R entries (the hybrid: split r has kernels[r]).
    """

    radix: int
    hidden: int
    kernels: tuple[Kernel, ...] = (Kernel(),)
    attention_groups: int = 1
    attention_bias: bool = True

    def __post_init__(self) -> None:
        _require_count("radix of split attention", self.radix)
        _require(
            len(self.kernels) in (1, self.radix),
            f"split attention with radix {self.radix} takes 1 or {self.radix} kernels, but got {len(self.kernels)}",
        )
        _require_attention(self.hidden, self.attention_groups)

    @property
    def branches(self) -> int:
        return self.radix

    @property
    def is_hybrid(self) -> bool:
        return len(set(self.kernels)) > 1

    def canonical(self, inner: bool = True) -> SplitAttention:
        """Kernels in order where splits can trade places, one kernel where all are alike."""
        kernels = _in_order(self.kernels, inner)
        kernels = kernels if len(set(kernels)) > 1 else kernels[:1]
        return self if kernels == self.kernels else replace(self, kernels=kernels)


Mixer = Conv | SelectiveKernel | SplitAttention


def _in_order(kernels: tuple[Kernel, ...], can_swap: bool) -> tuple[Kernel, ...]:
    """Branches that see parts of their input can trade places only if the layer before (`inner`) can follow suit;

    in a basic block the parts are those of the residual stream, which other blocks read too.
    """
    canonical = tuple(kernel.canonical() for kernel in kernels)
    return tuple(sorted(canonical)) if can_swap else canonical


def _require_attention(hidden: int, groups: int) -> None:
    _require_count("attention hidden width", hidden)
    _require_count("attention groups", groups)
    _require(hidden % groups == 0, f"attention groups must divide its hidden width {hidden}, but got {groups}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Gate on the block's output, after the last BN and before the sum: cse (SE-Net), sse or scse (their sum).

    `hidden` is the width of the channel gate's bottleneck, `bias` says whether its two layers have biases.
    """

    kind: GateKind = "none"
    hidden: int = 0
    bias: bool = True

    def __post_init__(self) -> None:
        _require_choice("gate kind", self.kind)
        if self.has_hidden:
            _require_count(f"hidden width of a {self.kind} gate", self.hidden)

    @property
    def has_hidden(self) -> bool:
        return self.kind in ("cse", "scse")

    def canonical(self) -> Gate:
        return self if self.has_hidden else Gate(kind=self.kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """`depth` residual blocks of equal shape; only the first has the stride and, if `projects`, a projection shortcut.

    inner_channels: bottleneck: in and out channels of the mixer; basic: out channels of the mixer, the first 3x3.
    """

    depth: int
    out_channels: int
    inner_channels: int
    stride: int
    projects: bool
    cardinality: int = 1
    mixer: Mixer = Conv()
    gate: Gate = Gate()

    def __post_init__(self) -> None:
        for name in ("depth", "out_channels", "inner_channels", "stride", "cardinality"):
            _require_count(name, getattr(self, name))

    def canonical(self, block: BlockKind) -> Stage:
        mixer, gate = self.mixer.canonical(block == "bottleneck"), self.gate.canonical()
        return self if (mixer, gate) == (self.mixer, self.gate) else replace(self, mixer=mixer, gate=gate)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSpec:
    """One residual block with everything that its module and its cost need."""

    kind: BlockKind
    in_channels: int
    inner_channels: int
    out_channels: int
    stride: int
    cardinality: int
    mixer: Mixer
    gate: Gate
    projects: bool
    avd: Avd
    stride_in: StrideIn
    shortcut: Shortcut

    def __post_init__(self) -> None:
        if not (self.projects or (self.stride == 1 and self.in_channels == self.out_channels)):
            raise ValueError(
                f"an identity shortcut needs stride 1 and equal widths, but got stride {self.stride}, "
                f"{self.in_channels} channels in and {self.out_channels} out: set projects"
            )
        _check_mixer(self.mixer, self.mixer_in_channels, self.inner_channels, self.cardinality)

    @property
    def mixer_in_channels(self) -> int:
        return self.inner_channels if self.kind == "bottleneck" else self.in_channels

    @property
    def pools(self) -> bool:
        """Whether an average pool takes over the stride (avd: arXiv:2004.08955, appendix)."""
        return self.avd != "none" and self.stride > 1

    @property
    def pre_stride(self) -> int:
        return self.stride if self.stride_in == "conv1_1x1" else 1

    @property
    def mixer_stride(self) -> int:
        return 1 if self.pools or self.stride_in == "conv1_1x1" else self.stride


def _check_mixer(mixer: Mixer, in_channels: int, channels: int, cardinality: int) -> None:
    """The divisibilities of a mixer that takes `in_channels` and puts out `channels`."""
    groups, rule = cardinality, "cardinality {} must divide the mixer's width"
    if isinstance(mixer, SplitAttention):
        groups, rule = cardinality * mixer.radix, "cardinality x radix ({} x {}) must divide the mixer's width"
    elif isinstance(mixer, SelectiveKernel) and mixer.split_input:
        groups = cardinality * mixer.branches
        rule = "cardinality x branches ({} x {}) must divide the input of a split selective kernel"
    if in_channels % groups or channels % cardinality:
        broken = rule.format(cardinality, groups // cardinality)
        raise ValueError(f"{broken}, but got {in_channels} channels in and {channels} out")
    if not isinstance(mixer, Conv) and channels % mixer.attention_groups:
        raise ValueError(f"attention groups {mixer.attention_groups} must divide the mixer's width {channels}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One network of the family. Raises ValueError, naming the stage, for a network that cannot be built."""

    in_channels: int
    num_classes: int
    stem: Stem
    block: BlockKind
    stages: tuple[Stage, ...]
    avd: Avd = "none"
    stride_in: StrideIn = "mixer"
    shortcut: Shortcut = "strided_conv1x1"
    blocks_by_stage: tuple[tuple[BlockSpec, ...], ...] = field(init=False, repr=False, compare=False)
    """Every residual block, from the stem to the head; they follow from all else."""

    def __post_init__(self) -> None:
        _require_count("in_channels", self.in_channels)
        _require_count("num_classes", self.num_classes)
        _require_choice("block", self.block)
        _require_choice("avd", self.avd)
        _require_choice("stride_in", self.stride_in)
        _require_choice("shortcut", self.shortcut)
        _require(len(self.stages) >= 1, "an architecture needs at least one stage, but got none")
        _require(
            self.stride_in == "mixer" or (self.block == "bottleneck" and self.avd == "none"),
            f"stride_in conv1_1x1 needs bottleneck blocks without avd, but got block {self.block}, avd {self.avd}",
        )
        object.__setattr__(self, "blocks_by_stage", tuple(self._blocks()))

    def _blocks(self) -> Iterator[tuple[BlockSpec, ...]]:
        in_channels = self.stem.channels[-1]
        for index, stage in enumerate(self.stages, start=1):
            try:
                first = self._block(stage, in_channels, stage.stride, stage.projects)
                rest = self._block(stage, stage.out_channels, 1, False) if stage.depth > 1 else None
            except ValueError as error:
                raise ValueError(f"stage {index}: {error}") from None
            yield (first, *((rest,) * (stage.depth - 1) if rest else ()))
            in_channels = stage.out_channels

    def _block(self, stage: Stage, in_channels: int, stride: int, projects: bool) -> BlockSpec:
        return BlockSpec(
            kind=self.block,
            in_channels=in_channels,
            inner_channels=stage.inner_channels,
            out_channels=stage.out_channels,
            stride=stride,
            cardinality=stage.cardinality,
            mixer=stage.mixer,
            gate=stage.gate,
            projects=projects,
            avd=self.avd,
            stride_in=self.stride_in,
            shortcut=self.shortcut,
        )

    def canonical(self) -> Architecture:
        """The one description of this network: whatever cannot act is dropped, whatever has no order is sorted."""
        strided = any(stage.stride > 1 for stage in self.stages)
        return replace(
            self,
            stages=tuple(stage.canonical(self.block) for stage in self.stages),
            avd=self.avd if strided else "none",
            stride_in=self.stride_in if strided else "mixer",
            shortcut=self.shortcut if strided else "strided_conv1x1",
        )

    @property
    def key(self) -> str:
        """16 hex digits, equal for two descriptions of one network, stable over processes and versions."""
        text = json.dumps(self.canonical().to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def mechanisms(self) -> frozenset[str]:
        """Which papers' mechanisms act in the network."""
        canonical = self.canonical()
        return frozenset(name for stage in canonical.stages for name in _mechanisms(stage))

    @property
    def family(self) -> str:
        """The paper of the network, or "mixed" when its stages follow several."""
        names = self.mechanisms
        return next(iter(names)) if len(names) == 1 else "mixed"

    def summary(self) -> dict[str, str]:
        """The genes in words, one entry per gene; stages joined by "-" where they differ."""
        stages = self.canonical().stages
        return {
            "depth": "-".join(str(stage.depth) for stage in stages),
            "width": "-".join(str(stage.out_channels) for stage in stages),
            "cardinality": _joined(str(stage.cardinality) for stage in stages),
            "mixer": _joined(mixer_name(stage.mixer) for stage in stages),
            "gate": _joined(gate_name(stage.gate, stage.out_channels) for stage in stages),
        }

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads them back to an equal architecture."""
        return {
            "format": FORMAT,
            "in_channels": self.in_channels,
            "num_classes": self.num_classes,
            "stem": self.stem.to_json(),
            "block": self.block,
            "avd": self.avd,
            "stride_in": self.stride_in,
            "shortcut": self.shortcut,
            "stages": [_stage_to_json(stage) for stage in self.stages],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Architecture:
        """Raises ValueError naming the key that is missing, unknown or wrong."""
        names = ("format", "in_channels", "num_classes", "stem", "block", "avd", "stride_in", "shortcut", "stages")
        fields = _fields(value, "architecture", required=names)
        _require(fields["format"] == FORMAT, f"architecture format must be {FORMAT}, but got {fields['format']!r}")
        stem = _fields(fields["stem"], "stem", required=("kind", "channels", "strides", "pool"))
        stages = fields["stages"]
        _require(isinstance(stages, list), f"stages must be a list, but got {stages!r}")
        return cls(
            in_channels=fields["in_channels"],
            num_classes=fields["num_classes"],
            stem=Stem(
                kind=stem["kind"],
                channels=_tuple(stem["channels"], "stem channels"),
                strides=_tuple(stem["strides"], "stem strides"),
                pool=stem["pool"],
            ),
            block=fields["block"],
            avd=fields["avd"],
            stride_in=fields["stride_in"],
            shortcut=fields["shortcut"],
            stages=tuple(_stage_from_json(stage, f"stage {i}") for i, stage in enumerate(stages, start=1)),
        )


def _joined(names: Iterator[str]) -> str:
    values = list(names)
    return values[0] if len(set(values)) == 1 else "-".join(values)


def _mechanisms(stage: Stage) -> Iterator[str]:
    mixer = stage.mixer
    gated = stage.gate.kind != "none"
    if gated:
        yield "SE-Net"
    if isinstance(mixer, SplitAttention):
        yield "hybrid" if mixer.is_hybrid else "ResNeSt"
    elif isinstance(mixer, SelectiveKernel):
        yield "SK-Net"
    elif not gated:
        yield "ResNeXt" if stage.cardinality > 1 else "ResNet"


def kernels_name(kernels: tuple[Kernel, ...]) -> str:
    """A set of reaches, as in 3+5; "t" marks a true kernel larger than 3."""
    return "+".join(f"{k.reach}{'t' if k.size > 3 else ''}" for k in kernels)


def mixer_name(mixer: Mixer) -> str:
    if isinstance(mixer, Conv):
        return f"conv{kernels_name((mixer.kernel,))}"
    if isinstance(mixer, SelectiveKernel):
        return f"sk{kernels_name(mixer.kernels)}{'/split' if mixer.split_input else ''}"
    return f"split{mixer.radix}" + (f"/{kernels_name(mixer.kernels)}" if mixer.kernels != (Kernel(),) else "")


def gate_name(gate: Gate, channels: int) -> str:
    return f"{gate.kind}/{round(channels / gate.hidden)}" if gate.has_hidden else gate.kind


_MIXERS: dict[str, type] = {"conv": Conv, "selective_kernel": SelectiveKernel, "split_attention": SplitAttention}


def _mixer_to_json(mixer: Mixer) -> dict[str, Any]:
    if isinstance(mixer, Conv):
        return {"kind": "conv", "kernel": [mixer.kernel.size, mixer.kernel.dilation]}
    shared = {
        "kernels": [[kernel.size, kernel.dilation] for kernel in mixer.kernels],
        "hidden": mixer.hidden,
        "attention_groups": mixer.attention_groups,
        "attention_bias": mixer.attention_bias,
    }
    if isinstance(mixer, SelectiveKernel):
        return {"kind": "selective_kernel", "split_input": mixer.split_input, **shared}
    return {"kind": "split_attention", "radix": mixer.radix, **shared}


def _mixer_from_json(value: Any, where: str) -> Mixer:
    kind = value.get("kind") if isinstance(value, Mapping) else None
    _require(kind in _MIXERS, f"{where} kind must be one of {', '.join(_MIXERS)}, but got {kind!r}")
    if kind == "conv":
        fields = _fields(value, where, required=("kind", "kernel"))
        return Conv(kernel=_kernel(fields["kernel"], where))
    own = {"selective_kernel": "split_input", "split_attention": "radix"}[str(kind)]
    names = ("kernels", "hidden", "attention_groups", "attention_bias", own)
    fields = _fields(value, where, required=("kind", *names))
    kernels = tuple(_kernel(kernel, where) for kernel in _tuple(fields["kernels"], f"{where} kernels"))
    arguments = {name: fields[name] for name in names} | {"kernels": kernels}
    mixer: Mixer = _MIXERS[str(kind)](**arguments)
    return mixer


def _kernel(value: Any, where: str) -> Kernel:
    pair = _tuple(value, f"{where} kernel")
    _require(len(pair) == 2, f"{where} kernel must be [size, dilation], but got {value!r}")
    return Kernel(*pair)


def _stage_to_json(stage: Stage) -> dict[str, Any]:
    return {
        "depth": stage.depth,
        "out_channels": stage.out_channels,
        "inner_channels": stage.inner_channels,
        "stride": stage.stride,
        "projects": stage.projects,
        "cardinality": stage.cardinality,
        "mixer": _mixer_to_json(stage.mixer),
        "gate": {"kind": stage.gate.kind, "hidden": stage.gate.hidden, "bias": stage.gate.bias},
    }


def _stage_from_json(value: Any, where: str) -> Stage:
    plain = ("depth", "out_channels", "inner_channels", "stride", "projects", "cardinality")
    fields = _fields(value, where, required=(*plain, "mixer", "gate"))
    gate = _fields(fields["gate"], f"{where} gate", required=("kind", "hidden", "bias"))
    try:
        return Stage(
            **{name: fields[name] for name in plain},
            mixer=_mixer_from_json(fields["mixer"], "mixer"),
            gate=Gate(**gate),
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _fields(value: Any, where: str, required: tuple[str, ...]) -> dict[str, Any]:
    """The entries of a JSON object: all of `required` and no other."""
    _require(isinstance(value, Mapping), f"{where} must be an object, but got {value!r}")
    missing = [name for name in required if name not in value]
    _require(not missing, f"{where} lacks the key {missing[0]!r}" if missing else "")
    unknown = [name for name in value if name not in required]
    _require(not unknown, f"{where} has the unknown key {unknown[0]!r}" if unknown else "")
    return dict(value)


def _tuple(value: Any, where: str) -> tuple[Any, ...]:
    _require(isinstance(value, (list, tuple)), f"{where} must be a list, but got {value!r}")
    return tuple(value)
