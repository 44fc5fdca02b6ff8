"""Training algorithms: each is a LightningModule that learns from `EpisodeBatch` and hands out a policy."""
