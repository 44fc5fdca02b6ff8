"""Several ranks: every strategy ends properly, nothing is lost when ranks die, and no rank waits for ever."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.kill_campaign import campaign, differences, processes_of_ranks
from tests.fixtures.workplace import ROOT, SMALL, Workplace, environment, succeeded

STREAMED = ("data.episodes=20000", "data.memory_mb=90", "data.global_batch_size=2048")  # blocks of one shard
LONG = (*SMALL, "trainer.max_steps=100000", "checkpoint.every_n_steps=5", "rollout.every_n_steps=100000")


def torchrun(workplace: Workplace, options: tuple[str, ...], *overrides: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", *options, str(ROOT / "train.py"), *overrides]
    return subprocess.Popen(
        command, cwd=workplace.path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen, seconds: float) -> tuple[int, str]:
    """Exit code and complaint; a process that does not end is killed, and fails the test."""
    try:
        _, complaint = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"still running after {seconds} s: {process.communicate()[1][-2000:]}") from None
    return process.returncode, complaint


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and only waits to be reaped has an empty command line."""
    command = Path(f"/proc/{pid}/cmdline")
    return command.exists() and command.read_text() != ""


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 200.0) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def test_differences_are_found_in_every_corner() -> None:
    state = {"weights": torch.ones(3), "groups": [{"step": 3}]}
    assert not any(differs for _, differs in differences(state, {"weights": torch.ones(3), "groups": [{"step": 3}]}))
    for other in (
        {"weights": torch.tensor([1.0, 1.0, 1.0 + 1e-7]), "groups": [{"step": 3}]},
        {"weights": torch.ones(3), "groups": [{"step": 4}]},
        {"weights": torch.ones(3), "groups": []},
        {"weights": torch.ones(3).double(), "groups": [{"step": 3}]},
    ):
        assert sum(differs for _, differs in differences(state, other)) == 1


@pytest.mark.slow
def test_a_rank_killed_on_two_ends_the_job_and_a_restart_ends_with_the_same_bits(workplace: Workplace) -> None:
    outcome = campaign(ranks=2, kills=1, seed=0, folder=workplace.path / "campaign", overrides=())
    assert (outcome.problems, outcome.differences) == ([], [])
    assert (outcome.single_kills, outcome.compared > 100) == (1, True)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [(), STREAMED], ids=["in memory", "streamed"])
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.timeout(1800)
def test_many_kills_change_no_bit(workplace: Workplace, ranks: int, overrides: tuple[str, ...]) -> None:
    folder = workplace.path / f"campaign_{ranks}_{len(overrides)}"
    outcome = campaign(ranks, kills=4, seed=1, folder=folder, overrides=overrides)
    assert (outcome.problems, outcome.differences) == ([], [])


@pytest.mark.parametrize(
    "trainer", ["fsdp2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ddp", "ddp_bf16"))]
)
def test_a_strategy_ends_properly(workplace: Workplace, trainer: str) -> None:
    done = workplace.train(*SMALL, f"trainer={trainer}", "trainer.accelerator=cpu", f"run_dir={trainer}")
    printed = succeeded(done)
    assert done.stderr.replace("Collecting", "").count("\n") <= 1, done.stderr
    assert "2 x cpu" in printed
    assert printed.count("certified") == 2, "both ranks printed the table"
    results = workplace.results(trainer)
    assert results["steps"] == 20
    assert all(results[which]["certificate"]["passed"] for which in ("last", "best"))
    assert workplace.checkpoint(trainer)["global_step"] == 20


@pytest.mark.slow
def test_strategies_go_on_from_each_other(workplace: Workplace) -> None:
    for folder, strategies in (("there_and_back", ("fsdp2", "ddp")), ("back_and_there", ("ddp", "fsdp2"))):
        for steps, strategy in zip((10, 20), strategies, strict=True):
            typed = (f"trainer={strategy}", "trainer.accelerator=cpu", f"trainer.max_steps={steps}")
            succeeded(workplace.train(*SMALL, *typed, f"run_dir={folder}"))
    ours, theirs = workplace.checkpoint("there_and_back"), workplace.checkpoint("back_and_there")
    for part in ("state_dict", "optimizer_states", "global_step"):
        assert [name for name, differs in differences(ours[part], theirs[part], part) if differs] == []


@pytest.mark.slow
def test_sigterm_saves_and_ends_both_ranks(workplace: Workplace) -> None:
    process = workplace.start_training(*LONG, "trainer.devices=2", "checkpoint.every_n_steps=100000", "run_dir=asked")
    wait_for(workplace.path / "asked" / "config.yaml", process)
    (events,) = _wait_for_events(workplace.path / "asked", process)
    time.sleep(1.0)
    ranks = processes_of_ranks(process.pid)
    process.send_signal(signal.SIGTERM)
    code, complaint = ended(process, 60.0)
    assert events.exists()
    assert code == 128 + signal.SIGTERM, complaint
    assert "SIGTERM: stopped and saved at step" in complaint
    assert workplace.checkpoint("asked")["global_step"] > 0
    assert not any(map(runs, ranks))


@pytest.mark.slow
def test_sigterm_in_a_rollout_ends_both_ranks_and_leaves_it_owed(workplace: Workplace) -> None:
    often = ("trainer.max_steps=100000", "checkpoint.every_n_steps=10", "rollout.every_n_steps=20")
    process = workplace.start_training(
        *SMALL, *often, "rollout.episodes=100000", "trainer.devices=2", "run_dir=in_rollout"
    )
    wait_for(workplace.path / "in_rollout" / "checkpoints" / "last.ckpt", process)
    time.sleep(5.0)  # ten updates take a fraction of it, the episodes a minute
    ranks = processes_of_ranks(process.pid)
    process.send_signal(signal.SIGTERM)
    code, complaint = ended(process, 60.0)
    assert code == 128 + signal.SIGTERM, complaint
    left = workplace.checkpoint("in_rollout")
    assert left["global_step"] == 20
    assert left["callbacks"]["RolloutCallback"].get("owed"), left["callbacks"]
    assert not any(map(runs, ranks))


def _wait_for_events(folder: Path, process: subprocess.Popen) -> list[Path]:
    deadline = time.monotonic() + 200.0
    while not (found := [p for p in folder.glob("events.*") if p.stat().st_size > 1000]):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing was logged"
        time.sleep(0.05)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
def test_a_dead_rank_ends_all_with_a_message(workplace: Workplace, launcher: str, victim: int) -> None:
    run_dir = f"dead_{launcher}_{victim}"
    typed = (*LONG, "trainer.devices=2", f"run_dir={run_dir}")
    if launcher == "lightning":
        process = workplace.start_training(*typed)
        ranks_of = processes_of_ranks
    else:
        process = torchrun(workplace, ("--standalone", "--nproc-per-node=2"), *typed)

        def ranks_of(pid: int) -> list[int]:
            return processes_of_ranks(pid)[1:]

    wait_for(workplace.path / run_dir / "checkpoints" / "last.ckpt", process)
    ranks = ranks_of(process.pid)
    os.kill(ranks[victim], signal.SIGKILL)
    code, complaint = ended(process, 60.0)
    assert code != 0
    assert "resumes from its last checkpoint" in complaint
    assert not any(map(runs, ranks))


@pytest.mark.slow
def test_torchrun_restarts_from_the_last_checkpoint(workplace: Workplace) -> None:
    typed = (*SMALL, "trainer.devices=2", "trainer.max_steps=150", "checkpoint.every_n_steps=5", "run_dir=restarted")
    process = torchrun(workplace, ("--standalone", "--nproc-per-node=2", "--max-restarts=1"), *typed)
    wait_for(workplace.path / "restarted" / "checkpoints" / "last.ckpt", process)
    os.kill(processes_of_ranks(process.pid)[2], signal.SIGKILL)
    code, complaint = ended(process, 250.0)
    assert code == 0, complaint[-3000:]
    results = workplace.results("restarted")
    assert results["steps"] == 150
    assert results["resumed_from_step"] > 0


@pytest.mark.slow
def test_torchrun_on_two_nodes(workplace: Workplace) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ("--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}")
    typed = (*SMALL, "trainer.devices=1", "trainer.num_nodes=2", "run_dir=two_nodes")
    nodes = [torchrun(workplace, (*where, f"--node-rank={node}"), *typed) for node in range(2)]
    for node in nodes:
        code, complaint = ended(node, 250.0)
        assert code == 0, complaint[-3000:]
    assert workplace.results("two_nodes")["steps"] == 20


@pytest.mark.slow
def test_a_sweep_of_parallel_jobs(workplace: Workplace) -> None:
    parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "algorithm=dof_cloning", "trainer.max_steps=4")
    typed = [override for override in SMALL if not override.startswith("algorithm.")]
    printed = succeeded(workplace.train("-m", *typed, *parallel, "seed=20,21"))
    results = list((workplace.path / "runs" / "mpe_spread_random" / "dof_cloning").glob("*/results.json"))
    assert {json.loads(path.read_text())["seed"] for path in results} == {20, 21}
    assert "1 threads each" in printed
    assert {line[:4] for line in printed.splitlines() if "threads each" in line} == {"[0] ", "[1] "}
    assert [line.split()[:2] for line in printed.splitlines()[-4:-2]] == [["0", "20"], ["1", "21"]]


@pytest.mark.slow
def test_a_sweep_of_submitted_jobs(workplace: Workplace) -> None:
    submitted = ("hydra/launcher=submitit_local", "trainer.max_steps=4", "run_dir=submitted/${seed}")
    refused = workplace.train("-m", *SMALL, *submitted, "seed=30,31")
    assert refused.returncode == 2
    assert "hydra.launcher.cpus_per_task" in refused.stderr
    printed = succeeded(workplace.train("-m", *SMALL, *submitted, "hydra.launcher.cpus_per_task=1", "seed=30,31"))
    assert [workplace.results(f"submitted/{seed}")["seed"] for seed in (30, 31)] == [30, 31]
    assert [line.split()[:2] for line in printed.splitlines()[-4:-2]] == [["0", "30"], ["1", "31"]]
    logs = (workplace.path / "runs" / ".hydra" / ".submitit").rglob("*_log.out")
    assert sum("evaluate again" in log.read_text() for log in logs) == 2


@pytest.mark.slow
def test_a_script_trains_on_two_ranks_and_goes_on_alone(workplace: Workplace) -> None:
    """Rank one runs the script, too: it must neither read results that are not there nor take over another run."""
    typed = [*SMALL, "trainer.devices=2", "trainer.max_steps=4", "rollout.report_episodes=400"]
    script = workplace.path / "script.py"
    script.write_text(
        "from dof_lightning import train\n"
        f"run = train(*{typed}, 'run_dir=from_script')\n"
        "print((run / 'results.json').exists(), flush=True)\n"
        f"train(*{typed}, 'seed=1', 'run_dir=again')\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=workplace.path, env=environment(), capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines().count("True") == 1, done.stderr[-2000:]
    assert "only the first training of a script can use several devices" in done.stderr
    assert done.returncode != 0
