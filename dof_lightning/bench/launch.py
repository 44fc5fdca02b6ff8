"""A suite's runs through one of Hydra's launchers: joblib's processes, submitit's jobs on a cluster.

`python -m dof_lightning.bench.launch -m hydra/launcher=joblib +suite=<name> +store=<folder> +runs=<folder>
+keep=true +job=<name>,<name>,...`
"""

import os
import subprocess
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dof_lightning.bench.job import command
from dof_lightning.threads import cores_of_a_job


@hydra.main(version_base="1.3", config_path=None)
def main(cfg: DictConfig) -> int:
    """Performs one run in a separate process, which composes its own configuration; returns its exit code.

    An error ends this run only; with an exception the launcher would give up all others.
    """
    # Counted here, on the training machine: the submitting machine may have more cores.
    threads = os.environ.get("OMP_NUM_THREADS") or str(cores_of_a_job(HydraConfig.get().launcher))
    words = command(cfg.suite, cfg.job, Path(cfg.store), Path(cfg.runs), cfg.keep)
    code = subprocess.run(words, env=os.environ | {"OMP_NUM_THREADS": threads}, check=False).returncode
    if code:
        sys.stderr.write(f"{cfg.job}: ended with exit code {code}\n")
    return code


if __name__ == "__main__":
    main()
