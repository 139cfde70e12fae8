"""The classes of an exported file, as text. Each is written for the calls of it that one network makes.

An argument that no call gives is left out of its class, so that a file holds nothing that its network does not need.
Names of submodules are those of `nas.models`, whose formulas these classes retell: the weights load as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nas.export.code import Call, Expression, definition, lines

Lines = list[str]


@dataclass(frozen=True, slots=True)
class Uses:
    """All calls of one class in a network."""

    calls: tuple[Call, ...]

    def some(self, keyword: str) -> bool:
        """Whether any call gives the argument."""
        return any(keyword in call.keywords for call in self.calls)

    def every(self, keyword: str) -> bool:
        return all(keyword in call.keywords for call in self.calls)

    def options(self, **defaults: object) -> list[str]:
        """The parameters that some call gives, with their defaults."""
        return [
            f"{name}: {type(default).__name__} = {default}" for name, default in defaults.items() if self.some(name)
        ]

    def passed(self, *names: str) -> dict[str, Expression]:
        """Those of the parameters that some call gives, handed on under their own names."""
        return {name: name for name in names if self.some(name)}

    @property
    def pairs(self) -> bool:
        """Whether each call makes two branches."""
        return all(_branches(call) == 2 for call in self.calls)


def _branches(call: Call) -> Expression:
    if call.name in ("SelectiveKernel", "SplitInputSelectiveKernel"):
        return len(call.arguments)
    kernels = call.keywords.get("kernels")
    return len(kernels) if isinstance(kernels, tuple) else call.keywords["radix"]


def _class(head: str, docstring: Sequence[str], init: Lines, forward: Lines) -> Lines:
    """A class with two methods; a docstring of several lines ends in a line of its own."""
    first, *rest = docstring
    end = ['    """'] if rest else []
    quoted = [f'    """{first}' + ("" if rest else '"""'), *(f"    {line}".rstrip() for line in rest), *end]
    return [f"class {head}:", *quoted, "", *init, "", *forward]


def _forward(*body: str) -> Lines:
    return ["    def forward(self, x_BCHW: Tensor) -> Tensor:", *(f"        {line}" for line in body)]


def _init(parameters: Sequence[str], *body: str | Lines, parent: str = "") -> Lines:
    """Entries of the body are text to be indented, or lines that are so already; the parent gets what `parent` says."""
    own: Lines = []
    for part in (f"super().__init__({parent})", *body):
        own += [f"        {part}"] if isinstance(part, str) else part
    return [*definition("__init__", parameters), *own]


def _conv(name: str, *arguments: Expression, **keywords: Expression) -> Lines:
    return lines(Call("nn.Conv2d", arguments, keywords), 2, before=f"self.{name} = ")


def conv_bn(uses: Uses) -> Lines:
    dilates = uses.some("dilation")
    padding = "dilation * (kernel - 1) // 2" if dilates else "kernel // 2"
    return _class(
        "ConvBN(nn.Module)",
        ["BN(conv(x)), then ReLU if `relu`; the padding keeps the size, but for the stride."],
        _init(
            [
                "in_channels: int",
                "out_channels: int",
                "kernel: int = 1",
                "*",
                *uses.options(stride=1, dilation=1, groups=1),
                "relu: bool = True",
            ],
            _conv(
                "conv",
                "in_channels",
                "out_channels",
                "kernel",
                **uses.passed("stride"),
                padding=padding,
                **uses.passed("dilation", "groups"),
                bias="False",
            ),
            "self.bn = nn.BatchNorm2d(out_channels)",
            "self.relu = relu",
        ),
        _forward("y_BCHW = self.bn(self.conv(x_BCHW))", "return y_BCHW.relu() if self.relu else y_BCHW"),
    )


def strided_conv_1x1(uses: Uses) -> Lines:
    handed = [f"{name}={name}" for name in uses.passed("relu")]
    return _class(
        "StridedConv1x1(ConvBN)",
        [
            "A ConvBN of 1x1 with a stride. The pixels that its convolution sees are picked beforehand:",
            "",
            "on a CPU oneDNN 3.12 writes out of bounds in its backward pass for channels_last (its issue 6035).",
        ],
        _init(
            ["in_channels: int", "out_channels: int", "*", "stride: int", *uses.options(relu=True)],
            "self.pick = nn.AvgPool2d(1, stride)",
            parent=", ".join(["in_channels", "out_channels", *handed]),
        ),
        _forward("return super().forward(self.pick(x_BCHW))"),
    )


def pooled_shortcut(_: Uses) -> Lines:
    return _class(
        "PooledShortcut(ConvBN)",
        [
            "BN(conv1x1(pool(x))): a stride x stride average carries the stride (ResNet-D, arXiv:1812.01187).",
            "",
            "The size is rounded up; cells outside the map do not count in the mean.",
        ],
        _init(
            ["in_channels: int", "out_channels: int", "*", "stride: int"],
            "self.pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)",
            parent="in_channels, out_channels, relu=False",
        ),
        _forward("return super().forward(self.pool(x_BCHW))"),
    )


def _attention_parameters(uses: Uses, bias: bool) -> list[str]:
    return ["hidden: int", *uses.options(attention_groups=1, attention_bias=bias)]


def _attention_layers(uses: Uses, bias: bool, branches: str) -> Lines:
    groups: dict[str, Expression] = {"groups": "attention_groups"} if uses.some("attention_groups") else {}
    with_bias = "attention_bias" if uses.some("attention_bias") else str(bias)
    outputs = f"{branches} * channels" if branches else "channels"
    return [
        *_conv("fc1", "channels", "hidden", 1, **groups, bias=with_bias),
        "        self.fc_bn = nn.BatchNorm2d(hidden)",
        *_conv("fc2", "hidden", outputs, 1, **groups, bias=with_bias),
    ]


def _attention(uses: Uses, branches: str) -> list[str]:
    """From pooled_BC11 to weights_BMC11."""
    hidden = "z_Bh11 = self.fc_bn(self.fc1(pooled_BC11)).relu()"
    if not uses.some("attention_groups"):
        return [hidden, f"weights_BMC11 = self.fc2(z_Bh11).unflatten(1, (self.{branches}, -1)).softmax(dim=1)"]
    return [
        hidden,
        "# fc2 is grouped: its channels come group by group, in a group branch by branch.",
        f"logits_BGMc11 = self.fc2(z_Bh11).unflatten(1, (self.groups, self.{branches}, -1))",
        "weights_BMC11 = logits_BGMc11.transpose(1, 2).flatten(2, 3).softmax(dim=1)",
    ]


def _weighted_sum(uses: Uses) -> list[str]:
    """Of maps_BCHW by weights_BMC11. A product over B x M x C x H x W would lose the memory format channels_last."""
    if uses.pairs:
        return [
            "# a_0 U_0 + a_1 U_1, where a_0 + a_1 = 1",
            "return torch.lerp(maps_BCHW[1], maps_BCHW[0], weights_BMC11[:, 0])",
        ]
    return [
        "y_BCHW = maps_BCHW[0] * weights_BMC11[:, 0]",
        "for m in range(1, len(maps_BCHW)):",
        "    y_BCHW = torch.addcmul(y_BCHW, maps_BCHW[m], weights_BMC11[:, m])",
        "return y_BCHW",
    ]


def _kept_groups(uses: Uses) -> list[str]:
    return ["self.groups = attention_groups"] if uses.some("attention_groups") else []


def _selective_kernel(uses: Uses, head: str, docstring: list[str], maps: list[str]) -> Lines:
    return _class(
        head,
        docstring,
        _init(
            ["*branches: ConvBN", "channels: int", *_attention_parameters(uses, False)],
            "self.branches = len(branches)",
            *_kept_groups(uses),
            "for m, branch in enumerate(branches):",
            '    self.add_module(f"branch{m}", branch)',
            _attention_layers(uses, False, "len(branches)"),
        ),
        _forward(
            *maps,
            "pooled_BC11 = torch.stack([map_BCHW.mean(dim=(2, 3), keepdim=True) for map_BCHW in maps_BCHW]).sum(dim=0)",
            *_attention(uses, "branches"),
            *_weighted_sum(uses),
        ),
    )


def _grouped(uses: Uses) -> bool:
    return uses.some("cardinality")


def selective_kernel(uses: Uses) -> Lines:
    return _selective_kernel(
        uses,
        "SelectiveKernel(nn.Module)",
        [
            "Attention across branches of different kernels (SK-Net, arXiv:1903.06586, section 3.1).",
            "",
            "U_m = branch_m(x); a = softmax over m of fc2(relu(BN(fc1(GAP(sum_m U_m))))); y = sum_m a_m U_m",
        ],
        ['maps_BCHW = [self.get_submodule(f"branch{m}")(x_BCHW) for m in range(self.branches)]'],
    )


def split_input_selective_kernel(uses: Uses) -> Lines:
    return _selective_kernel(
        uses,
        "SplitInputSelectiveKernel(nn.Module)",
        [
            "SK-Net's attention across branches (arXiv:1903.06586), branch m on the m-th part x_m of the channels.",
            "",
            "U_m = branch_m(x_m); a = softmax over m of fc2(relu(BN(fc1(GAP(sum_m U_m))))); y = sum_m a_m U_m",
        ],
        [
            "parts_BCHW = x_BCHW.chunk(self.branches, dim=1)",
            'maps_BCHW = [self.get_submodule(f"branch{m}")(part_BCHW) for m, part_BCHW in enumerate(parts_BCHW)]',
        ],
    )


def _sizes(uses: Uses) -> tuple[str, str, dict[str, Expression]]:
    """Kernel, padding and dilation of a convolution that is 3x3 unless some call says otherwise."""
    kernel = "kernel" if uses.some("kernel") else "3"
    if uses.some("dilation"):
        return kernel, f"dilation * ({kernel} - 1) // 2" if kernel == "kernel" else "dilation", {"dilation": "dilation"}
    return kernel, "kernel // 2" if kernel == "kernel" else "1", {}


def split_attention(uses: Uses) -> Lines:
    kernel, padding, dilation = _sizes(uses)
    groups = "radix * cardinality" if _grouped(uses) else "radix"
    return _class(
        "SplitAttention(nn.Module)",
        [
            "Attention across `radix` splits (ResNeSt, arXiv:2004.08955, section 3.1).",
            "",
            "U = relu(BN(conv(x))), U_r its r-th part; a = softmax over r of fc2(relu(BN(fc1(GAP(sum_r U_r)))));",
            "y = sum_r a_r U_r",
        ],
        _init(
            [
                "in_channels: int",
                "channels: int",
                "*",
                "radix: int",
                *_attention_parameters(uses, True),
                *uses.options(kernel=3, dilation=1, stride=1, cardinality=1),
            ],
            "self.radix = radix",
            *_kept_groups(uses),
            _conv(
                "conv",
                "in_channels",
                "radix * channels",
                kernel,
                **uses.passed("stride"),
                padding=padding,
                **dilation,
                groups=groups,
                bias="False",
            ),
            "self.conv_bn = nn.BatchNorm2d(radix * channels)",
            _attention_layers(uses, True, "radix"),
        ),
        _forward("u_BCHW = self.conv_bn(self.conv(x_BCHW)).relu()", *_attend_to_splits(uses)),
    )


def _attend_to_splits(uses: Uses) -> list[str]:
    """From u_BCHW, which holds all splits, to the result."""
    return [
        "maps_BCHW = u_BCHW.chunk(self.radix, dim=1)",
        "pooled_BC11 = u_BCHW.mean(dim=(2, 3), keepdim=True).unflatten(1, (self.radix, -1)).sum(dim=1)",
        *_attention(uses, "radix"),
        *_weighted_sum(uses),
    ]


def hybrid_split_attention(uses: Uses) -> Lines:
    conv = Call(
        "nn.Conv2d",
        ("in_channels // self.radix", "channels", "kernel"),
        {
            **uses.passed("stride"),
            "padding": "dilation * (kernel - 1) // 2",
            "dilation": "dilation",
            **({"groups": "cardinality"} if _grouped(uses) else {}),
            "bias": "False",
        },
    )
    return _class(
        "HybridSplitAttention(nn.Module)",
        [
            "ResNeSt's attention across splits (arXiv:2004.08955), of kernels of different (size, dilation).",
            "",
            "U_r = relu(BN(conv_r(x_r))), x_r the r-th part of the channels;",
            "a = softmax over r of fc2(relu(BN(fc1(GAP(sum_r U_r))))); y = sum_r a_r U_r",
        ],
        _init(
            [
                "in_channels: int",
                "channels: int",
                "*",
                "kernels: tuple[tuple[int, int], ...]",
                *_attention_parameters(uses, True),
                *uses.options(stride=1, cardinality=1),
            ],
            "self.radix = len(kernels)",
            *_kept_groups(uses),
            "for r, (kernel, dilation) in enumerate(kernels):",
            lines(conv, 3, before="conv = "),
            '    self.add_module(f"conv{r}", conv)',
            "self.conv_bn = nn.BatchNorm2d(self.radix * channels)",
            _attention_layers(uses, True, "self.radix"),
        ),
        _forward(
            "parts_BCHW = x_BCHW.chunk(self.radix, dim=1)",
            'convolved = [self.get_submodule(f"conv{r}")(part_BCHW) for r, part_BCHW in enumerate(parts_BCHW)]',
            "u_BCHW = self.conv_bn(torch.cat(convolved, dim=1)).relu()",
            *_attend_to_splits(uses),
        ),
    )


def sigmoid_attention(uses: Uses) -> Lines:
    kernel, padding, dilation = _sizes(uses)
    groups: dict[str, Expression] = {"groups": "cardinality"} if _grouped(uses) else {}
    return _class(
        "SigmoidAttention(nn.Module)",
        [
            "Split attention of radix 1 (ResNeSt, arXiv:2004.08955): one split, weighted by a sigmoid.",
            "",
            "U = relu(BN(conv(x))); y = U sigmoid(fc2(relu(BN(fc1(GAP(U))))))",
        ],
        _init(
            [
                "in_channels: int",
                "channels: int",
                "*",
                *_attention_parameters(uses, True),
                *uses.options(kernel=3, dilation=1, stride=1, cardinality=1),
            ],
            _conv(
                "conv",
                "in_channels",
                "channels",
                kernel,
                **uses.passed("stride"),
                padding=padding,
                **dilation,
                **groups,
                bias="False",
            ),
            "self.conv_bn = nn.BatchNorm2d(channels)",
            _attention_layers(uses, True, ""),
        ),
        _forward(
            "u_BCHW = self.conv_bn(self.conv(x_BCHW)).relu()",
            "z_Bh11 = self.fc_bn(self.fc1(u_BCHW.mean(dim=(2, 3), keepdim=True))).relu()",
            "return u_BCHW * self.fc2(z_Bh11).sigmoid()",
        ),
    )


def channel_gate(uses: Uses) -> Lines:
    bias = "bias" if uses.some("bias") else "True"
    return _class(
        "ChannelGate(nn.Module)",
        ["cSE(x) = x sigmoid(fc2(relu(fc1(GAP(x))))) (SE-Net, arXiv:1709.01507, section 3)."],
        _init(
            ["channels: int", "hidden: int", *uses.options(bias=True)],
            _conv("fc1", "channels", "hidden", 1, bias=bias),
            _conv("fc2", "hidden", "channels", 1, bias=bias),
        ),
        _forward(
            "pooled_BC11 = x_BCHW.mean(dim=(2, 3), keepdim=True)",
            "return x_BCHW * self.fc2(self.fc1(pooled_BC11).relu()).sigmoid()",
        ),
    )


def spatial_gate(_: Uses) -> Lines:
    return _class(
        "SpatialGate(nn.Module)",
        ["sSE(x) = x sigmoid(conv1x1(x)), one filter (scSE, arXiv:1803.02579, section 2.2)."],
        _init(["channels: int"], _conv("conv", "channels", 1, 1)),
        _forward("return x_BCHW * self.conv(x_BCHW).sigmoid()"),
    )


def spatial_scale(_: Uses) -> Lines:
    return _class(
        "SpatialScale(nn.Module)",
        ["sigmoid(conv1x1(x)), one filter: B x 1 x H x W."],
        _init(["channels: int"], _conv("conv", "channels", 1, 1)),
        _forward("return self.conv(x_BCHW).sigmoid()"),
    )


def channel_spatial_gate(_: Uses) -> Lines:
    return _class(
        "ChannelSpatialGate(nn.Module)",
        ["scSE(x) = cSE(x) + x sse(x) (arXiv:1803.02579, section 2.3)."],
        _init(["cse: ChannelGate", "sse: SpatialScale"], "self.cse = cse", "self.sse = sse"),
        _forward("return torch.addcmul(self.cse(x_BCHW), x_BCHW, self.sse(x_BCHW))"),
    )


def block(uses: Uses, pool_after: bool) -> Lines:
    """Parts that only some blocks have are optional; those that none has are not mentioned."""
    order = ("pre", "mix", "pool", "post") if pool_after else ("pre", "pool", "mix", "post")
    chain = [name for name in (*order, "gate") if uses.some(name)]
    parts = [name for name in ("pre", "mix", "post", "gate", "shortcut", "pool") if uses.some(name)]
    needed = [name for name in parts if uses.every(name)]
    spared = [name for name in parts if name not in needed]
    applied = "x_BCHW"
    for name in chain:
        applied = f"self.{name}({applied})"
    formula = "x"
    for name in chain:
        formula = f"{name}({formula})"
    shortcut = ("self.shortcut(x_BCHW)", "shortcut(x)") if "shortcut" in parts else ("x_BCHW", "x")
    return _class(
        "Block(nn.Module)",
        [f"relu({formula} + {shortcut[1]})" + ("; a part that is not given does nothing." if spared else ".")],
        _init(
            ["*", *(f"{name}: nn.Module" for name in needed), *(f"{name}: nn.Module | None = None" for name in spared)],
            *(
                f"self.{name} = {name}" if name in needed else f"self.{name} = {name} or nn.Identity()"
                for name in parts
            ),
        ),
        _forward(f"y_BCHW = {applied}", f"return (y_BCHW + {shortcut[0]}).relu()"),
    )


CLASSES: dict[str, Callable[[Uses], Lines]] = {
    "ConvBN": conv_bn,
    "StridedConv1x1": strided_conv_1x1,
    "PooledShortcut": pooled_shortcut,
    "SelectiveKernel": selective_kernel,
    "SplitInputSelectiveKernel": split_input_selective_kernel,
    "SplitAttention": split_attention,
    "HybridSplitAttention": hybrid_split_attention,
    "SigmoidAttention": sigmoid_attention,
    "ChannelGate": channel_gate,
    "SpatialGate": spatial_gate,
    "SpatialScale": spatial_scale,
    "ChannelSpatialGate": channel_spatial_gate,
}
"""Class -> its text, in the order of the file."""
