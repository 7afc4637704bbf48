"""Losses: tensors in, one scalar out, one file a loss; none of them knows about training."""

from medcontrast.losses.consistency import entropy, maximum_entropy, mse_consistency, mutual_consistency, sharpen
from medcontrast.losses.elbo import FreeEnergy, discretised_log_likelihood, free_energy, gaussian_kl
from medcontrast.losses.foreground_background import pull, push
from medcontrast.losses.info_nce import info_nce, nt_xent, queue_nce
from medcontrast.losses.lagrangian import ascended, lagrangian
from medcontrast.losses.multi_level import Mined, level_nce, self_paced_weights
from medcontrast.losses.parents import parent_losses
from medcontrast.losses.segmentation import dice_cross_entropy, soft_dice_cross_entropy
from medcontrast.losses.self_distillation import centred_softmax, cross_entropy_to, moved_center, self_distillation
from medcontrast.losses.similarity import cosine_matrix, unit

__all__ = [
    "FreeEnergy",
    "Mined",
    "ascended",
    "centred_softmax",
    "cosine_matrix",
    "cross_entropy_to",
    "dice_cross_entropy",
    "discretised_log_likelihood",
    "entropy",
    "free_energy",
    "gaussian_kl",
    "info_nce",
    "lagrangian",
    "level_nce",
    "maximum_entropy",
    "moved_center",
    "mse_consistency",
    "mutual_consistency",
    "nt_xent",
    "parent_losses",
    "pull",
    "push",
    "queue_nce",
    "self_distillation",
    "self_paced_weights",
    "sharpen",
    "soft_dice_cross_entropy",
    "unit",
]
