"""A small world of discrete actions in which each agent's best choice is written in its own observation."""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from dof_lightning.batch import EpisodeBatch
from dof_lightning.envs.base import StepInfo, StepResult, VectorEnv
from dof_lightning.seeding import counter_uniform
from dof_lightning.spec import AgentSpec, DatasetSpec, EnvSpec
from tests.unit.small_spec import small_spec

CHOICES = (3, 2, 4)  # of the three agents
CUES = 4
HORIZON = 5


class SignalEnv(VectorEnv):
    """Every agent sees a one-hot cue; one choice is worth 1, another is illegal, both told by the cue.

    An illegal action raises. Episode e's cues are a function of its seed.
    """

    def __init__(self) -> None:
        agents = tuple(AgentSpec(f"agent_{i}", CUES, choices) for i, choices in enumerate(CHOICES))
        self.spec = EnvSpec("signal", agents, "discrete", HORIZON, state_dim=0, recipe={"family": "signal"})

    def reset(self, seeds: Tensor) -> Tensor:
        uniform = counter_uniform(seeds, (HORIZON + 1) * len(CHOICES))
        self._cues = (uniform * CUES).long().view(len(seeds), HORIZON + 1, len(CHOICES))
        self._time = 0
        return self._observe()

    def step(self, actions: Tensor) -> StepResult:
        assert actions.dtype == torch.int64
        assert actions.shape == self._now.shape
        if not bool(self.legal.gather(-1, actions[..., None]).all()):
            raise AssertionError("an illegal action was taken")
        rewards = (actions == best_choice(self._now)).float()
        self._time += 1
        ends = torch.full((len(actions),), self._time >= HORIZON)
        info = StepInfo(legal=self.legal)
        return StepResult(self._observe(), rewards, torch.zeros_like(ends), ends, info)

    def render(self, index: int) -> np.ndarray:
        return np.zeros((8, 8, 3), dtype=np.uint8)

    @property
    def legal(self) -> Tensor:
        return legal_choices(self._now)

    @property
    def _now(self) -> Tensor:
        return self._cues[:, self._time]

    def _observe(self) -> Tensor:
        return torch.nn.functional.one_hot(self._now, CUES).float()


def best_choice(cues: Tensor) -> Tensor:
    """`[..., N]` cues to the index of each agent's best choice."""
    return cues % torch.tensor(CHOICES)


def legal_choices(cues: Tensor) -> Tensor:
    """`[..., N]` cues to `[..., N, A]`: the choice after the best one is illegal, unless there are two only."""
    count = torch.tensor(CHOICES)
    exists = torch.arange(max(CHOICES)) < count[:, None]
    forbidden = torch.where(count > 2, (cues + 1) % count, -1)
    return exists & (torch.arange(max(CHOICES)) != forbidden[..., None])


@cache
def signal_spec() -> DatasetSpec:
    """Of a dataset collected in `SignalEnv`."""
    return small_spec(CHOICES, observation_dim=CUES, action_kind="discrete")


def signal_batch(size: int, seed: int, share_best: float) -> EpisodeBatch:
    """Single decisions of a behaviour that takes the best choice with a given probability, else any legal one."""
    generator = torch.Generator().manual_seed(seed)
    n = len(CHOICES)
    cues = torch.randint(CUES, (size, n, 2), generator=generator)
    now = cues[..., 0]
    legal = legal_choices(cues.movedim(1, 2)).movedim(1, 2)
    anything = torch.rand(size, n, max(CHOICES), generator=generator).masked_fill(~legal[:, :, 0], -1.0).argmax(-1)
    actions = torch.where(torch.rand(size, n, generator=generator) < share_best, best_choice(now), anything)
    return EpisodeBatch(
        observations=torch.nn.functional.one_hot(cues, CUES).float(),
        actions=actions[..., None],
        rewards=(actions == best_choice(now)).float()[..., None],
        terminated=torch.ones(size, 1, dtype=torch.bool),
        truncated=torch.zeros(size, 1, dtype=torch.bool),
        return_to_go=torch.zeros(size, n, 1),
        valid=torch.ones(size, 2, dtype=torch.bool),
        diffusion_mask=torch.zeros(size, 1, dtype=torch.bool),
        transition_mask=torch.ones(size, n, 1, dtype=torch.bool),
        episode_id=torch.arange(size),
        t=torch.zeros(size, dtype=torch.int64),
        legal=legal,
    )
