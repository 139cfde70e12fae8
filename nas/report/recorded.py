"""What the report draws: everything that is on disk about one study, read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nas import pareto
from nas.cost.latency_model import Conditions, LatencyModel, Measured
from nas.evidence import SeedNoise, seed_noise
from nas.record import Run, by_objective, front_of


@dataclass(frozen=True, kw_only=True)
class FrontTimes:
    """How long the networks of the front took: key -> median and interval of `coverage`, under `conditions`."""

    conditions: Conditions
    coverage: float
    networks: Mapping[str, Measured]


@dataclass(frozen=True, eq=False, kw_only=True)
class Recorded:
    """One study as it was found on disk.

    trials: the frame of `Run.trials`. genotypes: trial -> gene -> value. curves: trained network -> mean training loss
    of each epoch (None where it was not finite). rungs: trained network -> steps of each budget that it was evaluated
    after -> accuracy. others: trial -> its accuracies with other seeds, if it was trained with any. settings: run.json
    without its config. space: the TOML text or "". latency: the model that predicts it, where it is an objective;
    front_times: None before the front was timed.
    """

    study: str
    objectives: tuple[str, ...]
    caps: Mapping[str, float]
    config: Mapping[str, Any]
    settings: Mapping[str, Any]
    ledger: Mapping[str, Any]
    space: str
    trials: pd.DataFrame
    genotypes: Mapping[int, Mapping[str, Any]]
    curves: Mapping[int, Sequence[float | None]]
    rungs: Mapping[int, Mapping[int, float]]
    others: Mapping[int, Sequence[float]]
    latency: LatencyModel | None = None
    front_times: FrontTimes | None = None

    @property
    def complete(self) -> pd.DataFrame:
        """The finished trials, each objective in the column of its name."""
        return by_objective(self.trials[self.trials["state"] == "complete"]).reset_index(drop=True)

    @property
    def stopped(self) -> pd.DataFrame:
        """The trials that stopped at a rung, with its accuracy."""
        return by_objective(self.trials[self.trials["state"] == "stopped"]).reset_index(drop=True)

    @property
    def comparable(self) -> pd.DataFrame:
        """Trials by accuracies of one budget: those in full or, where some stopped early, all after the first rung."""
        if self.stopped.empty:
            return self.complete
        first = {trial: seen[min(seen)] for trial, seen in self.rungs.items()}
        rows = by_objective(self.trials[self.trials["trial"].isin(list(first))])
        return rows.assign(accuracy=rows["trial"].map(first)).reset_index(drop=True)

    @property
    def front(self) -> pd.DataFrame:
        """Those that none dominates, in the same columns."""
        return by_objective(front_of(self.trials, self.objectives))

    @property
    def seed_noise(self) -> SeedNoise | None:
        """What other seeds of the front's networks show; None where none was trained with any."""
        return noise_of(self.front, self.others)

    @property
    def costs(self) -> tuple[str, ...]:
        """The cost objectives; MACs where the run had accuracy alone, so that there is something to draw against."""
        return pareto.costs_of(self.objectives) or ("macs",)

    @property
    def knee(self) -> int | None:
        """The trial at the knee of the front, on the scale of log10 costs; None without a finished trial."""
        complete = self.complete
        if complete.empty:
            return None
        losses = pareto.losses_from(complete, self.objectives, log_costs=True)
        return int(complete["trial"].iloc[pareto.knee(losses)])


def noise_of(rows: pd.DataFrame, others: Mapping[int, Sequence[float]]) -> SeedNoise | None:
    """What other seeds of these trials show; None where none was trained with any."""
    again = rows[rows["trial"].isin(list(others))]
    if again.empty:
        return None
    return seed_noise(again["accuracy"].tolist(), [others[trial] for trial in again["trial"]])


def read(run: Run) -> Recorded:
    """Raises ValueError naming the file, and the key, where the record is missing or damaged."""
    value = run.read_run()
    config = value.get("config")
    if not isinstance(config, dict):
        raise ValueError(f"{run.path('run.json')} must hold an object under the key 'config', but holds {config!r}")
    objectives = config.get("objectives")
    if not isinstance(objectives, list):
        raise ValueError(f"{run.path('run.json')} must list config.objectives, but holds {objectives!r}")
    pareto.costs_of(objectives)
    specs = {trial: run.read_spec(trial) for trial in run.trial_numbers()}
    trials = run.trials()
    trained = trials.loc[trials["state"].isin(["complete", "stopped"]), "trial"].tolist()
    results = {trial: run.read_result(trial) or {} for trial in trained}
    return Recorded(
        study=run.study,
        objectives=tuple(objectives),
        caps={name: cap for name, cap in (config.get("caps") or {}).items() if isinstance(cap, (int, float))},
        config=config,
        settings={key: entry for key, entry in value.items() if key != "config"},
        ledger=run.read_ledger(),
        space=run.read_space() if run.path("space.toml").is_file() else "",
        trials=trials,
        genotypes={trial: spec.get("genotype") or {} for trial, spec in specs.items()},
        curves={trial: result.get("loss_curve") or [] for trial, result in results.items()},
        rungs={
            trial: {steps: accuracy for steps, accuracy, *_ in result["evaluations"]}
            for trial, result in results.items()
            if result.get("evaluations")
        },
        others=run.other_seeds(),
        latency=LatencyModel.recorded(run) if "latency" in objectives else None,
        front_times=_front_times(run) if "latency" in objectives else None,
    )


def _front_times(run: Run) -> FrontTimes | None:
    value = run.read_front_latency()
    if value is None:
        return None
    try:
        networks = [Measured(**one) for one in value["networks"]]
        conditions = Conditions(**value["conditions"])
        return FrontTimes(
            conditions=conditions, coverage=float(value["coverage"]), networks={one.key: one for one in networks}
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{run.path('front_latency.json')} is damaged ({error}): delete it and search on") from None
