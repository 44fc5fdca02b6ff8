"""Datasets on disk: the format of shards and manifests, and how both are written and read."""
