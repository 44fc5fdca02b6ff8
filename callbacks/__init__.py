"""Lightning callbacks: decentralised rollouts, checkpoints, measurements and displays of a training."""
