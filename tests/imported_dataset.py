"""What `dof data import` would leave behind: random but legal episodes in an environment's spec."""

from pathlib import Path

import numpy as np

from data_modules.arrays import Episodes
from data_modules.store import write_dataset
from dof_lightning.spec import EnvSpec


def write_imported(path: Path, name: str, spec: EnvSpec, n_episodes: int = 60, longest: int = 10) -> None:
    """Short episodes of any discrete environment, with the masks and states that a vault has."""
    rng = np.random.default_rng(0)
    n, steps, agents = n_episodes, min(longest, spec.horizon), spec.n_agents
    legal = rng.random((n, agents, steps + 1, spec.action_dim)) < 0.6
    legal[..., 0] = True
    length = rng.integers(2, steps + 1, n).astype(np.int32)
    actions = np.where(legal[:, :, :-1], rng.random((n, agents, steps, spec.action_dim)), -1.0).argmax(-1)
    reward = rng.random((n, 1, steps)).astype(np.float32)
    episodes = Episodes(
        observations=rng.normal(size=(n, agents, steps + 1, spec.observation_dim)).astype(np.float32),
        actions=actions.astype(np.int64),
        rewards=np.repeat(reward, agents, axis=1),
        terminated=rng.random(n) < 0.5,
        length=length,
        episode_id=np.arange(n),
        state=rng.normal(size=(n, steps + 1, spec.state_dim)).astype(np.float32) if spec.state_dim else None,
        legal=legal,
    )
    write_dataset(
        path,
        name=name,
        environment=spec,
        recipe={"imported": name, "environment": dict(spec.recipe)},
        behavior={"name": "a stranger"},
        blocks=[episodes],
        n_episodes=n,
        seed=0,
    )
