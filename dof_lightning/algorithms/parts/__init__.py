"""What algorithms have in common: critics, losses, settings, sequences."""
