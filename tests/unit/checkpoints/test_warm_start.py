"""`init_from=`: which weights are taken over, what is kept of it, and what is refused."""

from pathlib import Path

import pytest
import torch

from dof_lightning.algorithms.dof_policy import DoFCloningSettings, DoFPolicy
from dof_lightning.checkpoints.checkpoint import Checkpoint, read
from dof_lightning.checkpoints.warm_start import beginning, described, start_from
from dof_lightning.config import compose as configuration
from dof_lightning.config.identity import config_hash, settings_hash
from dof_lightning.errors import UserError
from tests.fixtures.policy_models import small_dof_policy
from tests.fixtures.small_spec import small_spec
from tests.fixtures.synthetic import build_algorithm
from tests.fixtures.trainer_checkpoints import untrained


def saved(policy: DoFPolicy, folder: Path) -> Checkpoint:
    return read(untrained(policy, folder / "source.ckpt"))


def test_all_weights_are_taken_where_all_fit(tmp_path: Path) -> None:
    source = saved(small_dof_policy(weights_seed=1), tmp_path)
    fresh = small_dof_policy(q_weight=3.0)
    record = start_from(fresh, source, "source.ckpt")
    assert all(torch.equal(weight, source.weights[name]) for name, weight in fresh.named_parameters())
    assert (record["loaded"], record["fresh"]) == (len(list(fresh.named_parameters())), [])
    assert (record["typed"], record["step"], record["checkpoint"]) == ("source.ckpt", 0, str(tmp_path / "source.ckpt"))
    assert len(record["sha256"]) == 64
    assert not fresh.average_denoiser.training
    assert not any(weight.requires_grad for weight in fresh.average_denoiser.parameters())


def test_what_is_new_keeps_its_fresh_weights(tmp_path: Path) -> None:
    clone = small_dof_policy(
        weights_seed=1, kind=DoFCloningSettings, critics="none", q_gradient="none", q_weight=0.0, candidates=1
    )
    source, fresh, untouched = saved(clone, tmp_path), small_dof_policy(), small_dof_policy()
    record = start_from(fresh, source, "source.ckpt")
    assert {name.partition(".")[0] for name in record["fresh"]} == {"critic"}
    for name, weight in fresh.named_parameters():
        assert torch.equal(weight, untouched.get_parameter(name) if "critic" in name else source.weights[name])
    assert described(record, None).endswith("(step 0); fresh in critic")
    assert (described(None, None), described(record, 1200)) == ("from the start", "resumed from step 1,200")


def test_normalisers_are_the_new_datasets(tmp_path: Path) -> None:
    source = saved(small_dof_policy(), tmp_path)
    source.weights["normalizer.scale"] *= 7
    fresh = small_dof_policy()
    before = fresh.normalizer.get_buffer("scale").clone()
    start_from(fresh, source, "source.ckpt")
    assert torch.equal(fresh.normalizer.get_buffer("scale"), before)


def test_nothing_that_fits_is_refused(tmp_path: Path) -> None:
    source = saved(small_dof_policy(), tmp_path)
    with pytest.raises(UserError, match=r"init_from=source\.ckpt: none of its weights .* one of BC's"):
        start_from(build_algorithm("algorithm=bc", spec=small_spec((2, 2, 2))), source, "source.ckpt")


def test_what_goes_on_keeps_its_beginning_and_takes_no_other(tmp_path: Path) -> None:
    plain = saved(small_dof_policy(), tmp_path)
    assert beginning(None, plain) == beginning(None, None) == (None, None)
    with pytest.raises(UserError, match=r"init_from=a\.ckpt: training resumes from .*started without init_from"):
        beginning("a.ckpt", plain)
    warm = Checkpoint(**{**vars(plain), "init_from": {"typed": "a.ckpt"}})
    assert beginning("a.ckpt", warm) == beginning(None, warm) == (None, {"typed": "a.ckpt"})
    with pytest.raises(UserError, match=r"started with init_from=a\.ckpt"):
        beginning("b.ckpt", warm)


def test_a_run_without_it_is_the_run_it_always_was() -> None:
    plain = configuration.to_plain(configuration.compose(["experiment=mpe_spread_random"]))
    before = {key: value for key, value in plain.items() if key != "init_from"}
    warm = plain | {"init_from": "a.ckpt"}
    for identify in (config_hash, settings_hash):
        assert identify(plain) == identify(before) != identify(warm)
