"""Checkpoints: their contents, and the policies, agents and certificates made from them without the dataset."""
