"""The fidelity benchmark: its arithmetic on rows that are known, and a small real run that goes on where it stopped."""

from __future__ import annotations

import importlib.util
import io
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "fidelity.py"


@pytest.fixture(scope="module")
def fidelity() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fidelity", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fidelity"] = module
    spec.loader.exec_module(module)
    return module


def test_ranks_are_compared_between_seeds_only(fidelity: ModuleType) -> None:
    """Four networks: the longest trainings of both seeds agree, a short one of seed 0 is reversed, of seed 1 right."""
    rows = []
    for place, key in enumerate("abcd"):
        for seed in (0, 1):
            rows.append(
                fidelity.Row("band", key, 100 + place, seed, "cycle", 40, 60, 0.5 + 0.1 * place, 2.0 - 0.1 * place, 1.0)
            )
            short = 0.5 - 0.1 * place if seed == 0 else 0.5 + 0.1 * place
            rows.append(fidelity.Row("band", key, 100 + place, seed, "branch", 20, 20, short, 2.0, 1.0))
    lines = fidelity.section("band", rows, "cycle")
    assert "| MACs alone | 0 | 0 | 1.00 | 1.00 | - | - |" in lines
    assert "| cycle (the ceiling) | 40 | 60 | 1.00 | 1.00 | 1.00 | 1.00 |" in lines  # the smaller the loss, the better
    assert "| branch | 20 | 20 | 0.00 | 0.00 | - | - |" in lines  # the mean of -1 and 1
    assert "too few" in fidelity.section("band", rows[:4], "cycle")[0]
    assert "choose another of branch, cycle" in fidelity.section("band", rows, "average")[0]


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    how = [
        "--rows",
        rows,
        "--space",
        "tiny",
        "--networks",
        "3",
        "--images",
        "60",
        "--budgets",
        "2,4",
        "--band-quantile",
        "0.4",
    ]
    command = [
        sys.executable,
        str(SCRIPT),
        *map(str, how),
        "--schedules=branch,cycle",
        "--reference=cycle",
        "--device=cpu",
    ]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    whole = rows.read_text()
    assert len(whole.splitlines()) == 1 + 2 * 3 * 2 * 2 * 2  # regimes, networks, seeds, schedules, budgets
    assert "| branch | 4 | 5 |" in first.stdout  # a trunk of 3 steps, branches of 1 and 1 after 1 and 3
    rows.write_text("\n".join(whole.splitlines()[:-2]) + "\n")
    subprocess.run(command, capture_output=True, text=True, check=True)

    def known(text: str) -> set[tuple[object, ...]]:
        return set(pd.read_csv(io.StringIO(text)).drop(columns="seconds").itertuples(index=False, name=None))

    assert known(rows.read_text()) == known(whole)
    assert pd.read_csv(rows)["train_loss"].between(1.0, 4.0).all()


def test_rows_of_before_training_losses_were_noted_are_read_and_added_to(fidelity: ModuleType, tmp_path: Path) -> None:
    row = fidelity.Row("band", "a", 100, 0, "cycle", 40, 60, 0.5, 2.0, 1.0, train_loss=1.5)
    fidelity.append(tmp_path / "new.csv", [row])
    assert fidelity.read(tmp_path / "new.csv") == [row]
    before = pd.read_csv(tmp_path / "new.csv").drop(columns="train_loss")
    before.to_csv(tmp_path / "old.csv", index=False)
    fidelity.append(tmp_path / "old.csv", [replace(row, key="b")])
    lines = (tmp_path / "old.csv").read_text().splitlines()
    assert [line.count(",") for line in lines] == [len(before.columns) - 1] * 3
    found = fidelity.read(tmp_path / "old.csv")
    assert [one.key for one in found] == ["a", "b"]
    assert all(math.isnan(one.train_loss) for one in found)
