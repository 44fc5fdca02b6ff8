"""Train DoF-Policy with nothing but Lightning's own Trainer, then let the agents play.

A dataset knows its sizes and statistics (`spec`); an algorithm is built for them and specifies which
rows of an episode it wants (`window`); the data module serves those; and what acts afterwards is `algorithm.policy()`,
each agent on its own observations. `train.py` adds what a long run needs: checkpoints, curves, rollouts, resuming.

    python examples/train_from_python.py              # four minutes of one core: 2 000 steps, 5 000 episodes
    python examples/train_from_python.py 50 200       # steps, episodes
"""

import sys

from lightning import Trainer

from data_modules.storage.manifest import read_manifest
from dof_lightning import DoFPolicy, DoFPolicySettings, EpisodeDataModule, make_dataset, make_env
from dof_lightning.rollout.run import evaluation_seeds, run_rollout


def main(steps: int = 2_000, episodes: int = 5_000) -> None:
    path = make_dataset("mpe_spread_medium", episodes=episodes)  # collected on first use, below data/
    spec = read_manifest(path).spec

    algorithm = DoFPolicy(spec, DoFPolicySettings())
    data = EpisodeDataModule(path, window=algorithm.window, global_batch_size=256, seed=0)
    Trainer(max_steps=steps, logger=False, enable_checkpointing=False).fit(algorithm, data)

    env = make_env("mpe_spread")
    rollout = run_rollout(algorithm.policy(), env, evaluation_seeds(0, "report", 100), noise_key=(0, "report"))
    episode_return, reference = float(rollout.returns.mean()), env.spec.reference
    assert reference is not None  # mpe_spread has published ones; other environments may have none
    print(f"return {episode_return:.1f}, normalised score {reference.normalize(episode_return):.1f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
