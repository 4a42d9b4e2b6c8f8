"""The inverted pendulum that the `controller` network stabilises, and the law it is trained on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_continuous_are

Array = npt.NDArray[np.float64]
Policy = Callable[[Array], Array]
"""Maps normalised states, shape (n, 3), to normalised torques, shape (n,)."""

MASS = 0.5
"""Point mass at the tip of the rod, kg."""
LENGTH = 0.4
"""Rod length, m."""
FRICTION = 0.02
"""Viscous friction of the joint, N m s/rad."""
GRAVITY = 9.81
"""m/s^2."""
MAX_TORQUE = 3.0
"""Limit of the motor, N m; holding the rod horizontal takes 1.96 N m."""

STATE_RANGE = np.array([0.6, 2.5, 0.3])
"""What input 1 stands for: angle from upright in rad, angular velocity in rad/s, and the integral
of the angle in rad s."""

TIME_STEP = 0.01
"""Control period and integration step, s."""

_INERTIA = MASS * LENGTH**2
_STIFFNESS = MASS * GRAVITY * LENGTH


def _lqr_gain() -> Array:
    """Return the gain on (angle, velocity, integral) for the gravity-compensated pendulum."""
    dynamics = np.array([[0.0, 1.0, 0.0], [0.0, -FRICTION / _INERTIA, 0.0], [1.0, 0.0, 0.0]])
    torque = np.array([[0.0], [1.0 / _INERTIA], [0.0]])
    # Bryson's rule: a third of each state range costs as much as a fifth of the torque limit.
    state_cost = np.diag((STATE_RANGE / 3.0) ** -2.0)
    torque_cost = np.array([[(0.2 * MAX_TORQUE) ** -2.0]])
    riccati = solve_continuous_are(dynamics, torque, state_cost, torque_cost)
    return np.asarray((np.linalg.inv(torque_cost) @ torque.T @ riccati)[0], np.float64)


_GAIN = _lqr_gain()


def target_torque(states: Array) -> Array:
    """Return the normalised torque of the control law at normalised `states`, shape (n, 3).

    Gravity is compensated with its exact sine, an LQR with integral action stabilises the remaining
    linear system, and the motor limit saturates the sum.
    """
    physical = states * STATE_RANGE
    torque = -_STIFFNESS * np.sin(physical[:, 0]) - physical @ _GAIN
    return np.asarray(np.clip(torque / MAX_TORQUE, -1.0, 1.0))


def simulate(policy: Policy, start: Array, disturbance: Array, seconds: float) -> npt.NDArray[np.float64]:
    """Return normalised states over time, shape (steps + 1, n, 3), under a sampled `policy`.

    `start` holds normalised states, shape (n, 3); `disturbance` is a constant torque in N m, shape
    (n,). The torque is held for one period while Runge-Kutta integrates the nonlinear pendulum. The
    integral stops at its input range (anti-windup), as it would on the device.
    """
    states = start * STATE_RANGE
    trace = [start]
    for _ in range(round(seconds / TIME_STEP)):
        torque = MAX_TORQUE * policy(states / STATE_RANGE) + disturbance
        k1 = _derivative(states, torque)
        k2 = _derivative(states + 0.5 * TIME_STEP * k1, torque)
        k3 = _derivative(states + 0.5 * TIME_STEP * k2, torque)
        k4 = _derivative(states + TIME_STEP * k3, torque)
        states = states + TIME_STEP / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
        states[:, 2] = np.clip(states[:, 2], -STATE_RANGE[2], STATE_RANGE[2])
        trace.append(states / STATE_RANGE)
    return np.stack(trace)


def _derivative(states: Array, torque: Array) -> Array:
    """Return the time derivative of physical `states`, shape (n, 3)."""
    angle, velocity = states[:, 0], states[:, 1]
    acceleration = (_STIFFNESS * np.sin(angle) - FRICTION * velocity + torque) / _INERTIA
    return np.stack([velocity, acceleration, angle], axis=1)
