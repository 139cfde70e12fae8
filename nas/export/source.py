"""`model.py`: one network as one file of plain PyTorch, with every number in its place and nothing that it can spare.

The network is walked once, as a tree of calls. These calls are the body of its `__init__`, and say which classes the
file needs, and which of their arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from textwrap import dedent

from nas import __version__
from nas.arch import Architecture, BlockSpec, Conv, Gate, Kernel, SelectiveKernel, SplitAttention, Stem
from nas.cost.formula import cost, stem_side
from nas.export.code import Call, Expression, Repeat, calls, definition, lines
from nas.export.modules import CLASSES, Lines, Uses, block

POST_KERNEL = {"bottleneck": 1, "basic": 3}
STEM_POOLS: dict[str, tuple[Call, ...]] = {
    "none": (),
    "max3x3_s2_pad1": (Call("nn.MaxPool2d", (3, 2), {"padding": 1}),),
    "max3x3_s2_pad0_ceil": (Call("nn.MaxPool2d", (3, 2), {"ceil_mode": "True"}),),
}


def model_source(arch: Architecture, input_size: int, origin: str) -> str:
    """The text of `model.py`, whose class `Network` has the state dict of `nas.models.build(arch.canonical())`.

    input_size: side (pixels) of the images for which cost and sizes are written beside the code; the network takes any.
    origin: a sentence for people, where the network comes from. Raises ValueError for an input_size below 1.
    """
    network = arch.canonical()
    stem = _stem(network.stem, network.in_channels)
    stages = [_stage(blocks) for blocks in network.blocks_by_stage]
    made = [call for part in (stem, *stages) for call in calls(part)]
    classes = [*_classes(network, made), _network(network, input_size, stem, stages)]
    needs_torch = any("torch." in line for text in classes for line in text)
    imports = [*(["import torch"] if needs_torch else []), "from torch import Tensor, nn"]
    body = "\n\n\n".join("\n".join(text) for text in (imports, *classes))
    return f"{_docstring(network, input_size, origin)}\n{body}\n"


def _classes(arch: Architecture, made: Sequence[Call]) -> Iterator[Lines]:
    def uses(name: str) -> Uses:
        return Uses(tuple(call for call in made if call.name == name))

    yield from (text(uses(name)) for name, text in CLASSES.items() if uses(name).calls)
    yield block(uses("Block"), pool_after=arch.avd == "after_mixer")


def _has_bias(arch: Architecture) -> bool:
    """Whether any convolution has a bias."""
    stages = arch.stages
    return any(
        stage.gate.kind == "sse"
        or (stage.gate.has_hidden and (stage.gate.bias or stage.gate.kind == "scse"))
        or (not isinstance(stage.mixer, Conv) and stage.mixer.attention_bias)
        for stage in stages
    )


# the walk


def _keywords(**given: tuple[Expression, Expression]) -> dict[str, Expression]:
    """name=(value, default): those whose value is not the default."""
    return {name: value for name, (value, default) in given.items() if value != default}


def _conv_bn(
    in_channels: int, out_channels: int, kernel: Kernel, *, stride: int = 1, groups: int = 1, relu: bool = True
) -> Call:
    size = () if kernel.size == 1 else (kernel.size,)
    name = "StridedConv1x1" if kernel.size == 1 and stride > 1 and groups == 1 else "ConvBN"
    options = _keywords(stride=(stride, 1), dilation=(kernel.dilation, 1), groups=(groups, 1), relu=(str(relu), "True"))
    return Call(name, (in_channels, out_channels, *size), options)


def _stem(stem: Stem, in_channels: int) -> Call:
    convs = []
    for channels, stride in zip(stem.channels, stem.strides, strict=True):
        convs.append(_conv_bn(in_channels, channels, stem.kernel, stride=stride))
        in_channels = channels
    return Call("nn.Sequential", (*convs, *STEM_POOLS[stem.pool]))


def _stage(blocks: Sequence[BlockSpec]) -> Call:
    first, *rest = map(_block, blocks)
    repeated: tuple[Expression, ...] = (Repeat(rest[0], len(rest)),) if len(rest) > 1 else tuple(rest)
    return Call("nn.Sequential", (first, *repeated))


def _block(block: BlockSpec) -> Call:
    inner, out_channels = block.inner_channels, block.out_channels
    parts: dict[str, Expression] = {}
    if block.kind == "bottleneck":
        parts["pre"] = _conv_bn(block.in_channels, inner, Kernel(1), stride=block.pre_stride)
    parts["mix"] = MIXERS[type(block.mixer)](block)
    if block.pools:
        parts["pool"] = Call("nn.AvgPool2d", (3, block.stride), {"padding": 1})
    parts["post"] = _conv_bn(inner, out_channels, Kernel(POST_KERNEL[block.kind]), relu=False)
    if block.gate.kind != "none":
        parts["gate"] = GATES[block.gate.kind](block.gate, out_channels)
    if block.projects:
        parts["shortcut"] = _shortcut(block)
    return Call("Block", (), parts)


def _shortcut(block: BlockSpec) -> Call:
    if block.stride > 1 and block.shortcut == "avgpool_then_conv1x1":
        return Call("PooledShortcut", (block.in_channels, block.out_channels), {"stride": block.stride})
    return _conv_bn(block.in_channels, block.out_channels, Kernel(1), stride=block.stride, relu=False)


def _conv(block: BlockSpec) -> Call:
    assert isinstance(block.mixer, Conv)
    return _conv_bn(
        block.mixer_in_channels,
        block.inner_channels,
        block.mixer.kernel,
        stride=block.mixer_stride,
        groups=block.cardinality,
    )


def _attention(mixer: SelectiveKernel | SplitAttention, *, bias: bool) -> dict[str, Expression]:
    """`bias`: whether the paper has one."""
    groups, own_bias = (mixer.attention_groups, 1), (str(mixer.attention_bias), str(bias))
    return {"hidden": mixer.hidden, **_keywords(attention_groups=groups, attention_bias=own_bias)}


def _selective_kernel(block: BlockSpec) -> Call:
    mixer = block.mixer
    assert isinstance(mixer, SelectiveKernel)
    name, parts = ("SplitInputSelectiveKernel", mixer.branches) if mixer.split_input else ("SelectiveKernel", 1)
    in_channels, channels = block.mixer_in_channels // parts, block.inner_channels
    branches = [
        _conv_bn(in_channels, channels, kernel, stride=block.mixer_stride, groups=block.cardinality)
        for kernel in mixer.kernels
    ]
    return Call(name, tuple(branches), {"channels": channels, **_attention(mixer, bias=False)})


def _split_attention(block: BlockSpec) -> Call:
    mixer = block.mixer
    assert isinstance(mixer, SplitAttention)
    channels = block.mixer_in_channels, block.inner_channels
    options = {
        **_attention(mixer, bias=True),
        **_keywords(stride=(block.mixer_stride, 1), cardinality=(block.cardinality, 1)),
    }
    if mixer.is_hybrid:
        kernels = tuple((kernel.size, kernel.dilation) for kernel in mixer.kernels)
        return Call("HybridSplitAttention", channels, {"kernels": kernels, **options})
    kernel = mixer.kernels[0]
    options |= _keywords(kernel=(kernel.size, 3), dilation=(kernel.dilation, 1))
    if mixer.radix == 1:
        return Call("SigmoidAttention", channels, options)
    return Call("SplitAttention", channels, {"radix": mixer.radix, **options})


MIXERS: dict[type, Callable[[BlockSpec], Call]] = {
    Conv: _conv,
    SelectiveKernel: _selective_kernel,
    SplitAttention: _split_attention,
}


def _channel_gate(gate: Gate, channels: int) -> Call:
    return Call("ChannelGate", (channels, gate.hidden), _keywords(bias=(str(gate.bias), "True")))


GATES: dict[str, Callable[[Gate, int], Call]] = {
    "cse": _channel_gate,
    "sse": lambda _, channels: Call("SpatialGate", (channels,)),
    "scse": lambda gate, channels: Call(
        "ChannelSpatialGate", (_channel_gate(gate, channels), Call("SpatialScale", (channels,)))
    ),
}


# the text around it


def _network(arch: Architecture, input_size: int, stem: Call, stages: Sequence[Call]) -> Lines:
    body: Lines = []
    for comment, stage in zip(_stage_comments(arch, input_size), stages, strict=True):
        body += [f"            # {comment}", *lines(stage, 3, after=",")]
    return [
        "class Network(nn.Module):",
        f'    """Images B x {arch.in_channels} x H x W, normalised -> logits B x {arch.num_classes}."""',
        "",
        *definition("__init__", [f"num_classes: int = {arch.num_classes}"]),
        "        super().__init__()",
        *lines(stem, 2, before="self.stem = "),
        "        self.stages = nn.Sequential(",
        *body,
        "        )",
        f"        self.classifier = nn.Linear({arch.stages[-1].out_channels}, num_classes)",
        "        for module in self.modules():",
        "            if isinstance(module, nn.Conv2d):  # He initialisation, arXiv:1502.01852",
        '                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")',
        *(_ZERO_BIASES if _has_bias(arch) else []),
        "",
        "    def forward(self, x_BCHW: Tensor) -> Tensor:",
        "        features_BCHW = self.stages(self.stem(x_BCHW))",
        "        return self.classifier(features_BCHW.mean(dim=(2, 3)))",
    ]


_ZERO_BIASES = [
    "                if module.bias is not None:",
    "                    nn.init.zeros_(module.bias)",
]


def _stage_comments(arch: Architecture, input_size: int) -> Iterator[str]:
    side = stem_side(arch.stem, input_size)
    for number, stage in enumerate(arch.stages, start=1):
        side = -(-side // stage.stride)
        blocks = "1 block" if stage.depth == 1 else f"{stage.depth} blocks"
        yield f"stage {number}: {blocks}, out {stage.out_channels} x {side} x {side}"


def _docstring(arch: Architecture, input_size: int, origin: str) -> str:
    price = cost(arch, input_size)
    text = dedent(f'''\
        """{origin}

        Plain PyTorch, written by ParetoNeSt {__version__}; nothing but torch is needed, and the code is yours to edit.

            network      {arch.family}, key {arch.key}
            images       {arch.in_channels} x {input_size} x {input_size}, other sizes work too
            classes      {arch.num_classes}
            parameters   {price.params:,}
            cost         {price.macs:,} multiply-adds and {price.activations:,} activations of convolutions an image

        Shapes in names: B batch, C channels, H and W space''')
    return text + _attention_letters(arch) + '.\n"""\n'


def _attention_letters(arch: Architecture) -> str:
    """The legend of the letters that attention adds."""
    mixers = [stage.mixer for stage in arch.stages if not isinstance(stage.mixer, Conv)]
    if not mixers:
        return ""
    letters = "; of attention M branches, h hidden channels"
    grouped = any(mixer.attention_groups > 1 and mixer.branches > 1 for mixer in mixers)
    return letters + (", G groups, c = C / G" if grouped else "")
