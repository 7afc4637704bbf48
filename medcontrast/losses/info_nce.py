"""InfoNCE in one form: a row of candidates for every anchor, and how much of each anchor's target each candidate is.

NT-Xent (SimCLR), MoCo's queue, several positives, soft targets and masked negatives are cases of it.

Letters: n anchors, m candidates, d channels, q queued embeddings.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medcontrast.errors import InputError
from medcontrast.losses.arguments import require_embeddings, require_mask, require_shape
from medcontrast.losses.precision import in_full_precision
from medcontrast.losses.similarity import cosine_matrix


@in_full_precision
def info_nce(
    anchor: Tensor,
    candidates: Tensor,
    targets: Tensor,
    *,
    temperature: float,
    allowed: Tensor | None = None,
    anchor_weight: Tensor | None = None,
) -> Tensor:
    """Mean over anchors of -sum_j t_ij log softmax_j(cos_ij / temperature), the soft-max over allowed candidates.

    Targets are scaled to sum to 1 in every row. An anchor without an allowed target does not count, nor does one
    without weight; where none counts the loss is 0. With one target and no other allowed candidate, loss and gradient
    are 0.

    Args:
        anchor: (n, d), of any length.
        candidates: (m, d), of any length; detach them (or give a momentum encoder's) where no gradient may reach them.
        targets: (n, m), at least 0 or bool: one-hot for one positive, several ones for several positives (SupCon's mean
            outside the logarithm), a distribution for soft targets.
        temperature: Above 0.
        allowed: (n, m) bool; candidates that stand in an anchor's denominator. Default: all.
        anchor_weight: (n,) at least 0, how much each anchor counts in the mean. Default: all alike.

    Raises:
        InputError: Shapes or types that do not fit, or a temperature that is not positive.

    Paper: van den Oord 2018, equation 4; Khosla 2020 (SupCon), equation 2, for several positives.
    """
    if not temperature > 0.0:
        raise InputError(f"temperature must be above 0, but got {temperature}.")
    require_embeddings(anchor=anchor, candidates=candidates)
    require_shape("targets", targets, (len(anchor), len(candidates)), "anchors x candidates")
    require_mask("allowed", allowed, (len(anchor), len(candidates)), "anchors x candidates")
    require_shape("anchor_weight", anchor_weight, (len(anchor),), "one an anchor")
    similarity = cosine_matrix(anchor, candidates) / temperature
    share = targets.to(similarity.dtype)
    if allowed is not None:
        similarity = similarity.masked_fill(~allowed, -torch.inf)
        share = share * allowed
    total = share.sum(dim=1)
    counts = total > 0
    # a row that does not count has any finite denominator, so that no NaN comes back through it
    similarity = torch.where(counts[:, None], similarity, torch.zeros_like(similarity))
    logarithm = similarity - similarity.logsumexp(dim=1, keepdim=True)
    terms = torch.where(share > 0, share * logarithm, torch.zeros_like(share)).sum(dim=1)
    losses = -terms / torch.where(counts, total, torch.ones_like(total))
    weight = counts.to(losses.dtype) if anchor_weight is None else counts * anchor_weight.to(losses.dtype)
    mass = weight.sum()
    return (weight * losses).sum() / torch.where(mass > 0, mass, torch.ones_like(mass))


def nt_xent(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    """SimCLR's loss over the 2n views of n images: both views are anchors, every other view stands in the denominator.

    Args:
        first: (n, d).
        second: (n, d), row i of the same image.
        temperature: Above 0; SimCLR takes 0.1 to 0.5.

    Raises:
        InputError: Shapes or types that do not fit, or a temperature that is not positive.

    Paper: Chen 2020 (SimCLR), equation 1.
    """
    require_embeddings(first=first, second=second)
    require_shape("second", second, first.shape, "that of first")
    views = torch.cat([first, second])
    count = len(first)
    places = torch.arange(2 * count, device=views.device)
    partner = places.roll(count)
    targets = places[None, :] == partner[:, None]
    others = places[None, :] != places[:, None]
    return info_nce(views, views, targets, temperature=temperature, allowed=others)


def queue_nce(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    *,
    temperature: float,
    negatives: Tensor | None = None,
    anchor_weight: Tensor | None = None,
) -> Tensor:
    """MoCo's loss: row i of `key` is the positive of row i of `query`, the queue holds the negatives.

    Keys and queue get no gradient.

    Args:
        query: (n, d).
        key: (n, d), of the momentum encoder.
        queue: (q, d), keys of earlier steps; may be empty, which gives 0.
        temperature: Above 0; MoCo v2 takes 0.2.
        negatives: (n, q) bool, the queued keys that count against each query. Default: all.
        anchor_weight: (n,) at least 0. Default: all alike.

    Raises:
        InputError: Shapes or types that do not fit, or a temperature that is not positive.

    Paper: He 2020 (MoCo), equation 1.
    """
    queued = queue.detach().to(key.dtype)
    require_embeddings(query=query, key=key, queue=queued)
    require_shape("key", key, query.shape, "that of query")
    require_mask("negatives", negatives, (len(query), len(queue)), "queries x queue")
    count = len(query)
    own = torch.eye(count, dtype=torch.bool, device=query.device)
    past = torch.ones(count, len(queue), dtype=torch.bool, device=query.device) if negatives is None else negatives
    return info_nce(
        query,
        torch.cat([key.detach(), queued]),
        torch.cat([own, torch.zeros_like(past)], dim=1),
        temperature=temperature,
        allowed=torch.cat([own, past], dim=1),
        anchor_weight=anchor_weight,
    )
