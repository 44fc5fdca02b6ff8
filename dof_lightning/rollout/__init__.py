"""Batched decentralised rollouts: what is played, recorded, certified and measured."""
