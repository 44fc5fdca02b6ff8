"""The results store: appended rows are read back once, whatever was killed meanwhile."""

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dof_lightning.errors import UserError
from dof_lightning.report.store import Record, ResultsStore
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


def test_a_line_that_was_cut_within_a_letter_is_dropped(tmp_path: Path) -> None:
    store = ResultsStore(tmp_path)
    store.append(record(), [])
    store.append(record(seed=1, config_hash="c1", command="python train.py run_dir=müller"), [])
    content = store.results.read_bytes()
    store.results.write_bytes(content[: content.index("ü".encode()) + 1])
    assert store.records() == [record()]
    assert store.append(record(seed=2, config_hash="c2"), [])
    assert [row.seed for row in store.records()] == [0, 2]


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


@pytest.mark.parametrize("text", ["a\u2028b", "a\fb", "a\x85b", "a\x1cb", "a\nb", "a\r\nb", 'a "b", c', "ö ½"])
def test_no_text_splits_its_row(tmp_path: Path, text: str) -> None:
    store = ResultsStore(tmp_path)
    rows = [record(command=text), record(variant=text, config_hash="c1")]
    for row in rows:
        store.append(row, [])
    assert store.records() == rows


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_no_mean_can_be_taken_of_is_not_stored(tmp_path: Path, value: float) -> None:
    store = ResultsStore(tmp_path)
    for row, curve in ((record(last_return=value), []), (record(), [point(3, return_mean=value)])):
        with pytest.raises(UserError, match=r"(last_return|return_mean) is (nan|-?inf)"):
            store.append(row, curve)
    assert store.records() == store.points() == []


@pytest.mark.parametrize("text", ["nan", "inf", "-Infinity", "1e999"])
def test_a_number_that_no_mean_can_be_taken_of_is_not_read(tmp_path: Path, text: str) -> None:
    old_store(tmp_path, record())
    store = ResultsStore(tmp_path)
    store.results.write_text(store.results.read_text().replace(",300.0,", f",{text},"))
    with pytest.raises(UserError, match=r"results.csv, line 2 .*last_return is"):
        store.records()


def old_store(folder: Path, *rows: Record) -> None:
    """A store as written by versions without digests."""
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(vars(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(vars(row) for row in rows)


def test_a_store_without_digests_is_read_and_goes_on_with_them(tmp_path: Path) -> None:
    rows = [record(), record(seed=1, config_hash="c1"), record(seed=2, config_hash="c2")]
    old_store(tmp_path, *rows[:2])
    store = ResultsStore(tmp_path)
    before = store.results.read_text().splitlines()
    assert store.records() == rows[:2]
    store.append(rows[2], [point(1, config_hash="c2")])
    assert store.records() == rows
    after = store.results.read_text().splitlines()
    assert after[:3] == [f"{before[0]},digest", f"{before[1]},", f"{before[2]},"]


def test_a_curve_that_is_replaced_leaves_the_digests_of_the_others_as_they_are(tmp_path: Path) -> None:
    """Rows of earlier versions, which nobody can vouch for, were signed when another run's curve was written anew."""
    store = ResultsStore(tmp_path)
    store.append(record(), [point(1)])
    old = store.curves.read_text().rpartition(",")[0] + ",\n"  # its digest is empty, as in a store that was upgraded
    store.curves.write_text(old)
    other = record(seed=1, config_hash="c1")
    store.append(other, [point(1, config_hash="c1")])
    store.results.unlink()
    store.append(other, [point(2, config_hash="c1")])
    assert store.curves.read_text().startswith(old)
    assert store.points() == [point(1), point(2, config_hash="c1")]


def test_no_changed_character_becomes_another_number(tmp_path: Path) -> None:
    store = ResultsStore(tmp_path)
    rows, curve = [record(), record(seed=1, config_hash="c1")], [point(1), point(2)]
    store.append(rows[0], curve)
    store.append(rows[1], [])
    for file, read, told in ((store.results, store.records, rows), (store.curves, store.points, curve)):
        whole = file.read_bytes()
        for place in range(0, len(whole) - 1, 5):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(UserError, match=file.name):
                read()
            file.write_bytes(whole[:place] + whole[place + 1 :])  # one lost
            with pytest.raises(UserError, match=file.name):
                read()
            file.write_bytes(whole[:place])
            assert read() == told[: whole[:place].count(b"\n") - 1 if b"\n" in whole[:place] else 0]
        file.write_bytes(whole)


def test_a_row_that_was_changed_on_purpose_is_read_without_its_digest(tmp_path: Path) -> None:
    store = ResultsStore(tmp_path)
    store.append(record(), [])
    store.results.write_text(store.results.read_text().replace(",300.0,", ",301.0,"))
    with pytest.raises(UserError, match=r"line 2 was changed after it was written .*empty its last cell"):
        store.records()
    store.results.write_text(store.results.read_text().rpartition(",")[0] + ",\n")
    assert store.records() == [record(last_return=301.0)]


def test_a_store_in_another_encoding_is_one_line(tmp_path: Path) -> None:
    store = ResultsStore(tmp_path)
    store.append(record(command="ö"), [])
    store.results.write_bytes(store.results.read_text().encode("latin-1"))
    with pytest.raises(UserError, match=r"results.csv is not in UTF-8"):
        store.records()
