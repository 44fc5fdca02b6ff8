"""The contract of every algorithm in `conf/algorithm`, and of every part in the groups it is made of."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dof_lightning.deployment.structure import describe, rebuild
from dof_lightning.errors import UserError
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.rollout.certificate import certify
from tests.fixtures.synthetic import (
    ALGORITHMS,
    CENTRALIZED,
    PARTS,
    build_algorithm,
    case,
    chooses,
    fitting_algorithm,
    is_centralized,
    random_batch,
    synthetic_spec,
    toy_env,
    training_step,
)

UNPLANNABLE = ("qmix",)  # its weights are made of observations, but windows are conditioned on returns
CASES = [(f"algorithm={name}",) for name in ALGORITHMS]
CASES += [case(group, option) for group, option in PARTS]
CASES += [  # those that no yaml of an algorithm picks
    ("algorithm.critics=joint", "algorithm.q_gradient=full", "algorithm.selection=softmax"),
    ("algorithm.value_learning=expectile", "algorithm.advantage_temperature=1", "algorithm.q_balance=0.3"),
    ("algorithm.value_learning=implicit", "algorithm.advantage_temperature=1", "algorithm.critics=joint"),
    ("algorithm.value_learning=conservative", "algorithm.q_warmup_steps=1", "algorithm.shared_seeds=2"),
    ("algorithm.shared_seeds=2", "algorithm.q_gradient=full"),
    ("algorithm=dof_cloning", "algorithm.shared_seeds=3"),
    ("algorithm=dof_trajectory", "algorithm.shared_seeds=2", "algorithm.history=2", "algorithm.horizon=4"),
    ("algorithm=dof_trajectory", "algorithm.shared_seeds=2", "denoiser=temporal_transformer"),
    ("algorithm=dof_trajectory", "algorithm.history=3", "algorithm.horizon=4", "algorithm.return_update=time"),
    ("algorithm=dof_trajectory", "algorithm.return_update=reward", "algorithm.observation_normalizer=gaussian"),
    ("algorithm=dof_trajectory", "algorithm.inverse.sharing=joint", "execution=centralized"),
    ("algorithm=dof_trajectory", "algorithm.returns=advantage", "algorithm.critics=separate", "algorithm.candidates=2"),
    ("algorithm=madiff_d", "algorithm.returns=advantage", "algorithm.critics=separate", "algorithm.candidates=2"),
    ("algorithm=madiff_c", "denoiser.sharing=independent"),
    ("algorithm=madiff_d", "algorithm.history=3", "algorithm.horizon=4", "denoiser.agent_embedding=4"),
    (
        "algorithm=dof_trajectory",
        "denoiser=temporal_unet_shared",
        "denoiser.agent_embedding=4",
        "algorithm.inverse.sharing=shared",
    ),
    (
        "denoiser=mlp_shared",
        "denoiser.agent_embedding=4",
        "algorithm.critic.sharing=shared",
        "algorithm.critic.agent_embedding=4",
    ),
]
LEARNED = ("loss/diffusion", "loss/cloning", "loss/critic", "loss")  # the first one logged must fall
SHARED = [  # the planner of observation windows, with every part that it shares with those that diffuse actions
    ("algorithm=dof_trajectory", *case(group, option))
    for group, option in PARTS
    if group in ("schedule", "sampler") or (group.endswith("_factorization") and option not in UNPLANNABLE)
]
every_case = pytest.mark.parametrize(
    "overrides",
    [*CASES, *(pytest.param(typed, marks=pytest.mark.slow) for typed in SHARED)],
    ids=" ".join,
    indirect=True,
)


@pytest.fixture
def overrides(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """A case, with an algorithm that its denoiser fits; it is looked up here, as that builds algorithms."""
    typed: tuple[str, ...] = request.param
    group, _, option = typed[0].partition("=")
    return (f"algorithm={fitting_algorithm(group, option)}", *typed) if group == "denoiser" else typed


@every_case
def test_losses_are_finite_scalars_and_reach_every_trainable_parameter(overrides: tuple[str, ...]) -> None:
    algorithm = build_algorithm(*overrides)
    batch = random_batch(algorithm.spec, algorithm.window)
    optimizer = algorithm.configure_optimizers()
    reached: set[str] = set()
    for step in range(3):  # a layer that starts at zero hides those before it for a step
        training_step(algorithm, optimizer, batch, step)
        reached |= {n for n, p in algorithm.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}
    assert {name for name, p in algorithm.named_parameters() if p.requires_grad} == reached
    losses = algorithm.losses(batch, torch.Generator().manual_seed(0))
    assert "loss" in losses
    for name, value in (losses | algorithm.metrics()).items():
        assert value.shape == (), name
        assert bool(value.isfinite()), name


@every_case
def test_heldout_losses_are_finite_and_change_nothing(overrides: tuple[str, ...]) -> None:
    algorithm = build_algorithm(*overrides)
    batch, before = random_batch(algorithm.spec, algorithm.window), copy.deepcopy(algorithm.state_dict())
    with torch.no_grad():
        losses = algorithm.heldout_losses(batch, torch.Generator().manual_seed(0))
    assert all(parameter.grad is None for parameter in algorithm.parameters())
    assert all(torch.equal(before[name], value) for name, value in algorithm.state_dict().items())
    assert any(name.startswith("heldout/") for name in losses)
    assert all(bool(value.isfinite()) and value.shape == () for value in losses.values())


@every_case
def test_parameter_groups_are_disjoint_and_complete(overrides: tuple[str, ...]) -> None:
    algorithm = build_algorithm(*overrides)
    grouped = [parameter for group in algorithm.parameter_groups() for parameter in group.parameters()]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {parameter for parameter in algorithm.parameters() if parameter.requires_grad}


@every_case
def test_weights_survive_a_file_that_runs_no_code(overrides: tuple[str, ...], tmp_path: Path) -> None:
    trained, fresh = build_algorithm(*overrides), build_algorithm(*overrides, weights_seed=1)
    batch = random_batch(trained.spec, trained.window)
    training_step(trained, trained.configure_optimizers(), batch, 0)
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    fresh.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    with torch.no_grad():
        ours, theirs = (a.heldout_losses(batch, torch.Generator().manual_seed(0)) for a in (trained, fresh))
    assert ours == theirs


@pytest.mark.parametrize("name", ALGORITHMS)
def test_networks_may_run_in_bfloat16(name: str) -> None:
    algorithm = build_algorithm(f"algorithm={name}")
    batch = random_batch(algorithm.spec, algorithm.window, size=16)
    with torch.autocast("cpu", torch.bfloat16):
        losses = algorithm.losses(batch, torch.Generator().manual_seed(0))
    assert losses["loss"].dtype == torch.float32
    assert all(bool(value.isfinite()) for value in losses.values())
    losses["loss"].backward()
    gradients = [p.grad for p in algorithm.parameters() if p.grad is not None]
    assert gradients
    assert all(g.dtype == torch.float32 and bool(g.isfinite().all()) for g in gradients)


@pytest.mark.parametrize(
    "overrides",
    [
        typed if typed[0].startswith("algorithm=") and len(typed) == 1 else pytest.param(typed, marks=pytest.mark.slow)
        for typed in [*CASES, *SHARED]
    ],
    ids=" ".join,
    indirect=True,
)
def test_one_batch_can_be_learned(overrides: tuple[str, ...]) -> None:
    built = build_algorithm(*overrides)
    # Values of random rewards pull away from the imitated actions, penalties from values.
    changes = {"q_weight": 0.0, "alpha": 0.0, "q_balance": None}
    changes = {name: value for name, value in changes.items() if hasattr(built.settings, name)}
    if chooses(overrides):
        changes["learning_rate"] = 1e-2  # random choices have no pattern: they can only be memorised
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        algorithm = type(built)(built.spec, replace(built.settings, **changes))
    batch = random_batch(algorithm.spec, algorithm.window, size=32)
    optimizer = algorithm.configure_optimizers()

    def imitation() -> float:
        losses = [algorithm.losses(batch, torch.Generator().manual_seed(seed)) for seed in range(8)]
        learned = next(name for name in LEARNED if name in losses[0])
        return sum(float(loss[learned].detach()) for loss in losses)

    before = imitation()
    for step in range(60):
        training_step(algorithm, optimizer, batch, step)
    assert imitation() < 0.95 * before


@every_case
def test_agents_act_alone(overrides: tuple[str, ...]) -> None:
    algorithm = build_algorithm(*overrides)
    with torch.no_grad():
        for parameter in algorithm.parameters():
            if not parameter.any():  # agents may be coupled by parameters that start at zero, as if uncoupled
                parameter += 0.3
    policy = algorithm.policy()
    assert policy.acts_alone != is_centralized(overrides)
    certificate = certify(policy, toy_env(*overrides), seed=0, n_episodes=4)
    assert certificate.passed == policy.acts_alone, certificate


def legal_choices(overrides: tuple[str, ...], generator: torch.Generator) -> torch.Tensor | None:
    """Random legal choices `[6, N, A]`, at least one for each agent; None if actions are continuous."""
    if not chooses(overrides):
        return None
    mask = synthetic_spec(*overrides).environment.action_mask()
    score = torch.rand(6, *mask.shape, generator=generator).masked_fill(~mask, -1.0)
    return (score > 0.3) | (score == score.amax(-1, keepdim=True))


@every_case
def test_exported_agents_act_as_the_batched_policy_on_the_same_noise(overrides: tuple[str, ...]) -> None:
    policy = build_algorithm(*overrides).policy()
    if not policy.acts_alone:
        with pytest.raises(UserError, match="nothing to export"):
            policy.export(0)
        return
    spec, draw = synthetic_spec(*overrides), torch.Generator().manual_seed(0)
    device, told = torch.device("cpu"), policy.draw_shared_seed(6, draw)
    alone = [policy.export(agent) for agent in range(spec.n_agents)]
    from_files = [rebuild(*describe(single)) for single in alone]
    memory, memories = policy.begin(6, device, told), [single.begin(6, device, told) for single in alone]
    with torch.no_grad():
        for _ in range(4):  # agents with a memory need some steps to differ by it
            observations = torch.randn(6, spec.n_agents, spec.observation_dim, generator=draw)
            noise, legal = policy.draw_noise(6, draw), legal_choices(overrides, draw)
            together, memory = policy.act_on_noise(observations, memory, legal, noise)
            assert together.shape == ((6, spec.n_agents) if chooses(overrides) else (6, spec.n_agents, spec.action_dim))
            assert chooses(overrides) or bool((together.abs() <= 1).all())
            for agent, (single, from_file) in enumerate(zip(alone, from_files, strict=True)):
                assert isinstance(from_file, DecentralizedPolicy)
                mine = slice(agent, agent + 1)
                given = (
                    observations[:, mine],
                    memories[agent],
                    None if legal is None else legal[:, mine],
                    noise[:, mine],
                )
                acted, memories[agent] = single.act_on_noise(*given)
                torch.testing.assert_close(acted, together[:, mine], rtol=1e-5, atol=1e-5)
                assert torch.equal(from_file.act_on_noise(*given)[0], acted)


@pytest.mark.parametrize(("group", "option"), sorted(CENTRALIZED))
def test_what_needs_all_agents_is_refused_unless_it_is_asked_for(group: str, option: str) -> None:
    with pytest.raises(UserError, match=f"{group}.*execution=centralized"):
        build_algorithm(f"algorithm={fitting_algorithm(group, option)}", f"{group}={option}")


def test_the_same_seed_gives_the_same_loss_and_another_seed_another() -> None:
    algorithm = build_algorithm()
    batch = random_batch(algorithm.spec, algorithm.window)
    values = [
        float(algorithm.losses(batch, torch.Generator().manual_seed(seed))["loss"].detach()) for seed in (0, 0, 1)
    ]
    assert values[0] == values[1] != values[2]
