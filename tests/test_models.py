"""The networks by first principles: equalities between mechanisms, layout, gradients, initial weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from architectures import GATES, K3, K3D2, K5, MIXERS, NETWORKS, network
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nas.arch import Architecture, Conv, Gate, Kernel, Mixer, SelectiveKernel, SplitAttention
from nas.device import Precision, autocast
from nas.models import build
from nas.models.blocks import ResidualBlock
from nas.models.conv import Conv2d
from nas.models.gates import build_gate
from nas.models.layers import avd_pool, global_mean, shortcut_pool
from nas.models.mixers import MIXERS as MIXER_MODULES
from nas.models.mixers import AttentionMixer, HybridMixer, build_mixer

BATCH = 3
seeds = st.integers(0, 2**31)
sides = st.tuples(st.integers(1, 7), st.integers(1, 7))
some = settings(deadline=None, max_examples=25)


def _randomised(module: nn.Module, seed: int) -> nn.Module:
    """In float64 and eval mode, with every weight and statistic drawn: fresh ones are too regular to tell much."""
    generator = torch.Generator().manual_seed(seed)
    module.double().eval()
    for name, value in module.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=generator, dtype=torch.float64) + 0.5)
        elif value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64) * 0.5)
    return module


def _image(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)


def _mixer(mixer: Mixer, in_channels: int, channels: int, cardinality: int = 1, stride: int = 1) -> nn.Module:
    return build_mixer(mixer, in_channels, channels, stride=stride, cardinality=cardinality)


def _attention(mixer: Mixer, channels: int, seed: int, *, in_channels: int | None = None) -> AttentionMixer:
    module = _randomised(_mixer(mixer, in_channels or channels, channels), seed)
    assert isinstance(module, AttentionMixer)
    return module


def _branch_maps(module: AttentionMixer, x_BCHW: Tensor) -> Tensor:
    """The branches U_m of a selective kernel, stacked: M x B x C x H x W."""
    return torch.stack([module.get_submodule(f"branch{m}")(x_BCHW) for m in range(module.branches)])


def _assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


# 1 to 9: the equalities of the family


@some
@given(seed=seeds, groups=st.integers(1, 4), width=st.integers(1, 3), out_width=st.integers(1, 3), side=sides)
def test_grouped_convolution_is_a_block_diagonal_dense_one(
    seed: int, groups: int, width: int, out_width: int, side: tuple[int, int]
) -> None:
    grouped = _randomised(_mixer(Conv(), groups * width, groups * out_width, cardinality=groups), seed)
    dense = _mixer(Conv(), groups * width, groups * out_width).double().eval()
    weights = grouped.state_dict()
    blocks = weights["conv.weight"].split(out_width)
    rows = [[block if g == h else torch.zeros_like(block) for h in range(groups)] for g, block in enumerate(blocks)]
    weights["conv.weight"] = torch.cat([torch.cat(row, dim=1) for row in rows])
    dense.load_state_dict(weights)
    x_BCHW = _image(seed, BATCH, groups * width, *side)
    _assert_equal(grouped(x_BCHW), dense(x_BCHW))


@some
@given(seed=seeds, branches=st.integers(1, 4), channels=st.integers(1, 5), side=sides)
def test_identical_branches_are_one_branch(seed: int, branches: int, channels: int, side: tuple[int, int]) -> None:
    module = _attention(SelectiveKernel(kernels=(K3D2,) * branches, hidden=3), channels, seed)
    first = module.get_submodule("branch0")
    for m in range(1, branches):
        module.get_submodule(f"branch{m}").load_state_dict(first.state_dict())
    x_BCHW = _image(seed, BATCH, channels, *side)
    _assert_equal(module(x_BCHW), first(x_BCHW))


def test_the_attention_of_a_single_branch_learns_nothing() -> None:
    module = _attention(SelectiveKernel(kernels=(K3,), hidden=3), 4, seed=0)
    module(_image(0, BATCH, 4, 5, 5)).square().sum().backward()
    for layer in (module.fc1, module.fc2):
        assert layer.weight.grad is not None
        assert layer.weight.grad.abs().max() < 1e-12


@some
@given(seed=seeds, branches=st.integers(1, 4), bias=st.booleans(), side=sides)
def test_without_logits_softmax_gives_the_mean_of_the_branches(
    seed: int, branches: int, bias: bool, side: tuple[int, int]
) -> None:
    mixer = SelectiveKernel(kernels=(K3, K3D2, K5, K3)[:branches], hidden=3, attention_bias=bias)
    module = _attention(mixer, 4, seed)
    for parameter in module.fc2.parameters():
        nn.init.zeros_(parameter)
    x_BCHW = _image(seed, BATCH, 4, *side)
    _assert_equal(module(x_BCHW), _branch_maps(module, x_BCHW).mean(dim=0))


@some
@given(seed=seeds, side=sides)
def test_without_logits_sigmoid_gives_half_the_branch(seed: int, side: tuple[int, int]) -> None:
    module = _attention(SplitAttention(radix=1, hidden=3), 4, seed)
    for parameter in module.fc2.parameters():
        nn.init.zeros_(parameter)
    plain = _mixer(Conv(), 4, 4).double().eval()
    names = {"conv.": "conv.", "conv_bn.": "bn."}
    weights = {new + name.removeprefix(old): value for name, value in module.state_dict().items()
               for old, new in names.items() if name.startswith(old)}  # fmt: skip
    plain.load_state_dict(weights)
    x_BCHW = _image(seed, BATCH, 4, *side)
    _assert_equal(module(x_BCHW), plain(x_BCHW) / 2)


@some
@given(seed=seeds, radix=st.integers(2, 4), width=st.integers(1, 3), stride=st.integers(1, 2), side=sides)
def test_split_attention_is_a_split_input_selective_kernel(
    seed: int, radix: int, width: int, stride: int, side: tuple[int, int]
) -> None:
    """ResNeSt with K = 1 and no attention biases: branch r is the r-th part of its grouped convolution."""
    channels = radix * width
    split = _randomised(_mixer(SplitAttention(radix=radix, hidden=3), channels, channels, stride=stride), seed)
    kernels = SelectiveKernel(kernels=(K3,) * radix, hidden=3, split_input=True)
    selective = _mixer(kernels, channels, channels, stride=stride).double().eval()
    weights = split.state_dict()
    for name in ("fc1.bias", "fc2.bias"):
        weights.pop(name).zero_()
    for name in [name for name in weights if name.startswith("conv")]:
        value = weights.pop(name)
        parts = value.chunk(radix) if value.ndim else (value,) * radix
        _, _, last = name.partition(".")
        for r, part in enumerate(parts):
            weights[f"branch{r}.{'bn' if name.startswith('conv_bn') else 'conv'}.{last}"] = part
    selective.load_state_dict(weights)
    x_BCHW = _image(seed, BATCH, channels, *side)
    _assert_equal(split(x_BCHW), selective(x_BCHW))


@some
@given(seed=seeds, order=st.permutations(range(3)), groups=st.sampled_from((1, 2)), side=sides)
def test_branches_of_a_selective_kernel_have_no_order(
    seed: int, order: list[int], groups: int, side: tuple[int, int]
) -> None:
    """Permuted together with their rows of fc2, which are group-major: k, m, c'."""
    kernels, channels = (K3, K3D2, K5), 4
    mixer = SelectiveKernel(kernels=kernels, hidden=4, attention_groups=groups)
    module = _attention(mixer, channels, seed)
    other = _attention(replace(mixer, kernels=tuple(kernels[m] for m in order)), channels, seed)
    other.load_state_dict({name: value for name, value in module.state_dict().items() if "branch" not in name},
                          strict=False)  # fmt: skip
    for new, old in enumerate(order):
        other.get_submodule(f"branch{new}").load_state_dict(module.get_submodule(f"branch{old}").state_dict())
    rows_KMc = module.fc2.weight.detach().unflatten(0, (groups, 3, channels // groups))  # type: ignore[no-untyped-call]
    other.fc2.weight.data = rows_KMc[:, order].flatten(0, 2)
    x_BCHW = _image(seed, BATCH, channels, *side)
    _assert_equal(module(x_BCHW), other(x_BCHW))
    assert network(mixer=mixer).key == network(mixer=replace(mixer, kernels=tuple(kernels[m] for m in order))).key


ATTENTIONS = {
    "sk": SelectiveKernel(kernels=(K3, K3D2, K5), hidden=4, attention_bias=True),
    "sk, grouped": SelectiveKernel(kernels=(K3, K3D2), hidden=4, attention_groups=2, attention_bias=True),
    "split": SplitAttention(radix=2, hidden=4),
    "split, grouped": SplitAttention(radix=4, hidden=4, attention_groups=2),
    "hybrid": SplitAttention(radix=2, hidden=4, kernels=(K3, K5), attention_groups=2),
}


@pytest.mark.parametrize("mixer", ATTENTIONS.values(), ids=ATTENTIONS)
@some
@given(seed=seeds, side=sides)
def test_one_vector_added_to_the_logits_of_all_branches_changes_nothing(
    mixer: SelectiveKernel | SplitAttention, seed: int, side: tuple[int, int]
) -> None:
    channels, groups = 8, mixer.attention_groups
    module = _attention(mixer, channels, seed)
    x_BCHW = _image(seed, BATCH, channels, *side)
    before = module(x_BCHW)
    assert module.fc2.bias is not None
    shift_KMc = _image(seed, groups, 1, channels // groups).expand(-1, mixer.branches, -1)
    module.fc2.bias.data += shift_KMc.flatten()
    _assert_equal(module(x_BCHW), before)


@some
@given(seed=seeds, channels=st.integers(1, 5), bias=st.booleans(), side=sides)
def test_scse_without_weights_returns_its_input(seed: int, channels: int, bias: bool, side: tuple[int, int]) -> None:
    """Both gates are sigmoid(0) = 1/2, and they add up."""
    gate = build_gate(Gate(kind="scse", hidden=2, bias=bias), channels).double()
    for parameter in gate.parameters():
        nn.init.zeros_(parameter)
    x_BCHW = _image(seed, BATCH, channels, *side)
    _assert_equal(gate(x_BCHW), x_BCHW)


@some
@given(seed=seeds, branches=st.integers(1, 4), side=sides)
def test_softmax_mixers_stay_between_their_branches(seed: int, branches: int, side: tuple[int, int]) -> None:
    module = _attention(SelectiveKernel(kernels=(K3, K3D2, K5, Kernel(1))[:branches], hidden=3), 4, seed)
    x_BCHW = _image(seed, BATCH, 4, *side)
    maps_MBCHW = _branch_maps(module, x_BCHW)
    y_BCHW = module(x_BCHW)
    assert (y_BCHW >= maps_MBCHW.amin(dim=0) - 1e-12).all()
    assert (y_BCHW <= maps_MBCHW.amax(dim=0) + 1e-12).all()


@pytest.mark.parametrize("arch", NETWORKS.values(), ids=NETWORKS)
def test_a_batch_gives_what_its_single_images_give(arch: Architecture) -> None:
    module = _randomised(build(arch), seed=0)
    x_BCHW = _image(1, BATCH, 3, 9, 10)
    logits = module(x_BCHW)
    assert logits.shape == (BATCH, 5)
    _assert_equal(logits, torch.cat([module(x_1CHW) for x_1CHW in x_BCHW.split(1)]))  # type: ignore[no-untyped-call]


# The hybrid


@some
@given(seed=seeds, radix=st.integers(2, 4), cardinality=st.integers(1, 2), stride=st.integers(1, 2), side=sides)
def test_hybrid_of_equal_kernels_is_split_attention(
    seed: int, radix: int, cardinality: int, stride: int, side: tuple[int, int]
) -> None:
    channels = radix * cardinality * 2
    split = SplitAttention(radix=radix, hidden=4, attention_groups=cardinality)
    equal = replace(split, kernels=(K3,) * radix)
    whole = _randomised(_mixer(split, channels, channels, cardinality, stride), seed)
    parts = HybridMixer(equal, channels, channels, stride=stride, cardinality=cardinality).double().eval()
    weights = whole.state_dict()
    for r, part in enumerate(weights.pop("conv.weight").chunk(radix)):
        weights[f"conv{r}.weight"] = part
    parts.load_state_dict(weights)
    x_BCHW = _image(seed, BATCH, channels, *side)
    _assert_equal(parts(x_BCHW), whole(x_BCHW))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_network_of_equal_kernels_is_resnest_bit_for_bit(training: bool) -> None:
    """Written with its kernels or without, with the same weights: the same numbers in float32, gradients included."""
    split = SplitAttention(radix=2, hidden=4)
    resnest, hybrid = (
        build(network(mixer=mixer)).train(training) for mixer in (split, replace(split, kernels=(K3, K3)))
    )
    hybrid.load_state_dict(resnest.state_dict())
    x_BCHW = torch.randn(BATCH, 3, 8, 8)
    outputs = [module(x_BCHW) for module in (resnest, hybrid)]
    assert torch.equal(*outputs)
    for logits in outputs:
        logits.square().sum().backward()
    pairs = zip(resnest.parameters(), hybrid.parameters(), strict=True)
    assert all(a.grad is not None and b.grad is not None and torch.equal(a.grad, b.grad) for a, b in pairs)


def test_hybrid_of_equal_kernels_has_the_key_of_split_attention() -> None:
    split = SplitAttention(radix=2, hidden=4)
    equal, hybrid = replace(split, kernels=(K3, K3)), replace(split, kernels=(K3, K5))
    assert network(mixer=equal).key == network(mixer=split).key != network(mixer=hybrid).key


def test_each_split_of_a_hybrid_has_its_own_kernel() -> None:
    module = _mixer(SplitAttention(radix=2, hidden=4, kernels=(K3, K5)), 4, 4)
    for r, size in enumerate((3, 5)):
        conv = module.get_submodule(f"conv{r}")
        assert isinstance(conv, Conv2d)
        assert conv.weight.shape == (4, 2, size, size)


# Strides and pools


def test_avd_pool_divides_by_nine_at_the_border_too() -> None:
    """On ones: 4 cells of 9 in the corner, 6 at an edge, 9 inside."""
    expected = torch.tensor([[4.0, 6.0, 6.0], [6.0, 9.0, 9.0], [6.0, 9.0, 9.0]]) / 9
    torch.testing.assert_close(avd_pool(2)(torch.ones(1, 1, 6, 6))[0, 0], expected)


def test_shortcut_pool_leaves_cells_outside_the_image_out() -> None:
    """On 1 to 9 in three rows: means of 1 2 4 5, of 3 6, of 7 8 and of 9 alone."""
    image = torch.arange(1.0, 10.0).view(1, 1, 3, 3)
    expected = torch.tensor([[3.0, 4.5], [7.5, 9.0]])
    torch.testing.assert_close(shortcut_pool(2)(image)[0, 0], expected)


STRIDES = {
    "stride in the mixer": (network(), (8, 8, 4, 4)),
    "stride in the first 1x1": (network(stride_in="conv1_1x1"), (4, 4, 4, 4)),
    "avd before": (network(avd="before_mixer"), (8, 4, 4, 4)),
    "avd after": (network(avd="after_mixer"), (8, 8, 8, 4)),
}
"""Sides after pre, into the mixer, out of the mixer, into post; the block has stride 2 on maps of side 8."""


@pytest.mark.parametrize(("arch", "expected"), STRIDES.values(), ids=STRIDES)
def test_place_of_the_stride(arch: Architecture, expected: tuple[int, ...]) -> None:
    block = _blocks(arch)[1]
    sides: list[int] = []
    block.pre.register_forward_hook(lambda _module, _inputs, output: sides.append(output.shape[2]))
    block.mix.register_forward_pre_hook(lambda _module, inputs: sides.append(inputs[0].shape[2]))
    block.mix.register_forward_hook(lambda _module, _inputs, output: sides.append(output.shape[2]))
    block.post.register_forward_pre_hook(lambda _module, inputs: sides.append(inputs[0].shape[2]))
    assert block(torch.ones(2, 8, 8, 8)).shape == (2, 16, 4, 4)
    assert tuple(sides) == expected


def test_a_stride_behind_an_average_pool_is_not_in_the_shortcut_convolution() -> None:
    for shortcut, stride in (("strided_conv1x1", 2), ("avgpool_then_conv1x1", 1)):
        conv = _blocks(network(shortcut=shortcut))[1].shortcut.get_submodule("conv")
        assert isinstance(conv, Conv2d)
        assert conv.stride == (stride, stride)


# Layout, precision, gradients, initial weights


def _blocks(arch: Architecture) -> list[ResidualBlock]:
    return [module for module in build(arch).modules() if isinstance(module, ResidualBlock)]


def _is_channels_last(x_BCHW: Tensor) -> bool:
    return x_BCHW.is_contiguous(memory_format=torch.channels_last) and not x_BCHW.is_contiguous()


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("arch", NETWORKS.values(), ids=NETWORKS)
def test_layout_is_kept_and_does_not_change_the_output(arch: Architecture, training: bool) -> None:
    """Kept by every layer inside, too: a convolution would hide that the mixer before it gave up the layout."""
    last = torch.channels_last
    for block in _blocks(arch):
        _randomised(block, seed=0).train(training)
        channels = block.post.conv.out_channels if isinstance(block.shortcut, nn.Identity) else _in_channels(block)
        x_BCHW = _image(0, BATCH, channels, 8, 6)
        plain = block(x_BCHW)
        maps = _recorded_maps(_channels_last(block))
        y_BCHW = block(x_BCHW.contiguous(memory_format=last))
        assert set(maps) >= {"", "pre", "mix", "post", "shortcut"}
        assert ("gate" in maps) == block.gated
        assert [name for name, kept in maps.items() if not kept] == []
        assert plain.is_contiguous()
        _assert_equal(y_BCHW, plain)


def _recorded_maps(block: nn.Module) -> dict[str, bool]:
    """Filled by the next forward pass: name of a layer -> whether its map of several channels is channels_last."""
    maps: dict[str, bool] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if output.shape[1] > 1 and output.shape[2:].numel() > 1:
                maps[name] = _is_channels_last(output)

        return hook

    for name, module in block.named_modules():
        module.register_forward_hook(note(name))
    return maps


def _channels_last(module: nn.Module) -> nn.Module:
    converted: nn.Module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return converted


def _in_channels(block: ResidualBlock) -> int:
    conv = block.shortcut.get_submodule("conv")
    assert isinstance(conv, Conv2d)
    return conv.in_channels


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("arch", NETWORKS.values(), ids=NETWORKS)
def test_a_training_step_never_leaves_the_layout(arch: Architecture, precision: Precision) -> None:
    """No operation of the forward or the backward pass gives a map whose channels are not innermost.

    One that does is slow itself, and so is whatever meets its map: a layout lost in the backward pass alone took a
    tenth of the time of a step.
    """
    module = _channels_last(build(arch))
    x_BCHW = torch.randn(BATCH, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    with _Operations() as operations, autocast(torch.device("cpu"), precision):
        loss = module(x_BCHW).float().square().mean()
        loss.backward()
    assert operations.count > 50
    assert operations.lost == []


@pytest.mark.parametrize("channels", [4, 40])
def test_global_means_of_bfloat16_are_summed_up_in_float32(channels: int) -> None:
    """Their gradient is the mean's: the same share of it at every pixel, in the maps' own precision."""
    x_BCHW = _image(0, BATCH, channels, 9, 7).bfloat16().requires_grad_()
    mean_BC11 = global_mean(x_BCHW, torch.float32)
    torch.testing.assert_close(mean_BC11, x_BCHW.detach().float().mean(dim=(2, 3), keepdim=True))
    gradient_BC11 = torch.randn(BATCH, channels, 1, 1)
    mean_BC11.backward(gradient_BC11)  # type: ignore[no-untyped-call]
    assert x_BCHW.grad is not None and x_BCHW.grad.dtype == torch.bfloat16
    torch.testing.assert_close(x_BCHW.grad, (gradient_BC11 / 63).bfloat16().expand(BATCH, channels, 9, 7))


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every operation, autograd's own included: how many, and those that give a map with another layout."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0
        self.lost: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        self.count += 1
        for value in given if isinstance(given, tuple | list) else (given,):
            if isinstance(value, Tensor) and _is_map(value) and value.stride(1) != 1 and not _only_views(func, value):
                self.lost.append(f"{func}: {tuple(value.shape)} with strides {value.stride()}")
        return given


def _only_views(func: Any, value: Tensor) -> bool:
    """B x H x W x C, of the same memory as a channels_last map."""
    views = (torch.ops.aten.permute.default, torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)
    return func in views and value.is_contiguous()


def _is_map(value: Tensor) -> bool:
    """B x C x H x W with several channels and pixels; the gradient of a convolution's weight is none."""
    return value.ndim == 4 and value.shape[0] == BATCH and value.shape[1] > 1 and value.shape[2:].numel() > 1


@pytest.mark.parametrize("name", ["bottleneck split r2", "bottleneck sk", "gate scse", "bottleneck hybrid r4"])
def test_attention_stays_in_float32_under_autocast(name: str) -> None:
    module = build(NETWORKS[name])
    dtypes: dict[str, torch.dtype] = {}

    def note(layer: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda _module, _inputs, output: dtypes.update({layer: output.dtype})

    for layer, child in module.named_modules():
        child.register_forward_hook(note(layer))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = module(torch.randn(BATCH, 3, 8, 8)).float().square().mean()
    loss.backward()
    attention = {layer: dtype for layer, dtype in dtypes.items() if layer.endswith(("fc1", "fc_bn", "fc2"))}
    assert attention
    assert set(attention.values()) == {torch.float32}
    blocks = {dtype for layer, dtype in dtypes.items() if layer.count(".") == 2 and layer.startswith("stages")}
    assert blocks == {torch.bfloat16}
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize("arch", NETWORKS.values(), ids=NETWORKS)
def test_gradients_reach_every_parameter(arch: Architecture) -> None:
    torch.manual_seed(0)
    module = build(arch).double()
    module(_image(0, 8, 3, 16, 16)).square().sum().backward()
    # A bias before a training-mode batch norm is taken out again by its mean. One branch under a softmax has a constant
    # weight, which is why no canonical network has the attention of "sk of one".
    single = any(isinstance(stage.mixer, SelectiveKernel) and stage.mixer.branches == 1 for stage in arch.stages)
    idle = ".mix.fc" if single else ".mix.fc1.bias"
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert idle in name or parameter.grad.abs().max() > 1e-12, name


@pytest.mark.parametrize("name", ["bottleneck conv", "basic conv", *(f"gate {gate}" for gate in GATES)])
def test_a_block_is_the_relu_of_gated_residual_and_shortcut(name: str) -> None:
    """Nothing is cut off before the gate or before the sum."""
    for block in _blocks(NETWORKS[name]):
        _randomised(block, seed=0)
        channels = next(module for module in block.modules() if isinstance(module, Conv2d)).in_channels
        x_BCHW = _image(0, BATCH, channels, 6, 5)
        residual_BCHW = block.post.bn(block.post.conv(block.mix(block.pre(x_BCHW))))
        assert float(residual_BCHW.detach().min()) < 0
        _assert_equal(block(x_BCHW), (block.gate(residual_BCHW) + block.shortcut(x_BCHW)).clamp(min=0))


@pytest.mark.parametrize("arch", NETWORKS.values(), ids=NETWORKS)
def test_zero_initialised_residual_blocks_begin_as_their_shortcut(arch: Architecture) -> None:
    zeroed = build(arch, zero_init_residual=True).double().eval()
    blocks = [module for module in zeroed.modules() if isinstance(module, ResidualBlock)]
    assert len(blocks) == 3
    x_BCHW = _image(0, BATCH, 8, 6, 7)
    for block in blocks:
        _assert_equal(block(x_BCHW), block.shortcut(x_BCHW).relu())
        x_BCHW = block(x_BCHW)
    assert all(block.post.bn.weight.min() == 1 for block in _blocks(arch))


def test_convolutions_begin_with_he_normal_weights() -> None:
    """Mean 0, deviation sqrt(2 / fan_out), and as many outliers as a normal distribution has; biases 0."""
    torch.manual_seed(0)
    for kernel, groups in itertools.product((Kernel(1), K3, K5), (1, 4)):
        conv = Conv2d(128, 256, kernel, groups=groups, bias=True)
        deviation = (2 / (256 * kernel.size**2)) ** 0.5
        weight = conv.weight.detach() / deviation
        n = weight.numel()
        assert abs(weight.mean()) < 4 / n**0.5
        assert abs(weight.std() - 1) < 4 / (2 * n) ** 0.5
        assert abs((weight.abs() > 2).double().mean() - 0.0455) < 4 * (0.0455 / n) ** 0.5
        assert conv.bias is not None
        assert not conv.bias.any()


def test_every_convolution_of_a_network_begins_that_way() -> None:
    """So the initialisation sits in the layer, and no layer escapes it."""
    for arch in NETWORKS.values():
        for module in build(arch).modules():
            assert not isinstance(module, nn.Conv2d) or isinstance(module, Conv2d)


def test_weights_come_from_the_global_generator() -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(build(NETWORKS["bottleneck hybrid"]).parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_every_mixer_of_the_language_can_be_built() -> None:
    assert set(MIXER_MODULES) == {type(mixer) for mixer in MIXERS.values()}


def test_training_with_one_image_is_refused_by_the_attention_norm() -> None:
    """Its maps are 1x1: one image has no batch statistics. Single images work in eval mode."""
    module = build(NETWORKS["bottleneck split r2"])
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        module.train()(torch.randn(1, 3, 8, 8))
    assert module.eval()(torch.randn(1, 3, 8, 8)).shape == (1, 5)
