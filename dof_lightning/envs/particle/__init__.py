"""The particle world that offline MARL benchmarks use, and the prey in it."""
