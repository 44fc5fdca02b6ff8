"""From shards to the batches of a step: order, windows, streaming."""
