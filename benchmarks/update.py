"""Updates and decisions of DoF-Policy against a loop over agents and against K=100 chains."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from benchmarks.agent_loop import LoopUpdate, loop_actor, loop_algorithm
from benchmarks.subjects import PAPER, PRESET, Update, made_up_batch, made_up_spec, make_dof_policy
from benchmarks.table import Row, ratio
from benchmarks.two_chains import CANDIDATES, STEPS, TwoChains
from dof_lightning.actors.diffusion import DiffusionActor
from dof_lightning.errors import UserError
from dof_lightning.evaluation.timing import interleaved
from dof_lightning.seeding import make_generator


@dataclass(frozen=True)
class Setting:
    """A subject of the timing.

    Attributes:
        name: its name in the table.
        overrides: overrides of the configuration.
        n_agents: N.
        batch_size: B.
        repetitions: number of timed updates.
        chains: whether the two-chain update is timed too; it takes seconds.
    """

    name: str
    overrides: Sequence[str]
    n_agents: int
    batch_size: int
    repetitions: int
    chains: bool = False


SETTINGS = (
    Setting("preset", PRESET, 3, 256, 30, chains=True),
    Setting("preset", PRESET, 16, 256, 9),
    Setting("paper's sizes", PAPER, 3, 1024, 5, chains=True),
)
Q_GRADIENTS = ("one_step", "none", "full")


def update(settings: Sequence[Setting] = SETTINGS) -> list[Row]:
    """Measures the time of an update."""
    return [row for setting in settings for row in _update_rows(setting)]


def decision(settings: Sequence[Setting] = SETTINGS, steps: int = STEPS, candidates: int = CANDIDATES) -> list[Row]:
    """Measures the time of one decision of all agents in one episode."""
    return [row for setting in settings for row in _decision_rows(setting, steps, candidates)]


def _update_rows(setting: Setting) -> list[Row]:
    spec = made_up_spec(setting.n_agents)
    batch = made_up_batch(spec, setting.batch_size)
    functions: dict[str, Callable[[], object]] = {}
    rows: list[Row] = []
    for choice in Q_GRADIENTS:
        try:
            algorithm = make_dof_policy(spec, [*setting.overrides, f"algorithm.q_gradient={choice}"])
        except UserError:
            rows.append(Row("update", f"{setting.name}, q_gradient={choice}", "-", None, remark="not offered here"))
            continue
        functions[f"loop {choice}"] = LoopUpdate(loop_algorithm(algorithm), batch)
        functions[choice] = Update(algorithm, batch)
    if setting.chains:
        functions["chains"] = TwoChains(make_dof_policy(spec, setting.overrides), batch).update
    seconds = interleaved(functions, setting.repetitions)
    measured = f"{setting.name}: N={setting.n_agents}, B={setting.batch_size}"
    for choice in (choice for choice in Q_GRADIENTS if choice in functions):
        what = f"{measured}, q_gradient={choice}"
        rows.append(Row("update", what, "loop over agents", ratio(seconds[f"loop {choice}"], seconds[choice])))
        if setting.chains:
            rows.append(Row("update", what, f"two chains of K={STEPS}", ratio(seconds["chains"], seconds[choice])))
    return rows


def _decision_rows(setting: Setting, steps: int, candidates: int) -> list[Row]:
    spec = made_up_spec(setting.n_agents)
    algorithm = make_dof_policy(spec, setting.overrides)
    actor = algorithm.policy()
    assert isinstance(actor, DiffusionActor)
    loop, observations = loop_actor(actor), made_up_batch(spec, 1).observations[:, :, 0]
    chains = TwoChains(algorithm, made_up_batch(spec, 1), steps)

    def decide(policy: DiffusionActor) -> None:
        with torch.no_grad():
            policy.act(observations, None, None, make_generator(0, "decision"))

    functions: dict[str, Callable[[], object]] = {
        "ours": lambda: decide(actor),
        "loop": lambda: decide(loop),
        "chains": lambda: chains.decide(candidates),
    }
    seconds = interleaved(functions, setting.repetitions)
    own = f"{len(actor.sampler.timesteps)} steps, {actor.candidates} candidates"
    what = f"{setting.name}: N={setting.n_agents}, {own}"
    return [
        Row("decision", what, "loop over agents", ratio(seconds["loop"], seconds["ours"])),
        Row("decision", what, f"K={steps}, {candidates} candidates", ratio(seconds["chains"], seconds["ours"])),
    ]
