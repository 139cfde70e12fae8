"""The tables of the page, as plain text: the template escapes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.arch import GENES
from nas.evidence import MIN_PAIRS, bootstrap, partial_spearman, spearman
from nas.pareto import COSTS
from nas.record import by_objective
from nas.report.recorded import Recorded
from nas.report.style import LABELS, amount, count, milliseconds, percent, seconds

LONGEST = 300
"""Characters of a cell; longer ones are cut."""
PASSWORD = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*(?=@)")
"""User and password in the address of a database."""


@dataclass(frozen=True)
class Table:
    """headers: (label, whether it is a number); rows: cells as text."""

    headers: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[str, ...], ...]


def summary(recorded: Recorded) -> tuple[tuple[str, str], ...]:
    """The run in a few numbers: (value, what it is)."""
    states = recorded.trials["state"]
    complete = recorded.complete
    best = percent(complete["accuracy"].max()) if len(complete) else "–"
    stopped = ((str(len(recorded.stopped)), "stopped early"),) if len(recorded.stopped) else ()
    return (
        (best, "best validation accuracy"),
        (str(len(recorded.front)), "networks on the front"),
        (f"{len(complete)} of {len(states)}", "trials finished"),
        *stopped,
        (str(int((states == "failed").sum())), "failed"),
        (seconds(float(recorded.trials["seconds"].sum())), "spent in training"),
    )


def front(recorded: Recorded) -> Table:
    """The front, cheapest first: accuracy, also with other seeds, all costs, latency if it is one, genes."""
    timed = "latency" in recorded.objectives
    again = bool(recorded.others)
    headers = [("trial", True), ("accuracy", True)]
    headers += [("other seeds (mean, range)", True)] if again else []
    headers += [(LABELS[name], True) for name in COSTS]
    headers += [("latency predicted", True), ("measured (interval)", True)] if timed else []
    headers += [("family", False), *((gene, False) for gene in GENES), ("trained", True)]
    knee = recorded.knee
    rows = tuple(
        (
            f"{row['trial']}{' (knee)' if row['trial'] == knee else ''}",
            amount("accuracy", row["accuracy"]),
            *((_other_seeds(recorded.others.get(row["trial"], ())),) if again else ()),
            *(amount(name, row[name]) for name in COSTS),
            *((milliseconds(row["latency"]), _measured(recorded, str(row["key"]))) if timed else ()),
            str(row["family"]),
            *(str(row[gene]) for gene in GENES),
            seconds(row["seconds"]),
        )
        for row in recorded.front.to_dict("records")
    )
    return Table(tuple(headers), rows)


def _other_seeds(accuracies: Sequence[float]) -> str:
    """The mean and, of several, the range; a dash for a network that was trained with no other seed."""
    if not accuracies:
        return "–"
    mean = percent(sum(accuracies) / len(accuracies))
    low, high = 100 * min(accuracies), 100 * max(accuracies)
    return f"{mean} ({low:.2f} to {high:.2f}, n = {len(accuracies)})" if len(accuracies) > 1 else f"{mean} (n = 1)"


def _measured(recorded: Recorded, key: str) -> str:
    """The median and its interval; a dash for a network that has not been timed."""
    found = recorded.front_times.networks.get(key) if recorded.front_times is not None else None
    if found is None:
        return "–"
    return f"{milliseconds(found.median_ms)} ({found.low_ms:.4g} to {found.high_ms:.4g})"


def rungs(recorded: Recorded) -> Table:
    """What each rung was worth: how it ranks the networks that went on, as the next one does; no rows without rungs.

    A rank correlation is given with its interval, one that has the costs held fixed without.
    """
    budgets = sorted({steps for seen in recorded.rungs.values() for steps in seen})
    if len(budgets) < 2:
        return Table((), ())
    rows = []
    for steps, following in zip(budgets, (*budgets[1:], None), strict=True):
        here = [trial for trial, seen in recorded.rungs.items() if steps in seen]
        on = [trial for trial in here if following in recorded.rungs[trial]]
        agreements = _agreements(recorded, on, steps, following) if following is not None else ("–", "–")
        rows.append((f"{steps:,} steps", str(len(here)), str(len(on)) if following is not None else "–", *agreements))
    headers = (("rung", False), ("networks", True), ("went on", True), ("rank correlation with the next", True))
    return Table((*headers, ("costs held fixed", True)), tuple(rows))


def _agreements(recorded: Recorded, trials: list[int], steps: int, following: int) -> tuple[str, str]:
    low, high = ([recorded.rungs[trial][at] for trial in trials] for at in (steps, following))
    if len(trials) < MIN_PAIRS or len(set(low)) == 1 or len(set(high)) == 1:
        return "–", "–"
    costs = by_objective(recorded.trials).set_index("trial").loc[trials, list(recorded.costs)]
    left = partial_spearman(low, high, costs.to_numpy())
    return str(bootstrap(spearman, low, high, seed=0)), f"{left:.2f}" if left == left else "–"


def latency(recorded: Recorded) -> Table:
    """How latencies are predicted and how well; no rows where latency is no objective."""
    model = recorded.latency
    if model is None:
        return Table((), ())
    rows = [
        ("model", str(model)),
        ("terms", model.form),
        *((f"ms for each of {name}", f"{value:.3g}") for name, value in model.coefficients_ms.items() if value),
        ("intervals", f"{100 * model.coverage:.1f} % of the median of {model.samples} samples, seed {model.seed}"),
    ]
    return Table((("latency", False), ("value", False)), tuple(rows))


def settings(recorded: Recorded) -> Table:
    """The resolved configuration, nested keys joined by dots."""
    return _pairs("setting", recorded.config)


def environment(recorded: Recorded) -> Table:
    """The rest of run.json: seeds, versions, hardware, data digest."""
    return _pairs("recorded", {key: value for key, value in recorded.settings.items() if key != "space"})


def ledger(recorded: Recorded) -> Table:
    """What the gate turned away before any training."""
    value = recorded.ledger
    rejected = value.get("rejected") or {}
    rows = [("proposed", _whole(value.get("proposed"))), ("accepted for training", _whole(value.get("accepted")))]
    rows += [(f"rejected: {name.replace('_', ' ')}", _whole(number)) for name, number in rejected.items()]
    rows.append(("training time saved, estimated", seconds(float(value.get("saved_seconds") or 0))))
    return Table((("gate", False), ("count", True)), tuple(rows))


def failures(recorded: Recorded) -> Table:
    """Failed trials by reason, the most frequent first."""
    failed = recorded.trials[recorded.trials["state"] == "failed"]
    rows = tuple(
        (_text(reason), str(len(group)), ", ".join(str(trial) for trial in group["trial"].tolist()))
        for reason, group in sorted(failed.groupby("reason"), key=lambda pair: (-len(pair[1]), str(pair[0])))
    )
    return Table((("reason", False), ("trials", True), ("which", False)), rows)


def _whole(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else _text(value)


def _pairs(label: str, value: Mapping[str, Any]) -> Table:
    return Table(((label, False), ("value", False)), tuple(_flat(value)))


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, entry in value.items():
        if isinstance(entry, Mapping) and entry:
            yield from _flat(entry, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _text(entry)


def _text(value: Any) -> str:
    """A value in words; a large whole number also in short, a password never."""
    if value is None or value in ({}, [], ""):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and value >= 100_000:
        return f"{value:,} ({count(value)})"
    text = ", ".join(str(entry) for entry in value) if isinstance(value, (list, tuple)) else str(value)
    text = PASSWORD.sub("***", text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
