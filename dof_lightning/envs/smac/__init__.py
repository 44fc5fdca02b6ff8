"""StarCraft II's SMAC and SMACv2 as one of our environments."""
