"""Per-agent networks, batched over agents."""
