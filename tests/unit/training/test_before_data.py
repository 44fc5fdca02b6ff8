"""The mistakes that a run refuses before there are any data, and the files that it names at its end."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from dof_lightning.config import checks
from dof_lightning.config import compose as configuration
from dof_lightning.errors import UserError
from dof_lightning.studies import runner
from dof_lightning.training import preparation
from dof_lightning.training.run import Run, _describe_behavior
from dof_lightning.training.run_folder import RunFolder
from tests.fixtures.dataset_files import build, make_episodes
from tests.fixtures.pettingzoo_outpost import Outpost
from tests.fixtures.workplace import SMALL, run_here

CALLBACKS = "lightning.pytorch.callbacks"


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (("trainer.devices=two",), "trainer.devices must be a number of processes, auto, or devices"),
        (("trainer.devices=0",), "trainer.devices must be a number"),
        (("trainer.accelerator=gpv",), "accelerator=gpv"),
        (("trainer.max_time=soon",), "DD:HH:MM:SS"),
        (("trainer.devices=2", "data.global_batch_size=63"), "batch_size=63 cannot be divided among 2 ranks"),
        (("trainer.strategy=fsdp2", "trainer.precision=bf16-mixed"), "fsdp2 trains in 32-true"),
        (("data.partition=rows",), "data.partition"),
        (("algorithm.learning_rate=-1",), "algorithm.learning_rate=-1 must be above 0"),
        (("algorithm.candidates=3", "algorithm.critics=none", "algorithm.q_gradient=none"), "candidates above 1 needs"),
        (("noise_factorization=qmix",), "noise_factorization=qmix cannot run locally"),
        (("data_factorization=attention",), "choose data_factorization=concat or wconcat; or execution=centralized"),
        (("algorithm.shared_seeds=4", "noise_factorization=dec_attention"), "noise_factorization=dec_attention is no"),
        (("value_mixer=self_attention", "algorithm.critics=mixed"), "value_mixer=self_attention need not grow"),
        (("noise_factorization=dec_attention", "noise_factorization.heads=3"), "multiple of heads=3"),
        (("schedule.steps=0",), "schedule.steps=0"),
        (("sampler.steps=50",), "sampler.steps=50 must be between"),
        (("sampler=ddim", "sampler.eta=2"), "sampler.eta=2"),
        (("denoiser.agent_embedding=4",), "agent_embedding=4"),
        (("denoiser.hidden=[0]",), "denoiser.hidden=[0]: each must be at least 1"),
        (("+callbacks.rollout.chunk=0",), "callbacks.rollout.chunk=0 must be at least 1"),
        (("seed=18446744073709551617",), "seed must be an integer of at least 0"),
        (("trust=null",), "trust must be true or false"),
        (('data.root="~/there"',), "type $HOME/there"),
        (("trainer.accelerator=tpu",), "trainer (accelerator=tpu"),
        (("callbacks.igd.draws=2",), "callbacks.igd.draws=2 must be at least 16"),
        ((f"+callbacks.mine._target_={CALLBACKS}.EarlyStopping",), "callbacks.mine cannot be built: EarlyStopping"),
        (
            (f"+callbacks.mine._target_={CALLBACKS}.EarlyStopping", "+callbacks.mine._partial_=true"),
            "callbacks.mine: Lightning's own callbacks take no run",
        ),
        (("+logger.mine._target_=lightning.pytorch.loggers.CSVLogger",), "logger.mine cannot be built: CSVLogger"),
        (
            ("+logger.mine._target_=lightning.pytorch.loggers.WandbLogger", "+logger.mine._partial_=true"),
            "logger.mine: ",
        ),
        (("data.partition=shards", "data.memory_mb=null"), "set data.memory_mb to a number"),
        (("data.path=elsewhere",), "correct data.path=elsewhere"),
        (("init_from=elsewhere",), "init_from=elsewhere does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_needs_no_data_is_refused_before_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DOF_RUN_DIR", raising=False)
    plain = [text for text in SMALL if not text.startswith("algorithm.")]
    with pytest.raises(UserError) as error:
        run_here(*plain, *typed, "run_dir=refused")
    assert words in str(error.value)
    assert list(tmp_path.iterdir()) == [], "neither data nor a run folder"


@pytest.mark.slow
def test_a_cell_s_mistake_is_found_before_the_data_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    typed = ["experiment=ablation_spread_medium", "algorithm.shared_seeds=4"]
    with pytest.raises(UserError, match=r"cell .*no product"):
        runner.run(configuration.compose(typed), typed)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("experiment", ["mpe_tag_random", "smax_3m_good"])
def test_a_rehearsal_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: str) -> None:
    """Rehearsals with continuous actions and with choices; weights are drawn as if there had been none."""
    monkeypatch.chdir(tmp_path)
    algorithm = "madt" if experiment.startswith("smax") else "dof_policy"
    config = configuration.to_plain(configuration.compose([f"experiment={experiment}", f"algorithm={algorithm}"]))
    env, tried = preparation.build_world(config), []
    before = torch.get_rng_state()
    preparation.rehearse(config, env, lambda spec, made: tried.append((spec.environment, type(made).__name__)))
    assert torch.equal(torch.get_rng_state(), before)
    assert tried == [(env.spec, {"madt": "MADT", "dof_policy": "DoFPolicy"}[algorithm])]
    assert list(tmp_path.iterdir()) == []


def test_a_world_of_others_is_played_once_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reward of its third step is not a number: no reset shows that."""
    told_well = Outpost.step

    def told_badly(self: Outpost, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        seen, rewards, *others = told_well(self, actions)
        return seen, {**rewards, "guard": float("nan")} if self._step == 3 else rewards, *others

    monkeypatch.chdir(tmp_path)
    world = ("env=pettingzoo", f"env.factory={Outpost.__module__}.parallel_env", "trust=true")
    config = configuration.to_plain(configuration.compose(["data=mpe2_spread_random", "algorithm=bc", *world]))
    env = preparation.build_world(config)
    preparation.play_once(config, env)
    monkeypatch.setattr(Outpost, "step", told_badly)
    with pytest.raises(
        UserError, match=r"agent 'guard', at step 3: the reward is nan.*uniform actions before training"
    ):
        preparation.play_once(config, env)
    preparation.play_once(config | {"rollout": {"enabled": False}}, env)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("devices", ["1", "2", "auto", "-1", "[0,1]", "'0,1'", "[1]", "'1,'"])
def test_every_way_to_say_devices_is_taken(devices: str) -> None:
    checks.check(configuration.compose([*SMALL, f"trainer.devices={devices}"]))


@pytest.mark.parametrize(("told", "kept"), [({}, False), ({"win_rate": 0.5}, True), ({"win_rate": None}, False)])
def test_a_win_rate_that_is_not_known_stays_with_its_dataset(tmp_path: Path, told: dict[str, Any], kept: bool) -> None:
    """A table of scores could not print null."""
    job = cast(Run, SimpleNamespace(manifest=build(tmp_path / "toy", make_episodes(10), behavior=told)))
    assert ("win_rate" in _describe_behavior(job)) == kept


def test_the_checkpoint_to_evaluate_is_there(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.best_or_last == folder.last
    folder.checkpoints.mkdir()
    folder.best.touch()
    assert folder.best_or_last == folder.best
