"""Batched decentralised rollouts: playing, recording, certifying and measuring."""
