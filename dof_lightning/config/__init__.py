"""Configuration: from the user's overrides to checked values and objects. Only this package knows Hydra."""
