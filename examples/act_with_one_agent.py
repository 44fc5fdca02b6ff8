"""Load one exported agent and let it act alone, from two files that hold its own weights and nobody else's.

`load_agent` needs torch and numpy, neither Lightning nor Hydra nor the team it was trained with: this is what runs on a
robot. Here it plays MPE Spread beside two team-mates who stand still, and sees nothing but its own observations.

    python examples/act_with_one_agent.py runs/mine/checkpoints/best_agents/agent_0.json  # from `dof export`
    python examples/act_with_one_agent.py  # one that is shipped with the package
"""

import sys

import torch

from dof_lightning import load_agent, make_env


def main(path: str, episodes: int = 8) -> None:
    agent = load_agent(path)
    env = make_env("mpe_spread")
    observations = env.reset(torch.arange(episodes))  # [E, N, O]
    agent.reset(seed=0)

    team_return = torch.zeros(episodes)
    for _ in range(env.spec.horizon):
        actions = torch.zeros(episodes, env.spec.n_agents, 2)  # the others stand still
        # decide() answers as our environments take it; act() in the units of the world itself
        actions[:, agent.index] = agent.decide(observations[:, agent.index])  # [E, O_i] -> [E, A_i]
        step = env.step(actions)
        observations, team_return = step.observations, team_return + step.rewards.mean(1)
    print(f"{agent.name} acted for {env.spec.horizon} steps in {episodes} episodes: return {team_return.mean():.1f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "mpe_spread_expert")
