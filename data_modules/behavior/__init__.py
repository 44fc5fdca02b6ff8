"""Behaviour policies: who acted in the datasets we collect, and the online trainer that made them."""
