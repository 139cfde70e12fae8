"""CPU time of one proposal of `ehvi` after many trials, as the driver asks for it.

    OMP_NUM_THREADS=1 python benchmarks/ask.py [--space cifar] [--objectives accuracy,macs] [--trials 500] [--pending 0]

The trials are random networks of the space with made-up accuracies, the same for the same seed. Their number is made
odd: of an even number the proposal may be a neighbour of the front, for which no candidate is scored. The first ask
prices parts of networks that later ones know. Prints a Markdown table with medians and ranges.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable, Sequence

import numpy as np
import optuna
from optuna.trial import TrialState, create_trial

from nas.pareto import DIRECTIONS, costs_of
from nas.record import environment
from nas.search.ehvi import LOSS
from nas.search.gate import Candidate, Gate
from nas.search.known import known
from nas.search.samplers import Proposer, Setting, Shared, distributions, shared, to_params
from nas.space import Option, SearchSpace

Network = tuple[dict[str, Option], Candidate]


def main() -> None:
    options = read_options()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, objectives = SearchSpace.load(options.space), tuple(options.objectives.split(","))
    total = options.trials + options.pending
    total += 1 - total % 2
    networks = random_networks(space, total, options.seed)
    told = Setting(known(Gate(space, {}), objectives), None)

    def asked(accuracies: int, seeds: Iterable[int]) -> list[float]:
        trials = history(space, objectives, networks, options.pending, accuracies)
        return [seconds(space, objectives, told, seed, trials) for seed in seeds]

    first, *next_ones = asked(0, range(1 + options.asks))
    later = asked(0, range(1 + options.asks, 1 + 2 * options.asks))
    refits = [asked(1 + again, [again])[0] for again in range(options.asks)]
    where = environment()
    versions = {name: where["versions"][name] for name in ("optuna", "numpy")}
    print(f"`{space.name}`, {','.join(objectives)}, {total} trials, {options.pending} of them pending; {where['cpu']}")
    print(f"{versions}, seed {options.seed}\n")
    print("| ask | n | median s of CPU | range |\n|---|---|---|---|")
    rows = {"first after a start": [first], "the next": next_ones, "later": later, "later, with a refit": refits}
    for name, found in rows.items():
        print(f"| {name} | {len(found)} | {statistics.median(found):.3f} | {min(found):.3f} to {max(found):.3f} |")


def random_networks(space: SearchSpace, count: int, seed: int) -> list[Network]:
    """Different ones, each with a genotype of its own. Raises ValueError for a space that has too few."""
    gate, rng = Gate(space, {}), np.random.default_rng(seed)
    found: dict[str, Network] = {}
    for _ in range(20 * count):
        genotype = {gene.name: gene.options[rng.integers(len(gene.options))] for gene in space.genes}
        verdict = gate.check(genotype)
        if isinstance(verdict, Candidate):
            found.setdefault(verdict.key, (genotype, verdict))
        if len(found) == count:
            return list(found.values())
    raise ValueError(f"trials must be fewer than the networks of space {space.name}, but got {count}")


def history(
    space: SearchSpace, objectives: Sequence[str], networks: Sequence[Network], pending: int, seed: int
) -> list[Shared]:
    """Finished trials, then `pending` that run. Dearer networks are better, up to noise."""
    rng, made = np.random.default_rng(seed), []
    for number, (genotype, network) in enumerate(networks):
        accuracy = 0.9 - 0.3 / np.log10(network.cost["macs"]) + 0.02 * rng.random()
        values = [accuracy, *(network.cost[name] for name in costs_of(objectives))]
        ended = number < len(networks) - pending
        trial = create_trial(
            state=TrialState.COMPLETE if ended else TrialState.RUNNING,
            params=to_params(space.genes, genotype),
            distributions=distributions(space.genes),
            values=values if ended else None,
            user_attrs={LOSS: 3.0 * (1.0 - accuracy)} if ended else {},
        )
        trial.number = number
        made.append(shared(trial))
    return made


def seconds(space: SearchSpace, objectives: Sequence[str], told: Setting, seed: int, trials: Sequence[Shared]) -> float:
    begun = time.process_time()
    directions = [DIRECTIONS[name] for name in objectives]
    Proposer(space, directions, "ehvi", told, seed, len(trials), trials).draw(0)
    return time.process_time() - begun


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="CPU time of one proposal of ehvi after many trials.")
    parser.add_argument("--space", default="cifar", help="a space's TOML file, or a shipped one's name [cifar]")
    parser.add_argument("--objectives", default="accuracy,macs", help="accuracy first [accuracy,macs]")
    parser.add_argument("--trials", type=int, default=500, help="finished ones [500]")
    parser.add_argument("--pending", type=int, default=0, help="trials under way beside them [0]")
    parser.add_argument("--asks", type=int, default=10, help="of each kind [10]")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
