"""Class names of earlier versions are found under today's names."""

from dof_lightning.moved import current_config


def test_moved_classes_and_factories_are_renamed_and_everything_else_stays() -> None:
    stored = {
        "env": {
            "_target_": "dof_lightning.envs.pettingzoo.PettingZooEnv",
            "factory": "dof_lightning.envs.pettingzoo_wrapper.ParticleParallelEnv",
        },
        "algorithm": {
            "_target_": "dof_lightning.algorithms.dof_policy.DoFPolicy",
            "_partial_": True,
            "critic": {"_target_": "dof_lightning.networks.critic.AgentwiseCritic", "_partial_": True, "hidden": [8]},
        },
        "list": [{"_target_": "strangers.Class"}, 3],
    }
    assert current_config(stored) == {
        "env": {
            "_target_": "dof_lightning.envs.pettingzoo.env.PettingZooEnv",
            "factory": "dof_lightning.envs.particle.parallel_env.ParticleParallelEnv",
        },
        "algorithm": {
            "_target_": "dof_lightning.algorithms.dof_policy.DoFPolicySettings",
            "critic": {"_target_": "dof_lightning.networks.critic.AgentwiseCritic", "_partial_": True, "hidden": [8]},
        },
        "list": [{"_target_": "strangers.Class"}, 3],
    }
