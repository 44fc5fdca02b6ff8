"""`dof bench`: a queue that is killed and resumed, and one row per run whatever happened."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_modules.behavior.sources import Random
from dof_lightning.bench import command
from dof_lightning.bench.job import BUSY, dataset_of, perform, run_folder
from dof_lightning.bench.queue import Place, pending
from dof_lightning.bench.suite import read_suite
from dof_lightning.cli import main as cli
from dof_lightning.config.compose import compose, to_plain
from dof_lightning.config.identity import config_hash
from dof_lightning.errors import UserError
from dof_lightning.report.record import record_of
from dof_lightning.report.store import ResultsStore
from tests.fixtures.dataset_files import build, make_episodes
from tests.fixtures.store_rows import record
from tests.fixtures.suites import SMALL, write_suite
from tests.fixtures.workplace import environment, succeeded


def test_data_that_were_corrected_make_another_run(tmp_path: Path) -> None:
    """Own and imported data lie where they lie: their contents determine whether a stored row is theirs."""
    plain = to_plain(compose(["experiment=mpe_spread_random", f"data.path={tmp_path / 'mine'}"]))
    told = [dataset_of(plain)]
    for seed in (0, 1):
        shutil.rmtree(tmp_path / "mine", ignore_errors=True)
        told.append(build(tmp_path / "mine", make_episodes(20, seed=seed)).spec.fingerprint)
        assert dataset_of(plain) == told[-1]
    assert len(set(told)) == 3


def test_data_may_follow_the_seed(folder: Path) -> None:
    write_suite(folder, overrides=[*SMALL, "data.seed=${seed}"], seeds=[0, 1], algorithms={"bc": []})
    there = place(folder)
    for job in there.suite.queue:
        plain = to_plain(compose(job.typed))
        row = record(config_hash=config_hash(plain), dataset_fingerprint=dataset_of(plain), seed=job.seed)
        ResultsStore(there.store).append(row, [])
    assert len({row.dataset_fingerprint for row in ResultsStore(there.store).records()}) == 2
    assert pending(there) == []


def bench(folder: Path, *tails: str) -> subprocess.Popen:
    program = "from dof_lightning.cli.main import main; main()"
    command = [sys.executable, "-c", program, "bench", "suite=small.yaml", "store=store", "runs=runs", *tails]
    variables = environment() | {"DOF_DATA": os.environ["DOF_DATA"]}
    return subprocess.Popen(
        command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ended(process: subprocess.Popen) -> str:
    said, _ = process.communicate(timeout=300)
    return succeeded(subprocess.CompletedProcess(process.args, process.returncode, said, said))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_queue_goes_on_where_it_was_and_does_nothing_twice(folder: Path, number: signal.Signals) -> None:
    long = [*SMALL, "trainer.max_steps=2000", "checkpoint.every_n_steps=50", "rollout.every_n_steps=100000"]
    write_suite(
        folder, overrides=long, seeds=[0], algorithms={"bc": ["trainer.max_steps=2"], "cloned": ["algorithm=bc"]}
    )
    run = folder / "runs" / "small" / "mpe_spread_random__cloned__seed_0"
    first = bench(folder)
    while not (run / "checkpoints" / "last.ckpt").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    for process in (first.pid, *(map(int, children) if number == signal.SIGKILL else ())):
        os.kill(process, number)
    said, _ = first.communicate(timeout=60)
    assert first.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert number == signal.SIGKILL or "the same command resumes" in said
    assert [(row.algorithm, row.variant) for row in rows(folder)] == [("bc", "")]
    assert not (run / "results.json").exists()
    said = ended(bench(folder))
    assert "2 runs, 1 in store" in said
    assert "runs added to store: 1" in said
    assert [(row.variant, row.steps) for row in rows(folder)] == [("", 2), ("cloned", 2000)]
    assert json.loads((run / "results.json").read_text())["resumed_from_step"] >= 50
    assert pending(place(folder)) == []


def test_a_suite_whose_rows_are_all_there_says_so_before_any_configuration_is_composed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def composed(place: Place) -> list:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "pending", composed)
    store = Path(__file__).parents[2] / "benchmarks" / "results" / "spread"
    everything = len(read_suite("spread").queue)
    for which, told in ((f"store={store}", True), ("store=none", False)):
        with pytest.raises(KeyboardInterrupt):
            cli.run(["bench", "suite=spread", which])
        said = capsys.readouterr().out
        assert (f"all {everything} runs are done, their rows are in {store}" in said) == told
        assert ("dof bench suite=mine.yaml" in said) == told


def test_a_run_that_fails_is_named_with_its_log_and_the_others_are_done(folder: Path) -> None:
    never = "trainer.max_time=00:00:00:00"  # found out by the run itself: it ends before the first step
    write_suite(folder, seeds=[0], algorithms={"broken": ["algorithm=bc", never], "bc": []})
    with pytest.raises(UserError, match=r"1 runs failed, the first is .*broken") as failed:
        cli.run(["bench", "suite=small.yaml", "store=store", "runs=runs"])
    log = Path(str(failed.value).rpartition("its log is ")[2])
    assert "ended before the first step" in log.read_text()
    assert [(row.algorithm, row.variant) for row in rows(folder)] == [("bc", "")]


def rows(folder: Path) -> list:
    return ResultsStore(folder / "store").records()


def place(folder: Path) -> Place:
    return Place("small.yaml", read_suite("small.yaml"), folder / "store", folder / "runs", keep=True)


def test_what_was_trained_before_it_was_recorded_is_recorded_without_training(folder: Path) -> None:
    write_suite(folder, seeds=[0])
    here = place(folder)
    for job in here.suite.queue:
        perform(job, here.store, here.runs)
    before = {row.config_hash: row for row in rows(folder)}
    assert pending(here) == []
    here.store.joinpath("results.csv").unlink()
    assert len(pending(here)) == 2
    path = run_folder(here.suite.queue[0], here.runs)
    perform(here.suite.queue[0], here.store, here.runs, keep=False)
    assert not path.exists()
    path = run_folder(here.suite.queue[1], here.runs)
    trained = (path / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    perform(here.suite.queue[1], here.store, here.runs)
    assert (path / "checkpoints" / "last.ckpt").stat().st_mtime_ns == trained
    after = {row.config_hash: row for row in rows(folder)}
    assert {key: row.last_return for key, row in after.items()} == {key: row.last_return for key, row in before.items()}
    record, curve = record_of(path)
    assert (record.algorithm, record.steps) == ("bc", 2)
    assert record.last_return == before[record.config_hash].last_return
    assert [point.step for point in curve] == [2]


def test_a_run_killed_while_it_was_evaluated_counts_the_time_it_trained(folder: Path) -> None:
    write_suite(folder, seeds=[0], algorithms={"bc": []})
    here = place(folder)
    (job,) = here.suite.queue
    perform(job, here.store, here.runs)
    path = run_folder(job, here.runs)
    assert rows(folder)[0].wall_seconds == json.loads((path / "results.json").read_text())["wall_seconds"]
    for file in (path / "results.json", here.store / "results.csv"):
        file.unlink()
    perform(job, here.store, here.runs)
    results = json.loads((path / "results.json").read_text())
    assert results["resumed_from_step"] == results["steps"]
    record, curve = record_of(path)
    assert record.wall_seconds >= results["wall_seconds"] + curve[-1].seconds > results["wall_seconds"]


def test_a_kept_run_on_other_data_does_not_pass_for_this_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_suite(folder, seeds=[0], algorithms={"bc": []})
    here = place(folder)
    (job,) = here.suite.queue
    perform(job, here.store, here.runs)
    monkeypatch.setattr(Random, "identity", lambda self, spec: {"name": self.name, "policy": "another"})
    assert pending(here) == [job]
    perform(job, here.store, here.runs)
    assert pending(here) == []
    first, second = rows(folder)
    assert first.config_hash == second.config_hash
    assert first.dataset_fingerprint != second.dataset_fingerprint
    overrides = [*SMALL, "trainer.max_steps=3"]  # other settings, and data that change once more
    for behavior in ("a third", "a fourth"):
        monkeypatch.setattr(Random, "identity", lambda self, spec, told=behavior: {"name": self.name, "policy": told})
        write_suite(folder, seeds=[0], algorithms={"bc": []}, overrides=overrides)
        (job,) = pending(place(folder))
        perform(job, here.store, here.runs)
    assert len({row.dataset_fingerprint for row in rows(folder)}) == len(rows(folder)) == 4


def test_a_command_names_the_study_it_is_without(folder: Path) -> None:
    write_suite(folder, experiments=["mpe_spread_random", "methods_spread_expert"], algorithms={"bc": []}, seeds=[0])
    plain, studied = read_suite("small.yaml").queue
    assert "study=none" not in plain.reproduces
    assert "study=none" in studied.reproduces


def test_what_another_queue_has_done_and_cleared_away_is_not_trained_again(folder: Path) -> None:
    write_suite(folder, seeds=[0], algorithms={"bc": []})
    here = place(folder)
    (job,) = here.suite.queue
    perform(job, here.store, here.runs, keep=False)
    with pytest.raises(SystemExit) as ended_with:
        perform(job, here.store, here.runs, keep=False)
    assert ended_with.value.code == BUSY
    assert not run_folder(job, here.runs).exists()
    assert len(rows(folder)) == 1


def test_a_kept_run_of_another_budget_does_not_pass_for_this_one(folder: Path) -> None:
    for steps in (4, 2):
        write_suite(folder, seeds=[0], algorithms={"bc": []}, overrides=[*SMALL, f"trainer.max_steps={steps}"])
        here = place(folder)
        (job,) = pending(here)
        perform(job, here.store, here.runs)
        assert pending(here) == []
    assert [(row.steps, row.budget_steps) for row in rows(folder)] == [(4, 4), (2, 2)]


def test_a_folder_without_results_is_no_row(folder: Path) -> None:
    with pytest.raises(UserError, match="no finished run"):
        record_of(folder)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_launchers_of_hydra_do_what_is_left(folder: Path, launcher: str) -> None:
    write_suite(folder, seeds=[0])
    settings = ["hydra.launcher.cpus_per_task=1"] if launcher == "submitit_local" else []
    assert f"2 of 2 runs done by launcher={launcher}" in ended(bench(folder, f"launcher={launcher}", *settings))
    assert len(rows(folder)) == 2
    assert pending(place(folder)) == []
