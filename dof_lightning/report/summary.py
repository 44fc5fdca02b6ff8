"""The summary that a report starts with: the best method on each dataset, and the reliability of that result."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dof_lightning.report.aggregates import compared
from dof_lightning.report.gathering import Group, score_of
from dof_lightning.report.statistics import Estimate, middle_of_seeds
from dof_lightning.report.tables import LEAST_SEEDS, caveat


@dataclass(frozen=True)
class Standing:
    """The methods on one dataset.

    Attributes:
        dataset: the dataset's name.
        kind: the kind of score.
        groups: by label, the highest interquartile mean first.
        middles: the interquartile means over seeds with their 95 % intervals, by label in the same order.
        first: the label that a report compares with the others.
    """

    dataset: str
    kind: str
    groups: dict[str, Group]
    middles: dict[str, Estimate]
    first: str

    @property
    def behavior(self) -> float:
        """Score of the data."""
        return score_of(next(iter(self.groups.values())).records[0], "behavior")

    def named(self, label: str) -> str:
        """A method's name, with the caveats that accompany its numbers everywhere."""
        return f"{label}{caveat(self.groups[label])}"

    @property
    def sentence(self) -> str:
        """A sentence on the method with the highest mean, whether its interval lies above the next, and the seeds."""
        names = list(self.middles)
        text = f"*{self.dataset}*, {self.kind}: "
        text += self._lead(names[0], names[1]) if names[1:] else self._alone(names[0])
        place = names.index(self.first) + 1
        if place > 2:
            text += f" {self._with_interval(self.first)} is number {place} of {len(names)}."
        return f"{text} {self._seeds()}"

    def _alone(self, label: str) -> str:
        return f"{self._with_interval(label)} is the only method; the data are at {self.behavior:.1f}."

    def _with_interval(self, label: str) -> str:
        middle = self.middles[label]
        interval = "one seed" if middle.interval is None else f"{middle.interval[0]:.1f} to {middle.interval[1]:.1f}"
        return f"{self.named(label)} at {middle.value:.1f} ({interval})"

    def _lead(self, leader: str, follower: str) -> str:
        above, below = self.middles[leader].interval, self.middles[follower].interval
        if above is None or below is None:
            reach = "there is no interval to tell it from the next"
        else:
            reach = f"its interval {'excludes' if above[0] > below[1] else 'overlaps'} that of the next"
        return f"highest is {self._with_interval(leader)}; {reach}, {self._with_interval(follower)}."

    def _seeds(self) -> str:
        counts = sorted({group.n_seeds for group in self.groups.values()})
        text = " to ".join(map(str, (counts[0], counts[-1])[: len(counts)]))
        seeds = f"{text} seed{'' if counts == [1] else 's'} per method"
        return f"{seeds}: too few for a ranking." if counts[0] < LEAST_SEEDS else f"{seeds}."


def standings(groups: Sequence[Group], against: str | None, seed: int) -> Iterator[Standing]:
    """Yields a standing for each dataset and kind of score, in the order of the groups.

    `against` is the method that is compared with the others (None: DoF), `seed` the bootstrap's seed.
    """
    for dataset, kind in dict.fromkeys((group.dataset, group.kind) for group in groups):
        here = [group for group in groups if (group.dataset, group.kind) == (dataset, kind)]
        middles = {group.label: middle_of_seeds(group.scores(), seed) for group in here}
        order = sorted(here, key=lambda group: -middles[group.label].value)
        yield Standing(
            dataset=dataset,
            kind=kind,
            groups={group.label: group for group in order},
            middles={group.label: middles[group.label] for group in order},
            first=compared((group.label for group in order), against),
        )
