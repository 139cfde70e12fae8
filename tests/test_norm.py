"""Batch norm with what follows it: the compiled kernels against the formula, and when they are used."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import NETWORKS
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nas.data import ImageData, load
from nas.device import autocast
from nas.models import build, gates, norm
from nas.models.gates import ChannelGate
from nas.models.layers import global_mean
from nas.models.norm import BatchNorm2d
from nas.train import RECIPES, TrainResult, train

CHANNELS_LAST = torch.channels_last
ROUNDING = 2**-8
"""Of a value in bfloat16 a little more than half a unit in the last place."""


@pytest.fixture(autouse=True)
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Maps are large from one element on; each that goes through the kernels leaves its number of elements here."""
    monkeypatch.setattr(norm, "LARGE_MAP", 1)
    seen: list[int] = []
    forward = norm._Fused.forward

    def noted(ctx: Any, x_BCHW: Tensor, *rest: Any) -> Tensor:
        seen.append(x_BCHW.numel())
        return forward(ctx, x_BCHW, *rest)

    monkeypatch.setattr(norm._Fused, "forward", staticmethod(noted))
    return seen


def _map(seed: int, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return drawn.to(dtype).contiguous(memory_format=CHANNELS_LAST)


def _norm(seed: int, channels: int, momentum: float | None = 0.3) -> BatchNorm2d:
    module = BatchNorm2d(channels, momentum=momentum)
    drawn = torch.randn(2, channels, generator=torch.Generator().manual_seed(seed))
    module.load_state_dict(module.state_dict() | {"weight": drawn[0], "bias": drawn[1]})
    return module


def _close(actual: Tensor | None, expected: Tensor | None, *, absolute: float = 1e-4) -> None:
    assert actual is not None and expected is not None
    torch.testing.assert_close(actual.double(), expected, rtol=ROUNDING, atol=absolute)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**31),
    images=st.integers(2, 4),
    channels=st.integers(1, 140),
    side=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    adds=st.booleans(),
    relu=st.booleans(),
)
def test_the_kernels_compute_the_formula(
    passes: list[int], seed: int, images: int, channels: int, side: tuple[int, int], adds: bool, relu: bool
) -> None:
    """Of float64, but for the last rounding: values, gradients of all inputs and parameters, running statistics."""
    shape = (images, channels, *side)
    x, added = (_map(seed + draw, *shape).requires_grad_() for draw in range(2))
    g = _map(seed + 2, *shape)
    module = _norm(seed + 3, channels)
    exact = copy.deepcopy(module).double()
    exact_x, exact_added = (value.detach().double().requires_grad_() for value in (x, added))

    line = nn.BatchNorm2d.forward(exact, exact_x) + adds * exact_added
    assume(float(line.detach().abs().min()) > 1e-5)  # whether the gradient passes is a matter of rounding there
    expected = line.relu() if relu else line
    torch.autograd.backward(expected, g.double())
    passes.clear()
    y = module(x, added if adds else None, relu=relu)
    torch.autograd.backward(y, g)

    assert passes == [x.numel()]
    assert x.grad is not None
    assert y.dtype == torch.bfloat16 and y.stride() == x.grad.stride() == x.stride()
    _close(y, expected.detach())
    _close(x.grad, exact_x.grad)
    _close(module.weight.grad, exact.weight.grad, absolute=1e-3)
    _close(module.bias.grad, exact.bias.grad, absolute=1e-3)
    if adds:
        _close(added.grad, exact_added.grad)
    for name, value in exact.named_buffers():
        _close(module.get_buffer(name), value.double(), absolute=1e-6)


def _gate(seed: int, channels: int) -> ChannelGate:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ChannelGate(channels, 4, bias=True)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    images=st.integers(1, 4),
    channels=st.integers(1, 140),
    side=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
@example(seed=944, images=1, channels=1, side=(1, 1))
def test_the_kernels_gate_and_sum(seed: int, images: int, channels: int, side: tuple[int, int]) -> None:
    """relu(x . gate + added) of float64, but for the last rounding: values, gradients of both maps and the weights."""
    shape = (images, channels, *side)
    x, added = (_map(seed + draw, *shape).requires_grad_() for draw in range(2))
    g = _map(seed + 2, *shape)
    gate = _gate(seed, channels)
    exact = copy.deepcopy(gate).double()
    exact_x, exact_added = (value.detach().double().requires_grad_() for value in (x, added))

    line = exact(exact_x) + exact_added
    assume(float(line.detach().abs().min()) > 1e-5)  # whether the gradient passes is a matter of rounding there
    torch.autograd.backward(line.relu(), g.double())
    y = gate.with_sum(x, added)
    torch.autograd.backward(y, g)

    assert x.grad is not None and added.grad is not None
    assert y.dtype == torch.bfloat16 and y.stride() == x.grad.stride() == added.grad.stride() == x.stride()
    _close(y, line.detach().relu())
    assert exact_x.grad is not None
    direct = g.double() * exact.scale(exact_x).detach()
    terms = max(float(direct.abs().max()), float(exact_x.grad.abs().max()))
    _close(x.grad, exact_x.grad, absolute=2 * ROUNDING * terms)  # a sum of two in bfloat16, which may cancel out
    _close(added.grad, exact_added.grad)
    for name, parameter in exact.named_parameters():
        _close(gate.get_parameter(name).grad, parameter.grad, absolute=1e-3)


def test_gates_go_through_the_kernels_where_they_are_of_another_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, x = _gate(0, 4), _map(0, 2, 4, 6, 6)
    apart = (x.double() * gate.scale(x).double() + x.double()).relu()
    rounded = (gate(x) + x).relu()  # three times
    with torch.inference_mode():
        y = gate.with_sum(x, x)
    assert not torch.equal(y, rounded)
    _close(y, apart.detach())
    monkeypatch.setattr(gates, "_GatedSum", None)
    assert gate.with_sum(x.float(), x.float()).dtype == torch.float32
    assert gate.bfloat16().with_sum(x, x).dtype == torch.bfloat16


def test_a_gate_keeps_what_is_not_a_number() -> None:
    x = _map(0, 2, 3, 4, 4)
    x[1, 1, 2, 3] = torch.nan
    y = _gate(0, 3).with_sum(x, _map(1, 2, 3, 4, 4))
    assert y[1, 1].isnan().all() and y[0].isfinite().all()


@pytest.mark.parametrize("shape", [(3, 4, 9, 7), (2, 40, 5, 1), (1, 1, 32, 32)])
def test_global_means_are_summed_up_in_float32(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    x = _map(0, *shape)
    through_kernels = global_mean(x, torch.float32)
    torch.testing.assert_close(through_kernels, x.float().mean(dim=(2, 3), keepdim=True))
    monkeypatch.setattr(norm, "LARGE_MAP", 2**40)
    torch.testing.assert_close(global_mean(x, torch.float32), through_kernels)
    assert not torch.equal(through_kernels, x.mean(dim=(2, 3), keepdim=True).float())


@pytest.mark.parametrize("momentum", [0.3, None], ids=["running", "plain mean"])
def test_running_statistics_are_torch_s(momentum: float | None, passes: list[int]) -> None:
    module, reference = _norm(0, 8, momentum), nn.BatchNorm2d(8, momentum=momentum)
    for seed in range(3):
        x = _map(seed, 3, 8, 5, 7)
        with torch.no_grad():
            module(x)
            reference(x.float())
    assert len(passes) == 3
    for name, value in reference.named_buffers():
        torch.testing.assert_close(module.get_buffer(name), value)


def test_a_mean_far_from_zero_spoils_no_variance() -> None:
    x = _map(0, 4, 8, 16, 16) * 0.5 + 20.0
    module = _norm(0, 8, momentum=None)
    module(x)
    torch.testing.assert_close(module.running_var, x.double().var(dim=(0, 2, 3)).float(), rtol=1e-3, atol=0.0)


def test_what_is_not_a_number_stays_so_and_spoils_its_channel_alone() -> None:
    """A training that diverged must not look healthy behind a ReLU."""
    x = _map(0, 2, 3, 4, 4)
    x[1, 1, 2, 3] = torch.nan
    x.requires_grad_()
    y = _norm(0, 3)(x, relu=True)
    y.sum().backward()
    assert x.grad is not None
    for value in (y, x.grad):
        assert value[:, 1].isnan().all()
        assert value[:, ::2].isfinite().all()


@pytest.mark.parametrize("name", ["bottleneck conv", "basic conv", "gate cse", "bottleneck sk", "bottleneck hybrid"])
def test_a_network_learns_the_same_through_them(name: str, passes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients point where those of float32 do, about as nearly as torch's own bfloat16: of 8 networks' parameters."""

    def gradients(network: nn.Module, x: Tensor, precision: str) -> list[Tensor]:
        network.zero_grad()
        with autocast(torch.device("cpu"), precision):  # type: ignore[arg-type]
            loss = network(x).float().square().mean()
        loss.backward()
        return [parameter.grad.clone().flatten() for parameter in network.parameters() if parameter.grad is not None]

    angles: dict[str, list[Tensor]] = {"fused": [], "plain": []}
    for seed in range(8):
        torch.manual_seed(seed)
        network = build(NETWORKS[name]).to(memory_format=CHANNELS_LAST)  # type: ignore[call-overload]
        x = _map(seed, 16, 3, 16, 16, dtype=torch.float32)
        passes.clear()
        exact = gradients(network, x, "fp32")
        assert passes == []
        for form, large in (("fused", 1), ("plain", 2**40)):
            monkeypatch.setattr(norm, "LARGE_MAP", large)
            found = gradients(network, x, "bf16")
            angles[form] += [1 - torch.cosine_similarity(*both, dim=0) for both in zip(found, exact, strict=True)]
            assert len(passes) >= 7
    fused, plain = (torch.stack(angles[form]).median() for form in ("fused", "plain"))
    assert fused <= 1.5 * plain + 1e-6


class TestWhenTheyAreUsed:
    x = _map(0, 2, 4, 6, 6)

    def test_in_training_with_bfloat16_on_one_thread(self, passes: list[int]) -> None:
        assert torch.get_num_threads() == 1
        _norm(0, 4)(self.x)
        assert len(passes) == 1

    def test_in_evaluation_without_gradients(self) -> None:
        module = _norm(0, 4).eval()
        with torch.inference_mode():
            y = module(self.x, self.x, relu=True)
            expected = (nn.BatchNorm2d.forward(copy.deepcopy(module).double(), self.x.double()) + self.x).relu()
            rounded = (nn.BatchNorm2d.forward(module, self.x) + self.x).relu()
        assert y.dtype == torch.bfloat16
        assert not torch.equal(y, rounded)  # which is rounded twice
        _close(y, expected)

    def test_not_in_evaluation_with_gradients(self) -> None:
        x = self.x.clone().requires_grad_()
        y = _norm(0, 4).eval()(x)
        torch.autograd.backward(y, torch.ones_like(y))
        assert x.grad is not None and float(x.grad.abs().sum()) > 0

    def test_not_with_other_parameters(self, passes: list[int]) -> None:
        y = _norm(0, 4).bfloat16()(self.x)
        assert passes == []
        assert y.dtype == torch.bfloat16

    @pytest.mark.parametrize("x", [x.float(), x.half(), x.contiguous()], ids=["float32", "float16", "other layout"])
    def test_not_for_other_maps(self, x: Tensor, passes: list[int]) -> None:
        y = _norm(0, 4)(x)
        assert passes == []
        assert y.dtype == x.dtype

    def test_not_for_a_sum_with_another_kind_of_map(self, passes: list[int]) -> None:
        y = _norm(0, 4)(self.x, self.x.float(), relu=True)
        assert passes == []
        assert y.dtype == torch.float32

    def test_not_for_small_maps(self, passes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(norm, "LARGE_MAP", self.x.numel() + 1)
        _norm(0, 4)(self.x)
        assert passes == []

    def test_not_on_several_threads(self, passes: list[int]) -> None:
        torch.set_num_threads(2)
        try:
            _norm(0, 4)(self.x)
        finally:
            torch.set_num_threads(1)
        assert passes == []

    @pytest.mark.usefixtures("without_kernels")
    def test_not_without_numba(self, passes: list[int]) -> None:
        y = _norm(0, 4)(self.x, self.x, relu=True)
        assert passes == []
        torch.testing.assert_close(y, (nn.BatchNorm2d.forward(_norm(0, 4), self.x) + self.x).relu())

    @pytest.fixture
    def without_kernels(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setitem(sys.modules, "numba", None)
        monkeypatch.delitem(sys.modules, "nas.models.kernels", raising=False)
        monkeypatch.delattr("nas.models.kernels", raising=False)
        norm.kernels.cache_clear()
        yield
        norm.kernels.cache_clear()


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load("digits", val_fraction=0.2, seed=0)


def test_trainings_through_them_are_reproducible_and_go_on_bit_for_bit(
    digits: ImageData, passes: list[int], tmp_path: Path
) -> None:
    arch = replace(NETWORKS["bottleneck split r2"], in_channels=1, num_classes=10)
    recipe = replace(RECIPES["digits"], precision="bf16", batch_size=256)

    def trained(steps: int, checkpoint: Path | None = None) -> TrainResult:
        return train(arch, digits, recipe, steps=steps, seed=0, device="cpu", checkpoint=checkpoint)

    whole = trained(12)
    assert len(passes) > 12 * 7
    trained(5, tmp_path / "parts")
    parts = trained(12, tmp_path / "parts")
    again = trained(12)
    assert parts.loss_curve == whole.loss_curve == again.loss_curve
    assert parts.val_loss == whole.val_loss == again.val_loss
