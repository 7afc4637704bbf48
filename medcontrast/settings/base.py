"""The strict, frozen base of every settings object, and its words for values that would do nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Weight = Annotated[float, Field(ge=0.0)]
Decay = Annotated[float, Field(ge=0.0, le=1.0)]


class Settings(BaseModel):
    """Unknown keys are forbidden, types are strict, NaN and infinity are refused, nothing changes afterwards."""

    # built when first used: most commands use a few of all settings
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)


def require_used(settings: Settings, choice: str, owners: Mapping[str, tuple[str, ...]]) -> None:
    """Refuses values that do nothing under what was chosen; defaults pass, as a resolved recipe writes all of them.

    Args:
        settings: With its values.
        choice: The key that chooses, such as "name".
        owners: Key -> the choices under which it counts.

    Raises:
        ValueError: One sentence for every value that does nothing.
    """
    chosen, faults = getattr(settings, choice), []
    for key, forms in owners.items():
        value, default = getattr(settings, key), type(settings).model_fields[key].default
        if chosen not in forms and value != default:
            faults.append(
                f"{key} {_written(value)} is a setting of {choice}: {', '.join(forms)} and does nothing with "
                f"{choice}: {chosen}; leave {key} out, or set it to its default, {_written(default)}"
            )
    if faults:
        raise ValueError("; ".join(faults))


def _written(value: object) -> str:
    """As in YAML."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value) if isinstance(value, tuple) else value)
