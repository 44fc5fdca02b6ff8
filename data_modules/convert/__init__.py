"""Import of episodes from other formats into our shards, and export of our shards to them."""
