"""Behaviour policies: the actors of the datasets that we collect, and the online trainers that made them."""
