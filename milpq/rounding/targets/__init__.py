"""The inference targets: one small file a family, and the registry that finds them by id."""

from milpq.rounding.targets.base import TargetFamily
from milpq.rounding.targets.registry import BUILTIN, get_target, list_targets, target_options

__all__ = [
    "BUILTIN",
    "TargetFamily",
    "get_target",
    "list_targets",
    "target_options",
]
