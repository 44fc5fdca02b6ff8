"""MAPPO for behaviours, in a world whose best choices are known."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from data_modules.behavior.battles import BattleSnapshot
from data_modules.behavior.choosing import ChoosingActors, ChoosingBehavior
from data_modules.behavior.training import train_battles
from data_modules.behavior.training.mappo import MAPPO, MAPPOSettings, Round
from dof_lightning.envs.base import StepInfo, StepResult
from dof_lightning.errors import UserError
from dof_lightning.rollout.run import run_rollout
from tests.fixtures.signal_world import CHOICES, CUES, HORIZON, SignalEnv

SETTINGS = MAPPOSettings(n_battles=64, learning_rate=3e-3)


class SignalBattle(SignalEnv):
    """Its state is what all agents see; an agent without spare choices may not choose them; nothing is won."""

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self.spec, "state_dim", len(CHOICES) * CUES)

    @property
    def state(self) -> Tensor:
        return self._observe().flatten(1)

    def step(self, actions: Tensor) -> StepResult:
        result = super().step(actions)
        won = torch.zeros_like(result.terminated)
        info = StepInfo(legal=self.legal, state=self.state, won=won)
        return StepResult(result.observations, result.rewards, result.terminated, result.truncated, info)


def learn(rounds: int, seed: int = 0) -> tuple[MAPPO, list[Round]]:
    learner = MAPPO(SignalBattle(), SETTINGS, seed)
    return learner, list(learner.train(rounds))


def test_it_learns_each_agents_best_choice() -> None:
    learner, rounds = learn(40)
    assert rounds[0].return_mean < 0.6 * HORIZON
    assert rounds[-1].return_mean > 0.9 * HORIZON
    played = run_rollout(learner.behavior, learner.env, torch.arange(1000, 1100), ("test",))
    assert float(played.returns.mean()) > 0.9 * HORIZON


def test_the_same_seed_gives_the_same_weights() -> None:
    first, again, other = (learn(2, seed)[0].actors.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_draws_follow_the_actors_and_keep_to_what_is_legal() -> None:
    spec = SignalBattle().spec
    torch.manual_seed(0)
    actors = ChoosingActors(spec.n_agents, spec.observation_dim, spec.action_dim)
    behavior = ChoosingBehavior(actors, spec)
    observations = torch.randn(1, spec.n_agents, spec.observation_dim).expand(20_000, -1, -1)
    legal = spec.action_mask().clone()
    legal[0, 1] = False
    legal = legal.expand(20_000, -1, -1)
    with torch.no_grad():
        actions, _ = behavior.act(observations, None, legal, torch.Generator().manual_seed(0))
        wanted = actors(observations[:1], legal[:1])[0].exp()
    drawn = torch.nn.functional.one_hot(actions, spec.action_dim).float().mean(0)
    torch.testing.assert_close(drawn, wanted, atol=0.02, rtol=0)
    assert bool((drawn[~legal[0]] == 0).all())
    alone, _ = behavior.export(1).act_on_noise(
        observations[:5, 1:2], None, legal[:5, 1:2], behavior.draw_noise(5, torch.Generator().manual_seed(0))[:, 1:2]
    )
    team, _ = behavior.act(observations[:5], None, legal[:5], torch.Generator().manual_seed(0))
    assert torch.equal(alone[:, 0], team[:, 1])


@pytest.mark.parametrize("win_rate", [0.9, 0.5])
def test_only_what_wins_is_called_good(monkeypatch: pytest.MonkeyPatch, win_rate: float) -> None:
    returns = {0: 0.1, 1: 0.5, 2: 1.1, 3: 1.8}

    def measure(learner: object, updates: int, weights: object, episodes: int) -> BattleSnapshot:
        return BattleSnapshot(updates, returns[updates], 0.0, {}, win_rate)

    monkeypatch.setattr(train_battles, "_measure", measure)
    learner = MAPPO(SignalBattle(), SETTINGS, 0)
    learner.updates = 3
    history: train_battles.History = [(Round(returns[updates], 0.0), {}) for updates in range(3)]
    chosen = train_battles.choose(learner, history, 10)
    found = {name: snapshot.updates for name, snapshot in chosen.items()}
    assert found == ({"good": 3, "medium": 2, "poor": 1} if win_rate > 0.8 else {"trained": 3})


def test_what_cannot_be_trained_is_refused_before_anything_is_played(tmp_path: Path) -> None:
    taken = tmp_path / "taken.safetensors"
    taken.touch()
    for arguments, words in (
        ({"task": "smax_2c_vs_64zg"}, "choose one of smax_3m"),
        ({"updates": 0}, "updates=0"),
        ({"output": str(taken)}, "overwrite=true"),
        ({"output": str(tmp_path / "nowhere" / "x.safetensors")}, "no folder"),
    ):
        with pytest.raises(UserError, match=words):
            train_battles.main(train_battles.BattleTraining(**arguments))
