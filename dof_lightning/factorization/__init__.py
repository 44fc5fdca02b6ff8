"""Noise factorisations f, data factorisations h and value mixers."""
