"""`dof report`: its content, what it must not contain, and that its page is self-contained."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dof_lightning.cli import main as cli
from dof_lightning.config import compose as configuration
from dof_lightning.errors import UserError
from dof_lightning.report.aggregates import aggregates, comparisons
from dof_lightning.report.command import report
from dof_lightning.report.gathering import Group, gather
from dof_lightning.report.published import published
from dof_lightning.report.store import ResultsStore
from dof_lightning.report.tables import details, labels, published_scores, scores
from dof_lightning.spec import fingerprint
from tests.fixtures.report_stores import SPREAD, cell, fill
from tests.fixtures.store_rows import point, record


def test_a_row_tells_mean_and_spread_over_seeds_and_their_number(tmp_path: Path) -> None:
    table = scores(gather([fill(tmp_path)]), "mpe_spread")
    assert cell(table, "dof_policy", "medium, last") == "51.0 ± 1.0 (3)"
    assert cell(table, "td3_bc", "expert, last") == "81.0 ± 1.0 (3)"
    assert cell(table, "the data's behaviour", "medium, last") == "30.7"
    assert [row[0] for row in table.rows] == ["the data's behaviour", "dof_policy", "td3_bc"]
    assert "Fewer than 5 seeds" in table.note
    assert "Fewer than 5 seeds" not in scores(gather([fill(tmp_path / "more", seeds=5)]), "mpe_spread").note


def test_published_numbers_have_a_table_of_their_own_and_no_column_between_ours(tmp_path: Path) -> None:
    groups = gather([fill(tmp_path)])
    ours, (table,) = scores(groups, "mpe_spread"), published_scores(groups, "mpe_spread")
    assert ours.columns == ("method", "medium, last", "best", "expert, last", "best")
    assert not any("32.3" in text for row in ours.rows for text in row)
    assert table.title == "mpe_spread: published, of other data"
    assert cell(table, "td3_bc", "medium") == "32.3 ± 3.8"
    assert "no comparison of methods" in table.note


@pytest.mark.parametrize(
    ("environment", "dataset", "algorithm", "number"),
    [
        ("mpe_spread", "mpe_spread_medium", "dof_policy", "75.6 ± 8.7"),  # a variant of Spread that is not OMAR's
        ("mpe_tag", "mpe_tag_medium", "omar", "55.3 ± 16.7"),  # a prey that is not OMAR's
        ("smax_3m", "smax_3m_good", "qmix", "3.6 ± 0.8 (episode return)"),  # a game that is not SMAC
    ],
)
def test_published_numbers_of_another_world_stand_apart_and_say_so(
    tmp_path: Path, environment: str, dataset: str, algorithm: str, number: str
) -> None:
    told = {"environment": environment, "dataset": dataset, "algorithm": algorithm, "environment_fingerprint": "other"}
    ResultsStore(tmp_path).append(record(**told), [])
    (table,) = published_scores(gather([tmp_path]), environment)
    assert table.title == f"{environment}: published in another world"
    assert "no comparison" in table.note
    assert cell(table, algorithm, dataset.rpartition("_")[2]) == number


def test_a_variant_has_no_published_number_and_madiffs_says_whose_it_may_be(tmp_path: Path) -> None:
    spread = {"environment_fingerprint": SPREAD, "environment": "mpe_spread", "dataset": "mpe_spread_medium"}
    for variant in ("", "td3_bc_alpha_10"):
        told = record(**spread, algorithm="td3_bc", variant=variant, config_hash=f"td3_bc {variant}")
        ResultsStore(tmp_path).append(told, [])
    (table,) = published_scores(gather([tmp_path]), "mpe_spread")
    assert table.rows == (("td3_bc", "32.3 ± 3.8"),)
    assert "MADIFF" not in table.note
    ResultsStore(tmp_path).append(record(**spread, algorithm="madiff_d", variant="", config_hash="madiff_d"), [])
    (table,) = published_scores(gather([tmp_path]), "mpe_spread")
    assert "does not say whether its agents act alone" in table.note


@pytest.mark.parametrize(
    ("environment", "prey"),
    [
        ("mpe_spread", None),
        ("mpe_tag", "b22b95f3397f41a21aa247810e385a8ecf85294f2e2ed8e523a954c633daf7a2"),
        ("mpe_world", "ed3170cfb9c3f6872305c9c795a7aed089fde7b5e5cc2bff5f7debfed37c2115"),
    ],
)
def test_the_published_worlds_are_those_of_the_presets_with_the_prey_of_omars_files(
    environment: str, prey: str | None
) -> None:
    spec = configuration.build(configuration.compose([f"experiment={environment}_random"]).env).spec
    recipe = dict(spec.recipe) | ({} if prey is None else {"opponent": {"kind": "omar", "sha256": prey}})
    told = record(environment=environment, dataset=f"{environment}_random", environment_fingerprint=fingerprint(recipe))
    found = published(Group(environment, f"{environment}_random", "omar", "omar", (told,), ((),)))
    assert found is not None
    assert found.same_world


def test_against_omars_own_prey_the_world_is_the_same(tmp_path: Path) -> None:
    prey = Path(__file__).parents[4] / "shared" / "data" / "omar_prey" / "simple_tag_pretrained_adv_model.pt"
    if not prey.exists():
        pytest.skip("OMAR's prey is not here")
    cfg = configuration.compose(["experiment=mpe_tag_medium", f"env.prey={prey}"])
    world = configuration.build(cfg.env).spec.fingerprint
    told = {"environment": "mpe_tag", "dataset": "mpe_tag_medium", "algorithm": "omar"}
    ours = configuration.build(configuration.compose(["experiment=mpe_tag_medium"]).env).spec.fingerprint
    for of_world, same in ((world, True), (ours, False)):
        member = record(**told, environment_fingerprint=of_world)
        found = published(Group("mpe_tag", "mpe_tag_medium", "omar", "omar", (member,), ((),)))
        assert found is not None
        assert found.same_world == same


def test_scores_against_our_own_opponent_are_what_is_told(tmp_path: Path) -> None:
    own = {"last_own_normalized_score": 60.0, "best_own_normalized_score": 61.0, "behavior_own_normalized_score": 58.8}
    ResultsStore(tmp_path).append(record(environment="mpe_tag", dataset="mpe_tag_medium", **own), [])
    table = scores(gather([tmp_path]), "mpe_tag")
    assert table.title == "mpe_tag: own score"
    assert cell(table, "dof_policy", "medium, last") == "60.0 (1)"


def test_without_references_the_return_is_told_in_percent_of_the_datas(tmp_path: Path) -> None:
    nobody = {"last_normalized_score": None, "best_normalized_score": None, "behavior_normalized_score": None}
    told = {"environment": "smax_3m", "dataset": "smax_3m_good", "last_return": 1.7, "behavior_return": 2.0}
    ResultsStore(tmp_path).append(record(**nobody, **told, last_win_rate=0.8), [])
    groups = gather([tmp_path])
    assert cell(scores(groups, "smax_3m"), "dof_policy", "good, last") == "85.0 (1)"
    table = details(groups, target=0.95)
    assert dict(zip(table.columns, table.rows[0], strict=True))["wins"] == "0.80"


@pytest.mark.parametrize("behavior", [0.0, -100.0])
def test_where_the_data_return_nothing_above_zero_more_is_still_more(tmp_path: Path, behavior: float) -> None:
    told = {"last_normalized_score": None, "behavior_return": behavior}
    for method, value in (("dof_policy", -50.0), ("bc", -80.0)):
        ResultsStore(tmp_path).append(record(algorithm=method, config_hash=method, last_return=value, **told), [])
    groups = gather([tmp_path])
    table = scores(groups, "mpe_spread")
    assert table.title == "mpe_spread: episode return"
    assert [row[1] for row in table.rows] == [f"{behavior:.1f}", "-50.0 (1)", "-80.0 (1)"]
    assert list(aggregates(comparisons(groups, against=None, seed=0))) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"execution": "centralized", "certified": False}, "[centralized]"),
        ({"certified": False}, "[NOT CERTIFIED]"),
        ({"steps": 50}, "[stopped early]"),
        ({"steps": 50, "command": "python train.py rollout.until_plateau=60 trainer.max_time=1"}, "[stopped early]"),
        ({"steps": 50, "command": "python train.py rollout.until_plateau=null"}, "[stopped early]"),
        ({"shared_seeds": 3}, "[shared seed of 3]"),
    ],
)
def test_what_has_to_be_known_stands_where_the_number_stands(tmp_path: Path, changes: dict, words: str) -> None:
    ResultsStore(tmp_path).append(record(**changes), [])
    assert words in cell(scores(gather([tmp_path]), "mpe_spread"), "dof_policy", "medium, last")


def test_all_updates_are_done_where_the_plateau_is_looked_for_later() -> None:
    assert not record(steps=100, budget_steps=100, command="python train.py rollout.until_plateau=1000").stopped_early


@pytest.mark.parametrize("spelled", ["60", "6_0"])
def test_a_plateau_ends_a_run_however_its_update_was_typed(spelled: str) -> None:
    ended = record(steps=80, budget_steps=100, command=f"python train.py rollout.until_plateau={spelled} seed=0")
    assert ended.ends_at_plateau
    assert not ended.stopped_early


def test_what_has_to_be_known_stands_below_what_is_compared_over_several_tasks(tmp_path: Path) -> None:
    fill(tmp_path, ("dof_policy",))
    fill(tmp_path, ("madiff_c",), execution="centralized", certified=False)
    tables = list(aggregates(comparisons(gather([tmp_path]), against=None, seed=0)))
    assert [" Among them: madiff_c [centralized]." in table.note for table in tables] == [True, True]


def test_time_to_a_score_is_that_of_the_first_rollout_there_and_of_all_seeds_or_none(tmp_path: Path) -> None:
    store = ResultsStore(tmp_path)
    for seed, returns in enumerate(((200.0, 280.0), (280.0, 100.0))):
        key = f"c{seed}"
        curve = [point(step, config_hash=key, return_mean=value) for step, value in zip((10, 20), returns, strict=True)]
        store.append(record(seed=seed, config_hash=key), curve)
    columns, row = details(gather([tmp_path]), target=1.0).columns, details(gather([tmp_path]), target=1.0).rows[0]
    assert dict(zip(columns, row, strict=True))["s to reach"] == "2"  # median of 2 s and 1 s
    never = details(gather([tmp_path]), target=1.05).rows[0]
    assert dict(zip(columns, never, strict=True))["s to reach"] == "-"


def test_aggregates_compare_methods_on_the_tasks_that_they_share(tmp_path: Path) -> None:
    fill(tmp_path)
    told = {"dataset_fingerprint": "medium", "environment_fingerprint": SPREAD}
    ResultsStore(tmp_path).append(record(algorithm="bc", last_normalized_score=1.0, **told), [])
    means, improvements = aggregates(comparisons(gather([tmp_path]), against="td3_bc", seed=0))
    assert [row[0] for row in means.rows] == ["dof_policy", "td3_bc"]
    assert cell(means, "dof_policy", "runs") == "6"
    assert cell(improvements, "dof_policy", "probability") == "0.00"


def test_a_dataset_that_the_compared_method_has_not_run_on_does_not_leave_it_out(tmp_path: Path) -> None:
    fill(tmp_path, ("dof_policy", "td3_bc", "bc"))
    told = {"dataset": "mpe_spread_random", "dataset_fingerprint": "random", "environment_fingerprint": SPREAD}
    for method in ("td3_bc", "bc"):
        ResultsStore(tmp_path).append(record(algorithm=method, config_hash=method, **told), [])
    (ours,) = comparisons(gather([tmp_path]), against=None, seed=0)
    assert (ours.first, ours.tasks) == ("dof_policy", ["mpe_spread_medium", "mpe_spread_expert"])
    (theirs,) = comparisons(gather([tmp_path]), against="td3_bc", seed=0)
    assert theirs.first == "td3_bc"
    assert list(theirs.scores) == ["td3_bc", "bc"]
    assert "mpe_spread_random" in theirs.tasks


def test_aggregates_say_who_is_left_out_and_how_far_few_seeds_go(tmp_path: Path) -> None:
    fill(tmp_path / "few")
    told = {"dataset_fingerprint": "medium", "environment_fingerprint": SPREAD}
    ResultsStore(tmp_path / "few").append(record(algorithm="bc", last_normalized_score=1.0, **told), [])
    few = list(aggregates(comparisons(gather([tmp_path / "few"]), against=None, seed=0)))
    many = list(aggregates(comparisons(gather([fill(tmp_path / "many", seeds=5)]), against=None, seed=0)))
    assert len(few) == len(many) == 2
    for table in few:
        assert "Left out, as they were not run on all of these: bc." in table.note
        assert "no ranking follows" in table.note
    for table in many:
        assert not re.search("Left out|no ranking", table.note)


def test_nobody_leads_by_having_run_on_the_easy_dataset_only(tmp_path: Path) -> None:
    fill(tmp_path)
    easy = {"dataset": "mpe_spread_expert", "experiment": "mpe_spread_expert", "dataset_fingerprint": "expert"}
    told = {"environment_fingerprint": SPREAD, "last_normalized_score": 70.0}
    ResultsStore(tmp_path).append(record(algorithm="bc", **easy, **told), [])
    assert labels(gather([tmp_path])) == ["dof_policy", "td3_bc", "bc"]


def test_dof_is_compared_with_the_others_where_nobody_else_is_named(tmp_path: Path) -> None:
    _, improvements = aggregates(comparisons(gather([fill(tmp_path, ("td3_bc", "dof_policy"))]), against=None, seed=0))
    assert improvements.title == "Probability that dof_policy scores more, normalised score"


def test_without_the_extra_one_line_says_what_to_install_and_the_rest_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "store")
    monkeypatch.setitem(sys.modules, "rliable", None)
    report([str(tmp_path / "store"), f"output={tmp_path / 'out'}", "formats=markdown"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("pip install -c constraints.txt -e '.[report]'")
    titles = re.findall("^## (.*)", (tmp_path / "out" / "report.md").read_text(), re.MULTILINE)
    assert titles == [
        "Summary",
        "mpe_spread: normalised score",
        "Learning curves",
        "mpe_spread: published, of other data",
        "Returns, time and memory",
        "What reproduces each row",
    ]
    report([str(fill(tmp_path / "one", ("bc",))), f"output={tmp_path / 'one'}", "formats=markdown"])
    assert capsys.readouterr().err == ""


def test_a_report_of_a_store_needs_neither_torch_nor_lightning(tmp_path: Path) -> None:
    told = [str(fill(tmp_path / "store")), f"output={tmp_path / 'out'}"]
    code = "import sys; from dof_lightning.cli.main import run; run(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code, "report", *told], check=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name results stores"),
        (["nowhere"], "nowhere is not a folder"),
        (["{store}", "out=x"], "unknown key `out`"),
        (["{store}", "formats=pdf"], "pdf"),
        (["{store}", "overwrite=yes"], "overwrite must be true or false"),
        *((["{store}", f"name={name}"], "must be a file name") for name in ("../x", "/x", "a/b", "..")),
        (["{store}", "target=x"], "target"),
        (["{store}", "against=nobody"], "against=nobody is not one of dof_policy, td3_bc"),
        (["{empty}"], "neither a results store"),
    ],
)
def test_what_cannot_be_reported_is_refused_in_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    fill(tmp_path / "store")
    (tmp_path / "empty").mkdir()
    told = [text.format(store=tmp_path / "store", empty=tmp_path / "empty") for text in arguments]
    with pytest.raises(UserError, match=words):
        cli.run(["report", *told])
