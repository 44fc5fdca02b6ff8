"""`dof bench`: a queue that is killed and goes on, and one row a run whatever happened."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from data_modules.behavior.sources import Random
from dof_lightning.bench import command
from dof_lightning.bench.job import BUSY, dataset_of, perform, run_folder
from dof_lightning.bench.queue import Place, pending
from dof_lightning.bench.suite import read_suite
from dof_lightning.cli import main as cli
from dof_lightning.config import catalog
from dof_lightning.config.compose import compose, to_plain
from dof_lightning.errors import UserError
from dof_lightning.report.record import record_of
from dof_lightning.report.store import ResultsStore
from tests.fixtures.dataset_files import build, make_episodes
from tests.fixtures.workplace import Workplace, environment, succeeded

CLONED = ["algorithm=bc", "algorithm.learning_rate=0.01"]
UNPLAYED = {"experiments": ["smac_3m_good"], "overrides": ["debug=default"]}  # imported: no episodes are asked for
SMALL = ["data.episodes=50", "rollout.report_episodes=2", "rollout.episodes=2", "debug=default"]


@pytest.fixture
def folder(workplace: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of its own, with the datasets of all tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOF_DATA", str(workplace.path / "data"))
    return tmp_path


def test_data_that_were_corrected_make_another_run(tmp_path: Path) -> None:
    """Own and imported data lie where they lie: their contents say whether a stored row is theirs."""
    plain = to_plain(compose(["experiment=mpe_spread_random", f"data.path={tmp_path / 'mine'}"]))
    told = [dataset_of(plain)]
    for seed in (0, 1):
        shutil.rmtree(tmp_path / "mine", ignore_errors=True)
        told.append(build(tmp_path / "mine", make_episodes(20, seed=seed)).spec.fingerprint)
        assert dataset_of(plain) == told[-1]
    assert len(set(told)) == 3


def write_suite(folder: Path, **changes: object) -> Path:
    grid = {"experiments": ["mpe_spread_random"], "algorithms": {"bc": [], "cloned": CLONED}, "seeds": [1, 0]}
    known = {key: changes.pop(key) for key in list(changes) if key in grid}
    known |= {"overrides": changes.pop("overrides_of_grid")} if "overrides_of_grid" in changes else {}
    content = {"title": "small", "overrides": [*SMALL, "trainer.max_steps=2"], "grids": [grid | known]} | changes
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


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


def test_every_method_gets_its_first_seed_before_any_gets_its_second(folder: Path) -> None:
    jobs = read_suite(str(write_suite(folder))).queue
    assert [(job.label, job.algorithm, job.variant, job.seed) for job in jobs] == [
        ("bc", "bc", "", 0),
        ("cloned", "bc", "cloned", 0),
        ("bc", "bc", "", 1),
        ("cloned", "bc", "cloned", 1),
    ]
    assert len({job.name for job in jobs}) == 4


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "smoke" else pytest.mark.slow) for name in catalog.options("suite")],
)
def test_every_run_of_every_suite_can_be_configured(folder: Path, name: str) -> None:
    suite = read_suite(name)
    assert len(pending(Place(name, suite, folder / "store", folder / "runs", keep=True))) == len(suite.queue)


@pytest.mark.parametrize("name", catalog.options("suite"))
def test_every_suite_is_well_formed(name: str) -> None:
    assert len({job.name for job in read_suite(name).queue}) == len(read_suite(name).queue)


def test_minutes_become_the_time_limit_of_a_run(folder: Path) -> None:
    job = read_suite(str(write_suite(folder, max_minutes=90.5))).queue[0]
    assert "trainer.max_time=00:01:30:30" in job.typed


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grid": []}, "unknown key `grid`; did you mean `grids`"),
        ({"grids": []}, "grids is missing"),
        ({"experiments": ["mpe_spraed"]}, "experiment mpe_spraed does not exist"),
        ({"seeds": [-1]}, "at least 0"),
        ({"seeds": [0, 0]}, "twice"),
        ({"algorithms": {"bc": ["seed=3"]}}, "seed= is set by the suite"),
        ({"algorithms": {"a b": ["algorithm=bc"]}}, "letters"),
        ({"max_minutes": "long"}, "max_minutes"),
        ({"max_minutes": -3}, "max_minutes"),
        ({"max_minutes": 0.001}, "max_minutes"),
        ({"max_minutes": float("nan")}, "max_minutes"),
        ({"overrides": ["+seed=7"]}, "seed= is set by the suite"),
        ({"overrides": ["resume=never"]}, "resume= is set by the suite"),
        ({"overrides": ["algorithm=omar"]}, "algorithm= is set by the suite"),
        ({"overrides_of_grid": ["experiment=mpe_tag_medium"]}, "experiment= is set by the suite"),
    ],
)
def test_a_wrong_suite_is_refused_by_name(folder: Path, changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=f"small.yaml.*{words}"):
        read_suite(str(write_suite(folder, **changes)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"algorithms": {"bd": []}}, "bd does not exist"),
        ({"algorithms": {"bc": ["algorithm.alhpa=3"]}}, "alhpa"),
        ({"algorithms": {"bc": [], "again": ["algorithm=bc"]}}, "are the same configuration"),
        (UNPLAYED | {"algorithms": {"td3_bc": []}}, "td3_bc does not learn discrete actions"),
        (UNPLAYED, "a benchmark compares what is played, and rollout=none"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_any_begins(folder: Path, changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        cli.run(["bench", f"suite={write_suite(folder, **changes)}", "store=store"])
    assert not (folder / "store").exists()
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("tails", "words"),
    [
        (["suit=smoke"], "suite="),
        (["suite=nothing"], "suite="),
        (["suite=smoke", "jobs=0"], "jobs"),
        (["suite=smoke", "x=1"], "unknown key `x`"),
        (["suite=smoke", "launcher=joblib", "minutes=3"], "minutes="),
        (["suite=smoke", "launcher=submitit_slurm"], "cpus_per_task"),
        (["suite=smoke", "hydra.launcher.n_jobs=3"], "launcher="),
        (["suite=smoke", "launcher=joblib", "jobs=2", "hydra.launcher.n_jobs=3"], "jobs="),
        (["suite=spread.yaml"], "rename the file"),
    ],
)
def test_wrong_arguments_are_refused(folder: Path, tails: list[str], words: str) -> None:
    (folder / "spread.yaml").write_text("grids: []")
    with pytest.raises(UserError, match=words):
        cli.run(["bench", *tails])


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
    assert number == signal.SIGKILL or "the same command goes on" in said
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
    for which, told in ((f"store={store}", True), ("store=none", False)):
        with pytest.raises(KeyboardInterrupt):
            cli.run(["bench", "suite=spread", which])
        said = capsys.readouterr().out
        assert (f"all 60 runs are done, their rows are in {store}" in said) == told
        assert ("dof bench suite=mine.yaml" in said) == told


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
