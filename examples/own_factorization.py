"""Write a noise factorisation of your own in your own file, train with it, and see that it keeps its promise.

A noise factorisation f joins the agents' noises into the team's. It satisfies IGD if the team's chain draws what the
agents' own chains draw, each running alone; then training may be joint while execution is local. This one weighs every
action dimension of every agent by a weight that is learned, where the shipped `wconcat` has one weight per agent.

Nothing is registered: the class is handed over in the settings. To have it on the command line as
`noise_factorization=<name>`, move it into `dof_lightning/factorization/` and add one yaml (docs/guide/extending.md).

    python examples/own_factorization.py            # a minute of one core: 300 steps, 1 000 episodes
    python examples/own_factorization.py 20 200     # steps, episodes
"""

import copy
import sys
from typing import Self

import torch
from lightning import Trainer
from torch import Tensor, nn

from data_modules.storage.manifest import read_manifest
from dof_lightning import DoFPolicy, DoFPolicySettings, EpisodeDataModule, make_dataset
from dof_lightning.factorization.base import Factorization
from dof_lightning.spec import DatasetSpec


class WeighedDimensions(Factorization):
    """Agent i's dimension d times w_id > 0; the geometric mean of all weights is 1, so no loss can shrink them all.

    Args:
        spec: the dataset's spec; one weight is learned for each agent and action dimension.

    Shapes:
        parts, joint: `[B, N, A]`
    """

    local_execution = True  # agent i applies its part of f to its own data alone ...
    satisfies_igd = True  # ... and the team's law is the product of the agents' laws

    def __init__(self, spec: DatasetSpec) -> None:
        super().__init__()
        self.log_weight = nn.Parameter(torch.zeros(spec.n_agents, spec.action_dim))

    @property
    def weight(self) -> Tensor:
        """`[N, A]`."""
        return (self.log_weight - self.log_weight.mean()).exp()

    def join(self, parts: Tensor, condition: Tensor | None = None) -> Tensor:
        """The joint noise in training."""
        return parts * self.weight

    def split(self, joint: Tensor) -> Tensor:
        """Undoes `join`."""
        return joint / self.weight

    def local(self, parts: Tensor) -> Tensor:
        """Returns an agent's noise at execution unchanged, because its chain runs on its own unweighted actions."""
        return parts

    def select_agent(self, agent: int) -> Self:
        """Returns one agent's part for its export. It acts without weights, so it gets neutral ones."""
        selected = copy.deepcopy(self)
        selected.log_weight = nn.Parameter(torch.zeros_like(self.log_weight[:1]))
        return selected


def main(steps: int = 300, episodes: int = 1_000) -> None:
    path = make_dataset("mpe_spread_medium", episodes=episodes)
    settings = DoFPolicySettings(noise_factorization=WeighedDimensions, ema_decay=0.9)  # what acts follows at once
    algorithm = DoFPolicy(read_manifest(path).spec, settings)
    data = EpisodeDataModule(path, window=algorithm.window, global_batch_size=256, seed=0)
    Trainer(max_steps=steps, logger=False, enable_checkpointing=False).fit(algorithm, data)

    f = algorithm.average_noise_factorization
    assert isinstance(f, WeighedDimensions)
    print("learned weights, an agent a row:", f.weight.tolist())

    generator = torch.Generator().manual_seed(0)
    seen = algorithm.diffused(next(data.heldout_batches()), generator)  # actions, and what each agent saw
    noise = torch.randn(algorithm.sampler.n_noises, *seen.x0.shape, generator=generator)
    with torch.no_grad():
        joint = algorithm.joint_sample(seen.condition, noise)  # one chain for the team, through f
        local = algorithm.local_sample(seen.condition, noise)  # a chain an agent, on the same noise
    gap = float((joint - local).abs().max())
    print(f"joint and local actions differ by at most {gap:.1e}")
    if gap > 1e-3:
        raise SystemExit("f does not satisfy IGD: the team's chain does not draw what its agents draw alone")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
