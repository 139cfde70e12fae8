"""Counts as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.units import format_count, parse_count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("40M", 40_000_000),
        ("1.5G", 1_500_000_000),
        ("300k", 300_000),
        ("300K", 300_000),
        (" 2 T ", 2 * 10**12),
        ("1_000", 1000),
        ("0.001k", 1),
        (7, 7),
        ("4.089184256G", 4_089_184_256),  # a float would miss the last digits
    ],
)
def test_counts_with_units(text: str | int, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize(
    "wrong", ["", "M", "40 MB", "-3", "1e6", "0", "0.5", "1.2345k", "forty", 0, -1, True, 1.5, None]
)
def test_anything_else_is_refused_with_the_value(wrong: object) -> None:
    with pytest.raises(ValueError, match="whole number of at least 1") as error:
        parse_count(wrong)  # type: ignore[arg-type]
    assert repr(wrong) in str(error.value)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (1500, "1.5k"),
        (999_499, "999k"),
        (999_999, "1M"),
        (40_000_000, "40M"),
        (123_456_789, "123M"),
        (4_089_184_256, "4.09G"),
        (5 * 10**15, "5000T"),
    ],
)
def test_three_digits_and_a_unit(count: int, text: str) -> None:
    assert format_count(count) == text


@settings(deadline=None)
@given(st.integers(1, 10**14))
def test_reading_what_was_written_loses_at_most_half_a_percent(count: int) -> None:
    assert abs(parse_count(format_count(count)) - count) <= 0.005 * count
