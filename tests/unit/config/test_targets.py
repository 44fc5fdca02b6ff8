"""Values are judged by the annotations of what they are for; classes by where they come from."""

import re
from typing import Any, Literal

import pytest

from dof_lightning.config import arguments, checks
from dof_lightning.config import compose as configuration
from dof_lightning.config.arguments import check_arguments
from dof_lightning.config.targets import check_targets
from dof_lightning.envs.pettingzoo.env import PettingZooEnv
from dof_lightning.errors import UserError
from dof_lightning.settings import Count, Positive

POLICY = "dof_lightning.algorithms.dof_policy.DoFPolicySettings"
DENOISER = "dof_lightning.networks.mlp.MLPDenoiser"
SAMPLER = "dof_lightning.diffusion.sampler.DDPM"
MIXERS = "dof_lightning.factorization.value."
TRANSFORMER = "dof_lightning.networks.causal_transformer.CausalTransformer"


def give(target: str, **arguments: Any) -> None:
    check_arguments({"part": {"_target_": target, "_partial_": True, **arguments}})


@pytest.mark.parametrize(
    ("target", "name", "value", "fits"),
    [
        (POLICY, "gradient_clip", "abc", "a number or null"),
        (POLICY, "gradient_clip", True, "a number or null"),
        (POLICY, "q_gradient", "one-step", "none or one_step or full"),
        (POLICY, "candidates", 2.5, "an integer"),
        (POLICY, "candidates", None, "an integer"),
        (SAMPLER, "steps", "abc", "an integer or null"),
        (DENOISER, "activation", "misch", "mish or relu or silu or tanh"),
        (DENOISER, "hidden", "abc", "a list, each an integer"),
        (DENOISER, "hidden", [8, "x"], "a list, each an integer"),
        ("lightning.Trainer", "max_steps", None, "an integer"),
    ],
)
def test_what_does_not_fit_is_named_with_what_would(target: str, name: str, value: Any, fits: str) -> None:
    with pytest.raises(UserError) as error:
        give(target, **{name: value})
    assert str(error.value) == f"part.{name} must be {fits}, got {value!r}"


@pytest.mark.parametrize(
    ("target", "name", "value", "words"),
    [
        (DENOISER, "hidden", [8, 0], "part.hidden=[8,0]: each must be at least 1"),
        (DENOISER, "time_embedding", -2, "part.time_embedding=-2 must be at least 1"),
        (MIXERS + "Attention", "heads", 0, "part.heads=0 must be at least 1"),
        (MIXERS + "Monotone", "hyper_hidden", 0, "part.hyper_hidden=0 must be at least 1, or null"),
        ("dof_lightning.factorization.noise.Attention", "embed", -4, "part.embed=-4 must be at least 1"),
        ("dof_lightning.networks.recurrent.RecurrentNetwork", "hidden", 0, "part.hidden=0 must be at least 1"),
        ("dof_lightning.envs.mamujoco.MaMuJoCoEnv", "picture_size", 0, "part.picture_size=0 must be at least 1"),
        (TRANSFORMER, "dropout", 1.5, "part.dropout=1.5 must be at least 0 and below 1"),
        ("dof_lightning.diffusion.schedule.vp", "beta_min", -5, "part.beta_min=-5 must be at least 0"),
        (POLICY, "ema_decay", 1, "part.ema_decay=1 must be at least 0 and below 1"),
        (POLICY, "target_update_rate", 0, "part.target_update_rate=0 must be above 0 and at most 1"),
    ],
)
def test_numbers_out_of_range_are_named_with_the_range(target: str, name: str, value: Any, words: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(words)}$"):
        give(target, **{name: value})


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        (POLICY, {"gradient_clip": None, "critic_gradient_clip": 1, "q_gradient": "none"}),
        (DENOISER, {"hidden": [], "time_embedding": 16}),
        ("lightning.Trainer", {"devices": [0, 1], "strategy": "auto", "max_time": {"hours": 1}, "profiler": None}),
        ("lightning.Trainer", {"devices": "auto", "max_time": "00:00:01:00", "overfit_batches": 1}),
        ("callbacks.video.VideoCallback", {"dirpath": "videos"}),
        ("os.system", {"anything": object()}),
    ],
)
def test_what_fits_passes(target: str, arguments: dict[str, Any]) -> None:
    give(target, **arguments)


def of_several_kinds(heads: Count | Literal["auto"] = 1, scale: Positive | bool = False) -> None:
    """Has numbers with a range beside other values."""


def test_a_range_holds_for_numbers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "locate", lambda key, target: of_several_kinds)
    give("mine", heads="auto", scale=True)
    give("mine", heads=2, scale=0.5)
    with pytest.raises(UserError, match=r"part\.heads=0 must be at least 1"):
        give("mine", heads=0)


def test_an_argument_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"unknown key `part\.stepz`.*DDPM takes schedule, steps"):
        give(SAMPLER, stepz=3)


def test_the_key_that_was_typed_is_named() -> None:
    resolved = {"steps": "abc", "part": {"_target_": SAMPLER, "steps": "abc"}}
    written = {"steps": "abc", "part": {"_target_": SAMPLER, "steps": "${steps}"}}
    with pytest.raises(UserError, match=r"^steps must be"):
        check_arguments(resolved, written)


def test_targets_hide_nowhere() -> None:
    with pytest.raises(UserError, match=r"part\.hidden\[1\]\._target_=os\.system .*trust=true"):
        check_targets({"part": {"_target_": DENOISER, "hidden": [8, {"_target_": "os.system"}]}})


ENV = "dof_lightning.envs.pettingzoo.env.PettingZooEnv"


@pytest.mark.parametrize(
    "factory",
    [
        "mpe2.simple_spread_v3.parallel_env",
        "dof_lightning.envs.particle.parallel_env.ParticleParallelEnv",
    ],
)
def test_factories_of_known_packages_pass(factory: str) -> None:
    check_targets({"env": {"_target_": ENV, "factory": factory}})


@pytest.mark.parametrize(
    "factory",
    [
        "os.system",
        "tests.fixtures.pettingzoo_outpost.parallel_env",
        "mpe2_but_not_really.parallel_env",
        "mpe2.simple_spread_v3.env",
        "dof_lightning.files.write_atomically",
        "dof_lightning.envs.particle.env.ParticleEnv",
        "pettingzoo.utils.conversions.warnings.warn",
        ["mpe2.simple_spread_v3.parallel_env"],
    ],
)
def test_a_factory_is_no_back_door(factory: Any) -> None:
    with pytest.raises(UserError, match=r"data\.source\.environment\.factory"):
        check_targets({"data": {"source": {"environment": {"_target_": ENV, "factory": factory}}}})


def test_the_importer_of_factories_cannot_be_a_target_nor_get_them_by_position() -> None:
    with pytest.raises(UserError):
        check_targets({"env": {"_target_": f"{ENV}._find", "dotted": "os.system"}})
    with pytest.raises(TypeError, match="positional"):
        PettingZooEnv("name", "os.system", 3)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "typed", "words"),
    [
        ("td3_bc", "algorithm.reward_scale=much", "algorithm.reward_scale must be a number or null, got 'much'"),
        ("omar", "+algorithm.sampels=3", "unknown key `algorithm.sampels`"),
        ("mabcq", "algorithm.gradient_clip=[1]", "algorithm.gradient_clip must be"),
    ],
)
def test_what_a_class_hands_on_to_its_base_is_judged_too(name: str, typed: str, words: str) -> None:
    cfg = configuration.compose(["experiment=mpe_spread_random", f"algorithm={name}", typed])
    with pytest.raises(UserError, match=re.escape(words)):
        checks.check(cfg)


def test_a_preset_that_is_whole_by_chance_takes_other_numbers() -> None:
    typed = ["experiment=mpe_spread_expert", "algorithm=macql"]
    assert type(configuration.compose(typed).algorithm.alpha) is int
    checks.check(configuration.compose([*typed, "algorithm.alpha=0.5"]))
    with pytest.raises(UserError, match=r"algorithm\.alpha must be a number, got True"):
        checks.check(configuration.compose([*typed, "algorithm.alpha=true"]))
    with pytest.raises(UserError, match=r"algorithm\.sequence_length must be an integer"):
        checks.check(
            configuration.compose(["experiment=smax_3m_good", "algorithm=bc", "algorithm.sequence_length=0.5"])
        )


@pytest.mark.parametrize(
    "target", ["dof_lightning.cli.main.run", "dof_lightning.api.train", "callbacks.checkpoint.write_atomically"]
)
def test_a_command_of_ours_is_no_part_of_a_model(target: str) -> None:
    with pytest.raises(UserError, match="makes no part of a model"):
        check_targets({"env": {"_target_": target, "arguments": ["data", "collect", "trust=true"]}})
