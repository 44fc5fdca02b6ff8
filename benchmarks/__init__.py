"""Measurements, as tables: `python -m benchmarks` (speed), `python -m benchmarks.kill_campaign` (exact resume)."""
