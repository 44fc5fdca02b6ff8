"""Adapter of StarCraft II's SMAC and SMACv2."""
