"""An installed third-party package and your own folder train and evaluate as ours do, without trust=true."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.fixtures.plugin_package import install
from tests.fixtures.workplace import ROOT, environment, succeeded


def test_options_of_a_plug_in_and_of_a_folder_train_and_are_evaluated(tmp_path: Path) -> None:
    site = install(tmp_path / "site")
    mine = tmp_path / "mine" / "algorithm" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("defaults: [careful, _self_]\ncare: 0.125\n")
    (tmp_path / "mine" / "data").mkdir()
    (tmp_path / "mine" / "data" / "my_random.yaml").write_text("defaults: [mpe_spread_random, _self_]\n")
    here = environment() | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(site)))}

    def follow(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, text=True, timeout=300, check=False)
        return succeeded(done)

    typed = ["experiment=my_random", "env=careful_spread", "algorithm=mine", "debug=default", "run_dir=run"]
    printed = follow(sys.executable, str(ROOT / "train.py"), "--config-dir", "mine", *typed, "trainer.max_steps=2")
    assert "--config-dir mine" in printed, "the command that trains further cannot find the option"
    dof = [sys.executable, "-c", "from dof_lightning.cli.main import main; main()"]
    again = json.loads(follow(*dof, "eval", "checkpoint=run"))
    built = follow(*dof, "data", "build", "experiment=my_random", "--config-dir", "mine", "debug=default")
    assert (tmp_path / built.splitlines()[-1] / "dataset.json").is_file()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["algorithm"] == "mine"
    assert again["return_mean"] == results["best"]["return_mean"]
