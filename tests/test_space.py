"""Spaces: every way of looking at one (size, iteration, sampling, neighbours, codes) sees the same set of networks."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import small, spaces

from nas.arch import Architecture, Conv, SelectiveKernel, SplitAttention, Stem
from nas.space import InvalidGenotype, SearchSpace, every, shipped_spaces
from nas.zoo import architecture_from_reference

SHIPPED = sorted(shipped_spaces())
LOADED = {name: SearchSpace.load(name) for name in SHIPPED}
REFERENCES = {
    case["name"]: case["arch"]
    for case in json.loads((Path(__file__).parent / "reference_models.json").read_text())["cases"]
}


@settings(deadline=None, max_examples=60)
@given(space=spaces())
def test_size_iteration_and_codes_agree_on_any_space(space: SearchSpace) -> None:
    by_walks = {arch.key for _, arch in every(space.walk)}
    if len(by_walks) > 800:
        return
    listed = list(space)
    assert len(listed) == space.size() == len(by_walks)
    assert {arch.key for arch in listed} == by_walks
    for arch in listed[:: max(1, len(listed) // 12)]:
        assert space.contains(arch)
        assert space.decode(space.encode(arch)) == arch


@pytest.mark.parametrize("name", SHIPPED)
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_a_sample_of_a_shipped_space_is_in_it_and_survives_its_code(name: str, seed: int) -> None:
    space = LOADED[name]
    arch = space.sample(random.Random(seed))
    assert space.contains(arch)
    code = space.encode(arch)
    assert space.decode(code) == arch
    assert arch == arch.canonical() == Architecture.from_json(json.loads(json.dumps(arch.to_json())))
    assert set(code) <= {gene.name for gene in space.genes}
    for gene in space.genes:
        assert gene.name not in code or code[gene.name] in gene.options


@pytest.mark.parametrize("name", SHIPPED)
@settings(deadline=None, max_examples=4)
@given(seed=st.integers(0, 2**32))
def test_neighbours_differ_in_one_gene_and_see_each_other(name: str, seed: int) -> None:
    space = LOADED[name]
    arch = space.sample(random.Random(seed))
    own = space.encode(arch)
    near = space.neighbours(arch)
    assert near
    assert len({other.key for other in near}) == len(near)
    assert arch.key not in {other.key for other in near}
    for other in near[:6]:
        code = space.encode(other)
        assert sum(own[gene] != code[gene] for gene in own.keys() & code.keys()) <= 1
        assert arch.key in {back.key for back in space.neighbours(other)}


@given(space=spaces(), index=st.integers(0, 1), channels=st.sampled_from([8, 12, 16]), seed=st.integers(0, 2**32))
def test_every_option_that_a_stage_offers_leads_to_one_that_can_be_built(
    space: SearchSpace, index: int, channels: int, seed: int
) -> None:
    rng = random.Random(seed)
    try:
        stage = space.stage(index, channels, lambda _, options: rng.choice(options))
    except InvalidGenotype as error:
        assert str(error).startswith("no option of width")  # the first gene that can have none
        return
    stem = Stem(kind="conv3x3", channels=(channels,), strides=(1,))
    Architecture(in_channels=1, num_classes=10, stem=stem, block=space.fixed.block, stages=(stage,))


def test_neighbours_reach_the_whole_tiny_space() -> None:
    space = LOADED["tiny"]
    seen = {}
    waiting = [next(iter(space))]
    while waiting:
        arch = waiting.pop()
        if arch.key not in seen:
            seen[arch.key] = arch
            waiting.extend(space.neighbours(arch))
    assert len(seen) == space.size() == 288


def test_size_of_tiny_by_hand() -> None:
    # depth 2 x 2, width 2 x 2, K in {1, 2, 4}; mixers: plain with gate none or cse (2), SK, R = 1, R = 2, hybrid.
    # K R = 4 x 2 = 8 divides every inner width (8, 16, 32), so nothing falls away.
    assert LOADED["tiny"].size() == 2 * 2 * 2 * 2 * 3 * (2 + 1 + 1 + 1 + 1)


def test_size_is_exact_beyond_ten_to_the_thirty() -> None:
    options = {"depth": "1, 2, 3, 4", "width": "16, 32, 48, 64", "cardinality": "1, 2, 4, 8", "radix": "0, 1, 2"}
    space = small({gene: f"{{ each_stage = [{listed}] }}" for gene, listed in options.items()}, strides=[1] * 14)
    # Per stage 4 depths x 4 widths x 4 cardinalities x 3 radices; K R divides every width, for 16 divides them all.
    assert space.size() == (4 * 4 * 4 * 3) ** 14 > 10**30


def test_a_seeded_sample_repeats_and_different_seeds_differ() -> None:
    space = LOADED["cifar"]
    first, again, other = (space.sample(random.Random(seed)).key for seed in (1, 1, 2))
    assert first == again != other


def test_samples_cover_the_whole_tiny_space() -> None:
    space = LOADED["tiny"]
    rng = random.Random(0)
    seen = {space.sample(rng).key for _ in range(4000)}
    assert seen == {arch.key for arch in space}


PUBLISHED = {
    "ResNet-50": "resnet50",
    "ResNeXt-50 32x4d": "resnext50_32x4d",
    "SE-ResNeXt-50 32x4d": "seresnext50_32x4d",
    "SKNet-50": "skresnext50_32x4d",
    "ResNeSt-50": "resnest50d",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_imagenet_contains_the_published_networks(name: str) -> None:
    published = architecture_from_reference(REFERENCES[PUBLISHED[name]])
    space = LOADED["imagenet"]
    assert space.contains(published)
    assert space.decode(space.encode(published)).key == published.key


@pytest.mark.parametrize("name", ["wide_resnet50_2", "resnet18", "skresnet50", "mini_basic"])
def test_imagenet_does_not_contain_others(name: str) -> None:
    assert not LOADED["imagenet"].contains(architecture_from_reference(REFERENCES[name]))


@pytest.mark.parametrize("name", ["cifar", "digits", "tiny"])
def test_small_spaces_hold_all_five_papers_and_the_hybrid(name: str) -> None:
    rng = random.Random(0)
    mechanisms = {m for _ in range(300) for m in LOADED[name].sample(rng).mechanisms}
    assert mechanisms == {"ResNet", "ResNeXt", "SE-Net", "SK-Net", "ResNeSt", "hybrid"}


def test_cifar_has_a_million_networks() -> None:
    assert LOADED["cifar"].size() >= 1_000_000


def test_radix_and_kernels_decide_the_mixer() -> None:
    genes = {"depth": "[1]", "width": "[16]", "radix": "[0, 1, 2, 4]", "kernels": "[[3], [3, 5], [3, 5, 7]]"}
    space = small(genes)
    mixers = {(r, s): _mixer(space, r, s) for r in (0, 1, 2, 4) for s in ("3", "3+5", "3+5+7")}
    assert isinstance(mixers[0, "3"], Conv)
    assert isinstance(mixers[0, "3+5"], SelectiveKernel)
    for radix in (1, 2, 4):
        plain = mixers[radix, "3"]
        assert isinstance(plain, SplitAttention) and plain.radix == radix and not plain.is_hybrid
    assert mixers[1, "3+5"] is None and mixers[2, "3+5+7"] is None
    hybrid = mixers[4, "3+5"]
    assert isinstance(hybrid, SplitAttention)
    assert [k.reach for k in hybrid.kernels] == [3, 3, 5, 5]


def _mixer(space: SearchSpace, radix: int, kernels: str) -> Conv | SelectiveKernel | SplitAttention | None:
    try:
        return space.decode({"radix": radix, "kernels": kernels}).stages[0].mixer
    except InvalidGenotype:
        return None


def test_hidden_widths_follow_the_papers() -> None:
    # SK-Net eq. 4: d = max(C / 16, 32) of the mixer's width; ResNeSt: max(C R / 4, 32); SE: C / r of the output.
    space = LOADED["imagenet"]
    sk = space.decode(space.encode(architecture_from_reference(REFERENCES["skresnext50_32x4d"])))
    assert [stage.mixer.hidden for stage in sk.stages if isinstance(stage.mixer, SelectiveKernel)] == [32, 32, 32, 64]
    resnest = space.decode(space.encode(architecture_from_reference(REFERENCES["resnest50d"])))
    hidden = [stage.mixer.hidden for stage in resnest.stages if isinstance(stage.mixer, SplitAttention)]
    assert hidden == [32, 64, 128, 256]
    se = space.decode(space.encode(architecture_from_reference(REFERENCES["seresnext50_32x4d"])))
    assert [stage.gate.hidden for stage in se.stages] == [16, 32, 64, 128]


def test_gates_on_attention_only_when_the_space_says_so() -> None:
    genes = {"depth": "[1]", "width": "[16]", "radix": "[0, 2]", "gate": '["none", "cse"]', "reduction": "[4]"}
    assert small(genes).size() == 2 + 1
    assert small(genes, gate_on_attention=True).size() == 2 + 2


def test_a_value_outside_the_options_is_refused_in_words() -> None:
    space = LOADED["tiny"]
    code = space.encode(next(iter(space)))
    with pytest.raises(InvalidGenotype, match=r"cardinality = 3 is not valid here: the options are \[1, 2, 4\]"):
        space.decode({**code, "cardinality": 3})
    with pytest.raises(InvalidGenotype, match="'colour' is no gene of space tiny"):
        space.decode({**code, "colour": 1})
    with pytest.raises(InvalidGenotype, match=r"the gene depth\.1 has no value"):
        space.decode({name: value for name, value in code.items() if name != "depth.1"})


GOOD = (Path(str(shipped_spaces()["tiny"]))).read_text()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('block = "bottleneck"', 'block = "bottle"', r"space fixed\.block = 'bottle': input should be 'basic' or"),
        ("input_size = 8", 'input_size = "8"', r"fixed\.input_size = '8': input should be a valid integer"),
        ("input_size = 8", "input_size = 0", r"fixed\.input_size = 0: input should be greater than or equal to 1"),
        ("in_channels = 1", "channels = 1", r"channels"),
        ("strides = [1, 2]", "stride = [1, 2]", r"stride"),
        ("strides = [1, 2]", "strides = [0, 2]", r"fixed\.strides must be at least 1, but got 0"),
        ("[genes]", "[genes]\ncolour = [1]", r"genes\.colour is unknown: the genes are stem, shortcut"),
        ("radix = [0, 1, 2]", "radix = []", r"genes\.radix must be a list with at least one option, but got \[\]"),
        ("radix = [0, 1, 2]", "radix = [0, 0]", r"genes\.radix names the option 0 twice"),
        ("radix = [0, 1, 2]", "radix = [0, -1]", r"genes\.radix must hold a whole number of at least 0, but got -1"),
        ("radix = [0, 1, 2]", "radix = [true]", r"genes\.radix must hold a whole number of at least 0, but got True"),
        (
            "kernels = [[3], [3, 5]]",
            "kernels = [[3], [4]]",
            r"genes\.kernels must hold a list of different odd .* \[4\]",
        ),
        ("kernels = [[3], [3, 5]]", "kernels = [[3, 5], [5, 3]]", r"genes\.kernels names the option \[5, 3\] twice"),
        ('gate = ["none", "cse"]', 'gate = ["se"]', r"genes\.gate must hold none, cse, sse or scse, but got 'se'"),
        ("width = { stages = [[16, 32], [32, 64]] }", "", r"genes\.width is missing"),
        ("[[16, 32], [32, 64]]", "[[16, 32]]", r"genes\.width must have one list for each of the 2 strides, but got 1"),
        ("depth = { each_stage", "depth = { every_stage", r"genes\.depth must be a list, \{each_stage"),
        ("cardinality = [1, 2, 4]", "cardinality = [3]", r"contains no network"),
        ("channels = [16]", "channels = [16, 16]", r"stems\.small: stem channels of a conv3x3 stem must be 1 long"),
        ("format = 1", "format = 2", r"format = 2: input should be 1"),
        ("[genes]", '[caps]\nmax_macs = "2 apples"\n[genes]', r"caps: .*2 apples"),
        ("[genes]", "[genes", r"is not valid TOML"),
        ("[genes]", '[genes]\nstem = ["big"]', r"genes\.stem names 'big', but the stems are small"),
        ("[genes]", "[genes]\navd = { each_stage = [1] }", r"genes\.avd is chosen once for the network"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ValueError, match=message) as caught:
        SearchSpace.from_toml(GOOD.replace(old, new, 1))
    assert "\n" not in str(caught.value)


def test_caps_take_units() -> None:
    space = SearchSpace.from_toml(GOOD + '\n[caps]\nmax_macs = "1.5M"\nmax_params = 40_000\n')
    assert space.caps == {"macs": 1_500_000, "params": 40_000}


def test_an_unknown_space_names_the_shipped_ones() -> None:
    with pytest.raises(ValueError, match=r"neither a file nor a shipped space .*cifar, digits, imagenet, tiny"):
        SearchSpace.load("nowhere")


def test_a_space_is_read_from_a_users_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace('name = "tiny"', 'name = "mine"'))
    assert SearchSpace.load(path).name == "mine"
    assert SearchSpace.load(str(path)).size() == 288


def test_resolved_space_is_plain_json_and_tells_spaces_apart() -> None:
    resolved = [json.dumps(LOADED[name].to_json()) for name in SHIPPED]
    assert len(set(resolved)) == len(SHIPPED)
    changed = SearchSpace.from_toml(GOOD.replace("cardinality = [1, 2, 4]", "cardinality = [1, 2]")).to_json()
    assert changed != LOADED["tiny"].to_json()
    assert changed["genes"]["cardinality"] == [1, 2]


def test_space_and_arch_import_quickly_because_they_need_no_torch() -> None:
    code = "import sys, nas.space, nas.arch; sys.exit('torch' in sys.modules or 'optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_different_networks_are_drawn_by_seed_until_the_space_is_empty() -> None:
    space = LOADED["tiny"]
    drawn = space.sample_different(60, random.Random(3))
    assert len({arch.key for arch in drawn}) == 60
    assert drawn == space.sample_different(60, random.Random(3)) != space.sample_different(60, random.Random(4))
    assert {arch.key for arch in space.sample_different(288, random.Random(0))} == {arch.key for arch in space}
    with pytest.raises(ValueError, match="space tiny has 288 different networks, but 289 are asked for"):
        space.sample_different(289, random.Random(0))


def test_walk_counts_of_a_space_with_a_network_wide_reduction() -> None:
    # cse at width 8 with reductions 7 and 8: both give one hidden channel, so one network each depth; none: one more.
    genes = {"depth": "[1, 2]", "width": "[8]", "gate": '["none", "cse"]', "reduction": "[7, 8]"}
    space = small(genes)
    assert space.size() == 2 * (1 + 1)
    assert math.prod(len(gene.options) for gene in space.genes) == 8
