"""The results store: what is appended comes back, once, whatever was killed meanwhile."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dof_lightning.errors import UserError
from dof_lightning.report.store import ResultsStore
from tests.fixtures.store_rows import point, record


def test_what_is_appended_comes_back(tmp_path: Path) -> None:
    store = ResultsStore(tmp_path / "store")
    assert store.records() == store.points() == []
    row, curve = record(command='python train.py "a,b"', decision_ms=1.25, shared_seeds=3), [point(1), point(2)]
    assert store.append(row, curve)
    assert store.records() == [row]
    assert store.points() == curve


def test_a_run_is_kept_once(tmp_path: Path) -> None:
    store = ResultsStore(tmp_path)
    assert store.append(record(), [point(1)])
    assert not store.append(record(last_return=1.0), [point(1)])
    assert store.append(record(dataset_fingerprint="d1"), [])
    assert [row.dataset_fingerprint for row in store.records()] == ["d0", "d1"]


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_line_that_was_left_half_is_dropped(tmp_path: Path, cut: int) -> None:
    store = ResultsStore(tmp_path)
    store.append(record(), [point(1)])
    whole = store.results.read_text()
    store.append(record(seed=1, config_hash="c1"), [])
    store.results.write_text(store.results.read_text()[:-cut])
    assert store.records() == [record()]
    assert store.append(record(seed=2, config_hash="c2"), [])
    assert [row.seed for row in store.records()] == [0, 2]
    assert store.results.read_text().startswith(whole)


def test_a_curve_whose_record_was_never_written_is_not_doubled(tmp_path: Path) -> None:
    store = ResultsStore(tmp_path)
    store.append(record(), [point(1)])
    store.results.unlink()
    store.append(record(), [point(1), point(2)])
    assert [row.step for row in store.points()] == [1, 2]


def test_a_run_done_again_after_its_row_was_deleted_has_its_new_curve(tmp_path: Path) -> None:
    store = ResultsStore(tmp_path)
    other = record(seed=1, config_hash="c1")
    store.append(other, [point(1, config_hash="c1")])
    store.append(record(), [point(1), point(2)])
    lines = store.results.read_text().splitlines(keepends=True)
    store.results.write_text("".join(lines[:-1]))
    store.append(record(), [point(1, return_mean=9.0)])
    assert store.points() == [point(1, config_hash="c1"), point(1, return_mean=9.0)]


def test_several_writers_lose_nothing(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        added = list(
            pool.map(lambda i: ResultsStore(tmp_path).append(record(config_hash=f"c{i // 2}"), [point(i)]), range(32))
        )
    assert sum(added) == 16
    assert len(ResultsStore(tmp_path).records()) == 16


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seed,", "sead,", "sead, seed"),
        ("300.0", "much", "line 2"),
        ("True", "yes", "line 2"),
        (",300.0,", ",,", "line 2"),
        (",python train.py experiment=mpe_spread_medium seed=0", "", "line 2.*missing"),
        ("\nsmall,mpe_spread_medium,", "\n\nsmall,", "line 3"),
    ],
)
def test_what_cannot_be_read_names_file_and_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    store = ResultsStore(tmp_path)
    store.append(record(), [])
    store.results.write_text(store.results.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=f"results.csv.*{words}"):
        store.records()
