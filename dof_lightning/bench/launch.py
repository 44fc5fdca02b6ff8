"""Runs of a suite through one of Hydra's launchers: joblib's processes, submitit's jobs on a cluster.

`python -m dof_lightning.bench.launch -m hydra/launcher=joblib +suite=<name> +store=<folder> +runs=<folder>
+keep=true +job=<name>,<name>,...`
"""

import subprocess
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from dof_lightning.bench.job import command


@hydra.main(version_base="1.3", config_path=None)
def main(cfg: DictConfig) -> int:
    """One run in a process of its own, which composes its own configuration; its exit code is brought home.

    An error ends this run only: a launcher that is told of it would give up all others.
    """
    code = subprocess.run(
        command(cfg.suite, cfg.job, Path(cfg.store), Path(cfg.runs), cfg.keep), check=False
    ).returncode
    if code:
        sys.stderr.write(f"{cfg.job}: ended with exit code {code}\n")
    return code


if __name__ == "__main__":
    main()
