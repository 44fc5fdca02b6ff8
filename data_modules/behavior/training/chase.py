"""The first stage of Tag's and World's behaviours: a prey that learns while predators learn to catch it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from data_modules.behavior.actor_bank import ActorBank
from data_modules.behavior.training.matd3 import MATD3, MATD3Settings, TeamLearner
from dof_lightning.envs.base import StepResult
from dof_lightning.envs.particle.env import ParticleEnv, Task
from dof_lightning.envs.particle.prey import Layers, Prey
from dof_lightning.envs.particle.scenarios import SCENARIOS
from dof_lightning.networks.agentwise import AgentwiseLinear
from dof_lightning.seeding import derive_seed


class LearningPrey(Prey):
    """Acts by a learner of one agent, with exploration, and keeps its last observation.

    Attributes:
        seen: `[E, 1, O']`, its observation when it last acted.
        explores: whether it acts with noise (uniformly before the learner's first update), or greedily.
    """

    identity = {"kind": "learning"}

    def __init__(self, learner: TeamLearner) -> None:
        self.learner = learner
        self.explores = True
        self.seen: Tensor

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        """See `Prey.act`."""
        self.seen = observations.t()[:, None]
        if not self.explores:
            return self.learner.actors(self.seen)[:, 0].t()
        return self.learner.explore(self.seen, uniform=self.learner.updates == 0)[:, 0].t()


class Chase(MATD3):
    """Predators by MATD3 and their prey by TD3 on its own reward, learning in the same episodes with the same settings.

    The task is `tag` or `world`.
    """

    def __init__(self, task: Task, settings: MATD3Settings, seed: int) -> None:
        observation_dim = SCENARIOS[task].prey_observation_dim
        self.prey = TeamLearner(1, observation_dim, 2, settings, derive_seed(seed, "prey"))
        self.opponent = LearningPrey(self.prey)
        super().__init__(ParticleEnv(task, opponent=self.opponent), settings, seed)

    def remember(self, observations: Tensor, actions: Tensor, result: StepResult) -> None:
        """See `MATD3.remember`; the prey stores its own transitions, too."""
        super().remember(observations, actions, result)
        info = result.info
        assert info.extra_observations is not None
        assert info.extra_actions is not None
        assert info.extra_rewards is not None
        self.prey.buffer.add(self.opponent.seen, info.extra_actions, info.extra_rewards[:, 0], info.extra_observations)

    def update_several(self) -> None:
        """See `MATD3.update_several`; both sides learn."""
        super().update_several()
        for _ in range(self.settings.updates_per_step):
            self.prey.update()

    @contextmanager
    def measured(self) -> Iterator[None]:
        """See `MATD3.measured`; the prey acts greedily too."""
        self.opponent.explores = False
        try:
            yield
        finally:
            self.opponent.explores = True


def layers_of(actors: ActorBank) -> Layers:
    """Converts a bank of one actor to the layers of a `NetworkPrey`."""
    layers = [layer for layer in actors.network.layers if isinstance(layer, AgentwiseLinear)]
    return [(layer.weight[0].t(), layer.bias[0, 0]) for layer in layers]
