"""Other forms of an exported network, on request: each one file, written in eval mode for any number of images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nas.atomic import write_atomic
from nas.export.batched import batched
from nas.export.onnx import run_onnx, save_onnx


def save_pt2(network: nn.Module, path: Path, x_BCHW: Tensor) -> None:
    """An exported program: `torch.export.load(path).module()` is the network, without its code."""
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(network.eval(), (x_BCHW,), dynamic_shapes=({0: batch},))
    write_atomic(path, lambda file: torch.export.save(program, file))


def run_pt2(path: Path, x_BCHW: Tensor) -> Tensor:
    with warnings.catch_warnings():
        # torch 2.10 wraps the bytes of the file in tensors that it only reads, and warns of writing to them
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        program = torch.export.load(path)
    return batched(program.module(), x_BCHW)


@contextmanager
def _torchscript() -> Iterator[None]:
    """Without what torch says of TorchScript's future: in 2.15 a FutureWarning, which people see."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=FutureWarning)
        yield


def save_torchscript(network: nn.Module, path: Path, x_BCHW: Tensor) -> None:
    """A traced program, which C++ and mobile runtimes load. PyTorch calls TorchScript deprecated."""
    with _torchscript(), torch.inference_mode():
        program = torch.jit.trace(network.eval(), x_BCHW)  # type: ignore[no-untyped-call]
        write_atomic(path, lambda file: torch.jit.save(program, file))


def run_torchscript(path: Path, x_BCHW: Tensor) -> Tensor:
    with _torchscript():
        network = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    return batched(network, x_BCHW)


@dataclass(frozen=True)
class Form:
    """save: network, path, at least 2 images. run: path, images -> outputs, from the file alone.

    tolerance: of an output, times the largest output where that is above 1. call: what a reader writes to run the file.
    """

    file: str
    save: Callable[[nn.Module, Path, Tensor], None]
    run: Callable[[Path, Tensor], Tensor]
    tolerance: float
    call: str


FORMS = {
    "onnx": Form(
        "model.onnx",
        save_onnx,
        run_onnx,
        tolerance=1e-5,  # ONNX Runtime fuses and orders operations in its own way
        call='onnxruntime.InferenceSession("model.onnx").run(["logits"], {"images": images.numpy()})[0]',
    ),
    "pt2": Form("model.pt2", save_pt2, run_pt2, tolerance=1e-6, call='torch.export.load("model.pt2").module()(images)'),
    "torchscript": Form(
        "model.torchscript",
        save_torchscript,
        run_torchscript,
        tolerance=1e-6,
        call='torch.jit.load("model.torchscript")(images)',
    ),
}
