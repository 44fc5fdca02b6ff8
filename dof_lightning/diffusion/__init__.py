"""The diffusion core: schedules and samplers."""
