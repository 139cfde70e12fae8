"""The forecast of a search's hours: arithmetic on speeds that the trainer's own loop gave."""

from __future__ import annotations

import math
import random

import pytest

from nas.cost.formula import cost
from nas.cost.landscape import Landscape
from nas.executors import forecast as module
from nas.executors.forecast import forecast, images_per_s
from nas.space import SearchSpace

TINY = SearchSpace.load("tiny")


def test_seconds_are_those_of_all_images_at_the_mean_price(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two networks, 100 and 50 images/s: 3 trainings of 2 epochs of 1,000 images take 60 s or 120 s, 90 on average."""
    speeds = iter([100.0, 50.0])
    monkeypatch.setattr(module, "images_per_s", lambda *_: next(speeds))
    networks = [TINY.sample(random.Random(seed)) for seed in range(2)]
    found = forecast(networks, input_size=8, images=1000, epochs=2, trials=3, device="cpu")
    error = math.sqrt((30**2 + 30**2) / 1 / 2)
    assert (found.seconds, found.low_seconds) == (90.0, 60.0)
    assert found.high_seconds == pytest.approx(90 + 2 * error)
    assert found.images_per_s == (100.0, 50.0)
    assert found.device == "cpu"


def test_one_network_has_no_spread_and_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "images_per_s", lambda *_: 10.0)
    found = forecast([next(iter(TINY))], input_size=8, images=100, epochs=1, trials=1, device="cpu")
    assert found.low_seconds == found.seconds == found.high_seconds == 10.0
    with pytest.raises(ValueError, match="at least 1 network"):
        forecast([], input_size=8, images=100, epochs=1, trials=1, device="cpu")


def test_a_network_is_timed_by_really_training_it() -> None:
    assert images_per_s(next(iter(TINY)), 8, "cpu") > 0


def test_networks_of_a_forecast_meet_the_caps() -> None:
    cap = Landscape(TINY).cheapest("macs").value
    for caps, least in (({"macs": 3 * cap}, 2), ({"macs": cap}, 1)):
        networks = Landscape(TINY).sample_within(caps, 4, seed=0)
        assert least <= len(networks) <= 4
        assert all(cost(arch, 8).macs <= caps["macs"] for arch in networks)
    with pytest.raises(ValueError, match="no network of space tiny"):
        Landscape(TINY).sample_within({"macs": cap - 1}, 4, seed=0)
