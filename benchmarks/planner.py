"""Planners against each other: DoF-Trajectory as it is shipped, and the paper's preset, both untrained."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.subjects import Update, made_up_spec, made_up_windows, make_algorithm
from benchmarks.table import Row, ratio
from dof_lightning.algorithms.base import Algorithm
from dof_lightning.evaluation.timing import interleaved
from dof_lightning.seeding import make_generator
from dof_lightning.spec import DatasetSpec

N_AGENTS, BATCH_SIZE = 3, 32


@dataclass(frozen=True)
class Planner:
    """One subject: its name in the table, and its overrides of the configuration."""

    name: str
    overrides: Sequence[str]


OURS = Planner("DoF-Trajectory, preset", ("experiment=mpe_spread_expert", "algorithm=dof_trajectory"))
LONG = Planner("DoF-Trajectory, preset, H=24", (*OURS.overrides, "algorithm.horizon=24"))
PAPER = Planner(  # Li et al., 2025: sizes of the denoiser and inverse dynamics, K, window, guidance
    "the paper's preset",
    (
        *OURS.overrides,
        "denoiser=temporal_unet_faithful",
        "denoiser.activation=mish",
        "algorithm.inverse.hidden=[256,256]",
        "algorithm.horizon=24",
        "algorithm.guidance_weight=1.2",
        "schedule=cosine",
        "schedule.steps=200",
        "sampler=ddpm",
        "sampler.steps=null",
    ),
)


@dataclass(frozen=True)
class Comparison:
    """One ratio: the yardstick's time over the subject's.

    Attributes:
        measured: the subject.
        against: the yardstick.
        decision_aim, update_aim: the ratios aimed at; empty if there is no aim.
    """

    measured: Planner
    against: Planner
    decision_aim: str = ""
    update_aim: str = ""


COMPARISONS = (Comparison(OURS, PAPER, ">= 300", ">= 20"), Comparison(LONG, PAPER))
METHODS = tuple(
    Comparison(Planner(f"{name}, preset", (OURS.overrides[0], f"algorithm={name}")), OURS)
    for name in ("dof_policy", "dof_cloning", "independent_diffusion", "madiff_d", "madiff_c")
)


def planner(
    comparisons: Sequence[Comparison] = COMPARISONS,
    batch_size: int = BATCH_SIZE,
    repetitions: int = 3,
    name: str = "planner",
) -> list[Row]:
    """Measures a decision of all agents in one episode, and an update; `name` is the benchmark's.

    A subject in several of the comparisons is built once.
    """
    spec = made_up_spec(N_AGENTS)
    subjects = dict.fromkeys(part for pair in comparisons for part in (pair.measured, pair.against))
    algorithms = {subject.name: make_algorithm(spec, subject.overrides) for subject in subjects}
    decisions = {subject: _decision(spec, own) for subject, own in algorithms.items()}
    batches = {subject: made_up_windows(spec, own.window, batch_size) for subject, own in algorithms.items()}
    updates = {subject: Update(own, batches[subject]) for subject, own in algorithms.items()}
    deciding, updating = interleaved(decisions, repetitions), interleaved(updates, repetitions)
    rows = []
    for pair in comparisons:
        ours, theirs = pair.measured.name, pair.against.name
        sizes = " against ".join(f"{_millions(algorithms[name]):.3g} M" for name in (ours, theirs))
        for seconds, what, aim in (
            (deciding, f"decision, N={N_AGENTS}, one episode", pair.decision_aim),
            (updating, f"update, N={N_AGENTS}, B={batch_size}", pair.update_aim),
        ):
            found = ratio(seconds[theirs], seconds[ours])
            rows.append(Row(name, f"{ours}: {what}", theirs, found, aim, f"{sizes} parameters, untrained"))
    return rows


def methods() -> list[Row]:
    """The diffusion methods as they are shipped for Spread, against DoF-Trajectory."""
    return planner(METHODS, batch_size=256, repetitions=7, name="methods")


def _decision(spec: DatasetSpec, algorithm: Algorithm) -> Callable[[], object]:
    policy = algorithm.policy()
    observations = torch.randn(1, spec.n_agents, spec.observation_dim, generator=make_generator(0, "decision"))
    carry, generator = policy.begin(1, observations.device, None), make_generator(0, "noise")
    return partial(torch.no_grad()(policy.act), observations, carry, None, generator)


def _millions(algorithm: Algorithm) -> float:
    return sum(p.numel() for group in algorithm.parameter_groups() for p in group.parameters()) / 1e6
