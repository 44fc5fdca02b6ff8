"""Every key that is accepted takes effect, or is refused."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from dof_lightning.algorithms.base import PADDED_TAILS, AlgorithmSettings
from dof_lightning.config import checks, effect
from dof_lightning.config import compose as configuration
from dof_lightning.config.identity import leaves
from dof_lightning.errors import UserError
from dof_lightning.spec import ActionKind
from tests.fixtures.synthetic import ALGORITHMS, build_algorithm, chooses, random_batch, synthetic_spec, training_step

EXPERIMENT = "experiment=mpe_spread_random"
OFTEN = ("bc", "td3_bc", "dof_policy", "dof_trajectory", "qmix")  # checked on every change


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (("data.path=data/mine", "data.episodes=20"), "data.episodes=20 has no effect: data.path=data/mine names"),
        (("data.path=data/mine", "data.source.behavior.policy=1"), "data.source.behavior.policy"),
        (("algorithm=bc", "noise_factorization=concat"), "noise_factorization=concat has no effect: algorithm=bc does"),
        (("algorithm=bc", "sampler.steps=3"), "sampler.steps=3 has no effect: algorithm=bc"),
        (("+trainer.gradient_clip_val=1",), "trainer.gradient_clip_val=1 has no effect: type algorithm.gradient_clip="),
        (("+trainer.limit_train_batches=3",), "trainer.limit_train_batches=3 has no effect"),
        (("+mine.key=1",), "mine.key=1 has no effect: nothing reads it"),
        (("+data.mine=1",), "data.mine=1 has no effect: nothing reads it"),
        (("rollout=none", "rollout.episodes=3"), "rollout.episodes=3 has no effect: rollout=none plays nothing"),
        (("rollout=none", "rollout.report_episodes=3"), "rollout.report_episodes=3 has no effect: rollout=none"),
        (("rollout=none", "callbacks.igd.draws=3"), "callbacks.igd.draws=3 has no effect: rollout=none plays nothing"),
        (("algorithm=dof_cloning", "algorithm.discount=0.5"), "algorithm.discount=0.5 .*: algorithm.critics=none"),
        (
            ("algorithm.critics=separate", "value_mixer=attention"),
            "value_mixer=attention .* algorithm.critics=separate",
        ),
        (("algorithm.joint_critic.hidden=[3]",), "algorithm.joint_critic.hidden=.3. .*: algorithm.critics=mixed"),
        (
            (
                "algorithm.value_learning=conservative",
                "algorithm.conservative_weight=0",
                "algorithm.conservative_samples=3",
            ),
            "algorithm.conservative_samples=3 .*: algorithm.conservative_weight=0",
        ),
        (("algorithm.q_weight=0", "algorithm.q_warmup_steps=3"), "algorithm.q_warmup_steps=3 .*: algorithm.q_weight=0"),
        (("algorithm.expectile=0.9",), "algorithm.expectile=0.9 .*: algorithm.value_learning=td"),
        (("algorithm.q_balance=0.3", "algorithm.q_weight=9"), "algorithm.q_weight=9.* algorithm.q_balance sets eta"),
        (
            ("algorithm.value_learning=expectile", "algorithm.target_sampler.steps=1"),
            "algorithm.target_sampler.steps=1 .*: algorithm.value_learning=expectile",
        ),
        (
            ("algorithm=dof_trajectory", "algorithm.target_advantage=3"),
            "target_advantage=3 .*: algorithm.returns=total",
        ),
        (("algorithm=dof_trajectory", "algorithm.discount=0.5"), "algorithm.discount=0.5 .*: algorithm.critics=none"),
        (
            ("algorithm=dof_trajectory", "algorithm.returns=advantage", "algorithm.return_update=time"),
            "algorithm.return_update=time .*: algorithm.returns=advantage",
        ),
        (("algorithm.selection_temperature=3",), "algorithm.selection_temperature=3 .*: algorithm.selection=argmax"),
        (
            ("algorithm=bc", "data.train_on_padded_tails=true"),
            "data.train_on_padded_tails=True .*: no rows of a window",
        ),
        (("data.module.train_on_padded_tails=true",), "module.train_on_padded_tails=True .*: no rows of a window"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_is_typed_and_read_by_nobody_is_refused(typed: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=words.replace("+", r"\+")):
        checks.check(configuration.compose([EXPERIMENT, *typed]))


@pytest.mark.parametrize(
    "typed",
    [
        ("algorithm=bc", "debug=default"),
        ("rollout=none", "debug=default", "callbacks.video=null"),
        ("data.path=data/mine", "debug=default"),
        ("debug=profiler", "trainer.profiler.filename=mine"),
        ("algorithm=bc", "noise_factorization=wconcat"),
        ("algorithm=madiff_c", "study=none"),
        ("algorithm.critics=separate", "algorithm.critic.hidden=[3]"),
        ("rollout.certificate_episodes=4",),
        ("algorithm.value_learning=conservative", "algorithm.conservative_weight=0.5", "algorithm.q_balance=0.3"),
        ("algorithm.q_gradient=none", "algorithm.advantage_temperature=1", "algorithm.q_warmup_steps=5"),
        ("algorithm=dof_trajectory", "data.train_on_padded_tails=true"),
        ("algorithm=omar", "algorithm.search_weight=0"),
        ("algorithm.q_gradient=none", "data_factorization=concat"),
        ("+width=64", "denoiser.hidden=[${width},${width}]"),
        ("+steps=100", "trainer.max_steps=${oc.select:steps,3}"),
    ],
    ids=" ".join,
)
def test_what_is_chosen_by_an_option_or_takes_effect_is_accepted(typed: tuple[str, ...]) -> None:
    checks.check(configuration.compose([EXPERIMENT, *typed]))


@pytest.mark.parametrize(
    ("typed", "void"),
    [
        (("algorithm=dof_cloning", "data_factorization=concat"), {"reconstruction_weight": 3.0}),
        (("algorithm=dof_trajectory", "data_factorization=concat"), {"reconstruction_weight": 3.0}),
        (
            ("algorithm=dof_trajectory", "algorithm.guidance_weight=0"),
            {"target_return": 0.5, "target_quantile": 0.1, "return_update": "time"},
        ),
        (("algorithm=dof_trajectory", "algorithm.horizon=2"), {"next_row_weight": 4.0}),
        (("algorithm=dof_policy", "algorithm.q_weight=0"), {"q_gradient": "full"}),
        (("algorithm=dof_policy", "algorithm.discount=0"), {"target_sampler.steps": 1}),
        (("algorithm=dof_cloning", "algorithm.shared_seeds=null"), {"shared_seed_of": "episode"}),
        (("algorithm=td3_bc", "algorithm.discount=0"), {"target_noise": 0.5}),
        (("algorithm=macql", "algorithm.alpha=0"), {"samples": 3}),
        (("algorithm=macql_discrete", "algorithm.alpha=0"), {"samples": 3}),
        (
            ("algorithm=omar", "algorithm.search_weight=0"),
            {"search_iterations": 5, "search_samples": 3, "search_std": 0.5},
        ),
        (("algorithm=maicq", "algorithm.discount=0"), {"critic_temperature": 1.0}),
        (("algorithm=maicq_discrete", "algorithm.discount=0"), {"critic_temperature": 1.0}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_another_value_makes_void_changes_nothing_and_is_refused(
    typed: tuple[str, ...], void: dict[str, Any]
) -> None:
    for key, value in void.items():
        with pytest.raises(UserError, match=rf"^algorithm\.{key}={value} has no effect: {typed[-1]}"):
            checks.check(configuration.compose([EXPERIMENT, *typed, f"algorithm.{key}={value}"]))
    changes = [f"algorithm.{key}={value}" for key, value in void.items()]
    for one, other in zip(_learned_and_done(*typed), _learned_and_done(*typed, *changes), strict=True):
        assert torch.equal(one, other)


def _learned_and_done(*typed: str) -> list[torch.Tensor]:
    """The weights after two updates, and the actions of an episode's first rows."""
    algorithm = build_algorithm(*typed)
    batch, optimizer = random_batch(algorithm.spec, algorithm.window, size=8), algorithm.configure_optimizers()
    for step in range(2):
        training_step(algorithm, optimizer, batch, step)
    policy, generator = algorithm.policy(), torch.Generator().manual_seed(0)
    shape = (3, 4, algorithm.spec.n_agents, algorithm.spec.observation_dim)
    carry = policy.begin(4, torch.device("cpu"), policy.draw_shared_seed(4, generator))
    done = []
    for observations in torch.randn(shape, generator=generator):
        with torch.no_grad():
            actions, carry = policy.act_on_noise(observations, carry, None, policy.draw_noise(4, generator))
        done.append(actions)
    return [*algorithm.state_dict().values(), *done]


@pytest.mark.parametrize(
    ("experiment", "typed", "words"),
    [
        ("mpe_spread_random", "algorithm.recurrent.hidden=3", "recurrent.hidden=3 has no effect: actions are cont"),
        ("smax_3m_good", "algorithm.actor.hidden=[3]", r"actor.hidden=\[3\] has no effect: actions are discrete"),
    ],
)
def test_what_is_for_actions_of_the_other_kind_is_refused(experiment: str, typed: str, words: str) -> None:
    config = configuration.to_plain(configuration.compose([f"experiment={experiment}", "algorithm=bc", typed]))
    here: ActionKind = "continuous" if experiment == "mpe_spread_random" else "discrete"
    other: ActionKind = "discrete" if experiment == "mpe_spread_random" else "continuous"
    with pytest.raises(UserError, match=words):
        effect.check_effect_on(config, here)
    effect.check_effect_on(config, other)


@pytest.mark.parametrize(
    "name",
    [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in ALGORITHMS],
)
def test_every_key_of_a_composition_is_read_or_refused(name: str) -> None:
    """A setting is read where building, training or acting asks for it; every other key where it is said to be read."""
    cfg = configuration.compose([EXPERIMENT, f"algorithm={name}"])
    plain, written = configuration.to_plain(cfg), OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(written, dict)
    kind: ActionKind = "discrete" if chooses((f"algorithm={name}",)) else "continuous"
    made: AlgorithmSettings = configuration.build(plain["algorithm"])
    assert set(vars(made)) - _read_by(made, name) <= set(made.idle(kind))
    assert (PADDED_TAILS in made.idle(kind)) != _reads_diffusion_mask(name)

    live = effect.live_keys(plain, written, effect.idle_fields(plain))  # type: ignore[arg-type]
    unread = [key for key, _ in leaves(written) if not any(f"{key}.".startswith(f"{prefix}.") for prefix in live)]
    refused, before = set(), OmegaConf.create(written)
    for key in unread:
        if not key.rpartition(".")[2].startswith("_"):
            OmegaConf.update(cfg, key, _another(OmegaConf.select(before, key)), force_add=True)
            refused.add(key)
    told = {re.split("=", text)[0].removesuffix("._target_") for text in effect.without_effect(cfg)}
    assert told == refused


def _reads_diffusion_mask(name: str) -> bool:
    algorithm = build_algorithm(f"algorithm={name}")
    batch = random_batch(algorithm.spec, algorithm.window, size=4)
    masks = batch.diffusion_mask, torch.zeros_like(batch.diffusion_mask)
    losses = [
        algorithm.losses(replace(batch, diffusion_mask=mask), torch.Generator().manual_seed(0))["loss"]
        for mask in masks
    ]
    return not torch.equal(*losses)


def _another(value: Any) -> Any:
    """A value of the same kind."""
    if isinstance(value, bool | None):
        return 2.0 if value is None else not value
    if isinstance(value, int | float):
        return value / 2 if isinstance(value, float) else value + 1
    if isinstance(value, DictConfig) and "_target_" in value:
        return OmegaConf.merge(value, {"_target_": "torch.nn.Identity"})
    others = {"argmax": "softmax", "td": "conservative", "expectile": "implicit", "window": "episode"}
    return others.get(value, "changed") if isinstance(value, str) else [3]


def _read_by(settings: AlgorithmSettings, name: str) -> set[str]:
    """The fields that are asked for while an algorithm is built, learns from a batch, and acts."""
    read: set[str] = set()

    class Recording(type(settings)):  # type: ignore[misc]
        def __getattribute__(self, field: str) -> Any:
            read.add(field)
            return super().__getattribute__(field)

    object.__setattr__(settings, "__class__", Recording)
    algorithm = settings(synthetic_spec(f"algorithm={name}"))
    batch = random_batch(algorithm.spec, algorithm.window, size=4)
    algorithm.losses(batch, torch.Generator().manual_seed(0))
    algorithm.configure_optimizers()
    algorithm.after_step()
    algorithm.policy()
    return read | {"seed", "execution"}
