"""Networks and their companions: segmentation networks, heads, the EMA teacher and the embedding queue."""

from medcontrast.networks.ema import make_teacher, teacher_decay, update_teacher

__all__ = ["make_teacher", "teacher_decay", "update_teacher"]
