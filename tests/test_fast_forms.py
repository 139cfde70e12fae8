"""What trainings on a CPU compute otherwise than it is written: equal to it, and only where it gains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from architectures import K3, K3D2, K5, NETWORKS
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nas.arch import Kernel, SplitAttention
from nas.device import Precision, autocast
from nas.models import build, conv, mixers
from nas.models.conv import Conv2d, grouped_linear, groups_to_join, join_groups
from nas.models.mixers import HybridMixer, build_mixer, weighted_sum, weighted_sum_as_product

BATCH = 3
CHANNELS_LAST = torch.channels_last
seeds = st.integers(0, 2**31)
sides = st.tuples(st.integers(1, 7), st.integers(1, 7))
some = settings(deadline=None, max_examples=25)


def _image(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    return drawn.to(dtype).contiguous(memory_format=CHANNELS_LAST) if len(shape) == 4 else drawn.to(dtype)


def _with_gradients(form: Callable[..., Tensor], *leaves: Tensor) -> list[Tensor]:
    """The value of the form, and its gradients by all leaves where every value counts otherwise."""
    own = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    y = form(*own)
    torch.autograd.backward(y, torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y))
    found = [y.detach(), *(leaf.grad for leaf in own if leaf.grad is not None)]
    assert len(found) == len(leaves) + 1
    return found


def _assert_same(actual: list[Tensor], expected: list[Tensor], relative: float = 1e-12) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=relative, atol=relative * float(1 + other.abs().max()))


@pytest.fixture
def convolutions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of groups of each convolution that was called for."""
    groups: list[int] = []
    conv2d = nn.functional.conv2d

    def noted(*arguments: Any, **named: Any) -> Tensor:
        groups.append(named.get("groups", arguments[6] if len(arguments) > 6 else 1))
        return conv2d(*arguments, **named)

    monkeypatch.setattr(nn.functional, "conv2d", noted)
    return groups


# groups of few channels


@some
@given(
    seed=seeds,
    groups=st.sampled_from([(2, 2), (4, 2), (4, 4), (6, 3), (6, 2)]),
    width=st.integers(1, 3),
    out_width=st.integers(1, 3),
    kernel=st.sampled_from([1, 3]),
    side=sides,
)
def test_joined_groups_are_the_same_convolution(
    seed: int, groups: tuple[int, int], width: int, out_width: int, kernel: int, side: tuple[int, int]
) -> None:
    count, joined = groups
    x = _image(seed, BATCH, count * width, *side)
    weight = _image(seed + 1, count * out_width, width, kernel, kernel)
    apart = _with_gradients(lambda x, w: nn.functional.conv2d(x, w, padding="same", groups=count), x, weight)
    together = _with_gradients(
        lambda x, w: nn.functional.conv2d(x, join_groups(w, count, joined), padding="same", groups=count // joined),
        x,
        weight,
    )
    _assert_same(together, apart)


@pytest.mark.parametrize(
    ("channels", "groups", "stride", "bf16", "fp32"),
    [
        ((32, 32), 8, 1, 4, 1),
        ((16, 32), 2, 1, 2, 1),
        ((32, 64), 2, 1, 1, 1),
        ((24, 24), 4, 2, 2, 1),
        ((48, 48), 16, 1, 4, 1),
        ((8, 8), 4, 1, 4, 2),
        ((12, 12), 6, 2, 6, 2),
        ((8, 16), 8, 1, 8, 4),
        ((64, 64), 64, 1, 1, 1),
        ((64, 64), 64, 2, 16, 1),
    ],
)
def test_groups_are_joined_until_they_are_full(
    channels: tuple[int, int], groups: int, stride: int, bf16: int, fp32: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv, "HAS_AMX", True)
    module = Conv2d(*channels, K3, stride=stride, groups=groups)
    x = _image(0, 2, channels[0], 3, 4, dtype=torch.bfloat16)
    assert groups_to_join(module, x) == bf16
    assert groups_to_join(module, x.float()) == fp32
    assert (
        groups_to_join(module, x.contiguous())
        == groups_to_join(module, x.half())
        == groups_to_join(module, x.double())
        == 1
    )
    monkeypatch.setattr(conv, "HAS_AMX", False)
    assert groups_to_join(module, x) == 1


@pytest.mark.parametrize("kernel", [K3, K5, K3D2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_a_grouped_convolution_in_training_is_the_one_of_evaluation(
    kernel: Kernel, stride: int, bias: bool, convolutions: list[int]
) -> None:
    torch.manual_seed(0)
    module = Conv2d(8, 16, kernel, stride=stride, groups=4, bias=bias).to(memory_format=CHANNELS_LAST)  # type: ignore[call-overload]
    parameters = dict(module.named_parameters())
    x = _image(0, BATCH, 8, 7, 6, dtype=torch.float32)

    def form(x: Tensor, *values: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(module, dict(zip(parameters, values, strict=True)), x)
        return y

    fast = _with_gradients(form, x, *parameters.values())
    module.eval()
    plain = _with_gradients(form, x, *parameters.values())
    assert convolutions == [2, 4]
    assert fast[0].is_contiguous(memory_format=CHANNELS_LAST) and fast[1].is_contiguous(memory_format=CHANNELS_LAST)
    _assert_same(fast, plain, relative=1e-5)


# 1x1 convolutions as products


@some
@given(
    seed=seeds,
    groups=st.integers(1, 4),
    width=st.integers(1, 3),
    out_width=st.integers(1, 3),
    side=sides,
    bias=st.booleans(),
)
def test_a_grouped_linear_layer_is_a_grouped_1x1_convolution(
    seed: int, groups: int, width: int, out_width: int, side: tuple[int, int], bias: bool
) -> None:
    x = _image(seed, BATCH, groups * width, *side)
    weight = _image(seed + 1, groups * out_width, width)
    offsets = [_image(seed + 2, groups * out_width)] if bias else []

    def product(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return grouped_linear(x.permute(0, 2, 3, 1), w, b, groups).permute(0, 3, 1, 2)

    def convolution(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return nn.functional.conv2d(x, w[:, :, None, None], b, groups=groups)

    _assert_same(_with_gradients(product, x, weight, *offsets), _with_gradients(convolution, x, weight, *offsets))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(4, 6, 1, 1), (3, 5, 4, 2), (2, 64, 192, 192)], ids=["vectors", "small", "large"])
def test_a_1x1_convolution_in_training_is_the_one_of_evaluation(
    shape: tuple[int, ...], bias: bool, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small one is computed in another way."""
    products: list[tuple[int, ...]] = []
    linear = nn.functional.linear

    def spy(x: Tensor, *weights: Tensor) -> Tensor:
        products.append(x.shape)
        return linear(x, *weights)

    monkeypatch.setattr(nn.functional, "linear", spy)
    torch.manual_seed(0)
    module = Conv2d(shape[1], 7, stride=stride, bias=bias).to(memory_format=CHANNELS_LAST)  # type: ignore[call-overload]
    x_BCHW = torch.randn(shape).contiguous(memory_format=CHANNELS_LAST).requires_grad_()
    found = {}
    for training in (True, False):
        module.train(training).zero_grad()
        y_BCHW = module(x_BCHW)
        x_BCHW.grad = None
        (y_BCHW * torch.linspace(-1, 1, y_BCHW.numel()).view_as(y_BCHW)).sum().backward()
        found[training] = [y_BCHW, x_BCHW.grad, *(parameter.grad for parameter in module.parameters())]
        assert len(products) == (shape[1] < 64), "once if small, and not in evaluation"
    for fast, plain in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5 * float(plain.detach().abs().max()))


@pytest.mark.parametrize(
    ("dtype", "channels", "side", "amx", "used"),
    [
        (torch.float32, 6, 2, False, True),
        (torch.float32, 512, 64, False, False),
        (torch.float64, 6, 2, True, False),
        (torch.bfloat16, 6, 2, True, True),
        (torch.bfloat16, 6, 2, False, False),
        (torch.bfloat16, 6, 3, True, False),
    ],
)
def test_a_1x1_convolution_is_a_product_where_it_gains(
    dtype: torch.dtype, channels: int, side: int, amx: bool, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 where an image has no more pixels than channels."""
    monkeypatch.setattr(conv, "HAS_AMX", amx)
    x_BCHW = torch.zeros(2, channels, side, side, dtype=dtype).contiguous(memory_format=CHANNELS_LAST)
    assert conv._gains_as_matrix(x_BCHW, channels) == used
    assert not conv._gains_as_matrix(x_BCHW.contiguous(), channels)


# the splits of a hybrid as one convolution


KERNELS = {"3 + 5": (K3, K5), "3 + dilated": (K3, K3D2), "1 + 3": (Kernel(1), K3), "four": (K3, K5, Kernel(7), K3D2)}


def _hybrid(kernels: tuple[Kernel, ...], channels: int, stride: int, cardinality: int) -> HybridMixer:
    torch.manual_seed(0)
    mixer = SplitAttention(radix=len(kernels), hidden=4, kernels=kernels)
    module = build_mixer(mixer, channels, channels, stride=stride, cardinality=cardinality)
    assert isinstance(module, HybridMixer)
    return module.to(memory_format=CHANNELS_LAST)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("kernels", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("cardinality", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_hybrid_of_few_channels_is_one_convolution_in_training(
    kernels: tuple[Kernel, ...],
    stride: int,
    cardinality: int,
    dtype: torch.dtype,
    convolutions: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conv, "HAS_AMX", True)
    module = _hybrid(kernels, 8, stride, cardinality).to(dtype)
    names = [f"conv{r}.weight" for r in range(len(kernels))]
    x = _image(0, BATCH, 8, 9, 7, dtype=dtype)

    class Convolved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixer = module

        def forward(self, x: Tensor) -> Tensor:
            return self.mixer.convolve(x)

    def form(x: Tensor, *weights: Tensor) -> Tensor:
        values = {f"mixer.{name}": weight for name, weight in zip(names, weights, strict=True)}
        y: Tensor = torch.func.functional_call(convolved, values, x)
        return y

    convolved = Convolved()
    weights = [module.get_parameter(name) for name in names]
    fast = _with_gradients(form, x, *weights)
    assert convolutions == [1 if dtype == torch.bfloat16 else cardinality * len(kernels)]
    assert fast[0].is_contiguous(memory_format=CHANNELS_LAST) and fast[1].is_contiguous(memory_format=CHANNELS_LAST)
    plain = _with_gradients(form, *(each.double() for each in (x, *weights)))
    _assert_same([each.double() for each in fast], plain, relative=1e-5 if dtype == torch.float32 else 2e-2)


def test_a_hybrid_is_several_convolutions_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixers, "_convolved_as_one", None)
    wide = _image(0, 2, 32, 4, 4, dtype=torch.float32)
    _hybrid((K3, K5), 32, 1, 1)(wide)
    few = _image(0, 2, 8, 4, 4, dtype=torch.float32)
    _hybrid((K3, K5), 8, 1, 1).eval()(few)
    _hybrid((K3, K5), 8, 1, 1).double()(few.double())
    _hybrid((K3, K5), 8, 1, 1)(few.contiguous())
    with pytest.raises(TypeError):
        _hybrid((K3, K5), 8, 1, 1)(few)


# the weighted sum of an attention


@some
@given(seed=seeds, branches=st.integers(1, 4), channels=st.integers(1, 5), side=sides)
def test_the_weighted_sum_of_branches_is_a_product_of_matrices(
    seed: int, branches: int, channels: int, side: tuple[int, int]
) -> None:
    """With the same gradients; the weights add up to 1."""
    maps = _image(seed, BATCH, branches * channels, *side)
    logits = _image(seed + 1, BATCH, branches, channels, 1, 1)
    product = _with_gradients(lambda x, a: weighted_sum_as_product(x, a.softmax(dim=1)), maps, logits)
    plain = _with_gradients(
        lambda x, a: weighted_sum(x.chunk(branches, dim=1), a.softmax(dim=1).unbind(1)), maps, logits
    )
    _assert_same(product, plain)


@pytest.mark.parametrize(
    ("name", "training", "precision", "used"),
    [
        ("bottleneck split r2", True, "bf16", True),
        ("bottleneck hybrid r4", True, "bf16", True),
        ("bottleneck sk", True, "bf16", True),
        ("bottleneck split r2", False, "bf16", True),
        ("bottleneck split r2", True, "fp32", False),
    ],
)
def test_attention_is_a_product_in_trainings_in_bfloat16(
    name: str, training: bool, precision: Precision, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not in a network of bfloat16, as it may be exported or timed."""
    calls: list[torch.dtype] = []
    form = mixers.weighted_sum_as_product

    def noted(maps_BDHW: Tensor, weights_BMC11: Tensor) -> Tensor:
        calls.append(maps_BDHW.dtype)
        return form(maps_BDHW, weights_BMC11)

    monkeypatch.setattr(mixers, "weighted_sum_as_product", noted)
    module = build(NETWORKS[name]).to(memory_format=CHANNELS_LAST).train(training)  # type: ignore[call-overload]
    with autocast(torch.device("cpu"), precision):
        module(torch.randn(BATCH, 3, 16, 16).contiguous(memory_format=CHANNELS_LAST))
    assert set(calls) == ({torch.bfloat16} if used else set())
    calls.clear()
    module.bfloat16()(torch.randn(BATCH, 3, 16, 16).bfloat16().contiguous(memory_format=CHANNELS_LAST))
    assert calls == []


@pytest.mark.parametrize(
    ("channels", "side", "abreast", "amx", "used"),
    [
        (8, 3, True, False, True),
        (8, 2, True, True, False),
        (8, 2, False, False, True),
        (32, 9, False, True, False),
        (32, 9, True, True, True),
        (32, 9, True, False, False),
    ],
)
def test_attention_is_a_product_where_it_gains(
    channels: int, side: int, abreast: bool, amx: bool, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixers, "HAS_AMX", amx)
    map_BCHW = torch.zeros(2, channels, side, side, dtype=torch.bfloat16).contiguous(memory_format=CHANNELS_LAST)
    assert mixers._gains_as_product(map_BCHW, abreast) == used
    assert not mixers._gains_as_product(map_BCHW.contiguous(), abreast)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo's own doing
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_they_stand_in_the_way_of_no_compiler(precision: Precision) -> None:
    """Without a warning, and with the same numbers."""
    torch.compiler.reset()
    network = build(NETWORKS["cardinality 2, hybrid"]).to(memory_format=CHANNELS_LAST)  # type: ignore[call-overload]
    x_BCHW = _image(0, BATCH, 3, 16, 16, dtype=torch.float32)
    compiled: Callable[[Tensor], Tensor] = torch.compile(network, backend="eager")
    with autocast(torch.device("cpu"), precision):
        torch.testing.assert_close(compiled(x_BCHW), network(x_BCHW))
    torch.compiler.reset()
