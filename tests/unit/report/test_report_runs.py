"""The runs that a report takes for seeds of one method, and the commands that it lists for them."""

from pathlib import Path
from typing import Any

import pytest

from dof_lightning.errors import UserError
from dof_lightning.report.aggregates import aggregates, comparisons
from dof_lightning.report.gathering import gather
from dof_lightning.report.store import Record, ResultsStore
from dof_lightning.report.tables import commands, scores
from tests.fixtures.report_stores import cell, fill
from tests.fixtures.store_rows import record


def test_commands_fold_seeds(tmp_path: Path) -> None:
    rows = commands(gather([fill(tmp_path)])).rows
    assert rows[0][-1] == "python train.py -m experiment=mpe_spread_expert algorithm=dof_policy seed=0,1,2"


def test_another_key_that_ends_in_seed_is_left_alone(tmp_path: Path) -> None:
    for seed in (1, 2):
        told = f"python train.py data.order_seed=15 seed={seed} env.prey_seed=1"
        ResultsStore(tmp_path).append(record(seed=seed, config_hash=str(seed), command=told), [])
    (row,) = commands(gather([tmp_path])).rows
    assert row[-1] == "python train.py -m data.order_seed=15 seed=1,2 env.prey_seed=1"


def test_runs_of_other_settings_say_so_and_keep_their_command(tmp_path: Path) -> None:
    for seed, setting in enumerate(("", "algorithm.alpha=9 ")):
        told = {"command": f"python train.py {setting}seed={seed}", "settings_hash": f"s{seed}"}
        ResultsStore(tmp_path).append(record(seed=seed, config_hash=str(seed), **told), [])
    groups = gather([tmp_path])
    assert [row[-1] for row in commands(groups).rows] == [
        "python train.py seed=0",
        "python train.py algorithm.alpha=9 seed=1",
    ]
    assert "[of 2 settings]" in cell(scores(groups, "mpe_spread"), "dof_policy", "medium, last")


def test_a_preset_that_changed_between_two_seeds_is_told(tmp_path: Path) -> None:
    for seed in (0, 1):
        told = {"command": f"python train.py seed={seed}", "settings_hash": f"s{seed}", "git_revision": f"{seed}" * 7}
        ResultsStore(tmp_path).append(record(seed=seed, config_hash=str(seed), **told), [])
    groups = gather([tmp_path])
    assert [row[-2:] for row in commands(groups).rows] == [
        ("0000000", "python train.py seed=0"),
        ("1111111", "python train.py seed=1"),
    ]
    assert "[of 2 settings]" in cell(scores(groups, "mpe_spread"), "dof_policy", "medium, last")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset_fingerprint": "other"}, "two datasets"),
        ({"environment_fingerprint": "other"}, "two worlds"),
        ({"budget_steps": 900}, "two numbers of updates"),
        ({"execution": "centralized"}, "two ways of acting"),
        ({"shared_seeds": 3}, "two shared seeds"),
        ({"last_normalized_score": None}, "two kinds of score"),
    ],
)
def test_seeds_of_unlike_runs_are_no_mean(tmp_path: Path, changes: dict, words: str) -> None:
    ResultsStore(tmp_path).append(record(), [])
    ResultsStore(tmp_path).append(record(seed=1, config_hash="c1", **changes), [])
    with pytest.raises(UserError, match=words):
        gather([tmp_path])


def test_a_run_in_two_stores_counts_once_and_two_runs_of_one_seed_are_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        ResultsStore(tmp_path / name).append(record(), [])
    assert [group.n_seeds for group in gather([tmp_path / "one", tmp_path / "two"])] == [1]
    ResultsStore(tmp_path / "two").append(record(config_hash="other"), [])
    with pytest.raises(UserError, match=r"two configurations .config_hash c0 .* and other "):
        gather([tmp_path / "two"])
    ResultsStore(tmp_path / "three").append(record(dataset_fingerprint="d1"), [])
    with pytest.raises(UserError, match=r"two datasets .dataset_fingerprint d0 .* and d1 "):
        gather([tmp_path / "one", tmp_path / "three"])


def named(tmp_path: Path, *members: Record) -> list[tuple[str, list[int]]]:
    for member in members:
        ResultsStore(tmp_path).append(member, [])
    return [(group.label, [record.seed for record in group.records]) for group in gather([tmp_path])]


def of_setting(setting: str, seed: int, **changes: Any) -> Record:
    told = f"python train.py experiment=mpe_spread_medium {setting} seed={seed}"
    hashes = {"config_hash": f"{setting} {seed} {changes}", "settings_hash": f"{setting} {changes}"}
    return record(seed=seed, command=told, **hashes, **changes)


def test_two_settings_of_one_seed_are_two_rows_named_by_what_differs(tmp_path: Path) -> None:
    members = [of_setting(f"trainer.max_steps={n} denoiser.hidden=[8]", s) for n in (5, 6) for s in (0, 1)]
    assert named(tmp_path, *members) == [
        ("dof_policy: trainer.max_steps=5", [0, 1]),
        ("dof_policy: trainer.max_steps=6", [0, 1]),
    ]


def test_settings_of_a_variant_are_named_by_what_its_others_have_not_typed(tmp_path: Path) -> None:
    bold = [of_setting(f"trainer.max_steps=5 algorithm.q_weight={n}", 0, variant="bold") for n in (3, 9)]
    labels = [label for label, _ in named(tmp_path, *bold, of_setting("trainer.max_steps=6", 0, variant="timid"))]
    assert labels == ["bold: algorithm.q_weight=3", "bold: algorithm.q_weight=9", "timid"]


def test_what_is_changed_is_named_beside_its_preset(tmp_path: Path) -> None:
    unnamed = {"variant": "dof_policy, changed"}
    preset, changed = of_setting("", 0), of_setting("algorithm.q_weight=3", 0, **unnamed)
    assert named(tmp_path / "one", changed) == [("dof_policy, changed", [0])]
    assert named(tmp_path / "two", preset, changed) == [("dof_policy", [0]), ("dof_policy: algorithm.q_weight=3", [0])]
    other = of_setting("algorithm.q_weight=9", 0, **unnamed)
    assert named(tmp_path / "two", other)[2] == ("dof_policy: algorithm.q_weight=9", [0])


def test_settings_that_were_typed_alike_are_named_by_revision_or_hash(tmp_path: Path) -> None:
    members = [
        of_setting("", 0),
        *(of_setting("", 0, git_revision=text) for text in ("1111111", "2222222", "2222222+x")),
    ]
    assert [label for label, _ in named(tmp_path, *members)] == [
        "dof_policy, revision -",
        "dof_policy, revision 1111111",
        *(f"dof_policy, revision 2222222, settings {member.settings_hash}" for member in members[2:]),
    ]


def test_variants_of_one_name_and_two_algorithms_are_no_mean(tmp_path: Path) -> None:
    members = [record(variant="wide", config_hash="a"), record(variant="wide", config_hash="b", seed=1, algorithm="bc")]
    assert [label for label, _ in named(tmp_path, *members)] == ["wide of dof_policy", "wide of bc"]


def test_stores_are_found_below_a_folder_and_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    for place in ("b", "a/deep", "damaged", ".hidden"):
        ResultsStore(tmp_path / place).append(record(seed=len(place), config_hash=place), [])
    damaged = tmp_path / "damaged" / "results.csv"
    damaged.write_text(damaged.read_text().replace(",300.0,", ",30.00,"))
    half = tmp_path / "b" / "results.csv"
    half.write_text(half.read_text() + "small,mpe_sp")
    lines: list[str] = []
    (group,) = gather([tmp_path], lines.append)
    assert [run.seed for run in group.records] == [1, 6]
    assert [line.split(",")[0] for line in lines] == [f"the last line of {half}", str(damaged)]
    with pytest.raises(UserError, match=r"damaged.results.csv, line 2"):
        gather([tmp_path / "damaged"])


def test_a_record_of_another_kind_of_run_is_a_group_of_its_own(tmp_path: Path) -> None:
    members: list[Record] = [record(), record(variant="wide", config_hash="w")]
    for member in members:
        ResultsStore(tmp_path).append(member, [])
    assert [group.label for group in gather([tmp_path])] == ["dof_policy", "wide"]


def test_a_table_tells_who_had_other_numbers_of_updates(tmp_path: Path) -> None:
    assert "Updates:" not in scores(gather([fill(tmp_path / "alike")]), "mpe_spread").note
    for method, steps in {"dof_policy": 4000, "td3_bc": 4000, "madiff_d": 2000}.items():
        told = {"algorithm": method, "config_hash": method, "steps": steps, "budget_steps": steps}
        ResultsStore(tmp_path / "unlike").append(record(**told), [])
    groups = gather([tmp_path / "unlike"])
    for table in (scores(groups, "mpe_spread"), *aggregates(comparisons(groups, against=None, seed=0))):
        assert "Updates: 4,000, but 2,000 of madiff_d." in table.note


def test_datasets_with_other_numbers_of_updates_are_no_difference_of_methods(tmp_path: Path) -> None:
    for dataset, steps in {"mpe_spread_medium": 4000, "mpe_spread_expert": 2000}.items():
        for method in ("dof_policy", "td3_bc"):
            told = {"algorithm": method, "config_hash": f"{method}{steps}", "steps": steps, "budget_steps": steps}
            ResultsStore(tmp_path).append(record(dataset=dataset, dataset_fingerprint=dataset, **told), [])
    groups = gather([tmp_path])
    for table in (scores(groups, "mpe_spread"), *aggregates(comparisons(groups, against=None, seed=0))):
        assert "Updates: 4,000 on mpe_spread_medium; 2,000 on mpe_spread_expert." in table.note


def test_an_interquartile_mean_that_leaves_none_out_says_so(tmp_path: Path) -> None:
    few, more = (
        next(aggregates(comparisons(gather([fill(tmp_path / str(n), seeds=n)]), None, 0))).note for n in (1, 2)
    )
    assert "none is left out" in few
    assert "none is left out" not in more


@pytest.mark.parametrize("name", ["dataset_fingerprint", "environment_fingerprint"])
def test_methods_of_unlike_data_or_worlds_are_not_compared(tmp_path: Path, name: str) -> None:
    ResultsStore(tmp_path).append(record(), [])
    ResultsStore(tmp_path).append(record(algorithm="td3_bc", config_hash="c1", **{name: "other"}), [])
    with pytest.raises(UserError, match="dof_policy and td3_bc have two"):
        gather([tmp_path])


def test_datasets_of_one_name_in_two_worlds_are_not_compared(tmp_path: Path) -> None:
    ResultsStore(tmp_path).append(record(), [])
    ResultsStore(tmp_path).append(record(algorithm="td3_bc", config_hash="c1", environment="smax_3m"), [])
    with pytest.raises(UserError, match="dof_policy played in mpe_spread, td3_bc in smax_3m"):
        gather([tmp_path])


def test_a_revision_with_changes_says_so(tmp_path: Path) -> None:
    ResultsStore(tmp_path).append(record(git_revision="1234567890+changes"), [])
    assert commands(gather([tmp_path])).rows[0][2] == "1234567 with changes"
