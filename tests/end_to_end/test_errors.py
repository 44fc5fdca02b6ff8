"""A mistake in a command is reported in one line that names the thing and the fix, with exit code 2."""

import re
import shutil
from pathlib import Path

import pytest

from dof_lightning.cli import main as cli
from dof_lightning.config import messages
from tests.end_to_end.conftest import UNINTERRUPTED
from tests.fixtures.dataset_files import rewrite
from tests.fixtures.workplace import SMALL, Workplace, run_here


@pytest.fixture(autouse=True)
def _in_workplace(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """In-process commands run where the others do."""
    monkeypatch.chdir(workplace.path)


def complaint_of_train(capsys: pytest.CaptureFixture, *overrides: str) -> str:
    code = messages.exit_with_one_line(lambda: run_here(*overrides))
    return _only_line(code, capsys.readouterr().err)


def complaint_of_dof(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    code = messages.exit_with_one_line(lambda: cli.run(arguments))
    return _only_line(code, capsys.readouterr().err)


def _only_line(code: int, printed: str) -> str:
    assert code == 2
    lines = [line for line in printed.splitlines() if line.strip() and not line.startswith("Collecting")]
    assert len(lines) == 1, printed
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ((), ("experiment=", "mpe_spread_expert", "mpe_spread_random")),
        (("experiment=foo",), ("experiment=foo", "mpe_spread_medium_replay")),
        ((*SMALL, "algorithm=foo"), ("algorithm=foo", "dof_policy")),
        (
            ("experiment=mpe_spread_random", "denoiser=temporal_unet"),
            ("denoiser=temporal_unet", "choose denoiser=", "mlp or mlp_shared"),
        ),
        (
            ("experiment=mpe_spread_random", "algorithm=dof_trajectory", "denoiser=mlp"),
            ("denoiser=mlp", "choose denoiser=", "temporal_unet or"),
        ),
        (
            ("experiment=mpe_spread_random", "algorithm=dof_trajectory", "algorithm.horizon=1"),
            ("algorithm.horizon=1", "at least 2"),
        ),
        ((*SMALL, "trainer.max_stepz=3"), ("trainer.max_stepz", "did you mean `trainer.max_steps`?")),
        ((*SMALL, "sede=3"), ("sede", "did you mean `seed`?")),
        (
            ("experiment=mpe_spread_random", "algorithm=td3_bc", "algorithm.alhpa=3"),
            ("algorithm.alhpa", "did you mean `algorithm.alpha`?"),
        ),
        ((*SMALL, "trainer.max_steps=many"), ("trainer.max_steps", "integer", "many")),
        ((*SMALL, "trainer.max_steps=0"), ("trainer.max_steps", "at least 1")),
        ((*SMALL, "data.global_batch_size=2.5"), ("data.global_batch_size", "integer")),
        ((*SMALL, "data.global_batch_size=0"), ("data.global_batch_size", "at least 1")),
        ((*SMALL, "data.memory_mb=1"), ("shard-000000.tar", "too large", "use data.memory_mb=5 or more")),
        ((*SMALL, "data.partition=rows"), ("data.partition", "windows or shards", "rows")),
        (
            (*SMALL, "data.partition=shards", "data.memory_mb=null"),
            ("data.partition=shards", "data.memory_mb to a number"),
        ),
        ((*SMALL, "rollout.every_n_steps=0"), ("rollout.every_n_steps", "at least 1")),
        ((*SMALL, "seed"), ("seed", "key=value")),
        ((*SMALL, "seed=-1"), ("seed", "at least 0", "-1")),
        ((*SMALL, "resume=null"), ("resume", "auto, never")),
        ((*SMALL, "run_dir=/proc/nope"), ("run_dir=/proc/nope", "cannot be created as a folder")),
        ((*SMALL, "data.root=/proc/nope"), ("/proc/nope", "data.root")),
        ((*SMALL, "trainer.accumulate_grad_batches=0"), ("trainer.accumulate_grad_batches", "at least 1")),
        ((*SMALL, "trainer.log_every_n_steps=0"), ("trainer.log_every_n_steps", "at least 1")),
        ((*SMALL, "data.num_workers=-1"), ("data.num_workers", "at least 0")),
        ((*SMALL, "denoiser.hidden=[-3]"), ("hidden=[-3]", "at least 1")),
        ((*SMALL, "algorithm.learning_rate=-1"), ("algorithm.learning_rate=-1", "above 0")),
        ((*SMALL, "algorithm.critic_gradient_clip=-1"), ("algorithm.critic_gradient_clip=-1", "above 0, or null")),
        ((*SMALL, "data.episodes=123456", "env.task=tag"), ("was collected in", "env=")),
        ((*SMALL, "trainer.accelerator=gpv"), ("trainer", "gpv")),
        ((*SMALL, "env._target_=os.system"), ("env._target_", "trust=true")),
        ((*SMALL, "env.task=tag"), ("mpe_spread", "was collected in", "env=")),
        ((*SMALL, "data.path=nowhere"), ("nowhere", "no such dataset")),
        ((*SMALL, "env=mpe2_spread"), ("mpe_spread_random", "env='mpe2_spread'", "choose the env=")),
        ((*SMALL, "env=mpe2_spread", "env.factory=os.system"), ("env.factory=os.system", "trust=true")),
        (
            ("experiment=mpe_spread_expert", "data.source.behavior.quality=perfect"),
            ("quality", "perfect", "expert or medium or medium_replay"),
        ),
        ((*SMALL, "resume=nowhere.ckpt"), ("resume=nowhere.ckpt", "no checkpoint")),
        ((*SMALL, "sampler.steps=9"), ("steps", "9")),
        ((*SMALL, "sampler.steps=abc"), ("sampler.steps", "an integer", "abc")),
        ((*SMALL, "denoiser.time_embedding=15"), ("denoiser.time_embedding=15", "even")),
        ((*SMALL, "denoiser.time_embedding=abc"), ("error: denoiser.time_embedding", "an integer", "abc")),
        ((*SMALL, "algorithm.gradient_clip=abc"), ("algorithm.gradient_clip", "a number or null", "abc")),
        ((*SMALL, "algorithm.q_gradient=one-step"), ("algorithm.q_gradient", "none or one_step or full", "one-step")),
        ((*SMALL, "trainer.precision=16-mixed"), ("trainer.precision", "32-true or bf16-mixed", "16-mixed")),
        ((*SMALL, "trainer.max_time=soon"), ("trainer.max_time=soon", "DD:HH:MM:SS")),
        ((*SMALL, "trainer.max_time=1h"), ("trainer.max_time=1h", "DD:HH:MM:SS")),
        ((*SMALL, "callbacks.checkpoint=null"), ("callbacks.checkpoint", "resumed from")),
        ((*SMALL, "~callbacks.checkpoint"), ("callbacks.checkpoint", "resumed from")),
        ((*SMALL, "+trainer.fast_dev_run=true"), ("trainer.fast_dev_run",)),
    ],
    ids=lambda value: " ".join(value[-1:]) if isinstance(value, tuple) else None,
)
def test_a_mistake_in_train_is_one_line(
    capsys: pytest.CaptureFixture, overrides: tuple[str, ...], words: tuple[str, ...]
) -> None:
    line = complaint_of_train(capsys, *overrides)
    for word in words:
        assert word in line


def test_no_mistake_leaves_a_run_folder(workplace: Workplace, capsys: pytest.CaptureFixture) -> None:
    complaint_of_train(capsys, *SMALL, "env.task=tag", "seed=77")
    complaint_of_train(capsys, *SMALL, "env.task=tag", "run_dir=mistaken")
    complaint_of_train(capsys, *SMALL, "trainer.devices=2", "data.global_batch_size=63", "run_dir=mistaken")
    folders = [path for path in (workplace.path / "runs").rglob("*") if path.is_dir() and not any(path.iterdir())]
    assert folders == []
    assert not (workplace.path / "mistaken").exists()


def test_train_py_and_sweeps_answer_in_one_line(workplace: Workplace) -> None:
    for arguments, words in (
        (("--experiment=mpe_spread_medium",), ("write experiment=mpe_spread_medium",)),
        (("experiment=mpe_spred",), ("experiment=mpe_spred does not exist", "mpe_spread_")),
        ((*SMALL, "env.task=tag"), ("was collected in",)),
        (("-m", *SMALL, "seed=0,1", "trainer.devices=2"), ("trainer.devices=1", "sweep")),
    ):
        done = workplace.train(*arguments)
        assert done.returncode == 2
        lines = done.stderr.splitlines()
        if arguments[0] == "-m":  # Hydra names the first job that failed
            lines = [line for line in lines if not line.startswith("Error executing job with overrides: [")]
        (line,) = lines
        for word in words:
            assert word in line


def test_a_mistake_in_one_job_of_a_sweep_does_not_stop_the_others(workplace: Workplace) -> None:
    typed = (*SMALL, "algorithm.shared_seeds=1,null", "trainer.max_steps=2", "run_dir=sweep/${hydra:job.num}")
    done = workplace.train("-m", *typed)
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "shared_seeds=1" in line
    assert workplace.results("sweep/1")["steps"] == 2
    assert not (workplace.path / "sweep/0").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("schedule=cosine", ("schedule", "cosine")),
        ("algorithm.q_gradient=none", ("algorithm.", "belongs to another run")),
        ("noise_factorization=concat", ("noise_factorization", "WConcat")),
        ("denoiser.hidden=[8]", ("denoiser.hidden", "[16, 16]", "[8]")),
        ("seed=1", ("seed is 0 there, 1 here",)),
        ("data.episodes=300", ("dataset is mpe_spread_random",)),
        ("data.global_batch_size=32", ("data.global_batch_size is 64 there, 32 here",)),
        ("data.memory_mb=1000", ("data.memory_mb is 2000 there, 1000 here",)),
        ("data.partition=shards", ("data.partition is 'windows' there, 'shards' here",)),
        ("trainer.accumulate_grad_batches=2", ("trainer.accumulate_grad_batches is 1 there, 2 here",)),
        ("trainer.precision=bf16-mixed", ("trainer.precision is '32-true' there, 'bf16-mixed' here",)),
        ("+trainer.overfit_batches=1", ("trainer.overfit_batches is None there, 1 here",)),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    finished: str, capsys: pytest.CaptureFixture, change: str, words: tuple[str, ...]
) -> None:
    line = complaint_of_train(capsys, *SMALL, change, f"resume={finished}/checkpoints/last.ckpt", "run_dir=refused")
    for word in (*words, "last.ckpt"):
        assert word in line


def test_a_checkpoint_with_no_steps_left_is_not_continued_elsewhere(
    finished: str, capsys: pytest.CaptureFixture
) -> None:
    resumed = (f"resume={finished}/checkpoints/last.ckpt", "run_dir=refused", "trainer.max_steps=60")
    assert "has 60 steps already, trainer.max_steps=60" in complaint_of_train(capsys, *SMALL, *resumed)


def test_a_dataset_written_anew_is_not_gone_on_with(
    workplace: Workplace, finished: str, capsys: pytest.CaptureFixture
) -> None:
    """The same recipe, other files: what was learned from one would be mixed with the other, without a word."""
    (written,) = workplace.path.glob("data/mpe_spread_random-200-*")
    shutil.copytree(written, workplace.path / "anew")
    rewrite(workplace.path / "anew", lambda document: document["shards"][0].update(sha256="0" * 64))
    resumed = ("data.path=anew", f"resume={finished}/checkpoints/last.ckpt", "run_dir=refused")
    line = complaint_of_train(capsys, *SMALL, *resumed)
    assert "the files of dataset mpe_spread_random have been rewritten since, with another content" in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("seed=5", "algorithm=dof_cloning"), ("seed is 0 there, 5 here",)),
        (("sampler=ddim",), ("sampler._target_", "DDPM", "DDIM")),
        (("data.episodes=300",), ("data.episodes is 200 there, 300 here",)),
        (("trainer.accumulate_grad_batches=2",), ("trainer.accumulate_grad_batches is 1 there",)),
    ],
)
def test_another_run_does_not_pass_for_a_finished_one(
    finished: str, capsys: pytest.CaptureFixture, changes: tuple[str, ...], words: tuple[str, ...]
) -> None:
    fitting = [text for text in UNINTERRUPTED if "algorithm=dof_cloning" not in changes or "algorithm." not in text]
    line = complaint_of_train(capsys, *fitting, *changes, f"run_dir={finished}")
    for word in (*words, finished, "another run_dir="):
        assert word in line


def test_a_finished_run_stays_finished_with_what_may_change(finished: str, capsys: pytest.CaptureFixture) -> None:
    free = ("trainer.devices=2", "rollout.every_n_steps=7", "trainer.max_steps=50", "checkpoint.every_n_steps=9")
    run_here(*UNINTERRUPTED, *free, f"run_dir={finished}")
    assert "is finished" in capsys.readouterr().out


def test_a_run_is_not_overwritten(workplace: Workplace, finished: str, capsys: pytest.CaptureFixture) -> None:
    assert "resume=auto" in complaint_of_train(capsys, *SMALL, f"run_dir={finished}", "resume=never")
    branch = ("resume=branch/checkpoints/last.ckpt", f"run_dir={finished}", "trainer.max_steps=70")
    shutil.copytree(workplace.path / finished, workplace.path / "branch")
    line = complaint_of_train(capsys, *UNINTERRUPTED, *branch)
    assert "contains another run" in line
    assert workplace.results(finished)["steps"] == 60


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_damaged_shards_are_named(
    workplace: Workplace, finished: str, capsys: pytest.CaptureFixture, tmp_path: Path, damage: str
) -> None:
    (whole,) = workplace.path.glob("data/mpe_spread_random-200-*")
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    shard = copy / "shard-000000.tar"
    if damage == "missing":
        shard.unlink()
    else:
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 255
        shard.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    line = complaint_of_dof(capsys, "data", "verify", str(copy))
    assert "shard-000000.tar" in line
    assert "shard-000000.tar" in complaint_of_train(capsys, *SMALL, f"data.path={copy}", f"run_dir=damaged_{damage}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("eval", "rollout.report_episodes=2"), ("checkpoint=",)),
        (("eval", "runs/mine/checkpoints/last.ckpt"), ("checkpoint=runs/mine/checkpoints/last.ckpt",)),
        (("eval", "checkpoint=nowhere.ckpt"), ("nowhere.ckpt", "does not exist")),
        (("eval", "checkpoint={finished}/config.yaml"), ("config.yaml", "cannot be read")),
        (("eval", "checkpoint={finished}/checkpoints/last.ckpt", "env=mpe_tag"), ("was collected in", "env=")),
        (("eval", "checkpoint={finished}/checkpoints/last.ckpt", "rollout.reports=1"), ("rollout.report_episodes",)),
        (("eval", "checkpoint={finished}/checkpoints/last.ckpt", "denoiser"), ("denoiser", "key=value")),
        (("eval", "checkpoint={finished}/checkpoints/last.ckpt", "sampler=nonsense"), ("sampler=nonsense", "ddim")),
        (("eval", "checkpoint={finished}/checkpoints/last.ckpt", "algorithm=dof_cloning"), ("algorithm=dof_cloning",)),
        (
            ("eval", "checkpoint={finished}/checkpoints/last.ckpt", "trainer.max_steps=3"),
            ("does not read `trainer.max_steps`", "rollout.report_episodes"),
        ),
        (
            ("eval", "checkpoint={finished}/checkpoints/last.ckpt", "rollout.report_episodes=abc"),
            ("rollout.report_episodes", "an integer", "abc"),
        ),
        (
            ("eval", "checkpoint={finished}/checkpoints/last.ckpt", "sampler.steps=abc"),
            ("sampler.steps", "an integer", "abc"),
        ),
        (
            ("eval", "checkpoint={finished}/checkpoints/last.ckpt", "env._target_=os.system"),
            ("env._target_", "trust=true"),
        ),
        (
            ("eval", "checkpoint={finished}/checkpoints/last.ckpt", "algorithm.denoiser.hidden=[8,8]"),
            ("does not fit", "denoiser"),
        ),
        (
            ("eval", "checkpoint={finished}/checkpoints/last.ckpt", "algorithm.learning_rate=[0.1,0.2]"),
            ("algorithm.learning_rate=0.1 has no effect", "only training reads it"),
        ),
        (
            ("eval", "checkpoint={finished}/checkpoints/last.ckpt", "algorithm.target_sampler.steps=1"),
            ("algorithm.target_sampler.steps=1 has no effect", "only training reads it"),
        ),
        (("data", "build", "experiment=foo"), ("experiment=foo", "mpe_spread_expert")),
        (("data", "show"), ("experiment=",)),
        (("data", "show", "nowhere"), ("nowhere", "no such dataset")),
        (("data", "show", "experiment=mpe_spread_random", "data.episodes=12345"), ("dof data build", "12345")),
        (("data", "list", "foo=1"), ("foo=1", "data.root=")),
        (("data", "train-behavior", "tusk=spread"), ("tusk", "task")),
        (("data", "train-behavior", "updates=abc"), ("updates", "an integer", "abc")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_mistake_in_dof_is_one_line(
    finished: str, capsys: pytest.CaptureFixture, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    line = complaint_of_dof(capsys, *(argument.format(finished=finished) for argument in arguments))
    for word in words:
        assert word in line


def test_datasets_are_built_listed_shown_and_verified(workplace: Workplace, capsys: pytest.CaptureFixture) -> None:
    def printed(*arguments: str) -> str:
        cli.run(["data", *arguments])
        return capsys.readouterr().out

    what = ("experiment=mpe_spread_random", "data.episodes=30", "data.root=elsewhere")
    path = printed("build", *what).splitlines()[-1]
    assert (workplace.path / path / "dataset.json").is_file()
    assert "mpe_spread_random" in printed("list", "data.root=elsewhere")
    assert "30 of at most 25 steps" in printed("show", *what)
    assert "1 shards" in printed("verify", path)


def test_a_full_disk_is_one_line_and_other_faults_of_the_system_are_not(capsys: pytest.CaptureFixture) -> None:
    assert messages.exit_with_one_line(lambda: Path("/dev/full").write_text("curves")) == 2
    assert re.fullmatch(r"error: the disk is full.*run_dir.*\n", capsys.readouterr().err)
    with pytest.raises(FileNotFoundError):
        messages.exit_with_one_line(lambda: Path("/nowhere/at/all").read_text())
