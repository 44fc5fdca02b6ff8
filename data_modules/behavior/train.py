"""`dof data train-behavior task=spread`: trains the policies that our datasets are collected with."""

import copy
import inspect
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import Progress

from data_modules.behavior.actors import GaussianBehavior
from data_modules.behavior.matd3 import MATD3, MATD3Settings
from data_modules.behavior.snapshots import WEIGHTS, Snapshot, SnapshotChoice, save_snapshots
from dof_lightning.envs.particle import ParticleEnv
from dof_lightning.errors import UserError
from dof_lightning.rollout import evaluation_seeds, run_rollout

# Greedy returns near those of OMAR's datasets (medium-replay 204 on average, medium 273, expert 531), so that
# normalised scores compare; the training itself goes on to higher returns.
CHOICE = {"spread": SnapshotChoice(medium_return=280.0, expert_return=545.0, ladder_start=130.0)}

_TOLERANCE = 25.0  # of return: beyond it a snapshot is not what its name says
_ALWAYS_TOLD = ("task", "seed", "updates")


def main(
    task: Literal["spread"] = "spread",
    seed: int = 1,
    updates: int = 30_000,
    evaluate_every: int = 250,
    evaluation_episodes: int = 500,
    output: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Trains MATD3 online and writes the chosen snapshots.

    Args:
        task: `spread`.
        seed: of everything random.
        updates: critic updates.
        evaluate_every: updates between snapshots.
        evaluation_episodes: greedy episodes that measure a snapshot.
        output: safetensors file to write; None means the file that ships with the package.
        overwrite: replace that file where it exists. The shipped file's hash is part of the fingerprint of every
            dataset collected with it.

    Returns:
        The file written.

    Raises:
        UserError: an unknown task, no snapshot within `updates`, or a file that must not or cannot be written.
    """
    if task not in CHOICE:
        raise UserError(f"task={task!r} has no behaviour policies yet; choose one of {', '.join(CHOICE)}")
    if not 0 < evaluate_every <= updates:
        raise UserError(f"evaluate_every={evaluate_every} must be 1 to updates={updates}, or no snapshot is taken")
    path = _destination(f"mpe_{task}", output, overwrite)
    torch.set_flush_denormal(True)
    settings = MATD3Settings()
    learner = MATD3(ParticleEnv(task=task), settings, seed)
    name = learner.env.spec.name
    history: list[Snapshot] = []
    console = Console()
    with Progress(console=console) as progress:
        bar = progress.add_task(f"MATD3 on {name}", total=updates)
        for done in learner.train(updates):
            if done // evaluate_every > len(history):
                history.append(measure(learner, evaluation_episodes))
                latest = history[-1]
                progress.console.print(f"{done:>8} updates: return {latest.return_mean:.1f} ± {latest.return_std:.1f}")
            progress.update(bar, completed=done)
    measuring = {"evaluate_every": evaluate_every, "evaluation_episodes": evaluation_episodes}
    story = {
        "command": _command(task=task, seed=seed, updates=updates, **measuring),
        "environment": name,
        "environment_fingerprint": learner.env.spec.fingerprint,
        "settings": asdict(settings),
        "evaluation_episodes": evaluation_episodes,
        "torch": torch.__version__,
    }
    chosen = CHOICE[task].choose(history)
    save_snapshots(path, chosen, story)
    for name, wanted in (("medium", CHOICE[task].medium_return), ("expert", CHOICE[task].expert_return)):
        if abs(chosen[name].return_mean - wanted) > _TOLERANCE:
            console.print(f"{name} returns {chosen[name].return_mean:.1f}, wanted {wanted:.1f}: raise updates=")
    console.print(f"written: {path}")
    return path


def _destination(name: str, output: str | None, overwrite: bool) -> Path:
    """Where the snapshots go, known to be possible before anything is trained."""
    path = WEIGHTS / f"{name}.safetensors" if output is None else Path(output)
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists; name another file with output=, or replace it with overwrite=true")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"output={path}: {path.parent} is no folder that can be written to; choose another")
    return path


def _command(**arguments: Any) -> str:
    """What to type for the same snapshots; what is as by default is left out."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(main).parameters.items()}
    typed = [f"{name}={value}" for name, value in arguments.items() if name in _ALWAYS_TOLD or value != defaults[name]]
    return " ".join(["dof data train-behavior", *typed])


def measure(learner: MATD3, episodes: int) -> Snapshot:
    """The learner's greedy actors now, with their return on fixed episodes."""
    spec = learner.env.spec
    greedy = GaussianBehavior(learner.actors, spec.n_agents, spec.action_dim, exploration_noise=0.0)
    env = copy.copy(learner.env)
    seeds = evaluation_seeds(learner.seed, "selection", episodes)
    returns = run_rollout(greedy, env, seeds, noise_key=(learner.seed, "behavior")).returns
    weights = {key: value.clone() for key, value in learner.actors.state_dict().items()}
    return Snapshot(learner.updates, float(returns.mean()), float(returns.std()), weights)
