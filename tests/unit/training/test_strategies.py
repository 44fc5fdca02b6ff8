"""The promises of the strategies: buckets that stay, units that are declared, whole weights from sharded ones."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from dof_lightning.errors import UserError
from dof_lightning.networks.agentwise import AgentwiseLinear, clip_gradient_norm
from dof_lightning.networks.ema import ema_copy, ema_update
from dof_lightning.sharding import average_gradients, local, shard, whole, whole_tensor
from dof_lightning.training.strategies import as_launched, make_strategy, settle_buckets
from tests.fixtures.processes import exit_code, start

RANKS = 4


class Chain(nn.Module):
    """Gradients come in another order than parameters stand, so that DDP would rearrange its buckets."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.last, self.first, self.middle = nn.Linear(70, 9), nn.Linear(50, 70), nn.Linear(70, 70)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.middle(torch.tanh(self.first(x)))))


class Team(nn.Module):
    """Three agents' layers, a shared one, and one whose few numbers stay whole."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.agents, self.shared, self.few = Unit(), Shared(), Few()

    def forward(self, x: Tensor) -> Tensor:
        return self.few(self.shared(self.agents(x)))


class Unit(nn.Module):
    fsdp_role = "unit"

    def __init__(self) -> None:
        super().__init__()
        self.layer = AgentwiseLinear(3, 5, 7, ensemble=2)
        self.register_buffer("scale", torch.full((7,), 1.5), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.scale


class Shared(nn.Linear):
    fsdp_role = "unit"

    def __init__(self) -> None:
        super().__init__(7, 5)


class Few(nn.Module):
    fsdp_role = "replicate"

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def join(rank: int, folder: Path, ranks: int = RANKS) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)


def data(rank: int, step: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(100 * step + rank))


def train_chain(rank: int, interruptions: tuple[int, ...], settle: Callable) -> list[Tensor]:
    model = Chain()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    wrapped = None
    for step in range(6):
        if wrapped is None or step in interruptions:
            wrapped = DistributedDataParallel(model)
            settle(wrapped)
        optimizer.zero_grad()
        wrapped(data(rank, step, 32, 50)).square().mean().backward()
        optimizer.step()
    return list(model.parameters())


def compare_buckets(rank: int, folder: Path) -> None:
    join(rank, folder)
    whole_run, resumed = (train_chain(rank, steps, settle_buckets) for steps in ((), (3,)))
    assert all(torch.equal(*pair) for pair in zip(whole_run, resumed, strict=True))
    unsettled = train_chain(rank, (3,), lambda wrapped: None)
    assert not all(torch.equal(*pair) for pair in zip(whole_run, unsettled, strict=True)), "the test shows nothing"
    torch.distributed.destroy_process_group()


def compare_sharded(rank: int, folder: Path) -> None:
    ranks = 2
    join(rank, folder, ranks)
    plain, sharded = Team(), Team()
    averages = [ema_copy(plain), ema_copy(sharded)]
    mesh = init_device_mesh("cpu", (ranks,))
    replicated = shard(sharded, mesh)
    shard(averages[1], mesh)
    x = torch.stack([data(r, 0, 6, 4, 5) for r in range(ranks)])
    torch.stack([plain(part).square().mean() for part in x]).mean().backward()
    sharded(x[rank]).square().mean().backward()
    average_gradients(replicated)
    for model in (plain, sharded):
        norms = [clip_gradient_norm([part], 1e-3) for part in (model.agents, model.shared, model.few)]
        if model is plain:
            expected = norms
    torch.testing.assert_close(norms, expected)
    for ours, theirs in zip(sharded.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(whole_tensor(ours.grad), theirs.grad)
    assert sum(part.numel() for part in local(sharded.agents.parameters())) < sum(
        p.numel() for p in plain.agents.parameters()
    )
    with torch.no_grad():
        for model in (plain, sharded):
            for parameter in local(model.parameters()):
                parameter.add_(1.0)
    for average, online in zip(averages, (plain, sharded), strict=True):
        ema_update(average, online, 0.9)
    gathered = whole(averages[1].agents)
    torch.testing.assert_close(gathered(x[rank]), averages[0].agents(x[rank]))
    assert whole(averages[1].few) is averages[1].few
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("ranks", "compare"), [(RANKS, compare_buckets), (2, compare_sharded)])
def test_ranks_agree(tmp_path: Path, ranks: int, compare: Callable[[int, Path], None]) -> None:
    processes = [start(compare, rank, tmp_path) for rank in range(ranks)]
    assert [exit_code(process, 120.0) for process in processes] == [0] * ranks


def test_a_parameter_without_a_declaration_is_an_error_at_the_start() -> None:
    model = nn.ModuleDict({"declared": Few(), "other": nn.Sequential(nn.Linear(2, 2))})
    with pytest.raises(UserError, match=r"fsdp2: other\.0 \(Linear\) has parameters but no `fsdp_role`"):
        shard(model, None)


def test_the_strategy_follows_the_number_of_processes() -> None:
    def name(**changed: object) -> str:
        node = {"strategy": "auto", "precision": "32-true", "devices": 1, "num_nodes": 1, "accelerator": "cpu"}
        made = make_strategy(node | changed, timeout_seconds=60)
        return made if isinstance(made, str) else type(made).__name__

    assert [name(), name(devices="auto"), name(devices=2), name(num_nodes=2)] == ["auto", "auto", "DDP", "DDP"]
    assert [name(strategy="ddp"), name(strategy="fsdp2"), name(devices=[0, 1])] == ["DDP", "FSDP2", "DDP"]
    with pytest.raises(UserError, match="fsdp2 trains in 32-true"):
        name(strategy="fsdp2", precision="bf16-mixed")


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
SLURM = {"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_NNODES": "2"}


def launched(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], devices: object = 1, num_nodes: int = 1
) -> tuple[object, int]:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", *SLURM, "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    trainer = {"devices": devices, "num_nodes": num_nodes, "accelerator": "cpu", "max_steps": 3}
    told = as_launched({"trainer": trainer, "seed": 0})
    assert (told["seed"], told["trainer"]["max_steps"]) == (0, 3)
    return told["trainer"]["devices"], told["trainer"]["num_nodes"]


def test_the_number_of_processes_is_the_launchers_where_none_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would train a copy of its own, and all would write one `last.ckpt`."""
    assert launched(monkeypatch, {}) == (1, 1)
    assert launched(monkeypatch, {}, devices=3) == (3, 1)
    assert launched(monkeypatch, TORCHRUN) == launched(monkeypatch, SLURM) == (2, 2)
    assert launched(monkeypatch, TORCHRUN, devices=2, num_nodes=2) == (2, 2)
    assert launched(monkeypatch, {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}) == (1, 1)
    assert launched(monkeypatch, {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}) == (1, 2)
    for shell in ("bash", "interactive"):
        assert launched(monkeypatch, SLURM | {"SLURM_JOB_NAME": shell}) == (1, 1), "nobody has started several"
    for name, environment in (("torchrun", TORCHRUN), ("SLURM", SLURM)):
        with pytest.raises(UserError, match=rf"{name}, which has started 2 processes .* trainer\.devices=2"):
            launched(monkeypatch, environment, devices=4)
    with pytest.raises(UserError, match=r"3 processes on 2 machines"):
        launched(monkeypatch, SLURM | {"SLURM_NTASKS": "3"})
