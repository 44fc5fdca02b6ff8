"""Multi-agent environments, stepped in batches."""
