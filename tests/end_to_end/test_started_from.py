"""A run that starts with another's weights records it, resumes like any other, and takes only weights that exist."""

import shutil

import pytest
import torch

from dof_lightning import DoFPolicy
from dof_lightning.errors import UserError
from tests.end_to_end.conftest import UNINTERRUPTED
from tests.fixtures.workplace import Workplace, run_here

WARM = (*UNINTERRUPTED, "rollout=none", "algorithm.q_weight=2", "denoiser.hidden=[16,24]")


@pytest.fixture(autouse=True)
def _in_workplace(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace.path)


def test_a_warm_start_is_recorded_and_survives_its_resumption(
    workplace: Workplace, finished: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(*WARM, "run_dir=warm", f"init_from={finished}", "trainer.max_steps=5")
    record = workplace.results("warm")["init_from"]
    assert (record["typed"], record["checkpoint"]) == (finished, f"{finished}/checkpoints/last.ckpt")
    assert record["step"] == 60
    assert {name.partition(".")[0] for name in record["fresh"]} == {"denoiser", "average_denoiser"}  # 24 are not 16
    told = " ".join(capsys.readouterr().out.split())
    assert f"of {finished}/checkpoints/last.ckpt (step 60); fresh in average_denoiser, denoiser" in told
    shutil.copytree("warm", "warm_again")
    with pytest.raises(UserError, match="started with init_from=finished"):
        run_here(*WARM, "run_dir=warm_again", "init_from=other.ckpt", "trainer.max_steps=8")
    run_here(*WARM, "run_dir=warm", f"init_from={finished}", "trainer.max_steps=8")
    results = workplace.results("warm")
    assert (results["resumed_from_step"], results["init_from"]) == (5, record)
    loaded, stored = DoFPolicy.load_from_checkpoint("warm"), workplace.checkpoint("warm")["state_dict"]
    assert all(torch.equal(weight, stored[name]) for name, weight in loaded.state_dict().items())


def test_weights_that_are_not_there_are_missed_before_there_are_data() -> None:
    with pytest.raises(UserError, match=r"init_from=nowhere\.ckpt does not exist"):
        run_here(*WARM, "run_dir=cold", "init_from=nowhere.ckpt", "data.episodes=123456789")
