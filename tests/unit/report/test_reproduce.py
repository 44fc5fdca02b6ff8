"""Commands reported to reproduce a run make that run, and a changed method does not pass for its preset."""

import pytest

from dof_lightning.config import compose as configuration
from dof_lightning.config.identity import config_hash
from dof_lightning.report.reproduce import is_preset, overrides_of


@pytest.mark.parametrize(
    ("typed", "preset"),
    [
        (["experiment=mpe_spread_random", "algorithm=td3_bc", "seed=3"], True),
        (["experiment=mpe_spread_random", "trainer.max_steps=7", "callbacks.igd=null", "rollout.episodes=2"], True),
        (["experiment=mpe_spread_random", "algorithm=td3_bc", "algorithm.alpha=999"], False),
        (["experiment=mpe_spread_random", "value_mixer=monotone", "denoiser.hidden=[8,8]", "seed=1"], False),
        (["experiment=mpe_spread_random", "+trainer.profiler=simple", "~callbacks.video"], True),
        (["experiment=methods_spread_expert", "algorithm=dof_policy", "study=none"], True),
        (["experiment=smax_3m_good", "algorithm=bc", "env=smax_3m", "algorithm.gradient_clip=0.5"], False),
    ],
)
def test_what_differs_from_the_presets_is_typed_again(typed: list[str], preset: bool) -> None:
    config = configuration.to_plain(configuration.compose(typed))
    again = configuration.to_plain(configuration.compose(overrides_of(config)))
    assert config_hash(again) == config_hash(config)
    assert is_preset(config) == preset
