"""A tiny dataset spec with its world, and random windows of any length: what contract tests feed algorithms."""

from contextlib import suppress
from functools import cache
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from dof_lightning import configuration
from dof_lightning.algorithms.base import Algorithm
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.envs.base import VectorEnv
from dof_lightning.errors import UserError
from dof_lightning.plain import leaves
from dof_lightning.spec import DatasetSpec
from dof_lightning.targets import attribute
from tests.discrete_toys import SignalEnv, legal_choices, signal_spec
from tests.toys import ACTION_DIM, N_AGENTS, OBSERVATION_DIM, ToyEnv
from tests.unit.small_spec import small_spec

PART_GROUPS = (
    "denoiser",
    "noise_factorization",
    "data_factorization",
    "value_mixer",
    "schedule",
    "sampler",
)
_DEFAULTS = configuration.compose(["experiment=mpe_spread_random"]).choices
PARTS = [  # those that the algorithms' own cases do not have
    (group, option) for group in PART_GROUPS for option in configuration.options(group) if option != _DEFAULTS[group]
]
ALGORITHMS = configuration.options("algorithm")


def case(group: str, option: str) -> tuple[str, ...]:
    """Overrides that pick a part, with the execution that it asks for."""
    picked = (f"{group}={option}",)
    part = configuration.compose(["experiment=mpe_spread_random", *picked])[group]
    if group == "value_mixer" and not attribute(part["_target_"], "satisfies_igm"):
        picked += ("algorithm.candidates=1",)  # no agent can rank by its own value
    return (*picked, "execution=centralized") if (group, option) in CENTRALIZED else picked


def is_centralized(overrides: tuple[str, ...]) -> bool:
    """Whether the agents act as one: asked for by an override, or by the algorithm's own yaml."""
    execution: str = configuration.compose(["experiment=mpe_spread_random", *overrides]).execution
    return execution == "centralized"


def synthetic_spec(*overrides: str) -> DatasetSpec:
    """Of a dataset collected in `ToyEnv`, or in `SignalEnv` where the algorithm learns nothing but choices."""
    if chooses(overrides):
        return signal_spec()
    return small_spec(action_dims=(ACTION_DIM,) * N_AGENTS, observation_dim=OBSERVATION_DIM)


def chooses(overrides: tuple[str, ...]) -> bool:
    """Whether an algorithm learns discrete actions only."""
    algorithm = configuration.compose(["experiment=mpe_spread_random", *overrides]).algorithm
    return bool(attribute(algorithm["_target_"], "action_kinds") == ("discrete",))


def needs_all_agents(group: str, option: str) -> bool:
    """Whether a factorisation or a denoiser says of itself that no agent can run it alone."""
    part = configuration.compose(["experiment=mpe_spread_random", f"{group}={option}"])[group]
    return not attribute(part["_target_"], "local_execution")


CENTRALIZED = {
    (group, option)
    for group in ("noise_factorization", "data_factorization", "denoiser")
    for option in configuration.options(group)
    if needs_all_agents(group, option)
}


def toy_env(*overrides: str) -> VectorEnv:
    return SignalEnv() if chooses(overrides) else ToyEnv()


def build_algorithm(*overrides: str, spec: DatasetSpec | None = None, weights_seed: int = 0) -> Algorithm:
    """As the engine builds it, from the shipped yaml files, with narrow networks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights_seed)
        algorithm: Algorithm = configuration.build(_narrow(overrides))(spec=spec or synthetic_spec(*overrides))
    return algorithm


@cache
def _narrow(overrides: tuple[str, ...]) -> dict[str, Any]:
    cfg = configuration.compose(["experiment=mpe_spread_random", *overrides])
    for key, value in leaves(OmegaConf.to_container(cfg)):
        if key.endswith(".hidden"):
            OmegaConf.update(cfg, key, [32, 32] if isinstance(value, list) else 16)
        elif key == "denoiser.channels":
            OmegaConf.update(cfg, key, 16)
    algorithm: dict[str, Any] = configuration.to_plain(cfg)["algorithm"]
    return algorithm


def fitting_algorithm(group: str, option: str) -> str:
    """The first algorithm, from the default on, that a part can be used with as `case` picks it."""
    if group != "denoiser":
        return str(_DEFAULTS["algorithm"])
    for name in sorted(ALGORITHMS, key=lambda name: name != _DEFAULTS["algorithm"]):
        with suppress(UserError):
            typed = (f"algorithm={name}", *case(group, option))
            configuration.check(configuration.compose(["experiment=mpe_spread_random", *typed]))
            if hasattr(build_algorithm(*typed), "denoiser"):
                return name
    raise AssertionError(f"conf/denoiser/{option}.yaml fits no algorithm")


def random_batch(spec: DatasetSpec, window: Window, size: int = 64, seed: int = 0) -> EpisodeBatch:
    """Windows of `window.history + window.horizon` rows; some end in a terminal, some in a time limit."""
    generator = torch.Generator().manual_seed(seed)
    n, o, t = spec.n_agents, spec.observation_dim, window.history + window.horizon
    ends = torch.arange(size)[:, None] % 3
    last = torch.arange(t) == t - 1
    discrete = spec.action_kind == "discrete"
    legal = _legal((size, n, t + 1), generator) if discrete else None
    return EpisodeBatch(
        observations=torch.randn(size, n, t + 1, o, generator=generator),
        actions=_actions(spec, (size, n, t), generator, legal),
        rewards=torch.randn(size, n, t, generator=generator),
        terminated=(ends == 1) & last,
        truncated=(ends == 2) & last,
        return_to_go=torch.randn(size, n, t, generator=generator),
        valid=torch.ones(size, t + 1, dtype=torch.bool),
        diffusion_mask=(torch.arange(t) > window.history).expand(size, t),
        transition_mask=torch.ones(size, n, t, dtype=torch.bool),
        episode_id=torch.arange(size),
        t=torch.zeros(size, dtype=torch.int64),
        history=window.history,
        legal=legal,
    )


def _legal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """What `SignalEnv` allows after random cues."""
    cues = torch.randint(4, shape, generator=generator)
    return legal_choices(cues.movedim(1, 2)).movedim(1, 2)


def _actions(spec: DatasetSpec, shape: tuple[int, ...], generator: torch.Generator, legal: Tensor | None) -> Tensor:
    drawn = torch.rand(*shape, spec.action_dim, generator=generator)
    return drawn * 2 - 1 if legal is None else drawn.masked_fill(~legal[:, :, :-1], -1.0).argmax(-1)


def training_step(algorithm: Algorithm, optimizer: torch.optim.Optimizer, batch: EpisodeBatch, step: int) -> Tensor:
    """One optimiser step without a trainer; returns the loss."""
    optimizer.zero_grad()
    loss = algorithm.losses(batch, torch.Generator().manual_seed(step))["loss"]
    loss.backward()
    optimizer.step()
    algorithm.after_step()
    return loss.detach()
