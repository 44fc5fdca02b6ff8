"""The study of landmark covering: demonstrations follow an assignment that no agent observes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dof_lightning.checkpoints.checkpoint import Checkpoint, build_algorithm, build_env
from dof_lightning.config.compose import build
from dof_lightning.envs.base import VectorEnv
from dof_lightning.envs.games import LandmarkGame
from dof_lightning.envs.particle.scenarios import Spread
from dof_lightning.errors import UserError
from dof_lightning.files import over_seeds
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.rollout.recorder import Rollout
from dof_lightning.rollout.run import evaluation_seeds, run_rollout
from dof_lightning.seeding import make_generator
from dof_lightning.studies.base import Cell, Report, Study, by_labels, execution

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EPISODES = 200
PLANS = 1000  # number of starts at which the first joint action is evaluated
DRAWN = 8  # number of episodes from one start in a panel of the figure
COVERED = 0.1
POSITION, LANDMARKS, OTHERS = slice(2, 4), slice(4, 10), slice(10, 14)  # parts of an observation, see Spread
NUMBERS = {  # by key, the column's name
    "first_action_distinct": "distinct at t=0",
    "coverage": "coverage",
    "distinct": "distinct at the end",
    "distinct_targets": "targets at the end",
    "collisions": "collisions",
    "return_mean": "return",
}


class LandmarkGameStudy(Study):
    """Plays every cell's policy and, for comparison, the team that demonstrated.

    The first axis is the data, the second the method.
    """

    def measure(self, checkpoint: Checkpoint, config: Mapping[str, Any]) -> dict[str, Any]:
        """Measures the values of `play`, and as `demonstrations` the same values for the behaviour."""
        env = build_env(config)
        if not isinstance(env, LandmarkGame):
            raise UserError(f"study=game_landmark measures env=game_landmark, not {env.spec.name}")
        (team,) = build(config["data"]["source"]).behavior.policies(env.spec)
        policy = build_algorithm(checkpoint, config).policy()
        return play(policy, env, config["seed"]) | {"demonstrations": play(team, env, config["seed"])}

    def report(self, cells: Sequence[Cell]) -> Report:
        """Makes a row per cell, after one of the demonstrations, and a grid of trajectories."""
        columns = [*self.axes, "execution", "seeds", *NUMBERS.values(), "wall time (s)"]
        rows: list[list[Any]] = []
        drawn: dict[str, dict[str, Any]] = {}
        for labels, group in by_labels(cells):
            data, *method = labels.values()
            truth = group[0].measured["demonstrations"]
            if data not in drawn:
                drawn[data] = {"truth": truth["drawn"]}
                rows.append([data, *(["truth"] * len(method)), "-", "-", *_numbers([truth]), "-"])
            wall = over_seeds([cell.results["wall_seconds"] for cell in group], 0)
            rows.append([data, *method, execution(group), len(group), *_numbers([c.measured for c in group]), wall])
            drawn[data][", ".join(method)] = group[0].measured["drawn"]
        found = [{"labels": c.labels, "seed": c.seed} | {key: c.measured[key] for key in NUMBERS} for c in cells]
        demonstrations = {c.labels[next(iter(c.labels))]: c.measured["demonstrations"] for c in cells}
        truth = {data: {key: of[key] for key in NUMBERS} for data, of in demonstrations.items()}
        return Report(columns, rows, _trajectories(drawn), {"measured": found, "truth": truth})


@torch.no_grad()
def play(policy: DecentralizedPolicy, env: VectorEnv, seed: int) -> dict[str, Any]:
    """Plays closed-loop episodes, first joint actions at many starts, and episodes from one start for the figure.

    Args:
        policy: in evaluation mode.
        env: the landmark game.
        seed: seed of starts and noise.

    Returns:
        the numbers of `judge`; `first_action_distinct`, the share of starts at which the first actions point at three
        different landmarks (a uniform product: 6 / 27); `return_mean`, and `drawn` for the figure.
    """
    seeds = evaluation_seeds(seed, "report", EPISODES)
    played = run_rollout(policy, env, seeds, (seed, "game_landmark", "episodes"), record=True)
    again = run_rollout(policy, env, seeds[:1].expand(DRAWN), (seed, "game_landmark", "drawn"), record=True)
    observations = env.reset(evaluation_seeds(seed, "report", PLANS))
    shared_seed = policy.draw_shared_seed(PLANS, make_generator(seed, "game_landmark", "shared seed"))
    carry = policy.begin(PLANS, observations.device, shared_seed)
    actions, _ = policy.act(observations, carry, None, make_generator(seed, "game_landmark", "plans"))
    distinct = count_distinct(headings(observations, actions)) == len(Spread.landmarks)
    return judge(played) | {
        "first_action_distinct": float(distinct.double().mean()),
        "return_mean": float(played.returns.mean()),
        "drawn": _to_draw(again),
    }


def judge(played: Rollout) -> dict[str, float]:
    """Summarises recorded episodes.

    Returns:
        `coverage`, the share of episodes at whose end every landmark is within 0.1 of an agent; `distinct`, the share
        at whose end the agents' nearest landmarks are all different; `distinct_targets`, the number of different ones;
        `collisions`, touching pairs of agents, summed over an episode's steps.
    """
    assert played.observations is not None
    distances = _vectors(played.observations, LANDMARKS).norm(dim=-1)  # [E, N, T + 1, L]
    touching = _vectors(played.observations[:, :, 1:], OTHERS).norm(dim=-1) < 2 * Spread.agents[0].radius
    count = count_distinct(distances[:, :, -1].argmin(-1))
    return {
        "coverage": float((distances[:, :, -1].amin(1) < COVERED).all(-1).double().mean()),
        "distinct": float((count == distances.shape[-1]).double().mean()),
        "distinct_targets": float(count.double().mean()),
        "collisions": float(touching.sum((1, 2, 3)).double().mean() / 2),
    }


def headings(observations: Tensor, actions: Tensor) -> Tensor:
    """The landmark `[E, N]` that each action `[E, N, 2]` points at best, seen from observations `[E, N, O]`."""
    return torch.cosine_similarity(actions[:, :, None], _vectors(observations, LANDMARKS), dim=-1).argmax(-1)


def count_distinct(targets: Tensor) -> Tensor:
    """The number `[E]` of different landmarks among the agents' targets `[E, N]`."""
    ordered = targets.sort(1).values
    return 1 + (ordered.diff(dim=1) != 0).sum(1)


def _vectors(observations: Tensor, part: slice) -> Tensor:
    """The M vectors `[..., M, 2]` in a part of the observations `[..., O]`."""
    seen = observations[..., part]
    return seen.reshape(*seen.shape[:-1], -1, 2)


def _to_draw(played: Rollout) -> dict[str, Any]:
    """The figure's data: `paths` [episodes][agents][T + 1][2] and `landmarks` [3][2], rounded."""
    assert played.observations is not None
    paths = played.observations[..., POSITION]
    landmarks = _vectors(played.observations[0, 0, 0], LANDMARKS) + paths[0, 0, 0]
    return {"paths": (paths * 1000).round().div(1000).tolist(), "landmarks": landmarks.tolist()}


def _numbers(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    return [over_seeds([one[key] for one in measured], 1 if key == "return_mean" else 2) for key in NUMBERS]


def _trajectories(drawn: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draws episodes from one start: rows data, columns truth and methods, one colour per agent, the first seed."""
    from matplotlib.figure import Figure

    columns = max(map(len, drawn.values()))
    figure = Figure(figsize=(2.6 * columns, 2.6 * len(drawn)), layout="constrained")
    grid = figure.subplots(len(drawn), columns, sharex=True, sharey=True, squeeze=False)
    for axes_of_row, (data, panels) in zip(grid, drawn.items(), strict=True):
        for axes, (method, panel) in zip(axes_of_row, panels.items(), strict=True):
            axes.plot(*zip(*panel["landmarks"], strict=True), "k*", markersize=9)
            for episode in panel["paths"]:
                for agent, path in enumerate(episode):
                    axes.plot(*zip(*path, strict=True), color=f"C{agent}", linewidth=0.8, alpha=0.7)
                    axes.plot(*path[-1], ".", color=f"C{agent}")
            axes.set_title(f"{data}: {method}", fontsize=8)
            axes.set_aspect("equal")
    return figure
