"""Differential zonotopes: forward affine bounds on both networks and their difference, compiled."""

from milpq.bounds.zonotope.propagate import ZonotopeBounds, zonotope, zonotope_objectives
from milpq.bounds.zonotope.pack import supports

__all__ = ["ZonotopeBounds", "supports", "zonotope", "zonotope_objectives"]
