"""Run by torchrun on two ranks: `python -m torch.distributed.run --nproc-per-node=2 -m tests.two_ranks <folder>`."""

import json
import sys
from pathlib import Path

import torch

from tests.contracts.two_ranks import train_every_algorithm
from tests.two_rank_rollout import measure


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    is_rank_zero, measured = measure(folder, 2)
    if is_rank_zero:
        (folder / "measured.json").write_text(json.dumps(measured))
    train_every_algorithm()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
