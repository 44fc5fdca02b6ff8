"""The study that compares the methods' returns."""

from collections.abc import Mapping, Sequence
from typing import Any

from dof_lightning.checkpoints.checkpoint import Checkpoint
from dof_lightning.evaluation.score import DECISION_REPETITIONS, build_policy, first_decision
from dof_lightning.evaluation.timing import interleaved
from dof_lightning.files import over_seeds
from dof_lightning.studies.base import Cell, Report, Study, by_labels, execution


class Scores(Study):
    """Reports returns and normalised scores of each cell's last checkpoint: mean ± standard deviation over seeds.

    If the environment has references of its own (Tag, World: against its own prey), the own score is reported, too.

    The time of a decision is measured on an episode's first one, for all agents: the fastest of several repetitions on
    this machine.
    """

    def measure(self, checkpoint: Checkpoint, config: Mapping[str, Any]) -> dict[str, Any]:
        """Measures `decision_ms`, the time of a decision."""
        return {"decision_ms": decision_ms(checkpoint, config)}

    def report(self, cells: Sequence[Cell]) -> Report:
        """Makes a row per cell, and a bar chart."""
        columns = [*self.axes, "execution", "seeds", "return", "normalised score", "behaviour's", "wall time (s)"]
        columns.append("decision (ms)")
        own = all("own_normalized_score" in cell.results["last"] for cell in cells)
        columns += ["own score"] if own else []
        rows, means = [], {}
        for labels, group in by_labels(cells):
            last = [cell.results["last"] for cell in group]
            scores = [score["normalized_score"] for score in last]
            known = None not in scores
            rows.append(
                [
                    *labels.values(),
                    execution(group),
                    len(group),
                    over_seeds([score["return_mean"] for score in last]),
                    over_seeds(scores) if known else "-",
                    over_seeds([group[0].results["behavior"]["normalized_score"]]) if known else "-",
                    over_seeds([cell.results["wall_seconds"] for cell in group], 0),
                    over_seeds([cell.measured["decision_ms"] for cell in group]),
                    *([over_seeds([score["own_normalized_score"] for score in last])] if own else []),
                ]
            )
            key = "normalized_score" if known else "return_mean"
            means[", ".join(labels.values())] = [score[key] for score in last]
        return Report(columns, rows, _bars(means))


def decision_ms(checkpoint: Checkpoint, config: Mapping[str, Any]) -> float:
    """Milliseconds of one decision of all agents of one episode: the fastest of several."""
    policy, env = build_policy(checkpoint, config)
    return 1e3 * min(interleaved({"": first_decision(policy, env)}, DECISION_REPETITIONS)[""])


def _bars(values: Mapping[str, Sequence[float]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1 + 0.4 * len(values)), layout="constrained")
    axes = figure.subplots()
    names = list(values)
    axes.barh(names, [sum(values[name]) / len(values[name]) for name in names], color="0.8")
    for row, name in enumerate(names):
        axes.plot(values[name], [row] * len(values[name]), "k.")
    axes.invert_yaxis()
    axes.set_xlabel("score of the last checkpoint; one dot per seed")
    return figure
