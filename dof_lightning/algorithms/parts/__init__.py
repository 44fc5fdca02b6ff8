"""Parts that algorithms share: critics, losses, settings, sequences."""
