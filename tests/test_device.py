"""Devices: found, named, and refused in words where the machine lacks them."""

from __future__ import annotations

import pytest
import torch

from nas.device import device_name, resolve_device, resolve_precision
from nas.machine import cpu_model

CPU = torch.device("cpu")


def test_the_cpu_is_always_there() -> None:
    assert resolve_device("cpu") == CPU
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:-1", "", "cpu:0"])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda, cuda:N or mps"):
        resolve_device(name)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("cuda", "cuda:1"):
        with pytest.raises(ValueError, match=f"device {name} needs a CUDA GPU"):
            resolve_device(name)
    with pytest.raises(ValueError, match="needs Apple's Metal"):
        resolve_device("mps")
    assert resolve_device("auto") == CPU


def test_a_gpu_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda") == torch.device("cuda", 0)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ValueError, match="cuda:2 does not exist: this machine has 2 CUDA devices"):
        resolve_device("cuda:2")


def test_a_device_has_the_name_that_people_know(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_name(CPU) == cpu_model() != ""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU number {device.index}")
    assert device_name(torch.device("cuda", 1)) == "GPU number 1"


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"avx512_bf16": True}, "fp32"),
        ({"avx512_bf16": True, "amx_bf16": True}, "bf16"),
        ({"avx512_bf16": True, "amx_bf16": False}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_auto_is_bf16_on_a_cpu_with_matrix_instructions(
    capabilities: dict[str, bool], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_precision("auto", CPU) == precision
    assert resolve_precision("fp16", CPU) == "fp16"
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # as in an older torch
    assert resolve_precision("auto", CPU) == "fp32"


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_is_bf16_on_a_gpu_that_multiplies_it(
    capability: tuple[int, int], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert resolve_precision("auto", torch.device("cuda", 0)) == precision


def test_auto_is_fp32_where_nothing_is_known() -> None:
    assert resolve_precision("auto", torch.device("mps")) == "fp32"
