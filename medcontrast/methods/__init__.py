"""Every method, by its settings class: the explicit list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medcontrast.methods.base import MakeNetwork, Method
from medcontrast.methods.bcp import BCP
from medcontrast.methods.cps import CPS
from medcontrast.methods.dino import DINO
from medcontrast.methods.fba_legacy import FBALegacy
from medcontrast.methods.fba_net import FBANet
from medcontrast.methods.hvae import HVAEGenerator
from medcontrast.methods.hvae_finetune import HVAEFinetune
from medcontrast.methods.mc_net import MCNet
from medcontrast.methods.mean_teacher import MeanTeacher
from medcontrast.methods.moco import LeOCLR, MoCo
from medcontrast.methods.moco_v3 import MoCoV3
from medcontrast.methods.momentum import MakeEncoder
from medcontrast.methods.multi_level import MultiLevel
from medcontrast.methods.simclr import SimCLR
from medcontrast.methods.supervised import Supervised
from medcontrast.methods.ua_mt import UAMT
from medcontrast.networks.hvae import HVAE
from medcontrast.settings.generator import HVAEFinetuneSettings, HVAESettings
from medcontrast.settings.methods import (
    BCPSettings,
    CPSSettings,
    FBALegacySettings,
    FBANetSettings,
    MCNetSettings,
    MeanTeacherSettings,
    MethodSettings,
    SupervisedSettings,
    UAMTSettings,
)
from medcontrast.settings.multi_level import MultiLevelSettings
from medcontrast.settings.pretraining import (
    DINOSettings,
    LeOCLRSettings,
    MoCoSettings,
    MoCoV3Settings,
    PretrainMethodSettings,
    SimCLRSettings,
)

METHODS: dict[type, Any] = {
    SupervisedSettings: Supervised,
    MeanTeacherSettings: MeanTeacher,
    UAMTSettings: UAMT,
    CPSSettings: CPS,
    MCNetSettings: MCNet,
    BCPSettings: BCP,
    FBANetSettings: FBANet,
    FBALegacySettings: FBALegacy,
    SimCLRSettings: SimCLR,
    MoCoSettings: MoCo,
    MoCoV3Settings: MoCoV3,
    DINOSettings: DINO,
    LeOCLRSettings: LeOCLR,
    MultiLevelSettings: MultiLevel,
    HVAESettings: HVAEGenerator,
    HVAEFinetuneSettings: HVAEFinetune,
}


def build_method(
    settings: MethodSettings | PretrainMethodSettings, make_network: MakeNetwork | MakeEncoder | Callable[[], HVAE]
) -> Method:
    """The method that these settings belong to.

    Args:
        settings: One of the classes in settings/methods.py or settings/pretraining.py.
        make_network: Called once for each network the method trains.
    """
    method: Method = METHODS[type(settings)](settings, make_network)
    return method


__all__ = ["METHODS", "Method", "build_method"]
