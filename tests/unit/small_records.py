"""Rows of a results store, with what a test cares about changed."""

from typing import Any

from dof_lightning.results_store import Point, Record

_RECORD = Record(
    suite="small",
    experiment="mpe_spread_medium",
    dataset="mpe_spread_medium",
    environment="mpe_spread",
    algorithm="dof_policy",
    variant="",
    seed=0,
    config_hash="c0",
    settings_hash="s0",
    dataset_fingerprint="d0",
    environment_fingerprint="e0",
    git_revision="",
    steps=100,
    budget_steps=100,
    windows=25600,
    episodes=200,
    last_return=300.0,
    last_return_std=70.0,
    last_normalized_score=39.3,
    last_own_normalized_score=None,
    last_win_rate=None,
    best_return=310.0,
    best_return_std=71.0,
    best_normalized_score=42.1,
    best_own_normalized_score=None,
    best_win_rate=None,
    behavior_return=269.5,
    behavior_normalized_score=30.7,
    behavior_own_normalized_score=None,
    behavior_win_rate=None,
    execution="decentralized",
    shared_seeds=None,
    certified=True,
    wall_seconds=12.5,
    peak_memory_mb=800.0,
    decision_ms=None,
    device="cpu, 1 thread",
    command="python train.py experiment=mpe_spread_medium seed=0",
)


def record(**changes: Any) -> Record:
    return Record(**{**vars(_RECORD), **changes})


def point(step: int, **changes: Any) -> Point:
    known = {"config_hash": "c0", "dataset_fingerprint": "d0", "seconds": 0.1 * step, "return_mean": 200.0 + step}
    scores = {"normalized_score": None, "own_normalized_score": None, "win_rate": None}
    return Point(**{**known, **scores, "step": step, **changes})
