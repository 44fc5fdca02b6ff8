"""Current names of the classes of earlier versions, so that files of those versions keep loading.

Checkpoints and run folders name classes in their configuration, exported agents in their structure. Both are read
through these tables; nothing is ever written with an old name.
"""

from collections.abc import Mapping
from typing import Any

# Old module: new module. The names inside stayed.
_MODULES = {
    "data_modules.behavior.games": "data_modules.behavior.game_teams",
    "data_modules.behavior.spread": "data_modules.behavior.spread_team",
    "dof_lightning.envs.particle": "dof_lightning.envs.particle.env",
    "dof_lightning.envs.pettingzoo": "dof_lightning.envs.pettingzoo.env",
    "dof_lightning.envs.pettingzoo_wrapper": "dof_lightning.envs.particle.parallel_env",
    "dof_lightning.envs.smac": "dof_lightning.envs.smac.env",
    "dof_lightning.envs.smax": "dof_lightning.envs.smax.env",
}
# Old class: new class, if only one of several in a module has moved.
_CLASSES = {
    "dof_lightning.factorization.data.Concat": "dof_lightning.factorization.concat.Concat",
    "dof_lightning.factorization.noise.Concat": "dof_lightning.factorization.concat.Concat",
}
# Classes that were configured as partial functions: the settings that build them now.
_MADE_BY = {
    f"dof_lightning.{name}": f"dof_lightning.{name}Settings"
    for name in (
        "algorithms.bc.BC",
        "algorithms.direct_value.DirectValue",
        "algorithms.dof_policy.DoFPolicy",
        "algorithms.dof_trajectory.DoFTrajectory",
        "algorithms.dof_value.DoFValue",
        "algorithms.independent_diffusion.IndependentDiffusion",
        "algorithms.independent_diffusion.IndependentDiffusionPolicy",
        "algorithms.mabcq.MABCQ",
        "algorithms.macql.MACQL",
        "algorithms.macql_discrete.DiscreteMACQL",
        "algorithms.madiff.DecentralizedMADIFF",
        "algorithms.madt.MADT",
        "algorithms.maicq.MAICQ",
        "algorithms.maicq_discrete.DiscreteMAICQ",
        "algorithms.omar.OMAR",
        "algorithms.qmix.QMIX",
        "algorithms.td3_bc.TD3BC",
        "networks.attention_unet.AttentionUNet",
        "networks.temporal_transformer.TemporalTransformer",
        "networks.temporal_unet.TemporalUNet",
    )
} | {"data_modules.episodes.EpisodeDataModule": "data_modules.episodes.Serving"}


def current_name(path: str) -> str:
    """The dotted path of a class in this version; unchanged if it has not moved."""
    if path in _CLASSES:
        return _CLASSES[path]
    module, _, name = path.rpartition(".")
    return f"{_MODULES.get(module, module)}.{name}" if module else path


def current_config(node: Any) -> Any:
    """A stored configuration, in plain containers, with today's names; its meaning stays the same."""
    if isinstance(node, Mapping):
        renamed = {key: current_config(value) for key, value in node.items()}
        if isinstance(factory := node.get("factory"), str):
            renamed["factory"] = current_name(factory)
        if isinstance(target := node.get("_target_"), str):
            renamed["_target_"] = _MADE_BY.get(target, current_name(target))
            if target in _MADE_BY:
                renamed.pop("_partial_", None)
        return renamed
    if isinstance(node, list | tuple):
        return [current_config(value) for value in node]
    return node
