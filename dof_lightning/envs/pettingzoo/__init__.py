"""Adapter of PettingZoo's parallel environments."""
