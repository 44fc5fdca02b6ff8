"""A dataset's actions have the same effect when replayed, or a difference is reported."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data_modules.storage.arrays import Episodes
from data_modules.storage.manifest import DatasetManifest
from data_modules.storage.store import Description, write_dataset
from data_modules.tools.replay import replay
from data_modules.tools.verify import verify_dataset
from dof_lightning.cli import main as cli
from dof_lightning.envs.base import VectorEnv
from dof_lightning.envs.particle.env import ParticleEnv, Task
from dof_lightning.errors import UserError
from dof_lightning.spec import EnvSpec
from tests.fixtures.dataset_files import build, make_episodes


def collect(
    path: Path, environment: VectorEnv, n: int = 300, scale: float = 1.0, spec: EnvSpec | None = None
) -> DatasetManifest:
    """Random play whose actions are written down times `scale`."""
    generator, size = torch.Generator().manual_seed(0), environment.spec
    seen, taken, earned = [environment.reset(torch.arange(n))], [], []
    for _ in range(6):
        taken.append(2 * torch.rand(n, size.n_agents, size.action_dim, generator=generator) - 1)
        result = environment.step(taken[-1])
        seen.append(result.observations)
        earned.append(result.rewards)
    observations, actions, rewards = (torch.stack(part, dim=2).numpy() for part in (seen, taken, earned))
    episodes = Episodes(
        observations=observations,
        actions=np.float32(scale) * actions,
        rewards=rewards,
        terminated=np.zeros(n, dtype=bool),
        length=np.full(n, 6, dtype=np.int32),
        episode_id=np.arange(n),
    )
    description = Description(name="toy", environment=spec or size, recipe={"scale": scale}, behavior={})
    return write_dataset(path, description, blocks=[episodes], n_episodes=n, seed=0)


@pytest.mark.parametrize("task", ["spread", "tag", "world"])
def test_particles_are_set_to_the_first_states(tmp_path: Path, task: Task) -> None:
    environment = ParticleEnv(task)
    start = environment.reset(torch.arange(50))
    assert torch.allclose(environment.reset_like(start), start, atol=1e-6)
    found = replay(collect(tmp_path / "toy", environment), environment)
    assert (found.exact, found.warning, found.n_episodes) == (True, None, 300)
    wrong = replay(collect(tmp_path / "half", environment, scale=0.5), environment)
    assert wrong.exact
    assert wrong.warning is not None
    assert "100% of 300 episodes continue differently" in wrong.warning


class Elsewhere(ParticleEnv):
    """One that cannot be set to a state, and makes its batch of other starts."""

    episodes_at_once = 100

    def reset_like(self, observations: torch.Tensor) -> None:  # type: ignore[override]
        return None

    def reset(self, seeds: torch.Tensor) -> torch.Tensor:
        return super().reset(seeds + 12345)


def test_other_worlds_are_compared_from_their_own_starts(tmp_path: Path) -> None:
    found = replay(collect(tmp_path / "toy", ParticleEnv()), Elsewhere())
    assert (found.exact, found.warning) == (False, None)
    wrong = replay(collect(tmp_path / "half", ParticleEnv(), scale=0.5), Elsewhere())
    assert wrong.warning is not None
    assert "the first step has other observations or rewards" in wrong.warning


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collect(tmp_path / "toy", ParticleEnv())
    cli.run(["data", "verify", str(tmp_path / "toy"), "env=mpe_spread"])
    printed = capsys.readouterr().out
    assert "300 episodes' actions played again in env=mpe_spread from their first states do what they did" in printed
    collect(tmp_path / "half", ParticleEnv(), scale=0.5)
    with pytest.raises(UserError, match=r"half: its actions played again .* other units \(import again with action_r"):
        cli.run(["data", "verify", str(tmp_path / "half"), "env=mpe_spread"])
    with pytest.raises(UserError, match="was collected in"):
        cli.run(["data", "verify", str(tmp_path / "toy"), "env=mpe_tag"])


def test_actions_that_are_never_below_zero_are_pointed_out(tmp_path: Path) -> None:
    episodes = make_episodes(30)
    build(tmp_path / "around", episodes)
    episodes.actions = np.abs(episodes.actions)
    build(tmp_path / "above", episodes)
    collect(tmp_path / "none", ParticleEnv(), scale=0.0)
    told = {
        name: any("below 0" in warning for warning in verify_dataset(tmp_path / name, progress=False).warnings)
        for name in ("around", "above", "none")
    }
    assert told == {"around": False, "above": True, "none": False}
