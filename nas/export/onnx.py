"""`model.onnx`: the network for other runtimes, any number of images at a time. Needs the extra `onnx`."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.atomic import write_atomic
from nas.export.batched import batched


def save_onnx(network: nn.Module, path: Path, x_BCHW: Tensor) -> None:
    """Write the network in eval mode, traced on at least 2 images `x_BCHW`; input "images", output "logits".

    Raises ValueError with the line to install when the extra is missing.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        _required(package)
    batch = torch.export.Dim("batch", min=1)
    with _quiet():
        program = torch.onnx.export(
            network.eval(),
            (x_BCHW,),
            dynamo=True,
            dynamic_shapes=({0: batch},),
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None
    write_atomic(path, program.model_proto.SerializeToString())


def run_onnx(path: Path, x_BCHW: Tensor) -> Tensor:
    """The outputs of ONNX Runtime on the CPU."""
    runtime = _required("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return batched(lambda part: torch.from_numpy(session.run(["logits"], {"images": part.numpy()})[0]), x_BCHW)


def _required(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ValueError(f'model.onnx needs {package}, which is missing: pip install "paretonest[onnx]"') from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter says of itself: deprecations in its own code, a torchvision that is not there."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)
