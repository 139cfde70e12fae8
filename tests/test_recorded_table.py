"""Samplers on a recorded table of trained networks: real accuracies, the same each time."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState
from scipy.stats import spearmanr
from scored_search import search, study_of, trials_of

from nas.cost.formula import cost
from nas.executors import Spec
from nas.search.ehvi import LOSS, LogRegret, steadied, trust
from nas.search.samplers import SAMPLERS
from nas.space import SearchSpace

TABLES = Path(__file__).parent / "tables"
SPACE = SearchSpace.load(TABLES / "small.toml")
TABLE = pd.read_csv(TABLES / "small_digits.csv", index_col="key")


def test_it_holds_every_network_of_its_space_and_exact_costs() -> None:
    assert TABLE.index.is_unique
    archs = {arch.key: arch for arch in SPACE}
    assert set(TABLE.index) == set(archs)
    priced = {key: cost(arch, SPACE.input_size) for key, arch in archs.items()}
    for name in ("params", "macs", "activations"):
        assert TABLE[name].to_dict() == {key: getattr(one, name) for key, one in priced.items()}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_of_it_trains_each_network_once_and_records_what_came_out(sampler: str, tmp_path: Path) -> None:
    seen = TABLE["accuracy.36.0"].to_dict()

    def accuracy(spec: Spec) -> float:
        return float(seen[spec["key"]])

    search(tmp_path, accuracy, space=str(TABLES / "small.toml"), sampler=sampler, trials=24, max_params="30k")
    trials = trials_of(tmp_path)
    assert len(trials) == 24 and trials["key"].is_unique
    assert trials["accuracy"].tolist() == [seen[key] for key in trials["key"]]
    assert trials["params"].tolist() == TABLE["params"][trials["key"]].tolist()
    assert trials["params"].max() <= 30_000


@pytest.mark.parametrize("steps", [18, 36, 72])
def test_accuracies_and_losses_together_foretell_other_seeds_better_than_accuracies(steps: int) -> None:
    """Of 60 networks, as after so many trials: the reason why `ehvi` looks at losses, of the training too."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(40):
        some = TABLE.iloc[rng.choice(len(TABLE), 60, replace=False)]
        columns = (some[f"{what}.{steps}.0"].to_numpy() for what in ("accuracy", "loss", "train"))
        accuracy_N, val_loss_N, train_loss_N = columns
        others_N = some[[f"accuracy.{steps}.{seed}" for seed in range(1, 6)]].to_numpy().mean(axis=1)
        by_one_N, by_both_N = (
            steadied(accuracy_N, loss_N, np.log(some[["macs"]].to_numpy()))
            for loss_N in (val_loss_N, np.sqrt(val_loss_N * train_loss_N))
        )
        found.append([np.corrcoef(others_N, one_N)[0, 1] for one_N in (accuracy_N, by_one_N, by_both_N)])
    seen, by_one, by_both = np.mean(found, axis=0)
    assert by_both > seen + 0.025
    assert by_both > by_one


@pytest.mark.parametrize("steps", [18, 36, 72])
@pytest.mark.parametrize("costs", [["macs"], ["macs", "params", "activations"]])
def test_losses_of_other_networks_and_of_costs_are_not_trusted(steps: int, costs: list[str]) -> None:
    """Means over draws of 60 networks: only a network's own losses are, and what was seen is lost in no other case."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(40):
        some = TABLE.iloc[rng.choice(len(TABLE), 60, replace=False)]
        accuracy_N, own_N = some[f"accuracy.{steps}.0"].to_numpy(), some[f"loss.{steps}.0"].to_numpy()
        log_costs_NC = np.log(some[costs].to_numpy())
        of_costs_N = np.exp(-0.2 * log_costs_NC[:, 0] + 0.05 * rng.standard_normal(60))
        seen_N = LogRegret.of(accuracy_N).scaled(accuracy_N)
        for loss_N in (own_N, rng.permutation(own_N), of_costs_N):
            steady_N = steadied(accuracy_N, loss_N, log_costs_NC)
            trusted = trust(seen_N, np.log(loss_N), log_costs_NC)
            found.append((trusted, spearmanr(steady_N, accuracy_N)[0], spearmanr(steady_N, -loss_N)[0]))
    own, others, of_costs = np.array(found).reshape(40, 3, 3).mean(axis=0)
    assert own[0] > 0.95 and own[2] > 0.95
    assert max(others[0], of_costs[0]) < 0.1 and min(others[1], of_costs[1]) > 0.95


@pytest.mark.parametrize("halving", [False, True])
def test_ehvi_is_told_the_losses_of_what_was_trained_in_full(halving: bool, tmp_path: Path) -> None:
    """They are in the study, and without them the search goes another way."""

    columns = TABLE.filter(regex=r"\.(18|72)\.0$").to_dict()

    def of_rung(what: str, spec: Spec) -> float:
        return float(columns[f"{what}.{spec['budget']['steps']}.0"][spec["key"]])

    def searched(name: str, **losses: Any) -> optuna.Study:
        search(
            tmp_path / name,
            lambda spec: of_rung("accuracy", spec),
            **losses,
            space=str(TABLES / "small.toml"),
            sampler="ehvi",
            trials=24,
            steps=72,
            halving=halving,
        )
        return study_of(tmp_path / name)

    def loss(spec: Spec) -> float:
        return of_rung("loss", spec)

    def loss_curve(spec: Spec) -> list[float]:
        return [of_rung("train", spec) + off for off in (0.5, -0.5)]

    told = searched("told", loss=loss, loss_curve=loss_curve)
    by_one = searched("by one", loss=loss)
    for study, name, kinds in ((told, "told", ("loss", "train")), (by_one, "by one", ("loss",))):
        for trial, key in zip(study.trials, trials_of(tmp_path / name)["key"], strict=True):
            mean = np.prod([columns[f"{kind}.72.0"][key] for kind in kinds]) ** (1 / len(kinds))
            complete = trial.state == TrialState.COMPLETE
            assert trial.user_attrs.get(LOSS) == (pytest.approx(mean) if complete else None)
    untold = searched("untold", loss_curve=loss_curve)  # as after a validation loss that is not finite
    assert not any(LOSS in trial.user_attrs for trial in untold.trials)
    ways = [[trial.params for trial in study.trials] for study in (told, by_one, untold)]
    assert all(one != other for one, other in itertools.combinations(ways, 2))


def test_ehvi_finds_more_of_it_than_others_in_half_as_many_trials_again(quality: ModuleType) -> None:
    """With three costs, where each trial sees one of three seeds and the truth is their mean."""
    ordered = ",".join(f"gene.{gene.name}" for gene in SPACE.genes if gene.ordered)
    options = ["--table", str(TABLES / "small_digits.csv"), "--genes", "gene.*", "--ordered", ordered, "--key", "key"]
    options += ["--costs", "macs,params,activations", "--accuracy", "accuracy.18.0+accuracy.18.1+accuracy.18.2"]
    problem = quality.Problem.read(quality.parse(options))

    def found(method: str, trials: int) -> float:
        return float(np.mean([quality.outcome(problem, method, seed, trials, 1)["trace"][-1] for seed in range(3)]))

    rivals = {method: found(method, 90) for method in ("random", "nsga2", "local")}
    assert found("ehvi", 60) > max(rivals.values())
    assert min(rivals.values()) > 0.6
