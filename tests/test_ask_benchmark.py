"""The benchmark of one proposal runs on a small space."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_it_prints_a_row_for_each_kind_of_ask(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    options = "--space tiny --asks 1 --trials 9 --pending 1 --objectives accuracy,params,macs"
    monkeypatch.setattr("sys.argv", ["ask.py", *options.split()])
    importlib.import_module("ask").main()
    printed = capsys.readouterr().out
    assert "accuracy,params,macs, 11 trials, 1 of them pending" in printed
    names = re.findall(r"^\| ([a-z, -]+) \| 1 \| [0-9.]+ \|", printed, flags=re.MULTILINE)
    assert names == ["first after a start", "the next", "later", "later, with a refit"]
