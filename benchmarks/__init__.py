"""Measurements: each is one command that prints one Markdown table."""
