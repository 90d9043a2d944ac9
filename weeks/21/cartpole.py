"""Many poles on many carts, in NumPy: CartPole-v1 of gymnasium, a batch of it at a time.

A cart is pushed left or right by 10 newtons, 50 times a second; each step that the pole stands
gives reward 1. An episode *terminates* when the pole leans 12 degrees or the cart has left its
track, and is *truncated* after `limit` steps, though the pole still stands.

>>> poles = CartPole(2, np.random.default_rng(0))
>>> states = poles.reset()
>>> _, rewards, terminated, truncated, reached = poles.step(np.array([1, 0]))
>>> rewards, terminated.any() or truncated.any(), reached[:, 1].round(1)  # one right, one left
(array([1., 1.]), np.False_, array([ 0.2, -0.2]))

Source: Barto, Sutton & Anderson, "Neuronlike adaptive elements" (1983), appendix; the constants are
gymnasium's.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, Int

from shared.require import require

GRAVITY, CART, POLE, HALF_LENGTH, FORCE, SECONDS = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
LIMITS = np.array([2.4, np.inf, math.radians(12), np.inf])  # meters, radians


def physics(
    state: Float[np.ndarray, "env 4"], action: Int[np.ndarray, " env"]
) -> Float[np.ndarray, "env 4"]:
    """State one step later: position, speed, angle, angular speed; one step of Euler's method."""
    _, speed, angle, spin = state.T
    force, sine, cosine = FORCE * (2 * action - 1), np.sin(angle), np.cos(angle)
    total = CART + POLE
    push = (force + POLE * HALF_LENGTH * spin**2 * sine) / total
    lever = HALF_LENGTH * (4 / 3 - POLE * cosine**2 / total)
    bend = (GRAVITY * sine - cosine * push) / lever
    drive = push - POLE * HALF_LENGTH * bend * cosine / total
    return state + SECONDS * np.stack([speed, drive, spin, bend], axis=1)


class CartPole:
    """`n_envs` poles; one that falls or runs out of time starts again by itself.

    Parameters
    ----------
    limit
        Steps after which an episode is cut off; 500 in CartPole-v1.
    """

    n_inputs, n_actions = 4, 2

    def __init__(self, n_envs: int, rng: np.random.Generator, *, limit: int = 500):
        require(n_envs >= 1, "n_envs must be at least 1", n_envs)
        require(limit >= 1, "limit must be at least 1", limit)
        self.n_envs, self.rng, self.limit = n_envs, rng, limit

    def reset(self) -> Float[np.ndarray, "env 4"]:
        """Start all episodes anew."""
        self.state = self.rng.uniform(-0.05, 0.05, (self.n_envs, 4))
        self.age = np.zeros(self.n_envs, dtype=int)
        return self.state.copy()

    def step(
        self, action: Int[np.ndarray, " env"]
    ) -> tuple[
        Float[np.ndarray, "env 4"],
        Float[np.ndarray, " env"],
        Bool[np.ndarray, " env"],
        Bool[np.ndarray, " env"],
        Float[np.ndarray, "env 4"],
    ]:
        """Push every cart once.

        Returns
        -------
        states, rewards, terminated, truncated, reached
            `reached` is where the push led; `states` is the same but for episodes that are over,
            where it is the start of the next one.
        """
        reached = physics(self.state, action)
        self.age += 1
        terminated = (np.abs(reached) > LIMITS).any(axis=1)
        truncated = (self.age >= self.limit) & ~terminated
        over = terminated | truncated
        fresh = self.rng.uniform(-0.05, 0.05, (self.n_envs, 4))
        self.state = np.where(over[:, None], fresh, reached)
        self.age[over] = 0
        return self.state.copy(), np.ones(self.n_envs), terminated, truncated, reached
