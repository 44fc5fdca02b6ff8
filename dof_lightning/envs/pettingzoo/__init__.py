"""Any PettingZoo parallel environment as one of ours."""
