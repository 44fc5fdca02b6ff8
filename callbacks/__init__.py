"""Lightning callbacks: decentralised rollouts, throughput, video."""
