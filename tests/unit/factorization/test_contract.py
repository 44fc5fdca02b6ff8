"""User-defined factorisations: missing parts are reported before training, and complete ones can be exported."""

import copy
from typing import Any, Self

import pytest
import torch
from torch import Tensor, nn

from dof_lightning.errors import UserError
from dof_lightning.factorization.base import Factorization, ValueMixer
from dof_lightning.factorization.contract import broken_promise, shrinks_errors
from dof_lightning.networks.mlp import MLPDenoiser
from dof_lightning.spec import DatasetSpec
from tests.fixtures.policy_models import small_dof_policy
from tests.fixtures.small_spec import small_spec


class Negated(Factorization):
    """Nothing of any agent's in it: what the base class has is enough."""

    local_execution = True
    satisfies_igd = True

    def __init__(self, spec: DatasetSpec | None = None) -> None:
        super().__init__()

    def join(self, parts: Tensor, condition: Tensor | None = None) -> Tensor:
        return -parts

    def split(self, joint: Tensor) -> Tensor:
        return -joint

    def local(self, parts: Tensor) -> Tensor:
        return -parts


class Shifted(Negated):
    """Holds one number per agent, and does not specify which one agent i takes along."""

    def __init__(self, spec: DatasetSpec) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.arange(1.0, spec.n_agents + 1))

    def join(self, parts: Tensor, condition: Tensor | None = None) -> Tensor:
        return parts + self.shift.reshape(-1, *[1] * (parts.dim() - 2))

    def split(self, joint: Tensor) -> Tensor:
        return joint - self.shift.reshape(-1, *[1] * (joint.dim() - 2))

    def local(self, parts: Tensor) -> Tensor:
        return self.join(parts)


class ShiftedAlone(Shifted):
    def select_agent(self, agent: int) -> Self:
        selected = copy.deepcopy(self)
        selected.shift = nn.Parameter(self.shift.detach()[agent : agent + 1].clone())
        return selected


class AlwaysTheFirst(ShiftedAlone):
    def select_agent(self, agent: int) -> Self:
        return super().select_agent(0)


class Untold(Negated):
    satisfies_igd = None  # type: ignore[assignment]


class NoWayBack(Negated):
    def split(self, joint: Tensor) -> Tensor:
        return joint


class Narrower(Negated):
    def join(self, parts: Tensor, condition: Tensor | None = None) -> Tensor:
        return parts[..., :1]


class FreelyWeighted(ShiftedAlone):
    def join(self, parts: Tensor, condition: Tensor | None = None) -> Tensor:
        return parts * self.shift.reshape(-1, *[1] * (parts.dim() - 2))

    def split(self, joint: Tensor) -> Tensor:
        return joint / self.shift.reshape(-1, *[1] * (joint.dim() - 2))


class Centred(ShiftedAlone):
    """Can take away what all agents have in common, and nothing else."""

    local_execution = False
    satisfies_igd = False

    def join(self, parts: Tensor, condition: Tensor | None = None) -> Tensor:
        return parts - torch.sigmoid(self.shift[0]) * parts.mean(1, keepdim=True)

    def split(self, joint: Tensor) -> Tensor:
        kept = torch.sigmoid(self.shift[0])
        return joint + kept / (1 - kept) * joint.mean(1, keepdim=True)


class WithUnusedWeights(ShiftedAlone):
    """Has weights that `join` does not use without a condition."""

    def join(self, parts: Tensor, condition: Tensor | None = None) -> Tensor:
        return parts

    def split(self, joint: Tensor) -> Tensor:
        return joint


BROKEN = [
    (Shifted, "cannot be taken along by one agent: Shifted holds tensors.*define select_agent"),
    (AlwaysTheFirst, r"something else at agent 1 alone: select_agent\(1\)"),
    (Untold, "does not say satisfies_igd; set satisfies_igd = True or False in the class"),
    (NoWayBack, "does not undo with split what join does"),
    (Narrower, "join has to keep the shape"),
]


@pytest.mark.parametrize("key", ["noise_factorization", "data_factorization"])
@pytest.mark.parametrize(("kind", "words"), BROKEN)
def test_what_is_missing_is_said_before_training(kind: type[Factorization], words: str, key: str) -> None:
    with pytest.raises(UserError, match=f"{key}: {kind.__name__} .*{words}"):
        small_dof_policy(**{key: kind})


def test_weights_that_could_shrink_every_error_are_refused_in_f_only() -> None:
    with pytest.raises(UserError, match=r"noise_factorization: FreelyWeighted can make all agents' errors small"):
        small_dof_policy(noise_factorization=FreelyWeighted)
    small_dof_policy(data_factorization=FreelyWeighted)


@pytest.mark.parametrize("kind", [Centred, WithUnusedWeights])
def test_weights_that_cannot_shrink_every_error_are_accepted(kind: type[Factorization]) -> None:
    assert broken_promise(kind(small_spec()), torch.zeros(3, 2), alone=False) is None
    assert not shrinks_errors(kind(small_spec()), torch.zeros(3, 2))


def test_weights_are_judged_without_gradients_and_random_numbers_too() -> None:
    state = torch.get_rng_state()
    with torch.inference_mode():
        assert shrinks_errors(FreelyWeighted(small_spec()), torch.zeros(3, 2))
        assert not shrinks_errors(ShiftedAlone(small_spec()), torch.zeros(3, 2))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", [Negated, ShiftedAlone])
def test_what_keeps_its_contract_is_exported(kind: type[Factorization]) -> None:
    policy = small_dof_policy(noise_factorization=kind, data_factorization=kind).policy()
    observations = torch.randn(4, 3, 4, generator=torch.Generator().manual_seed(0))
    noise = policy.draw_noise(4, torch.Generator().manual_seed(1))
    with torch.no_grad():
        together, _ = policy.act_on_noise(observations, None, None, noise)
        for agent in range(3):
            mine = slice(agent, agent + 1)
            alone, _ = policy.export(agent).act_on_noise(observations[:, mine], None, None, noise[:, mine])
            torch.testing.assert_close(alone, together[:, mine])


def test_what_acts_centralised_owes_no_agents_copy() -> None:
    small_dof_policy(data_factorization=Shifted, execution="centralized")
    assert broken_promise(Shifted(small_spec()), torch.zeros(3, 2), alone=False) is None


def test_a_base_class_never_says_that_local_execution_is_false_where_it_is_true() -> None:
    with pytest.raises(TypeError, match="define select_agent") as raised:
        Shifted(small_spec()).select_agent(0)
    assert "local_execution" not in str(raised.value)


class Bare(nn.Module):
    """A denoiser that no agent can take along."""

    def __init__(self, spec: DatasetSpec, condition_dim: int) -> None:
        super().__init__()
        self.network = MLPDenoiser(spec, condition_dim, hidden=(8,))

    def forward(self, x: Tensor, k: Tensor, condition: Tensor) -> Tensor:
        result: Tensor = self.network(x, k, condition)
        return result


class UntoldMixer(ValueMixer):
    def __init__(self, spec: DatasetSpec, state_dim: int) -> None:
        super().__init__()

    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        return values.sum(1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"denoiser": Bare}, "denoiser: Bare has no local_execution and no select_agent"),
        ({"value_mixer": UntoldMixer}, "value_mixer: UntoldMixer does not say satisfies_igm"),
    ],
)
def test_other_parts_of_ones_own_are_asked_as_well(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        small_dof_policy(**changes)
