"""The comparison of samplers on a table: what is counted, that nothing is given twice, and a small real run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from nas.pareto import hypervolume
from nas.search import ehvi

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "search_quality.py"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 of 72 genotypes; rows of one key are one network; `seen.0` and `seen.1` are noisy."""
    rng = np.random.default_rng(0)
    rows = [(kind, depth, width) for kind in "abc" for depth in range(6) for width in (8, 16, 32, 64)]
    frame = pd.DataFrame([rows[place] for place in rng.permutation(72)[:60]], columns=["g.kind", "g.depth", "g.width"])
    size = (1 + frame["g.depth"]) * frame["g.width"]
    frame["macs"] = size
    frame["params"] = frame["g.width"] ** 2
    frame["truth"] = 1 - np.exp(-size / 80) - 0.2 * (frame["g.kind"] == "c") + 0.02 * rng.random(60)
    frame["seen.0"], frame["seen.1"] = frame["truth"] + 0.01, frame["truth"] - 0.01
    frame["loss.0"], frame["loss.1"] = 2.0 - frame["truth"], 2.5 - frame["truth"]
    frame["train.0"], frame["train.1"] = frame["loss.0"] * 4, frame["loss.1"] * 9
    frame["key"] = frame["g.kind"].replace("b", "a") + frame["g.depth"].astype(str) + frame["g.width"].astype(str)
    path: Path = tmp_path_factory.mktemp("table") / "table.csv"
    frame.to_csv(path, index=False)
    return path


def problem(quality: ModuleType, table: Path, **changes: str) -> Any:
    chosen = {"table": str(table), "genes": "g.*", "ordered": "g.depth,g.width", "accuracy": "truth", "key": "key"}
    options = [f"--{name}={value}" for name, value in {**chosen, **changes}.items()]
    return quality.Problem.read(quality.parse(options))


@pytest.mark.parametrize("method", ["random", "nsga2", "tpe", "tpe-mv", "local", "ehvi", "ehvi-floor"])
@pytest.mark.parametrize("pending", [1, 4])
def test_no_method_gets_a_network_twice(quality: ModuleType, table: Path, method: str, pending: int) -> None:
    found = problem(quality, table, costs="macs,params", proxy="seen.0+seen.1")
    rows, seen, _ = quality.searched(found, method, 0, 25, pending)
    assert len(rows) == len(seen) == 25
    assert len({int(found.keys[row]) for row in rows}) == 25
    assert np.abs(np.array(seen) - found.truth[rows]) == pytest.approx(np.full(25, 0.01))
    assert (rows, seen) == quality.searched(found, method, 0, 25, pending)[:2]


def told_losses(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """The accuracies and losses that `ehvi` sees, as it is asked."""
    told: list[tuple[float, float]] = []

    def watched(accuracy_M: NDArray[np.float64], loss_M: NDArray[np.float64], *_: Any) -> NDArray[np.float64]:
        told.extend(zip(accuracy_M.tolist(), loss_M.tolist(), strict=True))
        return accuracy_M

    monkeypatch.setattr(ehvi, "steadied", watched)
    return told


def test_losses_are_of_the_seed_that_a_trial_sees(
    quality: ModuleType, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = told_losses(monkeypatch)
    found = problem(quality, table, proxy="seen.0+seen.1", losses="loss.0+loss.1")
    quality.searched(found, "ehvi", 0, 12, 1)
    assert {round(accuracy + loss, 6) for accuracy, loss in told} == {2.01, 2.49}
    told.clear()
    found = problem(quality, table, proxy="seen.0+seen.1", losses="loss.0+loss.1,train.0+train.1")
    quality.searched(found, "ehvi", 0, 12, 1)
    sums = {(round(accuracy + loss / 2, 6), round(accuracy + loss / 3, 6)) for accuracy, loss in told}
    assert all(by_two == 2.01 or by_three == 2.49 for by_two, by_three in sums)
    assert {2.01} < {by_two for by_two, _ in sums}
    told.clear()
    quality.searched(problem(quality, table), "ehvi", 0, 12, 1)
    assert told and all(np.isnan(loss) for _, loss in told)


def test_as_many_losses_are_expected_as_accuracies(quality: ModuleType, table: Path) -> None:
    for losses in ("loss.0", "loss.0+loss.1,train.0"):
        with pytest.raises(ValueError, match=r"--losses names 1 columns; expected as many as .* 2"):
            problem(quality, table, proxy="seen.0+seen.1", losses=losses)


def test_keys_say_what_is_equal_in_the_table_and_nothing_of_what_it_lacks(quality: ModuleType, table: Path) -> None:
    found = problem(quality, table)
    whole = [(kind, depth, width) for kind in "abc" for depth in range(6) for width in range(4)]
    columns = {name: np.array(column) for name, column in zip(found.space, zip(*whole, strict=True), strict=True)}
    keys = found.known_keys(columns)
    lacking = np.isnan(found.known_costs(columns)).any(axis=1)
    assert lacking.sum() == 12
    assert len(set(keys[~lacking])) == len(set(found.keys)) < 60
    assert len(set(keys[lacking]) - set(keys[~lacking])) == 12


def test_shares_are_of_the_true_front_within_the_region_of_interest(quality: ModuleType, table: Path) -> None:
    found = problem(quality, table)
    everything = found.losses(np.arange(60))
    assert everything[:, 0].min() == 0 and everything[:, 0].max() == pytest.approx(1)
    assert everything[:, 1].min() == -1 and (everything[:, 1] < 0).mean() == pytest.approx(0.7, abs=0.02)
    one = quality.outcome(found, "random", 0, 48, 1)
    assert one["trace"] == sorted(one["trace"]) and one["trace"][-1] <= 1 + 1e-12
    best = int(np.argmax(found.truth))
    assert found.reported([best], [0.0]) == pytest.approx(hypervolume(everything[[best]], found.reference))


def test_the_reported_front_is_the_front_as_seen(quality: ModuleType, table: Path) -> None:
    """A lucky network hides a better one as cheap."""
    found = problem(quality, table)
    twins = [[row, other] for row in range(60) for other in range(row) if found.costs[row] == found.costs[other]]
    good, bad = next(
        (a, b) if found.truth[a] > found.truth[b] else (b, a)
        for a, b in twins
        if max(found.truth[a], found.truth[b]) > found.floor and found.truth[a] != found.truth[b]
    )
    honest = found.reported([good, bad], [0.9, 0.1])
    assert honest == found.reported([good], [0.9])
    assert found.reported([good, bad], [0.1, 0.9]) == found.reported([bad], [0.9]) < honest


def test_what_to_reach_is_what_random_has_and_the_best_of_optunas_samplers(quality: ModuleType) -> None:
    def searches(*after_200: float, trials: int = 200) -> list[dict[str, list[float]]]:
        return [{"trace": [0.0] * 199 + [found] + [0.9] * (trials - 200)} for found in after_200]

    found = {"random": searches(0.1, 0.3, 0.2, trials=1000), "tpe": searches(0.3, 0.4, 0.5), "ehvi": searches(0.7)}
    assert quality.goals(found) == {"random's 200": 0.2, "random's 1,000": 0.9, "tpe's 200": 0.4}
    assert quality.goals({"random": searches(0.5), "nsga2": searches(0.4)}) == {"random's 200": 0.5}
    assert quality.goals({"ehvi": searches(0.7)}) == {}


def test_a_table_comes_out_of_a_small_run(table: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--table", str(table), "--genes", "g.*", "--ordered", "g.depth,g.width"]
    command += ["--accuracy", "truth", "--samplers", "local,ehvi", "--seeds", "2", "--trials", "25"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "table.csv: 60 networks, 60 different; 2 seeds" in done.stdout
    cells = done.stdout.splitlines()[-1].split("|")
    assert cells[1].strip() == "ehvi" and 0.5 < float(cells[2].split()[0]) <= 1


RUNGS = "short:10,seen.0+seen.1:40"


@pytest.fixture(scope="module")
def by_rungs(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table with a short training that ranks as the long one does."""
    frame = pd.read_csv(table)
    frame[["truth", "seen.0", "seen.1"]] -= 0.05  # below 1, else they would be per cent
    frame["short"] = 50 * frame["truth"]
    path: Path = tmp_path_factory.mktemp("rungs") / "table.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("method", ["random", "local", "ehvi"])
def test_a_search_by_rungs_trains_each_network_once_to_each(quality: ModuleType, by_rungs: Path, method: str) -> None:
    found = problem(quality, by_rungs, rungs=RUNGS)
    assert [budget for budget, _ in found.rungs] == [10, 40]
    assert found.rungs[0][1].max() <= 1  # per cent have become shares
    steps, _ = quality.halved(found, method, 0, 24)
    assert steps == quality.halved(found, method, 0, 24)[0]
    short = [step.row for step in steps if not step.full]
    full = [step.row for step in steps if step.full]
    assert len({int(found.keys[row]) for row in short}) == len(short) == 24
    assert len(set(full)) == len(full) and set(full) <= set(short) and len(full) < 24
    spent = np.diff([0.0, *(step.spent for step in steps)])
    assert spent == pytest.approx([0.75 if step.full else 0.25 for step in steps])
    assert all(abs(step.seen - found.truth[step.row]) == pytest.approx(0.01) for step in steps if step.full)


def test_by_rungs_losses_are_of_trainings_in_full(
    quality: ModuleType, by_rungs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = told_losses(monkeypatch)
    found = problem(quality, by_rungs, rungs=RUNGS, losses="loss.0+loss.1")
    quality.halved(found, "ehvi", 0, 24)
    full = {round(accuracy + loss, 6) for accuracy, loss in told if not np.isnan(loss)}
    assert full == {1.96, 2.44}
    assert any(np.isnan(loss) for _, loss in told)


def test_epochs_count_what_was_trained_in_full_by_then(quality: ModuleType, by_rungs: Path) -> None:
    found = problem(quality, by_rungs, rungs=RUNGS)
    order = np.argsort(found.truth)
    steps = [
        quality.Step(int(order[-1]), False, 0.5, 0.25),
        quality.Step(int(order[-1]), True, 0.9, 1.0),
        quality.Step(int(order[-2]), False, 0.5, 1.25),
        quality.Step(int(order[-2]), True, 0.8, 2.0),
    ]
    whole = hypervolume(found.losses(np.arange(60)), found.reference)
    epochs = quality.by_epochs(found, steps, whole, trials=4)
    one, two = (hypervolume(found.losses(order[-count:]), found.reference) / whole for count in (1, 2))
    volumes = {share: pair[0] for share, pair in epochs["shares"].items()}
    assert [volumes[share] for share in (0.1, 0.2, 0.3, 0.4)] == pytest.approx([0, 0, one, one])
    assert [volumes[share] for share in (0.5, 1.0)] == pytest.approx([two, two])
    assert (epochs["networks"], epochs["full"], epochs["spent"]) == (2, 2, 2.0)
    assert epochs["trace"] == [(1.0, pytest.approx(one)), (2.0, pytest.approx(two))]


def test_a_second_table_counts_epochs(by_rungs: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--table", str(by_rungs), "--genes", "g.*", "--ordered", "g.depth,g.width"]
    command += ["--accuracy", "truth", "--rungs", RUNGS, "--samplers", "ehvi,ehvi+halving", "--seeds", "2"]
    done = subprocess.run([*command, "--trials", "25"], capture_output=True, text=True, check=True)
    *_, full, halved = [line.split("|") for line in done.stdout.splitlines()]
    assert [cell.strip() for cell in full[1:5]] == ["ehvi", "25", "25", "1.00"]
    assert halved[1].strip() == "ehvi+halving" and halved[2].strip() == "38"
    assert int(halved[3]) < 38 and float(halved[4]) < 1.5


def test_what_is_counted_by_epochs_has_quartiles(quality: ModuleType) -> None:
    def search(found: float, needed: float) -> dict[str, Any]:
        shares = {share: (found * share, found) for share in quality.SHARES}
        return {"epochs": {"shares": shares, "trace": [(needed, 0.99)], "networks": 9, "full": 4, "spent": 5.0}}

    one_each = [search(found / 10, 10.0 * found) for found in range(1, 6)]
    *_, line = quality.report_epochs({"ehvi": one_each}, trials=20).splitlines()
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[:4] == ["ehvi", "9", "4", "0.25"]
    assert cells[-2:] == ["0.300 (0.200 to 0.400) / 0.300 (0.200 to 0.400)", "1.50 (1.00 to 2.00)"]
    assert cells[4].startswith("0.030 (0.020 to 0.040) / 0.300")
