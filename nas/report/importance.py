"""Which genes decide: permutation importance of a random forest that predicts from the genes alone.

The forest is fitted on four fifths of the finished trials and judged on the other fifth, five times over, so that a
gene cannot look important because the forest learnt its noise by heart (Breiman 2001, "Random Forests", section 10,
with folds in the place of out-of-bag samples).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from nas.report.recorded import Recorded
from nas.report.style import ACCENT, GREY, LABELS, escaped, finish, words

LEAST = 10
"""Finished trials needed."""
FOLDS, TREES, SHUFFLES, SEED = 5, 50, 10, 0
WEAK = 0.2
"""R² on unseen trials below which the bars are drawn grey: the forest has understood too little."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Target:
    """r2: share of the variance predicted on unseen trials; drops: (gene, loss of R² when it is shuffled), falling."""

    name: str
    r2: float
    drops: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class ImportanceInfo:
    targets: tuple[Target, ...]
    constant: tuple[str, ...]
    message: str
    caption: str


def info(recorded: Recorded) -> ImportanceInfo:
    """Importance for accuracy and for log10 of the first cost; a message instead where trials or genes are too few."""
    rows = recorded.comparable
    genotypes = [recorded.genotypes[trial] for trial in rows["trial"].tolist()]
    names = sorted({name for genotype in genotypes for name in genotype})
    columns = {name: _encoded([genotype.get(name) for genotype in genotypes]) for name in names}
    acting = [name for name in names if np.ptp(columns[name]) > 0]
    constant = tuple(name for name in names if name not in acting)
    message = _too_few(len(rows), len(acting))
    if message:
        return ImportanceInfo((), constant, message, "")
    genes = np.stack([columns[name] for name in acting], axis=1)
    cost = recorded.costs[0]
    wanted = {"accuracy": rows["accuracy"].to_numpy(), cost: np.log10(rows[cost].to_numpy(dtype=np.float64))}
    varied = {name: values for name, values in wanted.items() if np.ptp(values) > 0}
    targets = tuple(_target(name, acting, genes, values) for name, values in varied.items())
    message = "" if targets else "All finished trials have the same accuracy and cost: nothing tells the genes apart."
    return ImportanceInfo(
        targets, constant, message, _caption(targets, constant, len(rows), early=len(recorded.stopped) > 0)
    )


def _too_few(trials: int, genes: int) -> str:
    if trials < LEAST:
        return f"Finished trials: {trials}, too few to tell which gene matters (at least {LEAST} are needed)."
    return "" if genes else "No recorded gene differs between the finished trials: nothing can be told apart."


def _encoded(values: Sequence[object]) -> Floats:
    """One gene as numbers: numbers stay, other options become their place in sorted order, no value the least."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, (int, float)) for value in known):
        numbers = [np.nan if value is None else float(value) for value in values]  # type: ignore[arg-type]
    else:
        order = {text: index for index, text in enumerate(sorted({str(value) for value in known}))}
        numbers = [np.nan if value is None else float(order[str(value)]) for value in values]
    column = np.array(numbers, dtype=np.float64)
    return np.where(np.isnan(column), np.nanmin(column) - 1, column) if known else np.zeros(len(column))


def _target(name: str, genes: Sequence[str], inputs: Floats, values: Floats) -> Target:
    """Squared errors on unseen trials, as they are and with each gene shuffled, all as shares of the variance."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import KFold

    generator = np.random.default_rng(SEED)
    plain = 0.0
    shuffled = np.zeros(len(genes))
    for seen, unseen in KFold(FOLDS, shuffle=True, random_state=SEED).split(inputs):
        forest = RandomForestRegressor(TREES, random_state=SEED).fit(inputs[seen], values[seen])
        held, truth = inputs[unseen], values[unseen]
        plain += float(np.square(forest.predict(held) - truth).sum())
        copies = _with_shuffled_genes(held, generator)
        guesses = forest.predict(copies.reshape(-1, len(genes))).reshape(copies.shape[:3])
        shuffled += np.square(guesses - truth).sum(axis=2).mean(axis=1)
    total = float(np.square(values - values.mean()).sum())
    drops = sorted(zip(genes, ((shuffled - plain) / total).tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
    return Target(name, 1 - plain / total, tuple(drops))


def _with_shuffled_genes(rows: Floats, generator: np.random.Generator) -> Floats:
    """Copies (genes, SHUFFLES, rows, genes): in copy g, gene g is dealt out anew among the rows."""
    count, width = rows.shape
    copies = np.broadcast_to(rows, (width, SHUFFLES, count, width)).copy()
    for gene in range(width):
        for shuffle in range(SHUFFLES):
            copies[gene, shuffle, :, gene] = generator.permutation(rows[:, gene])
    return copies


def _caption(targets: Sequence[Target], constant: Sequence[str], trials: int, *, early: bool) -> str:
    judged = ", ".join(f"{LABELS[target.name]} {target.r2:.2f}" for target in targets)
    text = (
        f"Loss of R² on unseen trials when one gene is shuffled among them (random forest on {trials} finished trials, "
        f"{FOLDS} folds, {TREES} trees, seed {SEED}). R² with all genes in place: {judged}. 1 is a perfect prediction, "
        f"0 no better than the mean; below {WEAK} the bars are grey and say little. A search looks where it expects "
        f"good networks, so this describes these trials, not the whole space."
    )
    if early:
        text += " Since some networks stopped early, accuracies are those after the first rung, which all of them have."
    return text + (f" The same in all trials: {', '.join(constant)}." if constant else "")


def figure(info: ImportanceInfo) -> go.Figure:
    """Bars for each target side by side, genes in the order of the first; words if there is too little to learn."""
    if info.message:
        return words(info.message)
    titles = [f"{LABELS[target.name]} (R² {target.r2:.2f} on unseen trials)" for target in info.targets]
    genes = [gene for gene, _ in info.targets[0].drops]
    drawn = make_subplots(rows=1, cols=len(titles), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.05)
    for column, target in enumerate(info.targets, start=1):
        drawn.add_trace(_bars(target, genes), row=1, col=column)
    drawn = finish(drawn, height=max(130 + 30 * len(genes), 240)).update_layout(showlegend=False, bargap=0.35)
    drawn.update_annotations(font={"size": 15})
    drawn.update_xaxes(title_text="loss of R² when shuffled", rangemode="tozero")
    return drawn.update_yaxes(autorange="reversed", automargin=True, ticks="", showgrid=False)


def _bars(target: Target, genes: Sequence[str]) -> go.Bar:
    drops = dict(target.drops)
    return go.Bar(
        x=[drops[gene] for gene in genes],
        y=[escaped(gene) for gene in genes],
        orientation="h",
        marker={"color": ACCENT if target.r2 >= WEAK else GREY},
        hovertemplate="%{y}: %{x:.3f}<extra></extra>",
    )
