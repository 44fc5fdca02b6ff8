"""Suites of `dof bench`: the order of their runs, and the mistakes refused before any starts."""

from pathlib import Path

import pytest

from dof_lightning.bench.queue import Place, pending
from dof_lightning.bench.suite import read_suite
from dof_lightning.cli import main as cli
from dof_lightning.config import catalog
from dof_lightning.errors import UserError
from tests.fixtures.suites import write_suite

UNPLAYED = {"experiments": ["smac_3m_good"], "overrides": ["debug=default"]}  # imported: no episodes are asked for


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
        (UNPLAYED, "a benchmark compares rollouts, and rollout=none"),
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
