"""`dof data train-behavior task=smax_3m`: trains the policies that a SMAX map's datasets are collected with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from data_modules.behavior.battles import BattleSnapshot
from data_modules.behavior.choosing import ChoosingActors, ChoosingBehavior
from data_modules.behavior.snapshots import Training, save_snapshots
from data_modules.behavior.training.mappo import MAPPO, MAPPOSettings, Round
from dof_lightning.envs.smax.env import SMAXEnv
from dof_lightning.envs.smax.maps import BATTLES
from dof_lightning.errors import UserError
from dof_lightning.rollout.run import evaluation_seeds, run_rollout

GOOD_WIN_RATE = 0.8  # share of battles that the last weights must win to be called good
SHARES = {"medium": 0.6, "poor": 0.3}  # of the good policy's return, as in the usual three qualities of SMAC's data

History = list[tuple[Round, Mapping[str, Tensor]]]  # of every round: its result, and the weights that played it

TASKS = {env.spec.name: name for name, env in ((name, SMAXEnv(name)) for name in BATTLES)}


@dataclass(frozen=True, kw_only=True)
class BattleTraining(Training):
    """Settings of the training and of its measurement.

    Attributes:
        task: a map's environment, e.g. `smax_3m`.
        updates: rounds of battles.
        battles: number of battles per round.
        entropy_weight: weight of the policy's entropy; larger values explore more.
        evaluation_episodes: number of battles that measure a chosen snapshot.
    """

    task: str = "smax_3m"
    updates: int = 600
    battles: int = MAPPOSettings.n_battles
    entropy_weight: float = MAPPOSettings.entropy_weight
    evaluation_episodes: int = 1_000


told_by = BattleTraining  # what a command line's values become


def main(training: BattleTraining) -> Path:
    """Trains MAPPO online and writes the chosen snapshots; returns the file's path.

    Raises:
        UserError: an unknown task, numbers below 1, or a file that exists or cannot be written.
    """
    task, seed, updates, battles = training.task, training.seed, training.updates, training.battles
    entropy_weight, evaluation_episodes = training.entropy_weight, training.evaluation_episodes
    if task not in TASKS:
        raise UserError(f"task={task!r} is not a map of SMAX; choose one of {', '.join(TASKS)}")
    if min(updates, battles, evaluation_episodes) < 1:
        raise UserError(f"{updates=}, {battles=} and {evaluation_episodes=} must be at least 1")
    path = training.destination(task)
    torch.set_flush_denormal(True)
    settings = MAPPOSettings(n_battles=battles, entropy_weight=entropy_weight)
    learner = MAPPO(SMAXEnv(TASKS[task]), settings, seed)
    console = Console()
    chosen = choose(learner, _train(learner, updates, console), evaluation_episodes)
    command = f"dof data train-behavior task={task} seed={seed} {updates=} {battles=} {entropy_weight=}"
    save_snapshots(path, chosen, training.story(command, learner.env.spec, settings))
    for name, one in chosen.items():
        console.print(f"{name}: return {one.return_mean:.3f} ± {one.return_std:.3f}, win rate {one.win_rate:.3f}")
    console.print(f"written: {path}")
    return path


def _train(learner: MAPPO, updates: int, console: Console) -> History:
    """Returns every round's result with the weights that played it; the final weights have played no round."""
    history: History = []
    weights = _weights(learner)
    with Progress(console=console) as progress:
        bar = progress.add_task(f"MAPPO on {learner.env.spec.name}", total=updates)
        for played in learner.train(updates):
            history.append((played, weights))
            weights = _weights(learner)
            progress.update(bar, completed=learner.updates)
            if learner.updates % 25 == 0 or learner.updates == updates:
                line = f"return {played.return_mean:.3f}, win rate {played.win_rate:.3f}"
                progress.console.print(f"{learner.updates:>6} rounds: {line}")
    return history


def choose(learner: MAPPO, history: History, evaluation_episodes: int) -> dict[str, BattleSnapshot]:
    """Names the snapshots to write: the last weights, and those whose returns are `SHARES` of the last ones'.

    The last weights are called `good` if they win at least `GOOD_WIN_RATE`; else they are called `trained` and are the
    only snapshot.
    """
    last = _measure(learner, learner.updates, _weights(learner), evaluation_episodes)
    if last.win_rate < GOOD_WIN_RATE:
        return {"trained": last}
    snapshots = {"good": last}
    for name, share in SHARES.items():
        wanted = share * last.return_mean
        updates = min(range(len(history)), key=lambda index: abs(history[index][0].return_mean - wanted))
        snapshots[name] = _measure(learner, updates, history[updates][1], evaluation_episodes)
    return snapshots


def _measure(learner: MAPPO, updates: int, weights: Mapping[str, Tensor], episodes: int) -> BattleSnapshot:
    """A snapshot of weights as they are stored (float16), with their return and win rate on fixed battles."""
    spec = learner.env.spec
    actors = ChoosingActors(spec.n_agents, spec.observation_dim, spec.action_dim)
    actors.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    seeds = evaluation_seeds(learner.seed, "selection", episodes)
    played = run_rollout(
        ChoosingBehavior(actors, spec), learner.env, seeds, (learner.seed, "behavior"), learner.env.episodes_at_once
    )
    won = 0.0 if played.won is None else float(played.won.double().mean())
    return BattleSnapshot(updates, float(played.returns.mean()), float(played.returns.std()), weights, won)


def _weights(learner: MAPPO) -> dict[str, Tensor]:
    return {key: value.to(torch.float16, copy=True) for key, value in learner.actors.state_dict().items()}
