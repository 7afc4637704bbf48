"""Every method, by its settings class: the explicit list."""

from __future__ import annotations

from typing import Any

from medcontrast.methods.base import MakeNetwork, Method
from medcontrast.methods.fba_legacy import FBALegacy
from medcontrast.methods.fba_net import FBANet
from medcontrast.methods.mean_teacher import MeanTeacher
from medcontrast.methods.supervised import Supervised
from medcontrast.settings.methods import (
    FBALegacySettings,
    FBANetSettings,
    MeanTeacherSettings,
    MethodSettings,
    SupervisedSettings,
)

METHODS: dict[type, Any] = {
    SupervisedSettings: Supervised,
    MeanTeacherSettings: MeanTeacher,
    FBANetSettings: FBANet,
    FBALegacySettings: FBALegacy,
}


def build_method(settings: MethodSettings, make_network: MakeNetwork) -> Method:
    """The method that these settings belong to.

    Args:
        settings: One of the classes in settings/methods.py.
        make_network: Called once for each network the method trains.
    """
    method: Method = METHODS[type(settings)](settings, make_network)
    return method


__all__ = ["METHODS", "Method", "build_method"]
