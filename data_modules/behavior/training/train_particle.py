"""`dof data train-behavior task=spread`: trains the policies that our datasets are collected with."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import Progress

from data_modules.behavior.actor_bank import ActorBank, GaussianBehavior, UniformBehavior
from data_modules.behavior.snapshots import Snapshot, SnapshotChoice, Training, experts_of, save_snapshots
from data_modules.behavior.training.chase import Chase, layers_of
from data_modules.behavior.training.matd3 import MATD3, MATD3Settings, watch
from dof_lightning.envs.base import VectorEnv
from dof_lightning.envs.particle.env import ParticleEnv
from dof_lightning.envs.particle.prey import save_prey, save_scores, shipped_prey
from dof_lightning.envs.particle.scenarios import Spread
from dof_lightning.errors import UserError
from dof_lightning.rollout.run import evaluation_seeds, run_rollout
from dof_lightning.spec import ReferenceScores

# Greedy returns near those of OMAR's datasets (Spread: medium-replay 204 on average, medium 273, expert 531; Tag: 4,
# 116, 208; World: 1, 66, 85), so that normalised scores compare; the training itself continues to higher returns.
CHOICE = {
    "spread": SnapshotChoice(medium_return=280.0, expert_return=545.0, ladder_start=130.0, tolerance=25.0),
    "tag": SnapshotChoice(116.0, 208.0, ladder_start=-8.0, tolerance=15.0, ladder_size=12, ladder_end=15.0),
    "world": SnapshotChoice(66.0, 85.0, ladder_start=-8.0, tolerance=8.0, ladder_size=12, ladder_end=10.0),
}
REFERENCE_EPISODES = 5_000
SETTINGS: Mapping[str, Mapping[str, Any]] = {"tag": {"batch_size": 256}, "world": {"batch_size": 256}}

_ALWAYS_TYPED = ("task", "seed", "updates")
_TYPED = (*_ALWAYS_TYPED, "experts", "team", "sight", "prey_updates", "prey", "evaluate_every", "evaluation_episodes")


@dataclass(frozen=True, kw_only=True)
class ParticleTraining(Training):
    """Settings of the training and of its measurement.

    Attributes:
        task: `spread`, `tag` or `world`.
        updates: critic updates of the team whose snapshots are written.
        experts: Spread only: seeds of several teams, trained one after the other instead of one team of `seed`. The
            expert of each team is written, and its copy with two landmarks swapped (`swapped`).
        team, sight: Spread only, see `Spread`; with either, the snapshot with the largest return is written as
            the expert.
        prey_updates: Tag and World: critic updates per side in the first stage.
        prey: Tag and World: an existing prey (as in `env.prey`); with it there is no first stage.
        evaluate_every: updates between snapshots.
        evaluation_episodes: greedy episodes that measure a snapshot.
    """

    task: Literal["spread", "tag", "world"] = "spread"
    updates: int = 30_000
    experts: Sequence[int] | None = None
    team: Sequence[Sequence[float]] | None = None
    sight: float | None = None
    prey_updates: int = 4_000
    prey: str | None = None
    evaluate_every: int = 250
    evaluation_episodes: int = 500

    def check(self) -> None:
        """Refuses settings that would make the training useless, before it starts.

        Raises:
            UserError: an unknown task, no snapshot within `updates`, or an option that the task does not have.
        """
        if self.task not in CHOICE:
            raise UserError(f"task={self.task!r} has no behaviour policies yet; choose one of {', '.join(CHOICE)}")
        if not 0 < self.evaluate_every <= self.updates:
            raise UserError(
                f"evaluate_every={self.evaluate_every} must be 1 to updates={self.updates}, or no snapshot is taken"
            )
        if self.task == "spread" and self.prey is not None:
            raise UserError(f"prey={self.prey!r}: task=spread has no prey; remove prey=, or choose tag or world")
        if self.experts is not None and not len(self.experts) == len({*self.experts}) > 0:
            raise UserError(f"experts={self.experts} must be different seeds, one for each team")
        if self.task != "spread" and not (self.is_published_world and self.experts is None):
            raise UserError(
                f"task={self.task} has neither experts= nor team= nor sight=; remove them, or choose task=spread"
            )
        if self.prey_updates < 1:
            raise UserError(
                f"prey_updates={self.prey_updates} must be at least 1; or choose an existing prey with prey="
            )

    @property
    def is_published_world(self) -> bool:
        """Reports whether the world is the one in which OMAR's returns were measured."""
        return self.team is None and self.sight is None

    def shipped(self) -> str:
        """The name of the file that ships with the package: the environment's name, or the name of its experts."""
        if self.task != "spread":
            return f"mpe_{self.task}"
        world = ParticleEnv(self.task, team=self.team, sight=self.sight).spec.name
        return world if self.experts is None else experts_of(world)

    def command(self) -> str:
        """The command that makes the same snapshots, without default values."""
        defaults = {field.name: field.default for field in fields(self)}
        values = {name: getattr(self, name) for name in _TYPED}
        given = {name: value for name, value in values.items() if name in _ALWAYS_TYPED or value != defaults[name]}
        typed = [f"{name}={v if isinstance(v, str) else str(v).replace(' ', '')}" for name, v in given.items()]
        return " ".join(["dof data train-behavior", *typed])


told_by = ParticleTraining  # what a command line's values become


def main(training: ParticleTraining) -> Path:
    """Trains MATD3 online and writes the chosen snapshots; returns the file's path.

    Tag and World have two stages: a prey learns together with predators and is frozen; then predators learn anew
    against it. The prey is written to `<output>_prey.safetensors`, and the returns of uniform actions and of the
    expert against it to `<output>_scores.json`.

    Raises:
        UserError: an unknown task, no snapshot within `updates`, or a file that exists or cannot be written.
    """
    training.check()
    task, seed, prey = training.task, training.seed, training.prey
    path = training.destination(training.shipped())
    own_prey = None
    if task != "spread" and prey is None:
        beside = path.with_name(f"{path.stem}_prey.safetensors")
        own_prey = training.may_be_written(shipped_prey(task) if training.output is None else beside)
    draft = path.with_name(f".{path.stem}_prey.safetensors")
    command = training.command()
    torch.set_flush_denormal(True)
    settings = replace(MATD3Settings(), **SETTINGS.get(task, {}))
    console = Console()
    with Progress(console=console) as progress:

        def train(learner: MATD3, updates: int, what: str) -> list[Snapshot]:
            take = partial(measure, learner, training.evaluation_episodes)
            return watch(progress, f"MATD3: {what}", learner.train(updates), updates, training.evaluate_every, take)

        if own_prey is not None:
            chase = Chase(task, settings, seed)
            train(chase, training.prey_updates, f"a prey for mpe_{task}")
            save_prey(draft, layers_of(chase.prey.actors), {"command": command, "updates": chase.prey.updates})
        env = ParticleEnv(task, prey if own_prey is None else str(draft), team=training.team, sight=training.sight)
        histories = [
            train(MATD3(env, settings, one), training.updates, f"{env.spec.name}, seed {one}")
            for one in training.experts or [seed]
        ]
    chosen = choose(training, histories)
    reference = None if own_prey is None else measure_reference(env, chosen["expert"], seed, command)
    save_snapshots(path, chosen, training.story(command, env.spec, settings))
    if own_prey is not None and reference is not None:
        draft.replace(own_prey)  # with its predators, so that an interrupted training leaves files that belong together
        save_scores(own_prey, reference)
    for complaint in CHOICE[task].complaints(chosen) if training.is_published_world else []:
        console.print(f"{complaint}: raise updates=")
    console.print(f"written: {path}")
    return path


def choose(training: ParticleTraining, histories: Sequence[Sequence[Snapshot]]) -> dict[str, Snapshot]:
    """Names the snapshots to write; there is one history per trained team.

    The return that can be reached in another world is not known beforehand, so its expert is the best snapshot.
    """
    choice = CHOICE[training.task]
    if training.experts is None and training.is_published_world:
        return choice.choose(histories[0])
    experts = [
        choice.expert(history) if training.is_published_world else max(history, key=lambda one: one.return_mean)
        for history in histories
    ]
    if training.experts is None:
        return {"expert": experts[0]}
    named = {f"expert_{seed}": one for seed, one in zip(training.experts, experts, strict=True)}
    return named | {f"{name}_swapped": swapped(one) for name, one in named.items()}


def swapped(expert: Snapshot) -> Snapshot:
    """Returns the Spread team that exchanges landmarks 0 and 1.

    Landmarks are alike, so it is as good as the original, but has another habit of which agent takes which landmark.
    """
    order = torch.arange(Spread.observation_dim)
    order[4:8] = torch.tensor([6, 7, 4, 5])  # where they are
    order[14:16] = torch.tensor([15, 14])  # whether they are in sight
    first = "network.layers.0.weight"  # [N, O, hidden]
    return replace(expert, weights={**expert.weights, first: expert.weights[first][:, order]})


def measure_reference(env: VectorEnv, expert: Snapshot, seed: int, command: str) -> ReferenceScores:
    """Measures the returns that scores 0 and 100 stand for against our own prey, for which none are published.

    0 is the return of uniform actions, 100 that of the greedy expert as stored, on the seed's report episodes;
    `command` is the one that trained prey and expert.
    """
    spec = env.spec
    bank = ActorBank(spec.n_agents, spec.observation_dim, spec.action_dim)
    bank.load_state_dict({key: value.to(torch.float16).float() for key, value in expert.weights.items()})
    greedy = GaussianBehavior(bank, spec.n_agents, spec.action_dim, exploration_noise=0.0)
    seeds = evaluation_seeds(seed, "report", REFERENCE_EPISODES)
    random, best = (
        float(run_rollout(policy, env, seeds, (seed, "reference"), chunk=500).returns.mean())
        for policy in (UniformBehavior(spec), greedy)
    )
    source = f"uniform actions and the greedy expert snapshot of `{command}`, {REFERENCE_EPISODES:,} episodes each"
    return ReferenceScores(round(random, 2), round(best, 2), source)


def measure(learner: MATD3, episodes: int) -> Snapshot:
    """Returns the learner's current actors, with their greedy return on fixed episodes."""
    spec = learner.env.spec
    greedy = GaussianBehavior(learner.actors, spec.n_agents, spec.action_dim, exploration_noise=0.0)
    seeds = evaluation_seeds(learner.seed, "selection", episodes)
    with learner.measured():
        returns = run_rollout(greedy, copy.copy(learner.env), seeds, noise_key=(learner.seed, "behavior")).returns
    weights = {key: value.clone() for key, value in learner.actors.state_dict().items()}
    return Snapshot(learner.updates, float(returns.mean()), float(returns.std()), weights)
