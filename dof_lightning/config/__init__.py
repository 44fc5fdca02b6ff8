"""From what a user typed to a checked configuration: the only place that knows Hydra."""
