"""The exported file is the searched network, in torch alone, and holds nothing that the network does not need."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import cycle, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import pytest
import torch
from architectures import GATES, MIXER_KINDS, MIXERS, NETWORKS, STEMS, architectures, combined, network
from exported import difference, images, lively, network_of, source
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from nas.arch import Architecture, Avd, BlockKind, Conv, Gate, Kernel, SelectiveKernel, Shortcut, SplitAttention, Stage
from nas.cost.formula import cost
from nas.export.source import model_source
from nas.models import build
from nas.space import SearchSpace
from nas.zoo import PUBLISHED

ROOT = Path(__file__).parent.parent
PAPERS = ("resnet50", "resnext50_32x4d", "seresnext50_32x4d", "sknet50", "resnest50")


def two_stages(first: Stage, second: Stage) -> Architecture:
    """Stages of different kinds in one network."""
    whole = network()
    return replace(
        whole,
        stages=(
            replace(whole.stages[0], mixer=first.mixer, gate=first.gate),
            replace(whole.stages[1], mixer=second.mixer, gate=second.gate),
        ),
    )


def stage(**changes: object) -> Stage:
    return replace(network().stages[0], **changes)  # type: ignore[arg-type]


MIXED: dict[str, Architecture] = {
    "2 and 4 splits": two_stages(stage(mixer=MIXERS["split r2"]), stage(mixer=MIXERS["split r4"])),
    "1 and 2 splits": two_stages(stage(mixer=MIXERS["split r1"]), stage(mixer=MIXERS["split r2"])),
    "2 and 3 branches": two_stages(stage(mixer=MIXERS["sk"]), stage(mixer=MIXERS["sk true kernels"])),
    "hybrids of 2 and 4": two_stages(stage(mixer=MIXERS["hybrid"]), stage(mixer=MIXERS["hybrid r4"])),
    "with and without bias": two_stages(stage(mixer=MIXERS["split without bias"]), stage(mixer=MIXERS["split r2"])),
    "all of one kind with bias": two_stages(
        stage(mixer=SelectiveKernel(kernels=(Kernel(3), Kernel(5)), hidden=4, attention_bias=True)), stage()
    ),
    "a gate in one stage": two_stages(stage(gate=GATES["scse"]), stage(gate=Gate())),
    "three gates": two_stages(stage(gate=GATES["sse"]), stage(gate=GATES["cse without bias"])),
    "1x1 mixer with a stride": network(mixer=Conv(kernel=Kernel(1))),
    "1x1 mixer with a stride and groups": network(mixer=Conv(kernel=Kernel(1)), cardinality=2),
    "1x1 splits": network(mixer=SplitAttention(radix=2, hidden=4, kernels=(Kernel(1),))),
    "dilated splits": network(mixer=SplitAttention(radix=2, hidden=4, kernels=(Kernel(3, 2),))),
    "split input, three branches": network(
        "basic",
        mixer=SelectiveKernel(kernels=(Kernel(3), Kernel(3, 2)), hidden=4, split_input=True, attention_groups=2),
    ),
}
SMALL = NETWORKS | MIXED


def assert_equals_the_searched_network(arch: Architecture, dtype: torch.dtype, tolerance: float, side: int) -> None:
    """Keys, shapes and order of the weights; outputs in eval mode; outputs and new statistics in train mode.

    In train mode the searched network rounds otherwise in float32 (`nas.models.conv`), which batch norm
    over the vectors of fewer images than these eight would magnify.
    """
    searched = lively(arch, dtype=dtype)
    exported = network_of(source(arch, side)).to(dtype)
    weights = searched.state_dict()
    assert [(name, value.shape) for name, value in exported.state_dict().items()] == [
        (name, value.shape) for name, value in weights.items()
    ]
    exported.load_state_dict(weights)
    x_BCHW = images(arch, count=8, side=side, dtype=dtype)
    with torch.no_grad():
        assert difference(exported.eval()(x_BCHW), searched.eval()(x_BCHW)) <= tolerance
        assert difference(exported.train()(x_BCHW), searched.train()(x_BCHW)) <= tolerance
    for name, value in searched.state_dict().items():
        if value.is_floating_point():
            assert difference(exported.state_dict()[name], value) <= tolerance, name


@pytest.mark.parametrize("name", SMALL)
def test_each_kind_of_network_is_exported_as_it_is(name: str) -> None:
    assert_equals_the_searched_network(SMALL[name], torch.float64, 1e-12, side=16)
    assert_equals_the_searched_network(SMALL[name], torch.float32, 1e-6, side=16)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(architectures())
def test_any_network_is_exported_as_it_is(arch: Architecture) -> None:
    assert_equals_the_searched_network(arch, torch.float64, 1e-9, side=24)


@pytest.mark.parametrize("gate", [*GATES, "none"])
@pytest.mark.parametrize("block", get_args(BlockKind))
def test_every_combination_of_genes_is_exported_as_it_is(block: str, gate: str) -> None:
    """Mixer x shortcut x stem x avd for each block and gate: outputs in eval mode, in float32, to the last bit.

    Of mixers that differ only in their numbers one stands with all stems, the others with the stems in turn.
    """
    genes = list(product(MIXER_KINDS, get_args(Shortcut), STEMS, get_args(Avd)))
    others = product([name for name in MIXERS if name not in MIXER_KINDS], get_args(Shortcut), get_args(Avd))
    genes += [(mixer, shortcut, stem, avd) for (mixer, shortcut, avd), stem in zip(others, cycle(STEMS))]
    for mixer, shortcut, stem, avd in genes:
        arch = combined(block, mixer, gate, shortcut, stem, avd)
        searched, exported = lively(arch, dtype=torch.float32).eval(), network_of(source(arch)).eval()
        exported.load_state_dict(searched.state_dict())
        x_BCHW = images(arch, count=2, side=12, dtype=torch.float32)
        with torch.no_grad():
            assert torch.equal(exported(x_BCHW), searched(x_BCHW)), (mixer, shortcut, stem, avd)


def test_gradients_are_those_of_the_searched_network() -> None:
    for arch in SMALL.values():
        searched, exported = lively(arch), network_of(source(arch)).double()
        exported.load_state_dict(searched.state_dict())
        for one in (searched, exported):
            one.train()(images(arch)).square().sum().backward()
        for (name, mine), (_, its) in zip(exported.named_parameters(), searched.named_parameters(), strict=True):
            assert mine.grad is not None and its.grad is not None
            assert difference(mine.grad, its.grad) <= 1e-9, name


@pytest.mark.parametrize("name", PAPERS)
def test_the_published_networks_have_their_published_number_of_parameters(name: str) -> None:
    published = PUBLISHED[name]
    text = model_source(published.architecture, published.input_size, name)
    with torch.device("meta"):
        exported = network_of(text)
    assert sum(parameter.numel() for parameter in exported.parameters()) == published.params
    assert f"{published.params:,}" in text and f"{published.macs:,}" in text


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_network_has_the_keys_of_the_searched_one(name: str) -> None:
    published = PUBLISHED[name]
    with torch.device("meta"):
        exported = network_of(model_source(published.architecture, published.input_size, name)).state_dict()
        searched = build(published.architecture.canonical()).state_dict()
    assert [(key, value.shape) for key, value in exported.items()] == [(k, v.shape) for k, v in searched.items()]


def test_another_number_of_classes_changes_the_classifier_alone() -> None:
    arch = NETWORKS["bottleneck hybrid"]
    before, after = (network_of(source(arch), **words).state_dict() for words in ({}, {"num_classes": 7}))
    assert {name for name in before if before[name].shape != after[name].shape} == {
        "classifier.weight",
        "classifier.bias",
    }


def test_a_fresh_network_begins_as_the_searched_one_does() -> None:
    """He-normal convolutions over the fan out, biases 0, batch norm at 1 and 0."""
    arch = PUBLISHED["seresnet50"].architecture
    torch.manual_seed(0)
    fresh = network_of(source(arch, 64)).state_dict()
    for name, value in fresh.items():
        if value.ndim == 4 and value.numel() > 10_000:
            fan_out = value.shape[0] * value.shape[2] * value.shape[3]
            assert value.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05), name
        if name.endswith(("fc1.bias", "fc2.bias", "bn.bias")):
            assert not value.any(), name


@pytest.fixture(scope="module")
def many() -> dict[str, str]:
    """Files of all kinds of networks: hand-made, published, of each shipped space."""
    found = {name: source(arch) for name, arch in SMALL.items()}
    found |= {name: model_source(one.architecture, 224, name) for name, one in PUBLISHED.items()}
    return found | {f"the cheapest of {name}": source(next(iter(SearchSpace.load(name)))) for name in ("tiny", "cifar")}


def assert_as_ruff_writes(texts: Iterable[str]) -> None:
    with TemporaryDirectory() as folder:
        for number, text in enumerate(texts):
            (Path(folder) / f"model_{number}.py").write_text(text)
        for words in (("format", "--diff"), ("check",)):
            command = [sys.executable, "-m", "ruff", *words, "--config", str(ROOT / "pyproject.toml"), "--no-cache"]
            done = subprocess.run([*command, folder], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr


def test_the_files_are_as_ruff_writes_them(many: dict[str, str]) -> None:
    assert_as_ruff_writes(many.values())


@settings(deadline=None, max_examples=4, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(st.lists(architectures(), min_size=25, max_size=25))
def test_any_file_is_as_ruff_writes_it_and_holds_nothing_superfluous(drawn: list[Architecture]) -> None:
    texts = [source(arch, 64) for arch in drawn]
    assert_as_ruff_writes(texts)
    for text in texts:
        assert_nothing_is_superfluous(text)


def assert_nothing_is_superfluous(text: str) -> None:
    """Each class is used, each optional argument is given somewhere, each attribute is read."""
    tree = ast.parse(text)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    named = Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    assert {name for name in classes if not named[name]} == {"Network"}
    made = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for name, node in classes.items():
        names = {name, *(child for child, body in classes.items() if any(ast.unparse(b) == name for b in body.bases))}
        own = [call for call in made if isinstance(call.func, ast.Name) and call.func.id in names]
        if any(body for body in classes.values() if any(ast.unparse(base) == name for base in body.bases)):
            own += [call for call in made if ast.unparse(call.func) == "super().__init__" and call.keywords]
        given = {keyword.arg for call in own for keyword in call.keywords}
        init = next(part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__")
        assert {argument.arg for argument in init.args.kwonlyargs} <= given, (name, given)
        attributes = [part for part in ast.walk(node) if isinstance(part, ast.Attribute)]
        kept = [part for part in attributes if isinstance(part.value, ast.Name) and part.value.id == "self"]
        stored = {part.attr for part in kept if isinstance(part.ctx, ast.Store)}
        assert stored <= {part.attr for part in kept if isinstance(part.ctx, ast.Load)}, name


def test_the_files_hold_nothing_that_their_networks_do_not_need(many: dict[str, str]) -> None:
    for text in many.values():
        assert_nothing_is_superfluous(text)
        assert "nas" not in {word.strip(".") for word in text.replace("\n", " ").split(" ")}
    assert "Attention" not in many["resnet50"] and "class ChannelGate" not in many["resnet50"]
    assert [line for line in many["resnet18"].split("\n") if line.startswith("class ")] == [
        "class ConvBN(nn.Module):",
        "class StridedConv1x1(ConvBN):",
        "class Block(nn.Module):",
        "class Network(nn.Module):",
    ]


def test_a_file_runs_where_nas_cannot_be_imported(tmp_path: Path) -> None:
    """In a process of its own, which loads the weights that were saved here and gives the same outputs."""
    names = ("bottleneck hybrid", "bottleneck sk", "gate scse", "avd after")
    wanted = {}
    for number, name in enumerate(names):
        arch = NETWORKS[name]
        searched = lively(arch, dtype=torch.float32).eval()
        (tmp_path / f"model{number}.py").write_text(source(arch))
        torch.save(searched.state_dict(), tmp_path / f"weights{number}.pt")
        with torch.no_grad():
            wanted[number] = searched(images(arch, dtype=torch.float32)).flatten().tolist()
    script = f"""
import json, sys
sys.modules["nas"] = None  # importing it raises ImportError
sys.path.insert(0, {str(tmp_path)!r})
import importlib, torch
outputs = {{}}
for number in range({len(names)}):
    network = importlib.import_module(f"model{{number}}").Network().eval()
    network.load_state_dict(torch.load(f"{tmp_path}/weights{{number}}.pt"))
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    outputs[number] = network(x).flatten().tolist()
print(json.dumps(outputs))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert json.loads(done.stdout) == {str(number): values for number, values in wanted.items()}


def test_the_text_says_what_network_it_is() -> None:
    arch = PUBLISHED["resnest50"].architecture
    text = model_source(arch, 224, "ResNeSt-50 of the paper.")
    docstring = ast.get_docstring(ast.parse(text)) or ""
    price = cost(arch, 224)
    assert docstring.startswith("ResNeSt-50 of the paper.\n")
    for said in (arch.key, f"{price.params:,}", f"{price.macs:,}", f"{price.activations:,}", "3 x 224 x 224", "1000"):
        assert said in docstring
    assert "# stage 3: 6 blocks, out 1024 x 14 x 14" in text and "# stage 4: 3 blocks, out 2048 x 7 x 7" in text
    assert "M branches" in docstring and "G groups" not in docstring


def test_two_descriptions_of_one_network_give_one_file() -> None:
    plain = NETWORKS["bottleneck conv"]
    assert source(network(mixer=SelectiveKernel(kernels=(Kernel(3),), hidden=4))) == source(plain)
