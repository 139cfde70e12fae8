"""The papers' networks as the first trials of a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scored_search import accuracy, by_rung, search, study_of, trials_of

from nas import report
from nas.executors import Spec
from nas.pareto import hypervolume, losses_from, reference_point
from nas.record import Run
from nas.report import front
from nas.search import SearchConfig
from nas.search.gate import Gate
from nas.search.references import FAMILIES, references
from nas.search.samplers import SAMPLERS
from nas.space import SearchSpace
from nas.zoo import PUBLISHED

SHIPPED = ("digits", "cifar", "imagenet", "tiny")
ZOO: dict[str, Any] = {"seed_with": "zoo", "trials": 13}
"""Three more trials than the tiny space has references."""


def gate(name: str, **caps: int) -> Gate:
    space = SearchSpace.load(name)
    return Gate(space, space.capped(caps))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_family_has_its_networks_within_space_and_caps(name: str) -> None:
    found = references(gate(name))
    space = SearchSpace.load(name)
    assert {one.family for one in found} == set(FAMILIES)
    assert [one.family for one in found[:5]] == list(FAMILIES)
    assert len({one.candidate.key for one in found}) == len(found)
    for one in found:
        assert one.candidate.arch.family == one.family
        assert space.decode(one.genotype).key == one.candidate.key
        assert gate(name).within(one.candidate.cost)
    for family in FAMILIES:
        macs = [one.candidate.cost["macs"] for one in found if one.family == family]
        assert macs == sorted(macs) and 2 <= len(macs) <= 3


def test_in_the_space_for_imagenet_the_middle_ones_are_the_published_networks() -> None:
    published = {"resnet50", "resnext50_32x4d", "seresnet50", "sknet50", "resnest50"}
    parameters = {PUBLISHED[name].params for name in published}
    assert parameters <= {one.candidate.cost["params"] for one in references(gate("imagenet"))}
    keys = {one.candidate.key for one in references(gate("imagenet"))}
    assert {PUBLISHED[name].architecture.canonical().key for name in ("resnet50", "resnext50_32x4d")} <= keys


def test_caps_shrink_the_greatest() -> None:
    cap = 20_000_000
    found = references(gate("cifar", macs=cap))
    assert {one.family for one in found} == set(FAMILIES)
    assert max(one.candidate.cost["macs"] for one in found) <= cap


def test_a_space_without_a_family_gives_the_others() -> None:
    text = SearchSpace.load("tiny").text.replace("kernels = [[3], [3, 5]]", "kernels = [[3]]")
    text = "\n".join(line for line in text.splitlines() if not line.startswith(("gate =", "reduction =")))
    space = SearchSpace.from_toml(text)
    assert {one.family for one in references(Gate(space, {}))} == {"ResNet", "ResNeXt", "ResNeSt"}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_begins_with_them_and_goes_on_with_others(sampler: str, tmp_path: Path) -> None:
    search(tmp_path, sampler=sampler, **ZOO)
    trials = trials_of(tmp_path)
    given = references(gate("tiny"))
    assert list(trials["key"])[:10] == [one.candidate.key for one in given]
    assert list(trials["reference"]) == [one.family for one in given] + [""] * 3
    assert trials["key"].is_unique
    assert all("reference" not in trial.user_attrs["nas"] for trial in study_of(tmp_path).trials[10:])


def test_a_search_that_goes_on_keeps_them(tmp_path: Path) -> None:
    for trials in (4, 13):
        search(tmp_path / "twice", seed_with="zoo", trials=trials)
    search(tmp_path / "once", seed_with="zoo", trials=13)
    assert trials_of(tmp_path / "twice").to_csv() == trials_of(tmp_path / "once").to_csv()
    with pytest.raises(ValueError, match=r"config.seed_with: zoo -> none"):
        search(tmp_path / "once", trials=13)


def test_they_are_trained_in_full_however_bad_they_are(tmp_path: Path) -> None:
    def score(spec: Spec) -> float:
        return by_rung(spec) - (0.3 if spec["reference"] else 0.0)

    search(tmp_path, score, steps=320, halving=True, seed_with="zoo", trials=20)
    trials = trials_of(tmp_path)
    assert set(trials["state"][:10]) == {"complete"}
    assert "stopped" in set(trials["state"][10:])


def test_one_that_failed_is_not_given_again(tmp_path: Path) -> None:
    def score(spec: Spec) -> float:
        if spec["trial"] == 1:
            raise RuntimeError("no luck")
        return accuracy(spec)

    search(tmp_path, score, **ZOO)
    assert list(trials_of(tmp_path)["state"]) == ["complete", "failed", *["complete"] * 11]


def test_anything_but_the_zoo_is_refused() -> None:
    with pytest.raises(ValueError, match=r"seed_with"):
        SearchConfig.read({"study": "s", "seed_with": "timm"})


def test_the_report_outlines_them_and_compares_hypervolumes(tmp_path: Path) -> None:
    search(tmp_path, sampler="ehvi", seed_with="zoo", trials=24)
    run = Run(tmp_path, "s")
    shown = front.info(report.read(run))
    assert shown.references == frozenset(range(10))
    traces = {trace.name: trace for trace in front.figure(shown).data}
    assert len(traces["the papers' networks"].x) == 10
    trials = run.trials()
    losses = losses_from(trials, ("accuracy", "macs"), log_costs=True)
    limit = reference_point(losses)
    share = hypervolume(losses[:10], limit) / hypervolume(losses, limit)
    assert 0 < share < 1
    assert f"their front has {100 * share:.0f} % of the hypervolume" in shown.caption
