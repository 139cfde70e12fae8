"""The formula for whole tables: a million genotypes are priced in seconds, without building a network for each.

Costs add up over stem, blocks and classifier, and the blocks of a stage are alike but for the first. So the first
block and a later one of each different stage of the table are priced once, by `nas.cost.formula`, and numpy adds: exact
by construction. Whatever else adds up that way is counted alike (`Counting`).

Shapes in names: N networks, G genes, C the counts, by default the three costs in the order of `COSTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import accumulate
from operator import attrgetter
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from nas.arch import Architecture, Stage, Stem
from nas.cost.formula import Cost, cost_by_stage, stem_side
from nas.space import Header, InvalidGenotype, Option, SearchSpace

COSTS = tuple(field.name for field in fields(Cost))
"""The columns of a table of costs."""

in_order = attrgetter(*COSTS)
"""The costs of a `Cost` as a tuple; `astuple` copies each and takes some 40 times as long."""

Counts = NDArray[np.int64]
Part = TypeVar("Part", bound=Hashable)


@dataclass(frozen=True)
class Counting:
    """What is counted: names (C), the first of them `COSTS`.

    by_part: network and side of its image (pixels) -> the counts (C) of its stem, of each stage, of its classifier.
    """

    names: tuple[str, ...]
    by_part: Callable[[Architecture, int], Sequence[Sequence[int]]]


EXACT = Counting(COSTS, lambda arch, side: [in_order(cost) for _, cost in cost_by_stage(arch, side)])
"""The costs and nothing else."""


@dataclass(frozen=True, eq=False)
class Prices:
    """Exact costs (N, C) of N genotypes. Where `valid` (N) is False, one names no network and its costs are 0.

    acting (N, G): which genes act in the network; the others may have any code.
    """

    costs: Counts
    valid: NDArray[np.bool_]
    acting: NDArray[np.bool_]

    def __getitem__(self, name: str) -> Counts:
        """One cost (N) by its name."""
        return column(self.costs, name)


def column(costs: Counts, name: str) -> Counts:
    """One cost (N) of a table of costs (N, C), by its name."""
    found: Counts = costs[:, COSTS.index(name)]
    return found


class Read(NamedTuple):
    """What choices say of a stage: its number (`PartPrices.stages`), and which of `stage_genes` they were asked for."""

    stage: int
    acts: tuple[bool, ...]


class Depths(NamedTuple):
    """The gene of a stage's depth: its place among `stage_genes`, its options, and for each code the first like it.

    Alike are depths between which nothing else of the stage differs (`SearchSpace.mixers_read_input`). place: None
    where there is one option, which is no gene.
    """

    place: int | None
    options: Counts
    first_alike: Counts

    @classmethod
    def of(cls, space: SearchSpace, index: int) -> Depths:
        """Of stage `index`."""
        scope = space.scopes["depth"]
        depths = [int(depth) for depth in scope.of(index)]
        shapes = [min(depth, 2) if space.mixers_read_input else 1 for depth in depths]
        names = [gene.name for gene in space.stage_genes(index)]
        name = f"depth.{index + 1}" if scope.per_stage else "depth"
        place = names.index(name) if name in names else None
        return cls(place, np.array(depths, np.int64), np.array([shapes.index(shape) for shape in shapes], np.int64))


class Question(NamedTuple):
    """The place of a gene among `stage_genes`, and what each code of it leads to: the next question or the stage."""

    gene: int
    answers: dict[int, Question | Read]


class Numbers(Generic[Part]):
    """Parts in the order in which they were first seen: to look up a number takes a tenth of looking up a part."""

    def __init__(self, *parts: Part) -> None:
        self._parts = list(parts)
        self._number = {part: number for number, part in enumerate(parts)}

    def of(self, part: Part) -> int:
        number = self._number.setdefault(part, len(self._parts))
        if number == len(self._parts):
            self._parts.append(part)
        return number

    def __getitem__(self, number: int) -> Part:
        return self._parts[number]


class PartPrices:
    """Costs (C) of the parts of a space's networks; each different part is read and priced once, then remembered.

    headers: those that were seen. stages: those that were seen, as `bare`; stage 0 is none.
    """

    def __init__(self, space: SearchSpace, counting: Counting = EXACT) -> None:
        self.space = space
        self.counting = counting
        self.headers = Numbers[Header]()
        self.stages = Numbers[Stage | None](None)
        self.depths = [Depths.of(space, index) for index in range(space.stages)]
        self._priced: dict[tuple[int, int, int, int], tuple[int, ...]] = {}
        self._whole: dict[tuple[int, int, int, Stage], Counts] = {}
        self._later: dict[int, int] = {}  # of a stage's first block the number -> of a later one's
        self._sides: dict[Stem, tuple[int, ...]] = {}
        self._genes = [
            {gene.name: (place, gene.options) for place, gene in enumerate(space.stage_genes(index))}
            for index in range(space.stages)
        ]
        self._questions: dict[tuple[int, int], Question | Read] = {}  # the first ones, by index and channels

    def read(self, index: int, in_channels: int, codes: tuple[int, ...]) -> Read:
        """Stage `index` (from 0) behind `in_channels` channels, from a code for each of `space.stage_genes(index)`.

        Any channels will do where `SearchSpace.mixers_read_input` is false.
        """
        found = self._questions.get((index, in_channels))
        while isinstance(found, Question):
            found = found.answers.get(codes[found.gene])
        return found or self._new(index, in_channels, codes)

    def _new(self, index: int, in_channels: int, codes: tuple[int, ...]) -> Read:
        """Keeps which gene the stage asks for after which answers: genes that do not act make no other."""
        genes = self._genes[index]
        asked: list[int] = []

        def choose(name: str, _: Sequence[Option]) -> Option:
            place, options = genes[name]
            asked.append(place)
            return options[codes[place]]

        try:
            stage: Stage | None = bare(self.space.stage(index, in_channels, choose))
        except InvalidGenotype:
            stage = None
        read = Read(self.stages.of(stage), tuple(at in asked for at in range(len(genes))))
        self._keep((index, in_channels), [(gene, codes[gene]) for gene in asked], read)
        return read

    def _keep(self, first: tuple[int, int], answered: Sequence[tuple[int, int]], read: Read) -> None:
        """From the question `first`, each gene asked for and its code lead to the next one, the last to `read`."""
        known: dict[Any, Question | Read] = self._questions
        at: Hashable = first
        for gene, code in answered:
            found = known.setdefault(at, Question(gene, {}))
            assert isinstance(found, Question)  # after the same answers the same gene is asked for
            known, at = found.answers, code
        known[at] = read

    def stem(self, header: Header) -> Counts:
        plain = Stage(depth=1, out_channels=1, inner_channels=1, stride=1, projects=True)
        return np.array(self._alone(header, header.stem, plain, self.space.input_size)[0])

    def stage(self, header: Header, index: int, in_channels: int, stage: Stage) -> Counts:
        """Of stage `index` (from 0), which takes `in_channels` channels."""
        number = self.headers.of(header)
        known = (number, index, in_channels, stage)
        if known not in self._whole:
            kind = self.stages.of(bare(stage))
            costs = np.array(self.block(number, index, in_channels, kind))
            if stage.depth > 1:
                costs += (stage.depth - 1) * np.array(self.later_block(number, index, kind))
            self._whole[known] = costs
        return self._whole[known]

    def block(self, header: int, before: int, in_channels: int, stage: int) -> tuple[int, ...]:
        """Of the first block of a stage behind `before` others, header and stage numbered; nothing for no stage."""
        found = self.stages[stage]
        if found is None:
            return (0,) * len(self.counting.names)
        known = (header, before, in_channels, stage)
        if known not in self._priced:
            side = self._side(self.headers[header].stem, before)
            projects = found.stride != 1 or found.out_channels != in_channels
            first = found if projects else replace(found, projects=False)
            self._priced[known] = self._alone(self.headers[header], _plain_stem(in_channels), first, side)[1]
        return self._priced[known]

    def later_block(self, header: int, index: int, stage: int) -> tuple[int, ...]:
        """Of each block but the first of stage `index` (from 0), as `block`; not all stages may have one.

        Basic blocks that fit the channels before the stage may not fit the stage's own.
        """
        if stage not in self._later:
            found = self.stages[stage]
            self._later[stage] = self.stages.of(found and replace(found, stride=1))
        return self.block(header, index + 1, self.out_channels(stage), self._later[stage])

    def out_channels(self, stage: int) -> int:
        """Of the stage of this number; 0 of none."""
        found = self.stages[stage]
        return found.out_channels if found else 0

    def classifier(self, header: Header, in_features: int) -> Counts:
        plain = Stage(depth=1, out_channels=in_features, inner_channels=1, stride=1, projects=True)
        return np.array(self._alone(header, header.stem, plain, self.space.input_size)[2])

    def _alone(self, header: Header, stem: Stem, stage: Stage, side: int) -> tuple[tuple[int, ...], ...]:
        """Stem, stage and classifier of a network of this one stage, for an image of side `side`."""
        arch = Architecture(
            in_channels=self.space.in_channels,
            num_classes=self.space.num_classes,
            stem=stem,
            block=self.space.fixed.block,
            stages=(stage,),
            avd=header.avd,
            stride_in=self.space.fixed.stride_in,
            shortcut=header.shortcut,
        )
        return tuple(tuple(counts) for counts in self.counting.by_part(arch, side))

    def _side(self, stem: Stem, index: int) -> int:
        """Side of the map that stage `index` takes; of the last one's, behind all."""
        if stem not in self._sides:
            side = stem_side(stem, self.space.input_size)
            strides = self.space.fixed.strides
            self._sides[stem] = tuple(accumulate(strides, lambda before, stride: -(-before // stride), initial=side))
        return self._sides[stem][index]


def bare(stage: Stage) -> Stage:
    """The stage without what follows from its place and from one gene alone: its projection and its depth."""
    return stage if stage.projects and stage.depth == 1 else replace(stage, projects=True, depth=1)


@cache
def _plain_stem(channels: int) -> Stem:
    """Before a stage that is priced alone."""
    return Stem(kind="conv3x3", channels=(channels,), strides=(1,))


def random_codes(space: SearchSpace, count: int, rng: np.random.Generator) -> Counts:
    """A table (count, G) of random genotypes, every option equally likely; not all of them name a network."""
    columns = [rng.integers(len(gene.options), size=count) for gene in space.genes]
    return np.stack(columns, axis=1) if columns else np.zeros((count, 0), np.int64)


def price(space: SearchSpace, codes: Counts, parts: PartPrices | None = None) -> Prices:
    """Exact costs of the genotypes `codes` (N, G): column g holds indices of the options of `space.genes[g]`.

    A gene that does not act in a network may have any code. parts: prices of the space that are known already.
    Raises ValueError for a table of another shape and for an index that is no option's.
    """
    columns = _columns(space, codes)
    parts = parts or PartPrices(space)
    counts = len(parts.counting.names)
    headers, header = _headers(space, columns, len(codes))
    acting = {gene.name: np.full(len(codes), gene in space.header_genes()) for gene in space.genes}
    costs = _gathered([parts.stem(one) for one in headers], header, counts)
    width = np.array([one.stem.channels[-1] for one in headers], np.int64)[header]
    number = np.array([parts.headers.of(one) for one in headers], np.int64)[header]
    for index in range(space.stages):
        stage, depth = _stages(parts, columns, index, width, acting)
        firsts, row = _distinct([number, width, stage])
        kinds = np.stack([number[firsts], width[firsts], stage[firsts]], axis=1).tolist()
        costs += _gathered([parts.block(one, index, channels, kind) for one, channels, kind in kinds], row, counts)
        deep = np.flatnonzero(depth > 1)
        costs[deep] += (depth[deep, None] - 1) * _later_blocks(parts, index, number[deep], stage[deep])
        width = np.array([parts.out_channels(kind) for _, _, kind in kinds], np.int64)[row]
    firsts, row = _distinct([width])
    costs += _gathered([parts.classifier(headers[0], max(int(width[first]), 1)) for first in firsts], row, counts)
    valid = width > 0
    acted = np.stack(list(acting.values()), axis=1) if acting else np.zeros((len(codes), 0), np.bool_)
    return Prices(costs * valid[:, None], valid, acted)


def _later_blocks(parts: PartPrices, index: int, header: Counts, stage: Counts) -> Counts:
    """Of one block behind the first of each row's stage at `index`; header and stage by their numbers."""
    firsts, row = _distinct([header, stage])
    kinds = np.stack([header[firsts], stage[firsts]], axis=1).tolist()
    costs = [parts.later_block(one, index, kind) for one, kind in kinds]
    return _gathered(costs, row, len(parts.counting.names))


def _columns(space: SearchSpace, codes: Counts) -> dict[str, Counts]:
    """The table by the names of its genes, checked."""
    genes = space.genes
    if codes.ndim != 2 or codes.shape[1] != len(genes):
        raise ValueError(
            f"a table of genotypes of space {space.name} must have one column for each of its {len(genes)} genes, "
            f"but got the shape {codes.shape}"
        )
    for gene, column in zip(genes, codes.T, strict=True):
        if len(column) and not 0 <= column.min() <= column.max() < len(gene.options):
            raise ValueError(
                f"codes of the gene {gene.name} must lie in 0..{len(gene.options) - 1}, "
                f"but got {column.min()}..{column.max()}"
            )
    return {gene.name: column.astype(np.int64) for gene, column in zip(genes, codes.T, strict=True)}


def _headers(space: SearchSpace, columns: Mapping[str, Counts], count: int) -> tuple[list[Header], Counts]:
    """The different headers of the table, and the place among them of each row's."""
    names = [gene.name for gene in space.header_genes()]
    firsts, row = _distinct([np.zeros(count, np.int64), *(columns[name] for name in names)])
    return [space.header(_choices(space, columns, names, first)) for first in firsts], row


def _choices(space: SearchSpace, columns: Mapping[str, Counts], names: Sequence[str], row: int) -> dict[str, Option]:
    options = {gene.name: gene.options for gene in space.genes}
    return {name: options[name][columns[name][row]] for name in names}


def _stages(
    parts: PartPrices,
    columns: Mapping[str, Counts],
    index: int,
    in_channels: Counts,
    acting: dict[str, NDArray[np.bool_]],
) -> tuple[Counts, Counts]:
    """For each row the number of its stage at `index`, 0 where its genotype names none, and that stage's depth.

    Marks in `acting` the genes that each row's stage asks for.
    """
    names = [gene.name for gene in parts.space.stage_genes(index)]
    chosen = [columns[name] for name in names]
    depths = parts.depths[index]
    depth = np.full(len(in_channels), depths.options[0])
    if depths.place is not None:
        depth = depths.options[chosen[depths.place]]
        chosen[depths.place] = depths.first_alike[chosen[depths.place]]
    # No channels: a stage before names none.
    before = in_channels if parts.space.mixers_read_input else np.minimum(in_channels, 1)
    firsts, row = _distinct([before, *chosen])
    codes = np.stack([before[firsts], *(column[firsts] for column in chosen)], axis=1).tolist()
    nothing = Read(0, (False,) * len(names))
    found = [parts.read(index, width, tuple(rest)) if width else nothing for width, *rest in codes]
    acts = np.array([read.acts for read in found], np.bool_).reshape(len(found), len(names))
    for name, asked in zip(names, acts.T, strict=True):
        acting[name] |= asked[row]
    return np.array([read.stage for read in found], np.int64)[row], depth


def _distinct(columns: Sequence[Counts]) -> tuple[list[int], Counts]:
    """One row of each kind in a table of `columns` (whole numbers from 0), and for each row the place of its kind."""
    code, kinds = np.zeros_like(columns[0]), 1
    for column in columns:
        count = int(column.max(initial=0)) + 1
        if kinds * count > np.iinfo(np.int64).max:
            _, code = np.unique(code, return_inverse=True)
            kinds = int(code.max()) + 1
        code, kinds = code * count + column, kinds * count
    if kinds > 4 * len(code):
        _, firsts, rows = np.unique(code, return_index=True, return_inverse=True)
        return firsts.tolist(), rows
    row_of = np.full(kinds, -1)  # a sort would take several times as long
    row_of[code] = np.arange(len(code))
    found = np.flatnonzero(row_of >= 0)
    place_of = np.zeros(kinds, np.int64)
    place_of[found] = np.arange(len(found))
    return row_of[found].tolist(), place_of[code]


def _gathered(costs: Sequence[Sequence[int] | Counts], rows: Counts, counts: int) -> Counts:
    """Row i of the result is costs[rows[i]], of so many `counts`."""
    return np.array(costs, np.int64).reshape(-1, counts)[rows]
