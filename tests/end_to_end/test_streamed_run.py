"""A run that streams its dataset, from the command to the last checkpoint."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from data_modules.storage.manifest import read_manifest
from data_modules.storage.store import Description, Layout, write_dataset
from dof_lightning.errors import UserError
from dof_lightning.training import run as training
from tests.end_to_end.test_run import assert_identical
from tests.fixtures.http_server import serve
from tests.fixtures.processes import start
from tests.fixtures.shard_reading import read_all
from tests.fixtures.workplace import SMALL, Workplace, run_here

STREAMED = (
    *(*SMALL, "data.path=small_shards", "data.memory_mb=1", "trainer.max_steps=50"),
    *(
        "data.global_batch_size=128",
        "checkpoint.every_n_steps=7",
        "rollout.every_n_steps=1000",
        "validation.every_n_steps=30",
    ),
)


@pytest.fixture
def small_shards(workplace: Workplace, finished: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The dataset of the finished run again, in ten shards."""
    monkeypatch.chdir(workplace.path)
    monkeypatch.setattr("dof_lightning.evaluation.score._ASKED_FOR", 1)
    path = workplace.path / "small_shards"
    (whole,) = workplace.path.glob("data/mpe_spread_random-200-*")
    spec, behavior = read_manifest(whole).spec, read_manifest(whole).behavior
    write_dataset(
        path,
        Description(
            name=spec.name,
            environment=spec.environment,
            recipe=spec.recipe,
            behavior=behavior,
            discount=spec.discount,
        ),
        blocks=[read_all(whole).padded()],
        n_episodes=200,
        seed=0,
        layout=Layout(episodes_per_sample=20, samples_per_shard=1),
    )
    return path


def train(*overrides: str) -> None:
    run_here(*STREAMED, *overrides)


def train_elsewhere(folder: str, *overrides: str) -> None:
    os.chdir(folder)
    os.environ["OMP_NUM_THREADS"] = "1"
    train(*overrides)


@pytest.mark.slow
def test_a_run_that_streams_killed_and_resumed_ends_with_the_same_bits(
    workplace: Workplace, small_shards: Path
) -> None:
    process = start(train_elsewhere, str(workplace.path), "run_dir=stream_killed")
    last = workplace.path / "stream_killed" / "checkpoints" / "last.ckpt"
    while not last.exists():
        assert process.is_alive(), "it ended before its first checkpoint"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    train("run_dir=stream_killed", "data.num_workers=2")
    assert 0 < workplace.results("stream_killed")["resumed_from_step"] < 50
    train("run_dir=stream_whole")
    ours, theirs = workplace.checkpoint("stream_killed"), workplace.checkpoint("stream_whole")
    for part in ("state_dict", "optimizer_states", "global_step"):
        assert_identical(ours[part], theirs[part], part)
    assert ours["EpisodeDataModule"]["order"].startswith("streamed in blocks")
    assert workplace.results("stream_killed")["last"] == workplace.results("stream_whole")["last"]


def test_a_shard_damaged_in_mid_run_is_named_and_the_run_goes_on_when_it_is_mended(
    workplace: Workplace, small_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = ("run_dir=stream_damaged", "trainer.max_steps=40", "checkpoint.every_n_steps=2")
    shards = [
        small_shards / shard["name"] for shard in json.loads((small_shards / "dataset.json").read_text())["shards"]
    ]
    whole = [shard.read_bytes() for shard in shards]
    reading = training.Interruption.on_train_batch_end

    def damage(self, trainer, *arguments):
        if trainer.global_step == 9:
            for shard in shards:
                shard.write_bytes(bytes(shard.stat().st_size))
        reading(self, trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training.Interruption, "on_train_batch_end", damage)
        with pytest.raises(UserError, match=r"shard-0000\d\d\.tar: .*delete the dataset's folder"):
            train(*order)
    assert not (workplace.path / "stream_damaged" / "results.json").exists()
    for shard, content in zip(shards, whole, strict=True):
        shard.write_bytes(content)
    train(*order)
    assert workplace.results("stream_damaged")["resumed_from_step"] > 0


def test_a_run_streams_from_a_server_and_from_a_bucket_what_it_streams_from_a_folder(
    workplace: Workplace, small_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ("trainer.max_steps=4", "rollout.report_episodes=2")
    train("run_dir=stream_folder", *few)
    with serve(workplace.path) as server:
        server.cuts = [20_000]
        train("run_dir=stream_http", f"data.path={server.address}/{small_shards.name}", "data.num_workers=2", *few)
        assert server.cuts == []
    with bucket_of(small_shards, monkeypatch) as address:
        train("run_dir=stream_s3", f"data.path={address}", *few)
    weights = workplace.checkpoint("stream_folder")["state_dict"]
    for run in ("stream_http", "stream_s3"):
        assert_identical(workplace.checkpoint(run)["state_dict"], weights, run)


@contextmanager
def bucket_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder in a bucket on this machine, where the environment says that buckets are."""
    moto_server, s3fs = pytest.importorskip("moto.server"), pytest.importorskip("s3fs")
    server = moto_server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    values = {
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port()),
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem()
    system.mkdir("s3://end-to-end")
    system.put(str(folder), "s3://end-to-end", recursive=True)
    yield f"s3://end-to-end/{folder.name}"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()
