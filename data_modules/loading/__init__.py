"""Loading of batches from shards: order, windows, streaming."""
