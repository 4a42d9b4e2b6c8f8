"""Differential zonotopes: forward affine bounds on both networks and their difference, compiled."""

from milpq.bounds.zonotope.pack import supports
from milpq.bounds.zonotope.propagate import FEW_INPUTS, ZonotopeBounds, zonotope, zonotope_objectives

__all__ = ["FEW_INPUTS", "ZonotopeBounds", "supports", "zonotope", "zonotope_objectives"]
