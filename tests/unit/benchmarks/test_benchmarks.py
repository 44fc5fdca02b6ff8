"""The benchmarks in a tiny size: they run, and both sides of every ratio compute the same thing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from benchmarks import igd as igd_tables
from benchmarks import loader, scaling
from benchmarks.__main__ import BENCHMARKS, ONLY_WHEN_NAMED, TABLES, main, parse
from benchmarks.agent_loop import LoopUpdate, loop_actor, loop_algorithm
from benchmarks.gemm import RecordedProducts, count_flops, gemm
from benchmarks.options import options
from benchmarks.particle import particle, play
from benchmarks.planner import OURS, PAPER, Comparison, Planner, planner
from benchmarks.subjects import PRESET, Update, made_up_batch, made_up_spec, make_dof_policy
from benchmarks.table import Row, markdown, ratio
from benchmarks.time_to_score import TAG, first_time_at
from benchmarks.two_chains import TwoChains
from benchmarks.update import Setting, decision, update
from dof_lightning.actors.diffusion import DiffusionActor
from dof_lightning.batch import Window
from dof_lightning.config import checks
from dof_lightning.config import compose as configuration
from dof_lightning.envs.particle.env import HORIZON, ParticleEnv
from dof_lightning.errors import UserError
from dof_lightning.evaluation.igd import Effort
from dof_lightning.evaluation.timing import interleaved

TINY = (*PRESET, "denoiser.hidden=[8,8]", "algorithm.critic.hidden=[8]")
TINY_SETTING = Setting("tiny", TINY, 2, 4, repetitions=1)


def tiny_update() -> tuple[Update, LoopUpdate]:
    spec = made_up_spec(3)
    algorithm, batch = make_dof_policy(spec, (*TINY, "algorithm.critic_gradient_clip=0.1")), made_up_batch(spec, 8)
    loop = LoopUpdate(loop_algorithm(algorithm), batch)
    return Update(algorithm, batch), loop


def test_the_loop_over_agents_computes_the_same_losses_and_steps() -> None:
    ours, loop = tiny_update()
    for _ in range(4):
        expected, found = ours(), loop()
        assert set(expected) == set(found)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_the_loop_over_agents_decides_alike() -> None:
    spec = made_up_spec(3)
    actor = make_dof_policy(spec, TINY).policy()
    assert isinstance(actor, DiffusionActor)
    observations = made_up_batch(spec, 5).observations[:, :, 0]
    noise = actor.draw_noise(5, torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, _ = actor.act_on_noise(observations, None, None, noise)
        found, _ = loop_actor(actor).act_on_noise(observations, None, None, noise)
    torch.testing.assert_close(found, expected)


def test_two_chains_train_every_agent_and_decide_in_range() -> None:
    spec = made_up_spec(2)
    chains = TwoChains(make_dof_policy(spec, TINY), made_up_batch(spec, 4), steps=5)
    before = [[p.clone() for p in (*a.actor.parameters(), *a.critic.parameters())] for a in chains.agents]
    chains.update()
    for agent, old in zip(chains.agents, before, strict=True):
        parameters = (*agent.actor.parameters(), *agent.critic.parameters())
        assert all(not torch.equal(p, q) for p, q in zip(parameters, old, strict=True))
    actions = chains.decide(candidates=3)
    assert actions.shape == (1, 2, 2)
    assert actions.abs().max() <= 1


def test_updates_and_decisions_are_measured() -> None:
    rows = update([TINY_SETTING])
    assert sum(row.ratio is not None for row in rows) >= 2
    assert all(row.ratio is not None and row.ratio > 0 for row in decision([TINY_SETTING], steps=5, candidates=2))


def test_options_are_measured() -> None:
    rows = options([("tiny", TINY, 4, 1)], compiled=False)
    assert len({row.measured for row in rows}) == len(rows) == 7
    assert all(row.ratio is not None and row.ratio > 0 for row in rows)


def test_planners_are_measured_and_any_can_be_added() -> None:
    tiny = Planner("tiny", (*OURS.overrides, "denoiser.channels=8", "denoiser.embedding=8", "algorithm.horizon=4"))
    slower = Planner("slower", (*tiny.overrides, "sampler=ddpm", "sampler.steps=null"))
    rows = planner([Comparison(tiny, slower, decision_aim=">= 2")], batch_size=2, repetitions=1)
    assert [row.aim for row in rows] == [">= 2", ""]
    assert all(row.ratio is not None and row.ratio > 0 for row in rows)


def test_the_papers_planner_has_the_papers_sizes() -> None:
    cfg = configuration.compose(PAPER.overrides)
    checks.check(cfg)
    denoiser, algorithm = cfg.denoiser, cfg.algorithm
    assert [denoiser.channels * multiplier for multiplier in denoiser.multipliers] == [128, 512, 1024]
    assert (denoiser.kernel, denoiser.blocks, denoiser.activation) == (5, 2, "mish")
    assert (algorithm.horizon, algorithm.history, algorithm.guidance_weight) == (24, 0, 1.2)
    assert list(algorithm.inverse.hidden) == [256, 256]
    assert (cfg.schedule.steps, cfg.sampler.steps, cfg.choices.sampler) == (200, None, "ddpm")
    with torch.device("meta"):
        bank = configuration.build(denoiser)(made_up_spec(3), condition_dim=2)
    assert 55e6 < sum(parameter.numel() for parameter in bank.parameters()) < 65e6


def test_flops_are_those_of_the_recorded_products() -> None:
    spec = made_up_spec(2)
    step = Update(make_dof_policy(spec, TINY), made_up_batch(spec, 4))
    with RecordedProducts() as products:
        step()
    by_hand = sum(2 * a.numel() * b.shape[-1] for a, b in products.operands)
    assert by_hand == count_flops(step) > 0
    products.replay()
    assert len(gemm((("tiny", TINY, 4, 1),), square=8)) == 2


def test_growth_is_measured_in_this_process_and_memory_in_others(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = {2: (100.0, 110.0), 4: (100.0, 130.0)}
    monkeypatch.setattr(scaling, "_measure_memory", lambda n, batch_size: memory[n])
    time, whole, above = scaling.scaling((2, 4), batch_size=2, repetitions=1)
    assert time.ratio is not None
    assert time.ratio > 0
    assert whole.ratio == pytest.approx(130 / 110)
    assert above.ratio == pytest.approx(3.0)


def test_the_process_that_measures_memory_reports_two_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    scaling.main(2, 4, torch.get_num_threads())
    before, after = map(float, capsys.readouterr().out.strip("[]\n").split(","))
    assert 0 < before <= after


def test_the_bare_gather_yields_the_loaders_rows(tmp_path: Path) -> None:
    window = Window(history=0, horizon=4)
    data = loader.make_data(tmp_path / "data", 20, window, batch_size=16, episodes_per_sample=8)
    bare, batches = loader.bare_batches(data, batches=3), iter(data.train_dataloader())
    for _ in range(3):
        rows, batch = next(bare), next(batches)
        np.testing.assert_array_equal(rows["observations"].swapaxes(1, 2), batch.observations.numpy())
        np.testing.assert_array_equal(rows["actions"].swapaxes(1, 2), batch.actions.numpy())
        taken = batch.transition_mask[:, 0].numpy()
        rewards = rows["outcomes"][..., 0].swapaxes(1, 2) * taken[:, None]
        np.testing.assert_array_equal(rewards, batch.rewards.numpy())


def test_decoding_sample_by_sample_yields_rows_of_the_dataset(tmp_path: Path) -> None:
    window = Window(history=0, horizon=1)
    data = loader.make_data(tmp_path / "data", 20, window, batch_size=16, episodes_per_sample=1)
    batch = next(loader.decoded_batches(data))
    place_of = {int(episode): place for place, episode in enumerate(data.table.episode_id)}
    places = torch.tensor([place_of[int(episode)] for episode in batch["episode_id"]])
    steps = data.table.episodes[places, 1] + batch["t"]
    assert len(set(steps.tolist())) > 1
    assert torch.equal(batch["observations"][:, 0], data.table.observations[steps + places])
    assert torch.equal(batch["observations"][:, 1], data.table.observations[steps + places + 1])
    assert torch.equal(batch["actions"][:, 0], data.table.actions[steps])
    assert torch.equal(batch["rewards"][:, 0], data.table.outcomes[steps, :, 0])


def test_loaders_are_measured() -> None:
    rows = loader.loader([(Window(history=0, horizon=3), 8)], n_episodes=20, batches=1, repetitions=1)
    assert all(row.ratio is not None and row.ratio > 0 for row in rows)


@pytest.mark.slow
def test_particle_worlds_play_whole_episodes() -> None:
    assert play(ParticleEnv("spread"), 3) == 3 * HORIZON
    mpe2, jaxmarl = particle(n_environments=2, repetitions=1)
    assert mpe2.ratio is not None
    assert mpe2.ratio > 0
    assert (jaxmarl.ratio is None) == (jaxmarl.remark == "jaxmarl not installed")


def test_the_first_rollout_that_reaches_a_score_is_found(tmp_path: Path) -> None:
    writer = SummaryWriter(tmp_path / "run")
    for step, (score, wall_time) in enumerate([(90.0, 10.0), (101.0, 20.0), (110.0, 30.0)]):
        writer.add_scalar(TAG, score, step, walltime=wall_time)
    writer.close()
    assert first_time_at(tmp_path, 100.0) == pytest.approx(20.0)
    assert first_time_at(tmp_path, 111.0) is None


def test_ratios_are_medians_over_repetitions_of_interleaved_calls() -> None:
    calls: list[str] = []
    seconds = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repetitions=2)
    assert calls == ["a", "b"] * 3
    assert all(len(times) == 2 for times in seconds.values())
    assert ratio([2.0, 6.0, 100.0], [1.0, 2.0, 1.0]) == 3.0


def test_the_table_is_markdown() -> None:
    text = markdown([Row("a", "b", "c", 1.2345, ">= 1", "d"), Row("a", "b", "c", None)])
    assert text.splitlines()[2:] == ["| a | b | c | 1.23 | >= 1 | d |", "| a | b | c | - |  |  |"]


def test_the_igd_table_has_a_line_for_each_f_and_seed() -> None:
    effort = Effort(draws=32, permutations=20, rows=2)
    lines = igd_tables.igd(("wconcat", "attention"), (0,), steps=2, effort=effort).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| wconcat", "| attention"]
    assert {line.count("|") for line in lines} == {len(igd_tables.HEADER) + 1}
    gaps = igd_tables.coordination_gap((0, 1), steps=2, diffusion_steps=3).splitlines()
    assert len(gaps) == 4


def test_tables_that_are_no_ratios_are_written_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("benchmarks.__main__.TABLES", {"igd": lambda: "| a table |"})
    main(["igd", f"output={tmp_path / 'out.md'}", f"threads={torch.get_num_threads()}"])
    assert (tmp_path / "out.md").read_text().startswith("| a table |\n\n")


def test_the_command_line_names_benchmarks() -> None:
    names, output, threads, _ = parse([])
    assert set(BENCHMARKS) - set(names) == set(ONLY_WHEN_NAMED)
    assert parse(list(TABLES))[0] == list(TABLES)
    assert output is None
    assert threads >= 1
    assert parse(["gemm", "output=a.md", "threads=3"]) == (["gemm"], Path("a.md"), 3, {})
    for wrong in ("gem", "outptu=a.md", "threads=0"):
        with pytest.raises(UserError, match=wrong.partition("=")[0]):
            parse([wrong])
