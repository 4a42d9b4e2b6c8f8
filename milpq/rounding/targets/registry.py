"""The targets by id, those of this package and those that other packages register."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Final

from milpq.errors import TargetError
from milpq.rounding.requantization import Target
from milpq.rounding.targets import fbgemm, float32, litert, power_of_two, qnnpack, single_rounding, tflm
from milpq.rounding.targets.base import TargetFamily

ENTRY_POINT_GROUP: Final = "milpq.targets"
"""An entry point of this group is named by its id and loads a `TargetFamily` of the same name."""

BUILTIN: Final[dict[str, TargetFamily]] = {
    family.name: family
    for family in (
        tflm.FAMILY,
        *litert.FAMILIES,
        *float32.FAMILIES,
        qnnpack.FAMILY,
        fbgemm.FAMILY,
        *single_rounding.FAMILIES,
        *power_of_two.FAMILIES,
    )
}


def get_target(target_id: str) -> Target:
    """Return the target that an id names, for example ``tflm`` or ``tflm:multiplier=float32``.

    Parameters
    ----------
    target_id : str
        A name, optionally followed by a colon and comma-separated ``option=value`` pairs.

    Raises
    ------
    TargetError
        No such target, option or value; the message lists what there is.
    """
    name, _, rest = target_id.partition(":")
    family = _family(name)
    chosen = {option: values[0] for option, values in family.options.items()}
    given: set[str] = set()
    for pair in rest.split(",") if ":" in target_id else ():
        option, equals, value = pair.partition("=")
        if not equals or option not in family.options:
            known = ", ".join(family.options) or "none"
            raise TargetError(f"target {target_id!r}: {pair!r} is no option of {name}; its options: {known}")
        if option in given:
            raise TargetError(f"target {target_id!r}: option {option!r} is given twice")
        if value not in family.options[option]:
            known = ", ".join(family.options[option])
            raise TargetError(f"target {target_id!r}: {option} can be {known}, not {value!r}")
        given.add(option)
        chosen[option] = value
    return family.build(chosen)


def list_targets() -> tuple[Target, ...]:
    """Return every target with its default options, in the order of the registry, third parties last."""
    return tuple(get_target(name) for name in (*BUILTIN, *_third_party_names()))


def target_options(name: str) -> Mapping[str, tuple[str, ...]]:
    """Return the options of a target id and their values, the default first.

    Raises
    ------
    TargetError
        No such target.
    """
    return _family(name).options


def _third_party_names() -> tuple[str, ...]:
    return tuple(sorted({entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)} - BUILTIN.keys()))


def _family(name: str) -> TargetFamily:
    if name in BUILTIN:
        return BUILTIN[name]
    found = list(entry_points(group=ENTRY_POINT_GROUP, name=name))
    if not found:
        known = ", ".join((*BUILTIN, *_third_party_names()))
        raise TargetError(f"unknown target {name!r}; known targets: {known}")
    if len(found) > 1:
        raise TargetError(f"target {name!r} is registered by several packages; uninstall all but one")
    loaded: object = found[0].load()
    if not isinstance(loaded, TargetFamily):
        raise TargetError(f"target {name!r}: entry point {found[0].value} is not a TargetFamily")
    return loaded
