"""What the gate knows of a space's networks before they are trained, for samplers that ask: costs, caps, what acts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.cost.latency_model import COUNTING
from nas.cost.table import EXACT, PartPrices, Prices, price
from nas.pareto import costs_of
from nas.search.ehvi import Known, Table
from nas.search.gate import Candidate, Gate
from nas.search.samplers import distributions, to_genotype
from nas.space import Gene


def known(gate: Gate, objectives: Sequence[str]) -> Known:
    """Networks of the gate's space, in the parameters that Optuna sees; costs in the order of `objectives`."""
    genes = gate.space.genes
    parts = PartPrices(gate.space, EXACT if gate.latency is None else COUNTING)
    names = costs_of(objectives)

    last: list[tuple[Table, Prices]] = []

    def prices(table: Table) -> Prices:
        """Of the last table they are remembered: costs and acts are asked of the same ones."""
        if not last or last[0][0] is not table:
            last[:] = [(table, price(gate.space, _codes(genes, table), parts))]
        return last[0][1]

    def cost(found: Prices, name: str) -> NDArray[Any]:
        return found[name] if gate.latency is None or name != "latency" else gate.latency.of_counts(found.costs)

    def costs(table: Table) -> NDArray[np.float64]:
        found = prices(table)
        may = found.valid & np.all([found[name] <= cap for name, cap in gate.caps.items()], axis=0)
        costs_NC = np.stack([cost(found, name) for name in names], axis=1).astype(np.float64)
        return np.where(may[:, None], costs_NC, np.nan)

    def acts(table: Table) -> Table:
        return {gene.name: column for gene, column in zip(genes, prices(table).acting.T, strict=True)}

    def admit(params: Mapping[str, Any]) -> bool:
        return isinstance(gate.check(to_genotype(genes, params)), Candidate)

    return Known(costs, acts, admit, space=distributions(genes))


def _codes(genes: Sequence[Gene], table: Table) -> NDArray[np.int64]:
    """Optuna sees ordered genes as indices already."""
    columns = [table[gene.name] if gene.ordered else _places(gene, table[gene.name].tolist()) for gene in genes]
    return np.array(columns, np.int64).reshape(len(genes), -1).T


def _places(gene: Gene, values: Sequence[Any]) -> list[int]:
    place = {option: code for code, option in enumerate(gene.options)}
    return [place[value] for value in values]
