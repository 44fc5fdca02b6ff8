"""The choice, construction and checks of a team's critics."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from dof_lightning.actors.actions import CODECS
from dof_lightning.algorithms.parts.critics import CentralCritic, MixedCritic, TeamCritic
from dof_lightning.algorithms.parts.reward_units import scale_of_rewards
from dof_lightning.algorithms.parts.value_learning import (
    Conservative,
    Expectile,
    Implicit,
    TemporalDifference,
    ValueLearning,
)
from dof_lightning.diffusion.seed_conditioning import NO_SEEDS, SharedSeeds
from dof_lightning.errors import UserError
from dof_lightning.factorization.base import ValueMixer
from dof_lightning.factorization.value import Sum
from dof_lightning.networks.critic import AgentwiseCritic, JointCritic
from dof_lightning.settings import Count, Fraction, NonNegative, Positive, Range, Settings, UpdateRate
from dof_lightning.spec import DatasetSpec

Critics = Literal["none", "separate", "mixed", "joint"]
LearnsBy = Literal["td", "conservative", "implicit", "expectile"]
_READ_BY_ALL = (
    *("discount", "reward_scale", "value_learning"),
    *("critic_learning_rate", "critic_gradient_clip", "target_update_rate"),
)
_READ_BY_RULE: dict[str, LearnsBy] = {
    "conservative_weight": "conservative",
    "conservative_samples": "conservative",
    "implicit_temperature": "implicit",
    "expectile": "expectile",
}
ExpectileShare = Annotated[float, Range(0.0, 1.0, excludes="both")]


@dataclass(frozen=True, kw_only=True)
class CriticSettings(Settings):
    """Settings of the critics of a team.

    Attributes:
        critics: `none`, `separate` (agent i learns Q_i from r_i), `mixed` (Q_tot from the team's mean reward) or
            `joint` (one Q of all actions, given the state if the dataset has one).
        critic: twin Q_i(o_i, a_i), called with the spec and `condition_dim`; the local head if `critics=joint`.
        joint_critic: twin Q(s, a_1..a_N), called with the spec and `context_dim`; used with `critics=joint`.
        value_mixer: mixer from Q_i to Q_tot, called with the spec and `state_dim`; used with `critics=mixed`.
        local_head: with `critics=joint`, distil the joint Q into Q_i(o_i, a_i), by which an agent ranks candidates.
        discount: gamma of the TD targets.
        reward_scale: the critics see rewards times this; None means 1 / std of the dataset's episode returns, 1 if they
            are all the same.
        value_learning: `td` (the averaged actors' next actions), `conservative` (the same, and values are pushed down
            at actions that the data do not contain), `implicit` (the data's next actions, as ICQ) or `expectile` (a V
            that is an expectile of Q over the data's actions, as IQL).
        conservative_weight: alpha, weight of the conservative gap, for rewards in their original unit.
        conservative_samples: number of uniform actions per row from which the gap is estimated.
        implicit_temperature: temperature of the batch weights of the next actions, in the rewards' original unit; None
            weights all alike.
        expectile: tau of V.
        critic_learning_rate: Adam's learning rate for critics and mixer.
        critic_gradient_clip: largest gradient norm of each agent's critics; None means no clipping.
        target_update_rate: tau, update rate of the target critics.
    """

    critics: Critics = "mixed"
    critic: Callable[..., AgentwiseCritic] = AgentwiseCritic
    joint_critic: Callable[..., JointCritic] = JointCritic
    value_mixer: Callable[..., ValueMixer] = Sum
    local_head: bool = True
    discount: Fraction = 0.99
    reward_scale: Positive | None = None
    value_learning: LearnsBy = "td"
    conservative_weight: NonNegative = 1.0
    conservative_samples: Count = 10
    implicit_temperature: Positive | None = None
    expectile: ExpectileShare = 0.7
    critic_learning_rate: Positive = 3e-4
    critic_gradient_clip: Positive | None = 0.5
    target_update_rate: UpdateRate = 0.005


def idle_of_critics(settings: CriticSettings) -> dict[str, str]:
    """The fields of `CriticSettings` that nothing reads; see `AlgorithmSettings.idle`."""
    rule = f"algorithm.value_learning={settings.value_learning}"
    found = {name: rule for name, reader in _READ_BY_RULE.items() if settings.value_learning != reader}
    if settings.conservative_weight == 0:
        found["conservative_samples"] = "algorithm.conservative_weight=0"
    if settings.discount == 0:
        found["implicit_temperature"] = "algorithm.discount=0"
    readers: dict[str, tuple[Critics, ...]] = {
        "critic": ("separate", "mixed", "joint") if settings.local_head else ("separate", "mixed"),
        "joint_critic": ("joint",),
        "local_head": ("joint",),
        "value_mixer": ("mixed",),
        **dict.fromkeys((*_READ_BY_ALL, *_READ_BY_RULE), ("separate", "mixed", "joint")),
    }
    cause = f"algorithm.critics={settings.critics}"
    return found | {name: cause for name, critics in readers.items() if settings.critics not in critics}


def idle_of_target_sampler(settings: CriticSettings, weighs_by_advantage: bool) -> dict[str, str]:
    """`target_sampler` with the cause, if neither TD targets nor advantages need the actors' own actions."""
    for_targets = settings.discount > 0 or (settings.critics == "joint" and settings.local_head)
    for_advantages = weighs_by_advantage and settings.value_learning != "expectile"
    if settings.critics == "none":
        return {"target_sampler": "algorithm.critics=none"}
    if settings.value_learning in ("implicit", "expectile") and not for_advantages:
        return {"target_sampler": f"algorithm.value_learning={settings.value_learning}"}
    return {} if for_targets or for_advantages else {"target_sampler": "algorithm.discount=0"}


def check_ranking(critic: TeamCritic | None, candidates: int) -> None:
    """Refuses to rank by values Q_i if the team's value need not grow with them.

    Raises:
        UserError: the mixer does not satisfy IGM, and there are several candidates.
    """
    mixer = None if critic is None else getattr(critic.online, "mixer", None)
    if mixer is not None and not isinstance(getattr(mixer, "satisfies_igm", None), bool):
        raise UserError(
            f"value_mixer: {type(mixer).__name__} does not say satisfies_igm; set satisfies_igm = True or False in the "
            "class: does the team's value grow with each Q_i?"
        )
    if candidates > 1 and mixer is not None and not mixer.satisfies_igm:
        raise UserError(
            f"value_mixer: {type(mixer).__name__} need not grow with each Q_i (satisfies_igm), so agents cannot rank "
            "candidates by their own; choose value_mixer=sum, weighted, monotone or attention, or "
            "algorithm.candidates=1"
        )


def build_team_critic(spec: DatasetSpec, settings: CriticSettings, seeds: SharedSeeds = NO_SEEDS) -> TeamCritic | None:
    """Builds critics of the requested kind; None if none are requested.

    Args:
        spec: the dataset's spec.
        settings: the settings of critics.
        seeds: the shared seeds that the critics receive beside what they see, see `Situation.given`.
    """
    if settings.critics == "none":
        return None
    values = _build_values(spec, settings, seeds, has_own=settings.critics != "joint" or settings.local_head)
    return TeamCritic(values, settings.discount, scale_of_rewards(settings.reward_scale, spec))


def _build_values(
    spec: DatasetSpec, settings: CriticSettings, seeds: SharedSeeds, has_own: bool
) -> MixedCritic | CentralCritic:
    condition_dim = spec.observation_dim + seeds.width
    together = spec.n_agents * condition_dim
    own = settings.critic(spec, condition_dim=condition_dim) if has_own else None
    if settings.critics == "joint":
        context_dim = spec.state_dim + seeds.width if spec.state_dim else together
        return CentralCritic(settings.joint_critic(spec, context_dim=context_dim), own)
    assert own is not None
    mixer = settings.value_mixer(spec, state_dim=together) if settings.critics == "mixed" else None
    return MixedCritic(own, mixer)


def build_value_learning(spec: DatasetSpec, settings: CriticSettings, seeds: SharedSeeds = NO_SEEDS) -> ValueLearning:
    """Builds the rule by which the critics learn, with the networks that have to be learned beside them.

    Arguments are those of `build_team_critic`.
    """
    rule = settings.value_learning
    if rule == "conservative":
        codec, mask = CODECS[spec.action_kind], spec.environment.action_mask()
        return Conservative(settings.conservative_weight, settings.conservative_samples, codec, mask)
    if rule == "implicit":
        temperature, scale = settings.implicit_temperature, scale_of_rewards(settings.reward_scale, spec)
        return Implicit(None if temperature is None else temperature * scale)
    if rule == "expectile":
        values = _build_values(spec, settings, seeds, has_own=settings.critics != "joint")
        return Expectile(values, settings.expectile)
    return TemporalDifference()
