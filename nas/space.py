"""Search spaces: what can be searched, written as a TOML file that people read and write.

A space has genes, each a list of options, chosen once for the network or once for each stage. One `walk(choose)` turns
choices into an `Architecture`; sampling, iteration, decoding and neighbours all go through it, so they cannot disagree.
Different choices may give one network (a reduction that rounds to the same width, a gene that cannot act); `size`,
iteration and `encode` count networks, not choices.
"""

from __future__ import annotations

import itertools
import random
import tomllib
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field

from nas.arch import (
    Architecture,
    Avd,
    BlockKind,
    Conv,
    Gate,
    Kernel,
    Mixer,
    SelectiveKernel,
    Shortcut,
    SplitAttention,
    Stage,
    Stem,
    StemKind,
    StemPool,
    StrideIn,
)
from nas.checked import checked
from nas.units import parse_count

FORMAT = 1

Option = str | int | float
Choose = Callable[[str, Sequence[Option]], Option]
"""Picks one of the options offered for the gene of that name."""
Result = TypeVar("Result")


class InvalidGenotype(ValueError):
    """The choices name no network of the space."""


class Mixings(NamedTuple):
    """What fits a stage: cardinalities, the radices of each, and of both the kernel sets with mixer and inner width."""

    cardinalities: tuple[int, ...]
    radices: dict[int, tuple[int, ...]]
    kernels: dict[tuple[int, int], dict[str, tuple[Mixer, int]]]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class StemFile(_Strict):
    kind: StemKind
    channels: list[int]
    strides: list[int]
    pool: StemPool = "none"


class AttentionRule(_Strict):
    """Hidden widths. SK-Net eq. 4: max(C / sk_reduction, sk_min_hidden); ResNeSt: max(C R / split_reduction, min)."""

    sk_reduction: int = Field(default=16, ge=1)
    sk_min_hidden: int = Field(default=32, ge=1)
    split_reduction: int = Field(default=4, ge=1)
    split_min_hidden: int = Field(default=32, ge=1)
    gate_min_hidden: int = Field(default=1, ge=1)


class FixedFile(_Strict):
    """What all networks of a space share."""

    input_size: int = Field(ge=1)
    in_channels: int = Field(ge=1)
    num_classes: int = Field(ge=2)
    block: BlockKind
    strides: list[int] = Field(min_length=1)
    expansion: int = Field(default=1, ge=1)
    base_width: int | dict[str, int] | None = None
    width_multiple: int = Field(default=1, ge=1)
    stride_in: StrideIn = "mixer"
    true_kernels: bool = False
    split_input: bool = False
    gate_on_attention: bool = False
    attention: AttentionRule = AttentionRule()


class CapsFile(_Strict):
    max_macs: int | str | None = None
    max_params: int | str | None = None


class SpaceFile(_Strict):
    format: Literal[1]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    description: str = ""
    fixed: FixedFile
    stems: dict[str, StemFile] = Field(min_length=1)
    genes: dict[str, Any]
    caps: CapsFile = CapsFile()


@dataclass(frozen=True, slots=True)
class Gene:
    """One choice of the walk. `ordered` options are numbers in ascending order."""

    name: str
    options: tuple[Option, ...]
    ordered: bool


def _whole(minimum: int) -> Callable[[Any], Option | None]:
    return lambda value: value if type(value) is int and value >= minimum else None


def _positive(value: Any) -> Option | None:
    return float(value) if type(value) in (int, float) and value > 0 else None


def _among(*names: str) -> Callable[[Any], Option | None]:
    return lambda value: value if value in names else None


def _kernel_set(value: Any) -> Option | None:
    odd = isinstance(value, list) and len(value) > 0 and all(type(k) is int and k >= 1 and k % 2 for k in value)
    return "+".join(str(k) for k in sorted(value)) if odd and len(set(value)) == len(value) else None


@dataclass(frozen=True, slots=True)
class _Kind:
    """How the options of one gene are read."""

    read: Callable[[Any], Option | None]
    expected: str
    ordered: bool = False
    default: tuple[Option, ...] | None = None
    network_only: bool = False


_KINDS: dict[str, _Kind] = {
    "stem": _Kind(lambda value: value if isinstance(value, str) else None, "the name of a stem", network_only=True),
    "shortcut": _Kind(
        _among("strided_conv1x1", "avgpool_then_conv1x1"),
        "strided_conv1x1 or avgpool_then_conv1x1",
        default=("strided_conv1x1",),
        network_only=True,
    ),
    "avd": _Kind(
        _among("none", "before_mixer", "after_mixer"),
        "none, before_mixer or after_mixer",
        default=("none",),
        network_only=True,
    ),
    "width_multiplier": _Kind(_positive, "a number above 0", ordered=True, default=(1.0,), network_only=True),
    "depth": _Kind(_whole(1), "a whole number of at least 1", ordered=True),
    "width": _Kind(_whole(1), "a whole number of at least 1", ordered=True),
    "cardinality": _Kind(_whole(1), "a whole number of at least 1", ordered=True, default=(1,)),
    "radix": _Kind(_whole(0), "a whole number of at least 0", ordered=True, default=(0,)),
    "kernels": _Kind(_kernel_set, "a list of different odd kernel sizes, as in [3, 5]", default=("3",)),
    "gate": _Kind(_among("none", "cse", "sse", "scse"), "none, cse, sse or scse", default=("none",)),
    "reduction": _Kind(_whole(1), "a whole number of at least 1", ordered=True, default=(16,)),
}
_HEADER = ("stem", "shortcut", "avd")
_STAGE_GENES = tuple(name for name, kind in _KINDS.items() if not kind.network_only)
_NETWORK_STAGE_GENES = ("width_multiplier", *_STAGE_GENES)
"""Genes that shape stages and may be chosen once for the network."""


@dataclass(frozen=True, slots=True)
class _Scope:
    """The options of one gene: one choice for the network, or one for each stage."""

    per_stage: bool
    options: tuple[tuple[Option, ...], ...]

    def of(self, stage: int) -> tuple[Option, ...]:
        return self.options[stage if self.per_stage else 0]


def _read_options(name: str, values: Any, where: str) -> tuple[Option, ...]:
    kind = _KINDS[name]
    if not isinstance(values, list) or not values:
        raise ValueError(f"{where} must be a list with at least one option, but got {values!r}")
    options = []
    for value in values:
        option = kind.read(value)
        if option is None:
            raise ValueError(f"{where} must hold {kind.expected}, but got {value!r}")
        if option in options:
            raise ValueError(f"{where} names the option {value!r} twice")
        options.append(option)
    return tuple(sorted(options)) if kind.ordered else tuple(options)


def _read_scope(name: str, value: Any, stages: int, where: str) -> _Scope:
    """`[…]` for the network, `{each_stage = […]}` for every stage alike, `{stages = [[…], […]]}` for each its own."""
    where = f"{where} genes.{name}"
    if not isinstance(value, dict):
        return _Scope(False, (_read_options(name, value, where),))
    if _KINDS[name].network_only:
        raise ValueError(f"{where} is chosen once for the network: give a plain list of options, not {value!r}")
    if set(value) == {"each_stage"}:
        return _Scope(True, (_read_options(name, value["each_stage"], where),) * stages)
    if set(value) != {"stages"} or not isinstance(value["stages"], list):
        raise ValueError(
            f"{where} must be a list, {{each_stage = [...]}} or {{stages = [[...], ...]}}, but got {value!r}"
        )
    if len(value["stages"]) != stages:
        raise ValueError(f"{where} must have one list for each of the {stages} strides, but got {len(value['stages'])}")
    return _Scope(
        True, tuple(_read_options(name, one, f"{where} stage {i}") for i, one in enumerate(value["stages"], 1))
    )


def shipped_spaces() -> dict[str, Path]:
    """The spaces that come with the package, by name."""
    package = Path(str(files("nas")))
    inside = package / "search_spaces"
    # An editable install has the folder beside the package, where the wheel's copy is made from.
    folder = inside if inside.is_dir() else package.parent / "search_spaces"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def every(run: Callable[[Choose], Result]) -> Iterator[tuple[dict[str, Option], Result]]:
    """Call `run` once for each possible sequence of its choices, in the options' order; invalid ones are left out."""
    script: list[int] = []
    while True:
        made: list[tuple[str, Option, int]] = []

        def choose(name: str, options: Sequence[Option], script: list[int] = script, made: list[Any] = made) -> Option:
            index = script[len(made)] if len(made) < len(script) else 0
            made.append((name, options[index], len(options)))
            return options[index]

        try:
            result = run(choose)
        except InvalidGenotype:
            pass
        else:
            yield {name: option for name, option, _ in made}, result
        indices = [script[at] if at < len(script) else 0 for at in range(len(made))]
        while indices and indices[-1] + 1 == made[len(indices) - 1][2]:
            indices.pop()
        if not indices:
            return
        script = [*indices[:-1], indices[-1] + 1]


Candidates = frozenset[int]
"""Numbers of the network-wide assignments that agree with the stages seen so far."""


class Header(NamedTuple):
    """What a network has beside its stages, canonical."""

    stem: Stem
    avd: Avd
    shortcut: Shortcut


class State(NamedTuple):
    """How far a network has been read: the number of stages, what still agrees with them, and their output width."""

    stages: int
    candidates: Candidates
    in_channels: int


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """A space of networks. `genes` are the genes with more than one option, in the order of the walk."""

    name: str
    description: str
    fixed: FixedFile
    stems: dict[str, Stem]
    scopes: dict[str, _Scope]
    caps: dict[str, int]
    text: str = field(repr=False)

    # ---- reading -------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, source: str | Path) -> SearchSpace:
        """Read a space from a TOML file, or a shipped one by its name. Raises ValueError naming file, key and value."""
        shipped = shipped_spaces()
        path = Path(source)
        if not path.is_file():
            if str(source) not in shipped:
                names = ", ".join(shipped)
                raise ValueError(f"space {str(source)!r} is neither a file nor a shipped space (these are: {names})")
            path = shipped[str(source)]
        return cls.from_toml(path.read_text(encoding="utf-8"), where=path.name)

    @classmethod
    def from_toml(cls, text: str, where: str = "space") -> SearchSpace:
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{where} is not valid TOML: {error}") from None
        file = checked(SpaceFile, document, where)
        space = cls(
            name=file.name,
            description=file.description,
            fixed=file.fixed,
            stems={name: _stem(stem, f"{where} stems.{name}") for name, stem in file.stems.items()},
            scopes=_read_scopes(file, where),
            caps=_read_caps(file.caps, where),
            text=text,
        )
        space._check(where)
        return space

    def _check(self, where: str) -> None:
        if self.fixed.block == "basic" and self.fixed.expansion != 1:
            raise ValueError(f"{where} fixed.expansion must be 1 for basic blocks, but got {self.fixed.expansion}")
        for stride in self.fixed.strides:
            if stride < 1:
                raise ValueError(f"{where} fixed.strides must be at least 1, but got {stride}")
        if isinstance(self.fixed.base_width, dict):
            for cardinality in {option for options in self.scopes["cardinality"].options for option in options}:
                if str(cardinality) not in self.fixed.base_width:
                    raise ValueError(f"{where} fixed.base_width lacks the cardinality {cardinality}")
        if next(iter(every(self.walk)), None) is None:
            raise ValueError(f"{where} contains no network: no choice of genes passes its divisibility rules")

    @property
    def input_size(self) -> int:
        return self.fixed.input_size

    @property
    def in_channels(self) -> int:
        return self.fixed.in_channels

    @property
    def num_classes(self) -> int:
        return self.fixed.num_classes

    @property
    def stages(self) -> int:
        return len(self.fixed.strides)

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        return tuple(gene for gene in self._all_genes() if len(gene.options) > 1)

    def _all_genes(self) -> Iterator[Gene]:
        for name, kind in _KINDS.items():
            scope = self.scopes[name]
            if not scope.per_stage:
                yield Gene(name, scope.options[0], kind.ordered)
            else:
                yield from (Gene(f"{name}.{i}", options, kind.ordered) for i, options in enumerate(scope.options, 1))

    def capped(self, caps: Mapping[str, int]) -> dict[str, int]:
        """`caps` together with the space's own: the tighter one of each wins."""
        return {
            metric: min(limits[metric] for limits in (self.caps, caps) if metric in limits)
            for metric in dict.fromkeys((*self.caps, *caps))
        }

    def to_json(self) -> dict[str, Any]:
        """The resolved space as plain values: what a resumed search must find unchanged."""
        fixed = self.fixed.model_dump()
        stems = {name: stem.to_json() for name, stem in self.stems.items()}
        genes = {gene.name: list(gene.options) for gene in self._all_genes()}
        return {"name": self.name, "fixed": fixed, "stems": stems, "genes": genes, "caps": dict(self.caps)}

    # ---- the walk ------------------------------------------------------------------------------------------------

    def walk(self, choose: Choose) -> Architecture:
        """Build one network, asking `choose(name, options)` for each gene that acts, with the options valid so far.

        Raises InvalidGenotype when the choices made leave no network.
        """
        picked: dict[str, Option] = {}
        header = self._header(picked, choose)
        stages = []
        in_channels = header.stem.channels[-1]
        for index in range(self.stages):
            stage = self._stage(index, in_channels, picked, choose)
            stages.append(stage)
            in_channels = stage.out_channels
        return self.network(header, tuple(stages))

    def _header(self, picked: dict[str, Option], choose: Choose) -> Header:
        """Stem, average pool and shortcut; what cannot act, because no stage has a stride, is dropped."""
        stem, shortcut, avd = (self._pick(name, 0, picked, choose, None) for name in _HEADER)
        strided = any(stride > 1 for stride in self.fixed.strides)
        return Header(
            self.stems[str(stem)],
            cast(Avd, avd if strided else "none"),
            cast(Shortcut, shortcut if strided else "strided_conv1x1"),
        )

    def network(self, header: Header, stages: tuple[Stage, ...]) -> Architecture:
        """The network of a header and its stages. Raises InvalidGenotype when they do not fit together."""
        try:
            return Architecture(
                in_channels=self.in_channels,
                num_classes=self.num_classes,
                stem=header.stem,
                block=self.fixed.block,
                stages=stages,
                avd=header.avd,
                stride_in=self.fixed.stride_in,
                shortcut=header.shortcut,
            ).canonical()
        except ValueError as error:
            raise InvalidGenotype(str(error)) from None

    def _pick(
        self,
        name: str,
        stage: int,
        picked: dict[str, Option],
        choose: Choose,
        fitting: tuple[Option, ...] | None,
    ) -> Option:
        """The option of a gene: chosen before for the whole network, the only one, or asked for; None: all fit."""
        scope = self.scopes[name]
        label = f"{name}.{stage + 1}" if scope.per_stage else name
        options = self._open(name, stage, picked)
        offered = options if fitting is None else fitting
        if not offered:
            raise InvalidGenotype(f"no option of {label} fits stage {stage + 1}: its options are {list(options)}")
        if len(options) == 1:
            return offered[0]
        picked[label] = choose(label, offered)
        if picked[label] not in offered:
            raise InvalidGenotype(f"{label} = {picked[label]!r} is not valid here: the options are {list(offered)}")
        return picked[label]

    def _open(self, name: str, stage: int, picked: Mapping[str, Option]) -> tuple[Option, ...]:
        """The options that a gene may still take in this stage."""
        scope = self.scopes[name]
        if not scope.per_stage and name in picked:
            return (picked[name],)
        return scope.of(stage)

    def _stage(self, index: int, in_channels: int, picked: dict[str, Option], choose: Choose) -> Stage:
        """One stage. Genes are asked in an order in which each one's valid options follow from those before."""

        def pick(name: str, fitting: tuple[Any, ...] | None = None) -> Any:
            return self._pick(name, index, picked, choose, fitting)

        def still(name: str) -> tuple[Any, ...]:
            return self._open(name, index, picked)

        def mixings(out: int) -> Mixings:
            inputs: tuple[int, ...] = ()
            if self.mixers_read_input:  # which is wider or narrower in the first block only
                inputs = (in_channels, out) if depth > 1 else (in_channels,)
            return self._mixings(inputs, out, options)

        options = (still("cardinality"), still("radix"), still("kernels"))
        multiplier = pick("width_multiplier")
        depth = pick("depth")
        widths = still("width")
        width = pick("width", tuple(w for w in widths if mixings(self._out_channels(w, multiplier)).cardinalities))
        out = self._out_channels(width, multiplier)
        fit = mixings(out)
        k = pick("cardinality", fit.cardinalities)
        r = pick("radix", fit.radices[k])
        s = pick("kernels", tuple(fit.kernels[k, r]))
        mixer, inner = fit.kernels[k, r][s]
        gate = Gate()
        if self.fixed.gate_on_attention or isinstance(mixer, Conv):
            gate = self._gate(pick, out)
        stride = self.fixed.strides[index]
        return Stage(
            depth=depth,
            out_channels=out,
            inner_channels=inner,
            stride=stride,
            projects=stride != 1 or in_channels != out,
            cardinality=k,
            mixer=mixer,
            gate=gate,
        ).canonical(self.fixed.block)

    def _out_channels(self, width: Any, multiplier: Any) -> int:
        """Width times multiplier, to the nearest multiple of `width_multiple`, at least one of it."""
        step = self.fixed.width_multiple
        return max(step, int(width * multiplier / step + 0.5) * step)

    def _gate(self, pick: Callable[[str], Any], out_channels: int) -> Gate:
        kind = pick("gate")
        if kind not in ("cse", "scse"):
            return Gate(kind=kind)
        return Gate(kind=kind, hidden=max(out_channels // pick("reduction"), self.fixed.attention.gate_min_hidden))

    @cached_property
    def _fits(self) -> dict[Hashable, Mixings]:
        return {}

    def _mixings(self, inputs: tuple[int, ...], out: int, options: tuple[tuple[Any, ...], ...]) -> Mixings:
        """Of the options, what fits blocks of `out` channels whose mixers read so many; none: their inner width."""
        arguments = (inputs, out, options)
        if arguments not in self._fits:
            self._fits[arguments] = self._new_mixings(inputs, out, *options)
        return self._fits[arguments]

    def _new_mixings(
        self, inputs: tuple[int, ...], out: int, ks: tuple[int, ...], rs: tuple[int, ...], sets: tuple[str, ...]
    ) -> Mixings:
        kernels: dict[tuple[int, int], dict[str, tuple[Mixer, int]]] = {}
        for k, r in itertools.product(ks, rs):
            found = {s: self._mixer(inputs, out, k, r, s) for s in sets}
            kernels[k, r] = {s: mixing for s, mixing in found.items() if mixing is not None}
        radices = {k: tuple(r for r in rs if kernels[k, r]) for k in ks}
        return Mixings(tuple(k for k in ks if radices[k]), radices, kernels)

    def _mixer(self, inputs: tuple[int, ...], out: int, k: int, r: int, s: str) -> tuple[Mixer, int] | None:
        """The mixer of cardinality K, radix R and kernel set S with its inner width, or None where there is none."""
        if out % self.fixed.expansion:
            return None
        inner = self._inner_channels(out // self.fixed.expansion, k)
        kernels = tuple(self._kernel(int(reach)) for reach in s.split("+"))
        mixer = self._mix(inner, k, r, kernels) if inner else None
        if mixer is None:
            return None
        groups = k * (r or (len(kernels) if self.fixed.split_input else 1))
        fits = inner % k == 0 and all(width % groups == 0 for width in inputs or (inner,))
        return (mixer, inner) if fits else None

    def _inner_channels(self, planes: int, cardinality: int) -> int:
        """floor(planes x base_width / 64) x K (ResNeXt, section 3); without base_width the planes themselves."""
        base = self.fixed.base_width
        if base is None:
            return planes
        width = base[str(cardinality)] if isinstance(base, dict) else base
        return planes * width // 64 * cardinality

    def _kernel(self, reach: int) -> Kernel:
        if reach <= 3 or self.fixed.true_kernels:
            return Kernel(reach)
        return Kernel(3, (reach - 1) // 2)

    def _mix(self, inner: int, k: int, r: int, kernels: tuple[Kernel, ...]) -> Mixer | None:
        rule = self.fixed.attention
        if r == 0 and len(kernels) == 1:
            return Conv(kernel=kernels[0])
        if r == 0:
            hidden = max(inner // rule.sk_reduction, rule.sk_min_hidden)
            return SelectiveKernel(kernels=kernels, hidden=hidden, split_input=self.fixed.split_input)
        if len(kernels) > r:
            return None
        hidden = -(-max(inner * r // rule.split_reduction, rule.split_min_hidden) // k) * k
        spread = kernels if len(kernels) == 1 else tuple(sorted(kernels[i % len(kernels)] for i in range(r)))
        return SplitAttention(radix=r, hidden=hidden, kernels=spread, attention_groups=k)

    # ---- parts of a walk -----------------------------------------------------------------------------------------

    def header_genes(self) -> tuple[Gene, ...]:
        """The genes that shape what a network has beside its stages."""
        return tuple(gene for gene in self.genes if gene.name in _HEADER)

    def header(self, choices: Mapping[str, Option]) -> Header:
        """What a network has beside its stages, from a value for each of `header_genes()`."""
        return self._header({}, lambda name, _: choices[name])

    def stage_genes(self, index: int) -> tuple[Gene, ...]:
        """The genes that shape stage `index` (from 0), those chosen once for the network included."""
        names = {label for name in _NETWORK_STAGE_GENES for label in (name, f"{name}.{index + 1}")}
        return tuple(gene for gene in self.genes if gene.name in names)

    @property
    def mixers_read_input(self) -> bool:
        """Whether a block's mixer reads the block's input (basic), not a layer of its own before it (bottleneck).

        If it does, what fits a stage depends on the channels before the stage and on whether it has later blocks, whose
        input is another. Else both matter to nothing but `projects` and `depth`.
        """
        return self.fixed.block == "basic"

    def stage(self, index: int, in_channels: int, choose: Choose) -> Stage:
        """Stage `index` behind `in_channels` channels, asking `choose` for those of `stage_genes(index)` that act.

        Raises InvalidGenotype when the choices name no stage.
        """
        return self._stage(index, in_channels, {}, choose)

    # ---- one network ---------------------------------------------------------------------------------------------

    def decode(self, genotype: Mapping[str, Option]) -> Architecture:
        """The network of a value for each gene; genes that do not act there are ignored and may be missing.

        Raises InvalidGenotype for values that name no network.
        """
        known = {gene.name for gene in self.genes}
        for name in genotype:
            if name not in known:
                raise InvalidGenotype(f"{name!r} is no gene of space {self.name}")

        def replay(name: str, options: Sequence[Option]) -> Option:
            if name not in genotype:
                raise InvalidGenotype(f"the gene {name} has no value: its options are {list(options)}")
            return genotype[name]

        return self.walk(replay)

    def sample(self, rng: random.Random) -> Architecture:
        """A network by a random walk: each option of a gene that acts is equally likely."""
        for _ in range(10_000):
            try:
                return self.walk(lambda _, options: rng.choice(options))
            except InvalidGenotype:
                continue
        raise ValueError(f"space {self.name} has hardly any valid network: 10,000 random walks found none")

    def sample_different(self, count: int, rng: random.Random) -> list[Architecture]:
        """`count` different networks by random walks, in the order found. Raises ValueError when there are fewer."""
        if count > self.size():
            raise ValueError(f"space {self.name} has {self.size():,} different networks, but {count:,} are asked for")
        found: dict[str, Architecture] = {}
        while len(found) < count:
            arch = self.sample(rng)
            found.setdefault(arch.key, arch)
        return list(found.values())

    def encode(self, arch: Architecture) -> dict[str, Option]:
        """The first choices, in the order of the walk, that give this network. Raises ValueError when it is outside."""
        arch = arch.canonical()
        header = Header(arch.stem, arch.avd, arch.shortcut)
        state = self.starts().get(header)
        if state is not None and len(arch.stages) == self.stages:
            for stage in arch.stages:
                state = self.followers(state).get(stage) if state is not None else None
            if state is not None and self.network(header, arch.stages) == arch:
                return self._choices(arch, self._headers[header], min(state.candidates))
        raise ValueError(f"the network {arch.key} is not in space {self.name}")

    def _choices(self, arch: Architecture, header: Mapping[str, Option], assignment: int) -> dict[str, Option]:
        choices = {**header, **self._assignments[assignment]}
        in_channels = arch.stem.channels[-1]
        for index, stage in enumerate(arch.stages):
            choices |= self._table(index, assignment, in_channels)[stage]
            in_channels = stage.out_channels
        asked: dict[str, Option] = {}

        def replay(name: str, _: Sequence[Option]) -> Option:
            asked[name] = choices[name]
            return choices[name]

        self.walk(replay)
        return asked

    def contains(self, arch: Architecture) -> bool:
        try:
            self.encode(arch)
        except ValueError:
            return False
        return True

    def neighbours(self, arch: Architecture) -> list[Architecture]:
        """All networks that differ in one acting gene; genes that the change wakes take each of their options."""
        own = self.encode(arch)
        found: dict[str, Architecture] = {}
        for gene in self.genes:
            for option in gene.options if gene.name in own else ():
                if option != own[gene.name]:
                    for near in self._near({**own, gene.name: option}):
                        found[near.key] = near
        found.pop(arch.key, None)
        return list(found.values())

    def _near(self, given: Mapping[str, Option]) -> Iterator[Architecture]:
        def run(choose: Choose) -> Architecture:
            return self.walk(lambda name, options: given[name] if name in given else choose(name, options))

        return (arch for _, arch in every(run))

    # ---- all networks --------------------------------------------------------------------------------------------
    #
    # Stages are independent once the network-wide genes are assigned, so the space is a union, over assignments, of
    # products of stage sets. Reading networks stage by stage while keeping the set of assignments that still agree
    # (the subset construction of automata theory) visits each network exactly once, whatever the assignments share:
    # a network is one path from one of `starts` along `followers`.

    def starts(self) -> dict[Header, State]:
        """Every header, and the state before the first stage."""
        return {header: State(0, self._everywhere, header.stem.channels[-1]) for header in self._headers}

    def followers(self, state: State) -> dict[Stage, State]:
        """Each stage that may come next -> the state behind it; none behind the last stage."""
        if state.stages == self.stages:
            return {}
        if state not in self._followers:
            allowed: dict[Stage, set[int]] = {}
            for assignment in sorted(state.candidates):
                for stage in self._table(state.stages, assignment, state.in_channels):
                    allowed.setdefault(stage, set()).add(assignment)
            self._followers[state] = {
                stage: State(state.stages + 1, frozenset(left), stage.out_channels) for stage, left in allowed.items()
            }
        return self._followers[state]

    @cached_property
    def _followers(self) -> dict[State, dict[Stage, State]]:
        return {}

    def size(self) -> int:
        """The exact number of different networks."""
        counts: dict[State, int] = {}

        def count(state: State) -> int:
            if state.stages == self.stages:
                return 1
            if state not in counts:
                behind = Counter(self.followers(state).values())
                counts[state] = sum(times * count(after) for after, times in behind.items())
            return counts[state]

        return sum(count(state) for state in self.starts().values())

    def __iter__(self) -> Iterator[Architecture]:
        """Every network once."""
        for header, state in self.starts().items():
            yield from (self.network(header, stages) for stages in self._paths(state))

    def _paths(self, state: State) -> Iterator[tuple[Stage, ...]]:
        if state.stages == self.stages:
            yield ()
        for stage, after in self.followers(state).items():
            yield from ((stage, *rest) for rest in self._paths(after))

    @cached_property
    def _headers(self) -> dict[Header, dict[str, Option]]:
        """Header -> the first choices that give it."""
        headers: dict[Header, dict[str, Option]] = {}
        for values in itertools.product(*(self.scopes[name].options[0] for name in _HEADER)):
            choices = dict(zip(_HEADER, values, strict=True))
            headers.setdefault(self.header(choices), choices)
        return headers

    @cached_property
    def _assignments(self) -> list[dict[str, Option]]:
        """Every assignment of the network-wide genes that shape stages, in the order of the walk."""
        names = [name for name in _NETWORK_STAGE_GENES if not self.scopes[name].per_stage]
        options = [self.scopes[name].options[0] for name in names]
        return [dict(zip(names, values, strict=True)) for values in itertools.product(*options)]

    @cached_property
    def _everywhere(self) -> Candidates:
        return frozenset(range(len(self._assignments)))

    @cached_property
    def _tables(self) -> dict[tuple[int, int, int], dict[Stage, dict[str, Option]]]:
        return {}

    def _table(self, index: int, assignment: int, in_channels: int) -> dict[Stage, dict[str, Option]]:
        """Every stage that an assignment allows -> the first stage choices that give it."""
        state = (index, assignment, in_channels)
        if state not in self._tables:
            given = self._assignments[assignment]
            table: dict[Stage, dict[str, Option]] = {}
            for choices, stage in every(lambda choose: self._stage(index, in_channels, dict(given), choose)):
                table.setdefault(stage, choices)
            self._tables[state] = table
        return self._tables[state]


def _stem(file: StemFile, where: str) -> Stem:
    try:
        return Stem(kind=file.kind, channels=tuple(file.channels), strides=tuple(file.strides), pool=file.pool)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _read_scopes(file: SpaceFile, where: str) -> dict[str, _Scope]:
    stages = len(file.fixed.strides)
    unknown = [name for name in file.genes if name not in _KINDS]
    if unknown:
        raise ValueError(f"{where} genes.{unknown[0]} is unknown: the genes are {', '.join(_KINDS)}")
    scopes = {}
    for name, kind in _KINDS.items():
        default = tuple(file.stems) if name == "stem" else kind.default
        if name in file.genes:
            scopes[name] = _read_scope(name, file.genes[name], stages, where)
        elif default is None:
            raise ValueError(f"{where} genes.{name} is missing: give its options, as in {name} = [1, 2]")
        else:
            scopes[name] = _Scope(False, (default,))
    for stem in scopes["stem"].options[0]:
        if stem not in file.stems:
            raise ValueError(f"{where} genes.stem names {stem!r}, but the stems are {', '.join(file.stems)}")
    return scopes


def _read_caps(caps: CapsFile, where: str) -> dict[str, int]:
    limits = {"macs": caps.max_macs, "params": caps.max_params}
    try:
        return {metric: parse_count(limit) for metric, limit in limits.items() if limit is not None}
    except ValueError as error:
        raise ValueError(f"{where} caps: {error}") from None
