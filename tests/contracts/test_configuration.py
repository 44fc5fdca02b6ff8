"""Every yaml in `conf/` composes, names classes that may be named, and explains its keys."""

import re
from pathlib import Path

import pytest
import yaml

from dof_lightning import configuration
from dof_lightning.errors import UserError
from dof_lightning.plain import config_hash, leaves, settings_hash
from dof_lightning.targets import check_targets
from tests.contracts.synthetic import fitting_algorithm

CONF = configuration.CONF_DIR
FILES = sorted(CONF.rglob("*.yaml"))
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir())
OPTIONS = [
    (group, option) for group in GROUPS if group not in ("tuned", "suite") for option in configuration.options(group)
]


def _name(path: Path) -> str:
    return str(path.relative_to(CONF))


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_with_the_defaults(group: str, option: str) -> None:
    others = [] if group == "experiment" else ["experiment=mpe_spread_expert"]
    others += [f"algorithm={fitting_algorithm(group, option)}"] if group == "denoiser" else []
    cfg = configuration.compose([*others, f"{group}={option}"])
    configuration.check(cfg)
    assert cfg.choices[group] == option


@pytest.mark.parametrize("option", [option for option in configuration.options("study") if option != "none"])
def test_every_cell_of_every_study_can_be_configured(option: str) -> None:
    made = configuration.build(configuration.compose(["experiment=mpe_spread_expert", f"study={option}"]).study)
    for plan in made.plans():
        configuration.check(configuration.compose(["experiment=mpe_spread_expert", *plan.overrides]))


def test_a_denoiser_of_other_data_is_refused_with_those_that_fit() -> None:
    for algorithm, denoiser, fitting in (
        ("dof_policy", "temporal_unet", ".*mlp or mlp_shared"),
        ("dof_trajectory", "mlp", ".*temporal_unet or"),
    ):
        typed = ["experiment=mpe_spread_random", f"algorithm={algorithm}", f"denoiser={denoiser}"]
        with pytest.raises(UserError, match=f"denoiser={denoiser} .* algorithm={algorithm} .* denoiser={fitting}"):
            configuration.check(configuration.compose(typed))


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_every_key_says_what_it_is(path: Path) -> None:
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        is_key = re.match(r"\s*(- )?[^#:]+:\s+\S", line)
        assert not is_key or re.search(r"  # \S", line), f"{_name(path)}:{number} needs a comment: {line}"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_every_key_is_unique_and_every_file_is_a_mapping(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


@pytest.mark.parametrize("experiment", configuration.options("experiment"))
def test_experiments_only_pick_groups(experiment: str) -> None:
    assert set(yaml.safe_load((CONF / "experiment" / f"{experiment}.yaml").read_text())) == {"defaults"}


def test_tuned_values_belong_to_an_algorithm_and_a_dataset_and_lose_against_the_command_line() -> None:
    """The same file for the same algorithm, of another quality or task, is composed once: that is what takes long."""
    composed = set()
    for name in configuration.options("tuned"):
        algorithm, data = _whose(name)
        written = (algorithm, (CONF / "tuned" / f"{name}.yaml").read_text())
        if written not in composed:
            _check_tuned(name, algorithm, data)
        composed.add(written)


def _whose(name: str) -> tuple[str, str]:
    pairs = [
        (algorithm, data)
        for algorithm in configuration.options("algorithm")
        for data in configuration.options("data")
        if f"{algorithm}_{data}" == name
    ]
    assert pairs, f"conf/tuned/{name}.yaml is never loaded: no algorithm and dataset make that name"
    return pairs[0]


def _check_tuned(name: str, algorithm: str, data: str) -> None:
    typed = [f"algorithm={algorithm}", "experiment=mpe_spread_expert", f"data={data}"]
    values = _tuned_values(name)
    assert values
    composed = dict(leaves(configuration.to_plain(configuration.compose(typed))))
    assert {key: composed[key] for key in values} == values
    numbers = {key: value for key, value in values.items() if type(value) in (int, float)}
    typed_over = configuration.compose([*typed, *(f"{key}={value + 1}" for key, value in numbers.items())])
    changed = dict(leaves(configuration.to_plain(typed_over)))
    assert {key: changed[key] for key in numbers} == {key: value + 1 for key, value in numbers.items()}


def _tuned_values(name: str) -> dict[str, object]:
    """Its own values over those of its bases, by dotted key."""
    content = yaml.safe_load((CONF / "tuned" / f"{name}.yaml").read_text())
    bases = [base for base in content.pop("defaults", []) if base != "_self_"]
    inherited = [item for base in bases for item in _tuned_values(base).items()]
    return dict(inherited) | (dict(leaves(content)) if content else {})


def test_the_overrides_promised_to_users_exist() -> None:
    cfg = configuration.compose(
        [
            "experiment=mpe_spread_medium",
            "algorithm=dof_policy",
            "seed=3",
            "run_dir=somewhere",
            "resume=never",
            "trainer.devices=2",
            "trainer.accelerator=cpu",
            "trainer.max_steps=7",
            "data.root=elsewhere",
            "data.episodes=8",
            "data.global_batch_size=16",
            "rollout.episodes=4",
            "rollout.every_n_steps=5",
            "checkpoint.every_n_steps=6",
        ]
    )
    configuration.check(cfg)
    assert cfg.data.name == "mpe_spread_medium"


def test_a_class_outside_the_project_is_refused_unless_trusted() -> None:
    typed = ["experiment=mpe_spread_random", "env._target_=os.system"]
    with pytest.raises(UserError, match="trust=true"):
        configuration.check(configuration.compose(typed))
    configuration.check(configuration.compose([*typed, "trust=true"]))


def test_a_function_that_one_of_our_modules_merely_imports_is_refused() -> None:
    with pytest.raises(UserError):
        check_targets({"env": {"_target_": "dof_lightning.checkpoint.subprocess.run"}})
    with pytest.raises(UserError, match="trust=true"):
        check_targets({"env": {"_target_": "dof_lightning.configuration.Path"}})


@pytest.mark.parametrize("key", ["run_dir", "resume"])
def test_the_place_of_a_run_is_no_part_of_what_is_run(key: str) -> None:
    plain = configuration.to_plain(configuration.compose(["experiment=mpe_spread_random"]))
    assert config_hash(plain) == config_hash(plain | {key: "other"})
    assert config_hash(plain) != config_hash(plain | {"seed": 1})


def test_the_place_of_the_data_is_no_part_of_what_is_run() -> None:
    here, there = (
        configuration.to_plain(configuration.compose(["experiment=mpe_spread_random", *typed]))
        for typed in ((), ("data.root=elsewhere",))
    )
    assert here["data"]["source"]["root"] != there["data"]["source"]["root"]
    assert config_hash(here) == config_hash(there)


def test_a_number_may_be_spelled_in_two_ways() -> None:
    whole, fraction = (
        configuration.to_plain(configuration.compose(["experiment=mpe_spread_random", f"algorithm.q_weight={typed}"]))
        for typed in ("3", "3.0")
    )
    assert config_hash(whole) == config_hash(fraction)


def test_seeds_are_no_part_of_the_settings_and_everything_else_is() -> None:
    plain, again, other = (
        configuration.to_plain(configuration.compose(["experiment=mpe_spread_random", *typed]))
        for typed in ((), ("seed=5",), ("algorithm.q_weight=9",))
    )
    assert settings_hash(plain) == settings_hash(again) != settings_hash(other)
    assert config_hash(plain) != config_hash(again)
