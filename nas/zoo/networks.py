"""The published networks, one line each, as in the model zoos of timm and pycls.

All are for 224 x 224 images and 1000 classes (ImageNet). Inner widths are floor(planes * base_width / 64) * cardinality
with planes 64 to 512, as in the ResNeXt paper; attention and gate widths follow the rule of the paper that has them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nas.arch import (
    Architecture,
    Avd,
    Conv,
    Gate,
    GateKind,
    Kernel,
    Mixer,
    SelectiveKernel,
    Shortcut,
    SplitAttention,
    Stage,
    Stem,
    StrideIn,
)


@dataclass(frozen=True, slots=True)
class Published:
    """A network of a paper: what it is, what it costs exactly, and what its authors or others wrote about it.

    params, macs: exact, at input_size (pixels), as in `nas.cost`; `counted` says how they were found.
    params_m (millions), gflops (10**9 multiply-adds), top1 (percent, ImageNet validation): the figures in print, None
    where none is known; `source` says whose, and whether they were read in a table or recalled from the paper.
    Recipes differ between sources: compare top1 within one source only. paper: its arXiv id.
    """

    name: str
    architecture: Architecture
    params: int
    macs: int
    params_m: float | None
    gflops: float | None
    top1: float | None
    source: str
    counted: str
    paper: str
    input_size: int = 224


DEPTHS: dict[int, tuple[int, ...]] = {
    14: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    26: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    269: (3, 30, 48, 8),
}
"""Layers in a network's name -> blocks of its stages. Networks of 18 and 34 layers have basic blocks."""

PLANES = (64, 128, 256, 512)
STRIDES = (1, 2, 2, 2)
STEM = Stem(kind="conv7x7", channels=(64,), strides=(2,), pool="max3x3_s2_pad1")
LEGACY_STEM = Stem(kind="conv7x7", channels=(64,), strides=(2,), pool="max3x3_s2_pad0_ceil")


def deep_stem(width: int) -> Stem:
    """Three 3x3 convolutions in place of the 7x7 one (arXiv:1812.01187, ResNet-C)."""
    return Stem(kind="deep_3x3", channels=(width, width, 2 * width), strides=(2, 1, 1), pool="max3x3_s2_pad1")


def network(
    layers: int,
    *,
    cardinality: int = 1,
    base_width: int = 64,
    mixer: Callable[[int], Mixer] = lambda _: Conv(),
    gate: Callable[[int], Gate] = lambda _: Gate(),
    stem: Stem = STEM,
    avd: Avd = "none",
    stride_in: StrideIn = "mixer",
    shortcut: Shortcut = "strided_conv1x1",
) -> Architecture:
    """`mixer` gets the inner, `gate` the output width of each stage."""
    basic = layers in (18, 34)
    expansion = 1 if basic else 4
    stages = []
    in_channels = stem.channels[-1]
    for depth, planes, stride in zip(DEPTHS[layers], PLANES, STRIDES, strict=True):
        inner, out_channels = planes * base_width // 64 * cardinality, planes * expansion
        stage = Stage(
            depth=depth,
            out_channels=out_channels,
            inner_channels=inner,
            stride=stride,
            projects=stride > 1 or in_channels != out_channels,
            cardinality=cardinality,
            mixer=mixer(inner),
            gate=gate(out_channels),
        )
        stages.append(stage)
        in_channels = out_channels
    return Architecture(
        in_channels=3,
        num_classes=1000,
        stem=stem,
        block="basic" if basic else "bottleneck",
        stages=tuple(stages),
        avd=avd,
        stride_in=stride_in,
        shortcut=shortcut,
    )


def resnet(layers: int) -> Architecture:
    """With the stride of a bottleneck in its 3x3, where the paper has it in the first 1x1."""
    return network(layers)


def resnext(layers: int, cardinality: int, base_width: int) -> Architecture:
    return network(layers, cardinality=cardinality, base_width=base_width)


def resnet_d(layers: int) -> Architecture:
    """ResNet with deep stem and average-pooled shortcuts (arXiv:1812.01187, ResNet-D)."""
    return network(layers, stem=deep_stem(32), shortcut="avgpool_then_conv1x1")


def _gate(kind: GateKind) -> Callable[[int], Gate]:
    """With reduction 16 (SE-Net, section 6.1 of arXiv:1709.01507)."""
    return lambda channels: Gate(kind=kind, hidden=channels // 16)


def senet(layers: int, cardinality: int = 1, base_width: int = 64) -> Architecture:
    return network(layers, cardinality=cardinality, base_width=base_width, gate=_gate("cse"))


def scsenet(layers: int) -> Architecture:
    """SE-ResNet with the sum of channel and spatial gate; the spatial one has a bias."""
    return network(layers, gate=_gate("scse"))


def legacy_senet(layers: int) -> Architecture:
    """As the SE paper's own: stride in the first 1x1, max pool without padding."""
    return network(layers, gate=_gate("cse"), stem=LEGACY_STEM, stride_in="conv1_1x1")


def sknet(layers: int, *, branches: int = 2, reduction: int = 16) -> Architecture:
    """On ResNeXt 32x4d; d = max(C / r, 32), larger kernels by dilation (SK-Net, section 3.1)."""
    kernels = tuple(Kernel(3, dilation) for dilation in range(1, branches + 1))

    def mixer(channels: int) -> Mixer:
        return SelectiveKernel(kernels=kernels, hidden=max(channels // reduction, 32))

    return network(layers, cardinality=32, base_width=4, mixer=mixer)


def resnest(
    layers: int, *, radix: int = 2, cardinality: int = 1, base_width: int = 64, avd: Avd = "after_mixer"
) -> Architecture:
    """Attention width max(C R / 4, 32) (ResNeSt, section 3.1); networks of 101 and more layers have a wider stem."""

    def mixer(channels: int) -> Mixer:
        hidden = max(channels * radix // 4, 32)
        hidden += -hidden % cardinality
        return SplitAttention(radix=radix, hidden=hidden, attention_groups=cardinality)

    return network(
        layers,
        cardinality=cardinality,
        base_width=base_width,
        mixer=mixer,
        stem=deep_stem(64 if layers >= 101 else 32),
        shortcut="avgpool_then_conv1x1",
        avd=avd,
    )


def fast(radix: int, cardinality: int, base_width: int) -> Architecture:
    """ResNeSt-50-fast, as in the paper's ablation: 2s1x64d has radix 2, cardinality 1 and base width 64."""
    return resnest(50, radix=radix, cardinality=cardinality, base_width=base_width, avd="before_mixer")


PYCLS = "read: pycls model zoo, mean of 5 runs"
SKNET = "read: SKNet repository"
ABLATION = "read: ResNeSt repository, ablation, PyTorch"
RESNEXT_PAPER = "recalled: ResNeXt paper, table 3"
RESNEST_PAPER = "recalled: ResNeSt paper"
RESNEST_BOTH = "read: ResNeSt repository; GFLOPs recalled: paper"
LEGACY = "recalled: SE paper; top-1 read: timm (in1k)"
NONE = "no figure known"
OWN = "in no published table"


def timm(weights: str) -> str:
    return f"read: timm ({weights}_in1k)"


def larger(top1: str) -> str:
    return f"read: timm (in1k), top-1 {top1} pixels"


REBUILT = "by an independent implementation and by formula"
FVCORE = "by formula, confirmed once by fvcore on the built network"

_Row = tuple[str, Architecture, int, int, float | None, float | None, float | None, str, str]

# name, architecture; params, macs; in print: params_m, gflops, top1; source, counted
_ROWS: dict[str, tuple[_Row, ...]] = {
    "arXiv:1512.03385": (  # ResNet
        ("resnet18", resnet(18), 11_689_512, 1_814_073_344, 11.69, 1.82, 69.75, timm("tv"), REBUILT),
        ("resnet34", resnet(34), 21_797_672, 3_663_761_408, 21.8, 3.67, 73.3, timm("tv"), FVCORE),
        ("resnet50", resnet(50), 25_557_032, 4_089_184_256, 25.6, 4.1, 76.81, PYCLS, REBUILT),
        ("resnet101", resnet(101), 44_549_160, 7_801_405_440, 44.5, 7.8, 78.59, PYCLS, REBUILT),
        ("resnet152", resnet(152), 60_192_808, 11_513_626_624, 60.2, 11.5, 79.13, PYCLS, REBUILT),
    ),
    "arXiv:1812.01187": (  # ResNet-D
        ("resnet18d", resnet_d(18), 11_708_744, 2_053_713_920, 11.71, 2.06, 72.3, timm("ra2"), REBUILT),
        ("resnet34d", resnet_d(34), 21_816_904, 3_903_401_984, 21.82, 3.91, 77.11, timm("ra2"), FVCORE),
        ("resnet50d", resnet_d(50), 25_576_264, 4_328_824_832, 25.6, 4.34, 78.31, RESNEST_PAPER, REBUILT),
        ("resnet101d", resnet_d(101), 44_568_392, 8_041_046_016, 44.57, 8.08, 80.47, timm("gluon"), FVCORE),
        ("resnet152d", resnet_d(152), 60_212_040, 11_753_267_200, 60.21, 11.8, 80.48, timm("gluon"), FVCORE),
    ),
    "arXiv:1611.05431": (  # ResNeXt
        ("resnext50_32x4d", resnext(50, 32, 4), 25_028_904, 4_230_479_872, 25.0, 4.2, 78.12, PYCLS, REBUILT),
        ("resnext50_2x40d", resnext(50, 2, 40), 25_425_000, 4_124_508_160, None, None, 77.0, RESNEXT_PAPER, REBUILT),
        ("resnext50_4x24d", resnext(50, 4, 24), 25_292_968, 4_159_832_064, None, None, 77.4, RESNEXT_PAPER, FVCORE),
        ("resnext50_8x14d", resnext(50, 8, 14), 25_603_016, 4_267_409_408, None, None, 77.7, RESNEXT_PAPER, REBUILT),
        ("resnext101_32x4d", resnext(101, 32, 4), 44_177_704, 7_969_996_800, 44.2, 8.0, 79.34, PYCLS, REBUILT),
        ("resnext101_32x8d", resnext(101, 32, 8), 88_791_336, 16_414_015_488, 88.79, 16.48, 79.31, timm("tv"), REBUILT),
    ),
    "arXiv:1709.01507": (  # SE-Net
        ("seresnet50", senet(50), 28_088_024, 4_091_699_200, 28.09, 4.11, 80.26, timm("ra2"), REBUILT),
        ("seresnet101", senet(101), 49_326_872, 7_806_148_608, None, None, None, NONE, FVCORE),
        ("seresnet152", senet(152), 66_821_848, 11_520_204_800, None, None, None, NONE, REBUILT),
        ("legacy_seresnet50", legacy_senet(50), 28_088_024, 3_860_488_192, 28.1, 3.87, 77.65, LEGACY, REBUILT),
        ("legacy_seresnet101", legacy_senet(101), 49_326_872, 7_574_937_600, 49.3, 7.6, 78.37, LEGACY, FVCORE),
        ("legacy_seresnet152", legacy_senet(152), 66_821_848, 11_288_993_792, 66.8, 11.32, 78.66, LEGACY, FVCORE),
        ("seresnext50_32x4d", senet(50, 32, 4), 27_559_896, 4_232_994_816, 27.7, 4.25, 78.88, SKNET, REBUILT),
        ("seresnext101_32x4d", senet(101, 32, 4), 48_955_416, 7_974_739_968, 49.2, 8.0, 79.42, SKNET, REBUILT),
    ),
    "arXiv:1803.02579": (  # scSE
        ("scseresnet50", scsenet(50), 28_103_144, 4_097_218_560, None, None, None, OWN, FVCORE),
    ),
    "arXiv:1903.06586": (  # SK-Net
        ("sknet50", sknet(50), 27_479_784, 4_462_710_784, 27.5, 4.47, 79.21, SKNET, REBUILT),
        ("sknet101", sknet(101), 48_736_040, 8_448_724_992, 48.9, 8.46, 79.81, SKNET, FVCORE),
        ("sknet50_m3", sknet(50, branches=3), 29_249_512, 4_694_261_760, None, None, None, NONE, REBUILT),
        ("sknet101_m3", sknet(101, branches=3), 52_055_080, 8_926_216_192, None, None, None, NONE, FVCORE),
        ("sknet50_r8", sknet(50, reduction=8), 28_365_288, 4_463_595_520, None, None, None, NONE, REBUILT),
        ("sknet50_r32", sknet(50, reduction=32), 27_184_680, 4_462_415_872, None, None, None, NONE, FVCORE),
    ),
    "arXiv:2004.08955": (  # ResNeSt
        ("resnest14", resnest(14), 10_611_688, 2_749_405_184, 10.61, 2.76, 75.52, timm("gluon"), REBUILT),
        ("resnest26", resnest(26), 17_069_448, 3_623_391_232, 17.07, 3.64, 78.48, timm("gluon"), FVCORE),
        ("resnest50", resnest(50), 27_483_240, 5_371_160_576, 27.5, 5.39, 81.03, RESNEST_BOTH, REBUILT),
        ("resnest101", resnest(101), 48_275_016, 10_200_565_760, 48.28, None, None, larger("82.92 at 256"), REBUILT),
        ("resnest200", resnest(200), 70_201_544, 17_408_411_648, 70.2, None, None, larger("83.88 at 320"), FVCORE),
        ("resnest269", resnest(269), 110_929_480, 22_434_121_728, 110.93, None, None, larger("84.54 at 416"), FVCORE),
        ("resnest50_fast_1s1x64d", fast(1, 1, 64), 26_217_896, 4_329_459_712, 26.3, 4.34, 80.33, ABLATION, REBUILT),
        ("resnest50_fast_2s1x64d", fast(2, 1, 64), 27_483_240, 4_330_711_040, 27.5, 4.34, 80.53, ABLATION, FVCORE),
        ("resnest50_fast_4s1x64d", fast(4, 1, 64), 31_912_712, 4_335_112_192, 31.9, 4.35, 80.76, ABLATION, FVCORE),
        ("resnest50_fast_1s2x40d", fast(1, 2, 40), 25_946_680, 4_364_642_816, 25.9, 4.38, 80.59, ABLATION, FVCORE),
        ("resnest50_fast_2s2x40d", fast(2, 2, 40), 26_943_792, 4_365_622_336, 26.9, 4.38, 80.61, ABLATION, REBUILT),
        ("resnest50_fast_4s2x40d", fast(4, 2, 40), 30_417_592, 4_369_060_736, 30.4, 4.41, 81.14, ABLATION, REBUILT),
        ("resnest50_fast_1s4x24d", fast(1, 4, 24), 25_677_000, 4_399_827_456, 25.7, 4.42, 80.99, ABLATION, FVCORE),
    ),
}

PUBLISHED: dict[str, Published] = {row[0]: Published(*row, paper) for paper, rows in _ROWS.items() for row in rows}
"""Name -> network."""
