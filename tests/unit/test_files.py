"""Whole or absent, whatever happens to the process that writes; and a lock is gone with the process that held it."""

import ast
import os
import signal
import threading
import time
from pathlib import Path
from typing import BinaryIO

import pytest

from dof_lightning.files import building, hold, locked, remove_drafts, write_atomically
from tests.fixtures.processes import exit_code, start


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _killed_while_writing(path: Path, moment: str) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"half")
        file.flush()
        if moment == "writing":
            _die()

    setattr(os, moment, _die)
    write_atomically(path, write, sync=True)


def _killed_while_building(path: Path) -> None:
    with building(path) as draft:
        (draft / "half").touch()
        _die()


def _fails_while_building(path: Path) -> None:
    with building(path) as draft:
        assert list(draft.iterdir()) == [], "what a killed process has left is gone"
        (draft / "file").write_text(str(1 / 0))


def _killed_while_holding(path: Path, forks: bool) -> None:
    assert hold(path)
    worker = os.fork() if forks else None
    if worker == 0:
        time.sleep(30)
        os._exit(0)
    (path.parent / "worker").write_text(str(worker))
    _die()


def _killed_while_others_wait(path: Path) -> None:
    with locked(path):
        (path.parent / "taken").touch()
        time.sleep(600)


def _appends_slowly(path: Path) -> None:
    with locked(path.parent):
        text = path.read_text()
        time.sleep(0.2)
        path.write_text(text + "x")


@pytest.mark.parametrize("content", ["new", b"new", lambda file: file.write(b"new")], ids=["text", "bytes", "function"])
@pytest.mark.parametrize("sync", [False, True])
def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path, content, sync: bool) -> None:
    path = tmp_path / "file.txt"
    for _ in range(2):
        write_atomically(path, content, sync)
        assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("moment", ["writing", "fsync", "replace"])
def test_a_writer_that_is_killed_leaves_the_old_content(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    assert exit_code(start(_killed_while_writing, path, moment)) == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    remove_drafts(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_fails_leaves_the_old_content(tmp_path: Path) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_there_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    assert exit_code(start(_killed_while_building, path)) == -signal.SIGKILL
    assert not path.exists()
    with pytest.raises(ZeroDivisionError):
        _fails_while_building(path)
    assert list(tmp_path.iterdir()) == []
    with building(path) as draft:
        (draft / "inner").mkdir()
        (draft / "inner" / "file").write_text("whole")
        assert not path.exists()
    assert (path / "inner" / "file").read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("forks", [False, True])
def test_a_held_lock_is_exclusive_and_gone_after_a_kill_though_a_worker_lives_on(tmp_path: Path, forks: bool) -> None:
    path = tmp_path / "lock"
    assert exit_code(start(_killed_while_holding, path, forks)) == -signal.SIGKILL
    worker = (tmp_path / "worker").read_text()
    try:
        assert hold(path)
        assert not hold(path)
    finally:
        if forks:
            os.kill(int(worker), signal.SIGKILL)


def test_a_lock_is_waited_for_until_its_holder_is_killed(tmp_path: Path) -> None:
    path, waited = tmp_path / "lock", []
    holder = start(_killed_while_others_wait, path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "taken").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not hold(path)

    def on_wait() -> None:
        waited.append(time.monotonic())
        threading.Timer(0.2, holder.kill).start()

    with locked(path, on_wait):
        assert time.monotonic() - waited[0] >= 0.2
    assert exit_code(holder) == -signal.SIGKILL
    with locked(path, on_wait):
        assert len(waited) == 1, "nobody has it any more"


def test_processes_that_share_a_lock_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    processes = [start(_appends_slowly, path) for _ in range(3)]
    assert [exit_code(process) for process in processes] == [0, 0, 0]
    assert path.read_text() == "xxx"


ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [ROOT / name for name in ("dof_lightning", "data_modules", "callbacks", "benchmarks", "examples")]


def test_text_is_utf_8_whatever_the_locale() -> None:
    """Files go from machine to machine, and names of users are in them."""
    calls = [
        (path, node)
        for folder in SHIPPED
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _reads_or_writes_text(node)
    ]
    told = [f"{path.relative_to(ROOT)}:{node.lineno}" for path, node in calls if not _says_encoding(node)]
    assert len(calls) > 20
    assert told == []


def _reads_or_writes_text(call: ast.Call) -> bool:
    """`read_text()`, `write_text(...)`, and `open("r")` or another mode of text."""
    name = call.func.attr  # type: ignore[attr-defined]
    mode = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
    return name in ("read_text", "write_text") or (name == "open" and str(mode) in ("r", "w", "a", "x", "a+", "r+"))


def _says_encoding(call: ast.Call) -> bool:
    return any(keyword.arg == "encoding" for keyword in call.keywords)
