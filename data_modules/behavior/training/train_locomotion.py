"""`dof data train-behavior task=mamujoco_halfcheetah_2x3`: trains the policies of MA-MuJoCo's datasets."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.progress import Progress

from data_modules.behavior.actor_bank import ActorBank, GaussianBehavior
from data_modules.behavior.snapshots import Snapshot, Training, save_snapshots
from data_modules.behavior.training.locomotion_matd3 import LocomotionMATD3, LocomotionSettings
from data_modules.behavior.training.matd3 import watch
from dof_lightning.envs.base import VectorEnv
from dof_lightning.envs.mamujoco import MaMuJoCoEnv
from dof_lightning.errors import UserError
from dof_lightning.rollout.run import evaluation_seeds, run_rollout

EXPLORATION_NOISE = 0.2  # of datasets and of the returns by which snapshots are chosen (OG-MARL: Formanek et al. 2023)


@dataclass(frozen=True)
class Robot:
    """A task of MA-MuJoCo and the snapshots to keep of its training.

    Attributes:
        scenario, agent_conf: see `MaMuJoCoEnv`.
        levels: wanted returns of snapshots by name.
        good_return: the best snapshot is called `good` from this return on, else `best`; None means always `best`.
    """

    scenario: str
    agent_conf: str
    levels: Mapping[str, float]
    good_return: float | None = None

    def choose(self, history: Sequence[Snapshot]) -> dict[str, Snapshot]:
        """Chooses the best snapshot, and the earlier one nearest to each wanted return; returns them by name."""
        best = max(history, key=lambda snapshot: snapshot.return_mean)
        before = [snapshot for snapshot in history if snapshot.updates <= best.updates]
        chosen = {
            name: min(before, key=lambda snapshot: abs(snapshot.return_mean - wanted))
            for name, wanted in self.levels.items()
        }
        is_good = self.good_return is not None and best.return_mean >= self.good_return
        return chosen | {"good" if is_good else "best": best}


# OG-MARL's 2halfcheetah: poor 400 ± 334, medium 1485 ± 469, good 6924 ± 1270; good begins one deviation below.
ROBOTS = {
    "mamujoco_halfcheetah_2x3": Robot("HalfCheetah", "2x3", {"poor": 400.0, "medium": 1485.0}, good_return=5654.0),
    "mamujoco_ant_2x4": Robot("Ant", "2x4", {}),
    "mamujoco_ant_4x2": Robot("Ant", "4x2", {}),
}


@dataclass(frozen=True, kw_only=True)
class RobotTraining(Training):
    """Settings of the training and of its measurement.

    Attributes:
        task: an option of group `env`.
        updates: critic updates.
        evaluate_every: updates between snapshots.
        evaluation_episodes: episodes with the datasets' noise that measure a snapshot.
    """

    task: Literal["mamujoco_halfcheetah_2x3", "mamujoco_ant_2x4", "mamujoco_ant_4x2"]
    updates: int = 50_000
    evaluate_every: int = 2_000
    evaluation_episodes: int = 10


told_by = RobotTraining  # what a command line's values become


def main(training: RobotTraining) -> Path:
    """Trains MATD3 online and writes the chosen snapshots; returns the file's path.

    Raises:
        UserError: an unknown task, no snapshot within `updates`, or a file that exists or cannot be written.
    """
    task, seed, updates, evaluate_every = training.task, training.seed, training.updates, training.evaluate_every
    if task not in ROBOTS:
        raise UserError(f"task={task!r} is not a robot; choose one of {', '.join(ROBOTS)}")
    if not 0 < evaluate_every <= updates:
        raise UserError(f"evaluate_every={evaluate_every} must be 1 to updates={updates}, or no snapshot is taken")
    path = training.destination(task)
    robot = ROBOTS[task]
    learner, measuring = (
        MaMuJoCoEnv(name=task, scenario=robot.scenario, agent_conf=robot.agent_conf, agent_obsk=1) for _ in range(2)
    )
    command = f"dof data train-behavior task={task} seed={seed} updates={updates}"
    story = training.story(command, measuring.spec, LocomotionSettings(), evaluation_noise=EXPLORATION_NOISE)
    console = Console()
    with _fast_products(), Progress(console=console) as progress:
        trained = LocomotionMATD3(learner, LocomotionSettings(), seed)

        def take() -> Snapshot:
            actors = copy.deepcopy(trained.actors).half().float()  # as they will be shipped
            mean, std = measure(actors.requires_grad_(False), measuring, seed, training.evaluation_episodes)
            return Snapshot(trained.updates, mean, std, actors.state_dict())

        title, steps = f"MATD3 on {task}", trained.train(updates)
        history = watch(progress, title, steps, updates, evaluate_every, take, remark=" with noise")
    save_snapshots(path, robot.choose(history), story)
    console.print(f"written: {path}")
    return path


def measure(actors: ActorBank, env: VectorEnv, seed: int, episodes: int) -> tuple[float, float]:
    """Mean and standard deviation of the actors' return with the datasets' noise, on fixed episodes."""
    noisy = GaussianBehavior(actors, env.spec.n_agents, env.spec.action_dim, EXPLORATION_NOISE)
    returns = run_rollout(noisy, env, evaluation_seeds(seed, "selection", episodes), (seed, "behavior")).returns
    return float(returns.mean()), float(returns.std())


@contextmanager
def _fast_products() -> Iterator[None]:
    """Computes matrix products in bfloat16 if possible, without denormal numbers, in two thirds of the time."""
    precision = torch.get_float32_matmul_precision()
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
