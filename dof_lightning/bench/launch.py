"""Runs of a suite through one of Hydra's launchers: joblib's processes, submitit's jobs on a cluster.

`python -m dof_lightning.bench.launch -m hydra/launcher=joblib +suite=<name> +store=<folder> +runs=<folder>
+keep=true +job=<name>,<name>,...`
"""

import sys
import traceback
from pathlib import Path

import hydra
from omegaconf import DictConfig

from dof_lightning.bench.job import perform
from dof_lightning.bench.suite import read_suite
from dof_lightning.errors import UserError


@hydra.main(version_base="1.3", config_path=None)
def main(cfg: DictConfig) -> str | None:
    """One run; an error ends this run only, and is what the launcher brings home."""
    job = read_suite(cfg.suite).job(cfg.job)
    sys.argv = ["train.py", *job.typed]
    try:
        perform(job, Path(cfg.store), Path(cfg.runs), keep=cfg.keep)
    except UserError as error:
        said = f"{job.name}: error: {error}"
    except SystemExit as error:
        said = f"{job.name}: ended with exit code {error.code}"
    except Exception:  # a launcher that is told of it gives up all other runs
        said = f"{job.name}: {traceback.format_exc()}"
    else:
        return None
    sys.stderr.write(f"{said}\n")
    return said


if __name__ == "__main__":
    main()
