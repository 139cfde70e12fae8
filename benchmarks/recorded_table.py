"""The rows of `fidelity.py --regimes all` as a table of a whole space, one line for each network.

    python benchmarks/fidelity.py --space tests/tables/small.toml --regimes all --schedules average --seeds 6 \\
        --budgets 18,36,72 --images 1150 --val-fraction 0.2 --workers 2 --rows rows.csv
    python benchmarks/recorded_table.py --space tests/tables/small.toml --rows rows.csv \\
        --out tests/tables/small_digits.csv

Columns: the network's key, its genes (`gene.NAME`, the first option where one does not act), its exact costs, and its
accuracy, its validation loss and the mean of its training loss over the epochs (nats) for each budget of steps and each
seed (`accuracy.STEPS.SEED`, `loss.STEPS.SEED`, `train.STEPS.SEED`): a form that `search_quality.py` reads.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from pathlib import Path

import fidelity
import pandas as pd

from nas.cost.formula import cost
from nas.space import SearchSpace


def main() -> None:
    options = parse()
    space = SearchSpace.load(options.space)
    archs = {arch.key: arch for arch in space}
    lines: dict[str, dict[str, object]] = {}
    for key, arch in archs.items():
        own = space.encode(arch)
        genes = {f"gene.{gene.name}": own.get(gene.name, gene.options[0]) for gene in space.genes}
        lines[key] = {"key": key, **genes, **asdict(cost(arch, space.input_size))}
    found = [row for row in fidelity.read(options.rows) if row.schedule == options.schedule and row.key in lines]
    rows = sorted(found, key=lambda row: (row.budget, row.seed))
    for column, field, decimals in (("accuracy", "accuracy", 5), ("loss", "val_loss", 4), ("train", "train_loss", 4)):
        for row in rows:
            value = getattr(row, field)
            if not math.isnan(value):
                lines[row.key][f"{column}.{row.budget}.{row.seed}"] = round(value, decimals)
    table = pd.DataFrame(lines.values())
    if table.isna().any(axis=None):
        raise SystemExit(f"{options.rows} lacks trainings of {int(table.isna().any(axis=1).sum())} networks")
    table.to_csv(options.out, index=False, lineterminator="\n")
    print(f"{options.out}: {len(table)} networks, {len(table.columns)} columns")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--space", default="tiny", help="[tiny]")
    parser.add_argument("--rows", type=Path, required=True, help="rows of fidelity.py")
    parser.add_argument("--schedule", default="average", help="[average]")
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
