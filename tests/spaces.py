"""Small search spaces written in every way that a gene may be written, for the tests of spaces and their costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import reject
from hypothesis import strategies as st

from nas.space import SearchSpace

SMALL = """
format = 1
name = "small"
[fixed]
input_size = 8
in_channels = 1
num_classes = 10
block = "{block}"
strides = {strides}
gate_on_attention = {gate_on_attention}
[fixed.attention]
sk_min_hidden = 4
split_min_hidden = 4
[stems.small]
kind = "conv3x3"
channels = [12]
strides = [1]
[genes]
{genes}
"""


def small(
    genes: Mapping[str, str],
    block: str = "bottleneck",
    gate_on_attention: bool = False,
    strides: Sequence[int] = (1, 2),
) -> SearchSpace:
    lines = "\n".join(f"{name} = {value}" for name, value in genes.items())
    return SearchSpace.from_toml(
        SMALL.format(block=block, gate_on_attention=str(gate_on_attention).lower(), strides=list(strides), genes=lines)
    )


def _scoped(options: st.SearchStrategy[list[str]]) -> st.SearchStrategy[str]:
    """Options chosen once, for each stage alike, or for each stage its own: all three ways to write a gene."""

    def text(values: list[str]) -> str:
        return f"[{', '.join(values)}]"

    return st.one_of(
        options.map(text),
        options.map(lambda values: f"{{ each_stage = {text(values)} }}"),
        st.tuples(options, options).map(lambda pair: f"{{ stages = [{text(pair[0])}, {text(pair[1])}] }}"),
    )


def _some(*values: str, most: int = 2) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=most, unique=True)


_GENES = st.fixed_dictionaries(
    {
        "depth": _scoped(_some("1", "2", "3", "5")),
        "width": _scoped(_some("8", "12", "16")),
        "cardinality": _scoped(_some("1", "2", "3", "4")),
        "radix": _scoped(_some("0", "1", "2")),
        "kernels": _scoped(_some("[3]", "[5]", "[3, 5]", "[3, 5, 7]")),
        "gate": _scoped(_some('"none"', '"cse"', '"sse"', '"scse"')),
        # 8 // 7 = 8 // 8 = 1: two reductions that are one network at some widths and two at others.
        "reduction": _scoped(_some("4", "7", "8")),
        "avd": _some('"none"', '"after_mixer"').map(lambda values: f"[{', '.join(values)}]"),
    }
)


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Any small space that holds a network."""
    try:
        return small(draw(_GENES), draw(st.sampled_from(["basic", "bottleneck"])), draw(st.booleans()))
    except ValueError as error:
        assert "contains no network" in str(error)
        reject()
