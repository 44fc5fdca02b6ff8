"""An independent simulation of OMAR's particle tasks: one episode, one agent at a time, on mpe2's world classes.

Bodies, contact forces and their accumulation are mpe2's own code; only what OMAR does differently is written here, in
numpy and plain loops: the action's force, the order of integration, observations and rewards.
"""

import numpy as np
from mpe2._mpe_utils.core import Agent, Landmark, World

PREDATOR_RADIUS, PREDATOR_ACCELERATION, PREDATOR_SPEED = 0.075, 3.0, 1.0
PREY_ACCELERATION, PREY_SPEED = 4.0, 1.3
SPREAD_SENSITIVITY = 5.0


class OmarWorld(World):
    """mpe2's world with OMAR's integration: damp, accelerate, limit the speed, move with the new velocity."""

    def apply_action_force(self, p_force):
        for index, agent in enumerate(self.agents):
            if agent.accel is None:
                p_force[index] = SPREAD_SENSITIVITY * agent.action.u
            else:
                p_force[index] = agent.accel * (agent.accel * agent.action.u)
        return p_force

    def integrate_state(self, p_force):
        for index, entity in enumerate(self.entities):
            if not entity.movable:
                continue
            velocity = entity.state.p_vel * (1 - self.damping)
            velocity = velocity + p_force[index] / entity.mass * self.dt
            speed = np.linalg.norm(velocity)
            if entity.max_speed is not None and speed > entity.max_speed:
                velocity = velocity / speed * entity.max_speed
            entity.state.p_vel = velocity
            entity.state.p_pos = entity.state.p_pos + velocity * self.dt


class ParticleOracle:
    """One episode of `spread`, `tag` or `world` from a given state; every agent's action is given, the prey's too."""

    def __init__(self, task, positions, velocities, landmarks):
        self.task = task
        self.world = OmarWorld()
        self.world.agents = [self._agent(i) for i in range(len(positions))]
        self.world.landmarks = [self._landmark(i) for i in range(len(landmarks))]
        for agent, position, velocity in zip(self.world.agents, positions, velocities, strict=True):
            agent.state.p_pos, agent.state.p_vel = position.copy(), velocity.copy()
        for landmark, position in zip(self.world.landmarks, landmarks, strict=True):
            landmark.state.p_pos, landmark.state.p_vel = position.copy(), np.zeros(2)

    def _agent(self, index):
        agent = Agent()
        agent.silent = True
        if self.task == "spread":
            agent.size = 0.15
        elif index < 3:
            agent.size, agent.accel, agent.max_speed = PREDATOR_RADIUS, PREDATOR_ACCELERATION, PREDATOR_SPEED
        else:
            agent.size = {"tag": 0.05, "world": 0.045}[self.task]
            agent.accel, agent.max_speed = PREY_ACCELERATION, PREY_SPEED
        return agent

    def _landmark(self, index):
        landmark = Landmark()
        sizes = {"spread": [0.05] * 3, "tag": [0.2] * 2, "world": [0.2, 0.03, 0.03, 0.3, 0.3]}[self.task]
        landmark.size = sizes[index]
        landmark.collide = self.task == "tag" or (self.task == "world" and index == 0)
        return landmark

    def step(self, actions):
        for agent, action in zip(self.world.agents, actions, strict=True):
            agent.action.u = np.clip(action, -1.0, 1.0)
        self.world.step()

    @property
    def positions(self):
        return np.array([agent.state.p_pos for agent in self.world.agents])

    @property
    def velocities(self):
        return np.array([agent.state.p_vel for agent in self.world.agents])

    def observation(self, index):
        me = self.world.agents[index]
        others = [agent for agent in self.world.agents if agent is not me]
        parts = [me.state.p_vel, me.state.p_pos]
        parts += [landmark.state.p_pos - me.state.p_pos for landmark in self.world.landmarks]
        parts += [other.state.p_pos - me.state.p_pos for other in others]
        if self.task == "spread":
            parts += [np.zeros(2) for _ in others]
        elif index < 3:
            parts += [self.world.agents[3].state.p_vel]
        if self.task == "world":
            parts += [[1.0 if touch(me, forest) else -1.0] for forest in self.world.landmarks[3:]]
        return np.concatenate(parts)

    def reward(self, index):
        if self.task == "spread":
            return self._spread_reward(index)
        return self._predator_reward() if index < 3 else self._prey_reward()

    def _spread_reward(self, index):
        reward = 0.0
        for landmark in self.world.landmarks:
            nearest = min(distance(agent, landmark) for agent in self.world.agents)
            reward += min(1.0 / nearest, 10.0)
        for other, agent in enumerate(self.world.agents):
            if other != index and touch(agent, self.world.agents[index]):
                reward -= 5.0
        return reward

    def _predator_reward(self):
        hit = {"tag": 10.0, "world": 5.0}[self.task]
        *predators, prey = self.world.agents
        reward = 0.0
        for predator in predators:
            reward -= 0.1 * distance(predator, prey)
            reward += hit if touch(predator, prey) else 0.0
        return reward

    def _prey_reward(self):
        hit, fence = {"tag": (10.0, 1.0), "world": (5.0, 2.0)}[self.task]
        *predators, prey = self.world.agents
        reward = 0.0
        for predator in predators:
            reward += 0.1 * distance(predator, prey)
            reward -= hit if touch(predator, prey) else 0.0
        for coordinate in prey.state.p_pos:
            reward -= fence * bound(abs(coordinate))
        if self.task == "world":
            food = self.world.landmarks[1:3]
            reward += sum(2.0 for morsel in food if touch(prey, morsel))
            reward += 0.05 * min(distance(prey, morsel) for morsel in food)
        return reward


def distance(a, b):
    return float(np.linalg.norm(a.state.p_pos - b.state.p_pos))


def touch(a, b):
    return distance(a, b) < a.size + b.size


def bound(x):
    if x < 0.9:
        return 0.0
    if x < 1.0:
        return (x - 0.9) * 10.0
    return min(np.exp(2.0 * x - 2.0), 10.0)
