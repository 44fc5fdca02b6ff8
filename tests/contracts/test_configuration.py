"""Every yaml in `conf/` composes, names classes that may be named, and explains its keys."""

import copy
import fnmatch
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dof_lightning.config import catalog, checks
from dof_lightning.config import compose as configuration
from dof_lightning.config.identity import config_hash, leaves, settings_hash
from dof_lightning.config.targets import check_targets
from dof_lightning.errors import UserError
from tests.fixtures.heavy_options import is_heavy
from tests.fixtures.synthetic import fitting_algorithm

CONF = catalog.CONF_DIR
FILES = sorted(CONF.rglob("*.yaml"))
# Each dataset is an experiment too: there it is chosen together with its own environment.
OPTIONS = [(group, option) for group in catalog.groups() if group != "data" for option in catalog.options(group)]
SECTIONS = catalog.sections()


def _name(path: Path) -> str:
    return str(path.relative_to(CONF))


@pytest.mark.parametrize(
    ("group", "option"),
    [pytest.param(*case, marks=[pytest.mark.slow] if is_heavy(case[1]) else []) for case in OPTIONS],
)
def test_every_option_composes_with_the_defaults(group: str, option: str) -> None:
    others = [] if group == "experiment" else ["experiment=mpe_spread_expert"]
    others += [f"algorithm={fitting_algorithm(group, option)}"] if group == "denoiser" else []
    others += ["data.path=mine"] if option == "none" and group == "experiment" else []
    cfg = configuration.compose([*others, f"{group}={option}"])
    checks.check(cfg)
    assert cfg.choices[group] == option
    if group == "experiment" and option in catalog.options("data"):
        is_served = not (CONF / "experiment" / f"{option}.yaml").exists()
        assert cfg.choices.data == (option if is_served else cfg.data.name)
        assert cfg.choices.env == catalog.environment_of(cfg.choices.data)
        assert cfg.data.source.environment == cfg.env


@pytest.mark.parametrize(
    "part", [slice(0, 1), pytest.param(slice(1, None), marks=pytest.mark.slow)], ids=["first", "others"]
)
@pytest.mark.parametrize("option", [option for option in catalog.options("study") if option != "none"])
def test_every_cell_of_every_study_can_be_configured(option: str, part: slice) -> None:
    made = configuration.build(configuration.compose(["experiment=mpe_spread_expert", f"study={option}"]).study)
    for plan in made.plans()[part]:
        checks.check(configuration.compose(["experiment=mpe_spread_expert", *plan.overrides]))


def test_a_denoiser_of_other_data_is_refused_with_those_that_fit() -> None:
    for algorithm, denoiser, fitting in (
        ("dof_policy", "temporal_unet", ".*mlp or mlp_shared"),
        ("dof_trajectory", "mlp", ".*temporal_unet or"),
    ):
        typed = ["experiment=mpe_spread_random", f"algorithm={algorithm}", f"denoiser={denoiser}"]
        with pytest.raises(UserError, match=f"denoiser={denoiser} .* algorithm={algorithm} .* denoiser={fitting}"):
            checks.check(configuration.compose(typed))


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_every_key_says_what_it_is(path: Path) -> None:
    """A key is explained on its line or at the head of its section; suites and studies state what they compare."""
    lines = path.read_text().splitlines()
    if path.parent.name in ("suite", "study"):
        assert lines[0].startswith("# ")
    elif _is_list(path):
        assert all(paragraph.startswith("# ") for paragraph in path.read_text().split("\n\n"))
    else:
        assert [f"{_name(path)}:{number}: {line}" for number, line in _unexplained(lines)] == []


_SELF_EVIDENT = ("_target_", "_partial_", "name")


def _unexplained(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Yields keys without a comment on their line, above it, or on a key or list entry that they are below."""
    heads: list[int] = []  # indentation of the explained lines that a line is below of
    is_below_comment = False
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            is_below_comment = bool(line.strip())
            continue
        indentation = len(line) - len(line.lstrip())
        heads = [head for head in heads if head < indentation]
        key, _, value = line.strip().partition(":")
        is_explained = is_below_comment or "  # " in line or bool(heads)
        is_below_comment = False
        if is_explained:
            heads.append(indentation)
        refers = value.strip().startswith(("${", "*")) or not value.strip() or key.startswith("- ")
        if not (is_explained or refers or key in _SELF_EVIDENT):
            yield number, line


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_every_file_is_as_it_is_read(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), list if _is_list(path) else dict)


def _is_list(path: Path) -> bool:
    """Whether a file is a list of sections, rather than a mapping that Hydra reads."""
    return path.parent.name == "hyperparams" or path.name == "families.yaml"


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=_name)
def test_experiments_only_pick_groups(path: Path) -> None:
    assert set(yaml.safe_load(path.read_text())) == {"defaults"}


def test_a_dataset_without_values_of_its_own_needs_no_file() -> None:
    preset = yaml.safe_load((CONF / "algorithm" / "td3_bc.yaml").read_text())["alpha"]
    assert configuration.compose(["experiment=mpe2_spread_random", "algorithm=td3_bc"]).algorithm.alpha == preset
    assert configuration.compose(["experiment=mpe_spread_random", "algorithm=td3_bc"]).algorithm.alpha != preset


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section["algorithms"][0])
def test_every_section_of_hyperparameters_is_for_something_that_exists(section: dict[str, Any]) -> None:
    assert set(section["algorithms"]) <= set(catalog.options("algorithm"))
    for pattern in section["datasets"]:
        assert fnmatch.filter(catalog.options("data"), pattern), pattern


@pytest.mark.slow
def test_hyperparameters_are_those_of_all_matching_sections() -> None:
    """Pairs with the same values are composed once, as composing takes longest."""
    composed = []
    for algorithm in catalog.options("algorithm"):
        for data in catalog.options("data"):
            values = _merged(algorithm, data)
            if values and (algorithm, values) not in composed:
                resolved = _resolved(algorithm, data)
                assert {key: resolved[key] for key in values} == values
                composed.append((algorithm, values))


@pytest.mark.parametrize("algorithm", ["dof_policy", "td3_bc"])
def test_what_is_typed_wins_over_hyperparameters(algorithm: str) -> None:
    values = _merged(algorithm, "mpe_spread_medium")
    typed = {key: value + 1 for key, value in values.items() if type(value) in (int, float)}
    assert typed
    resolved = _resolved(algorithm, "mpe_spread_medium", *(f"{key}={value}" for key, value in typed.items()))
    assert {key: resolved[key] for key in typed} == typed


def _merged(algorithm: str, data: str) -> dict[str, object]:
    """The merged values by dotted key, in the order of the files, computed independently of the lookup under test."""
    values: dict[str, object] = {}
    for section in SECTIONS:
        if algorithm in section["algorithms"] and any(fnmatch.filter([data], one) for one in section["datasets"]):
            values |= dict(leaves(section["values"]))
    return values


def _resolved(algorithm: str, data: str, *typed: str) -> dict[str, object]:
    choices = [f"algorithm={algorithm}", "experiment=mpe_spread_expert", f"data={data}"]
    return dict(leaves(configuration.to_plain(configuration.compose([*choices, *typed]))))


def test_tuned_values_of_nothing_are_refused_and_those_of_another_dataset_are_not() -> None:
    typed = ["experiment=mpe_spread_expert"]
    with pytest.raises(UserError, match=r"tuned=nonsense: conf/hyperparams has no section"):
        checks.check(configuration.compose([*typed, "tuned=nonsense"]))
    borrowed = configuration.compose([*typed, "tuned=dof_policy_mpe_spread_medium"])
    checks.check(borrowed)
    assert borrowed.algorithm.q_weight == 100


def test_a_suite_typed_to_train_is_answered_with_the_command_that_runs_it() -> None:
    with pytest.raises(UserError, match="dof bench suite=<name>"):
        configuration.compose(["suite=spread"])


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
    checks.check(cfg)
    assert cfg.data.name == "mpe_spread_medium"


def test_a_class_outside_the_project_is_refused_unless_trusted() -> None:
    typed = ["experiment=mpe_spread_random", "env._target_=os.system"]
    with pytest.raises(UserError, match="trust=true"):
        checks.check(configuration.compose(typed))
    checks.check(configuration.compose([*typed, "trust=true"]))


def test_a_function_that_one_of_our_modules_merely_imports_is_refused() -> None:
    with pytest.raises(UserError):
        check_targets({"env": {"_target_": "dof_lightning.checkpoints.checkpoint.subprocess.run"}})
    with pytest.raises(UserError, match="trust=true"):
        check_targets({"env": {"_target_": "dof_lightning.checkpoints.checkpoint.Path"}})


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


def test_the_class_behind_an_option_is_no_part_of_what_is_run_unless_it_is_a_strangers() -> None:
    plain = configuration.to_plain(configuration.compose(["experiment=mpe_spread_random"]))
    moved = copy.deepcopy(plain)
    moved["denoiser"]["_target_"] = "dof_lightning.elsewhere.MLPDenoiser"
    moved["algorithm"].pop("_partial_", None)
    assert config_hash(moved) == config_hash(plain)
    moved["denoiser"]["_target_"] = "strangers.MLPDenoiser"
    assert config_hash(moved) != config_hash(plain)


def test_another_class_of_ours_behind_an_option_is_refused() -> None:
    typed = ["experiment=mpe_spread_random", "denoiser._target_=dof_lightning.networks.attention_mlp.AttentionMLP"]
    with pytest.raises(UserError, match=r"denoiser\._target_=.*choose an option of group denoiser"):
        checks.check(configuration.compose(typed))
