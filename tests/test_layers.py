"""The house: imports go one way, and each third party has one owner."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nas

PACKAGE = Path(nas.__file__).parent

LAYERS: dict[str, int] = {
    # values and mathematics
    "arch": 0,
    "atomic": 0,
    "pareto": 0,
    "units": 0,
    "checked": 0,
    "evidence": 0,
    "machine": 0,
    "seeds": 0,
    # what can be searched, what is published, what it costs, how it is built, what it sees and runs on
    "space": 1,
    "zoo": 1,
    "cost.formula": 1,
    "models": 1,
    "data": 1,
    "device": 1,
    # counting, timing, training, the record on disk
    "cost.measure": 2,
    "cost.table": 2,
    "cost.latency": 2,
    "train": 2,
    "record": 2,
    # where trainings run
    "executors": 3,
    # what the networks of a whole space cost
    "cost.landscape": 3,
    # what networks take of the time, predicted
    "cost.latency_model": 3,
    # the search and what comes out of it
    "search": 4,
    "report": 4,
    "export": 4,
    # what people see
    "terminal": 4,
    "progress": 5,
    # winners trained in full, or with other seeds
    "retrain": 5,
    "repeat": 5,
    "cli": 6,
}

OWNERS: dict[str, tuple[str, ...]] = {
    "optuna": ("search",),
    "sqlalchemy": ("search",),
    "fvcore": ("cost.measure",),
    "plotly": ("report",),
    "jinja2": ("report",),
    "moocore": ("pareto",),
    "scipy": ("evidence", "cost.latency_model", "search"),
    "torch": ("device", "models", "cost.measure", "cost.latency", "data", "train", "executors", "export", "retrain"),
    "numba": ("models",),
    "safetensors": ("export",),
    "torchvision": ("data",),
    "PIL": ("data",),
    "pydantic": ("checked", "space", "search"),
    "typer": ("cli",),
    "rich": ("terminal", "progress"),
    "filelock": ("record",),
}

LIGHT = ("nas.arch", "nas.space", "nas.zoo", "nas.pareto", "nas.evidence", "nas.machine", "nas.cost.formula")


def modules() -> dict[str, Path]:
    """Dotted name within `nas` -> file."""
    names = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        if name:
            names[name] = path
    return names


def room(module: str) -> str | None:
    """The entry of LAYERS that a module of the package belongs to."""
    return max((name for name in LAYERS if f"{module}.".startswith(f"{name}.")), key=len, default=None)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_has_a_room() -> None:
    homeless = [name for name in modules() if room(name) is None and name != "cost"]
    assert homeless == []


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_go_one_way(module: str) -> None:
    own = room(module)
    for imported in imports(modules()[module]):
        target = room(imported.removeprefix("nas.")) if imported.startswith("nas.") else None
        if target is None or target == own:
            continue
        assert own is not None, f"{module} is a bare package and imports {imported}"
        assert LAYERS[target] < LAYERS[own], f"{module} (line {LAYERS[own]}) imports {imported} (line {LAYERS[target]})"


@pytest.mark.parametrize("module", sorted(modules()))
def test_each_third_party_has_its_owners(module: str) -> None:
    for imported in imports(modules()[module]):
        owners = OWNERS.get(imported.split(".")[0])
        assert owners is None or room(module) in owners, f"{module} imports {imported}, which belongs to {owners}"


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_leave_the_heavy_libraries_alone(module: str) -> None:
    heavy = ("torch", "optuna", "moocore", "scipy")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
