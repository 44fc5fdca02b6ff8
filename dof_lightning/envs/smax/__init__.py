"""SMAX: StarCraft-like battles without StarCraft, many at a time."""
