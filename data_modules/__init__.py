"""Offline multi-agent episodes: shards on disk, their order, and the batches made of them."""
