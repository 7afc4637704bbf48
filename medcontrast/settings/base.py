"""The strict, frozen base of every settings object."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Unknown keys are forbidden, types are strict, NaN and infinity are refused, nothing changes afterwards."""

    # built when first used: most commands use a few of all settings
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)
