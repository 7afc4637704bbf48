"""One level of multi-level contrast: lesion patches against healthy ones of a quality, with self-paced mining.

Letters: n queries, q negatives, d channels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from medcontrast.losses.arguments import require_embeddings, require_shape
from medcontrast.losses.info_nce import queue_nce
from medcontrast.losses.precision import in_full_precision
from medcontrast.losses.similarity import cosine_matrix, unit


class Mined(NamedTuple):
    """A level's loss, and what mining left of it.

    Attributes:
        loss: Scalar.
        negatives_kept: Share of (query, negative) pairs that stand in a denominator; 1 where there are no pairs.
        queries_kept: Mean weight of the queries; 1 where there are none.
    """

    loss: Tensor
    negatives_kept: Tensor
    queries_kept: Tensor


@in_full_precision
def level_nce(
    query: Tensor,
    key: Tensor,
    negatives: Tensor,
    *,
    temperature: float,
    similarity_pace: float | None = None,
    share_pace: float | None = None,
    loss_pace: float | None = None,
    soft: bool = False,
) -> Mined:
    """InfoNCE of one level; mining takes negatives, queries, both or none.

    Easy negatives have a low similarity, easy queries a low loss: the two paces rise from different ends. The positive
    is never left out. Only the query gets a gradient; what is kept carries none.

    Args:
        query: (n, d), patches seen by the student.
        key: (n, d), row i the positive of row i of `query`, by the momentum encoder.
        negatives: (q, d), healthy patches by the momentum encoder; none, or none kept, gives 0.
        temperature: Above 0.
        similarity_pace: Only negatives count whose cosine with the query is at most this. Default: all.
        share_pace: Only this share (0 to 1, rounded up to whole ones) of a query's negatives counts, the least similar
            ones. Default: all.
        loss_pace: Only queries count whose loss, over the kept negatives, is below this. Default: all.
        soft: Queries count by 1 - loss / loss_pace instead of 1.

    Raises:
        InputError: Shapes or types that do not fit, or a temperature that is not positive.

    Paper: CoMCL (Hou 2024), from its abstract; the InfoNCE against healthy keys is that of its public code.
    Deviation: The paper's equations of levels and mining were not to be had; docs/pretraining.md says what stands for
        them.
    """
    require_embeddings(query=query, key=key, negatives=negatives)
    require_shape("key", key, query.shape, "that of query")
    with torch.no_grad():
        similarity = cosine_matrix(query, negatives)
        kept = torch.ones_like(similarity, dtype=torch.bool)
        if similarity_pace is not None:
            kept &= similarity <= similarity_pace
        if share_pace is not None:
            kept &= similarity <= _largest_of_share(similarity, share_pace)
        weight = torch.ones(len(query), dtype=similarity.dtype, device=query.device)
        if loss_pace is not None:
            positive = (unit(query) * unit(key)).sum(dim=1, keepdim=True)
            logits = torch.cat([positive, similarity.masked_fill(~kept, -torch.inf)], dim=1) / temperature
            weight = self_paced_weights(logits.logsumexp(dim=1) - logits[:, 0], loss_pace, soft=soft)
    loss = queue_nce(query, key, negatives, temperature=temperature, negatives=kept, anchor_weight=weight)
    return Mined(loss, _mean(kept), _mean(weight))


def self_paced_weights(losses: Tensor, pace: float, *, soft: bool = False) -> Tensor:
    """How much each sample counts at a pace: 1 where its loss is below it, else 0; soft: max(0, 1 - loss / pace).

    The hard form is the minimum over v in [0, 1]^n of sum_i v_i losses_i - pace sum_i v_i; the soft one that of
    sum_i v_i losses_i + pace (v_i^2 / 2 - v_i).

    Args:
        losses: (n,), at least 0.
        pace: Above 0 for anything to count.
        soft: Which form.

    Returns:
        (n,) of the losses' type, without gradient.

    Paper: Kumar 2010 (hard form).
    """
    losses = losses.detach()
    if soft and pace > 0:
        return (1.0 - losses / pace).clamp_min(0.0)
    return (losses < pace).to(losses.dtype)


def _largest_of_share(similarity: Tensor, share: float) -> Tensor:
    """Of each row (n, q), the largest (n, 1) of its smallest ceil(share q) values; -inf where these are none."""
    count = math.ceil(share * similarity.shape[1] - 1e-9)  # 0.3 of 10 is 3, whatever the rounding of 0.3 times 10
    if count == 0:
        return similarity.new_full((len(similarity), 1), -torch.inf)
    return similarity.kthvalue(count, dim=1, keepdim=True).values


def _mean(values: Tensor) -> Tensor:
    return values.float().mean() if values.numel() else values.new_ones((), dtype=torch.float32)
