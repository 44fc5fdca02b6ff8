"""The processes that may write into a run's folder."""

import os
import signal
import time
from pathlib import Path

from dof_lightning.training.run_folder import RunFolder
from tests.fixtures.processes import exit_code, start


def killed_with_a_worker(folder: Path) -> None:
    assert RunFolder(folder).lock()
    worker = os.fork()
    if worker == 0:
        time.sleep(30)
        os._exit(0)
    (folder / "worker").write_text(str(worker))
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_run_whose_worker_lives_on_leaves_its_folder_free(tmp_path: Path) -> None:
    assert exit_code(start(killed_with_a_worker, tmp_path)) == -signal.SIGKILL
    worker = int((tmp_path / "worker").read_text())
    os.kill(worker, 0)
    try:
        assert RunFolder(tmp_path).lock()
        assert not RunFolder(tmp_path).lock(), "the folder is taken now"
    finally:
        os.kill(worker, signal.SIGKILL)
