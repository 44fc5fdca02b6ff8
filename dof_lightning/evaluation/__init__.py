"""Reported scores, and the tests and measurements behind them."""
