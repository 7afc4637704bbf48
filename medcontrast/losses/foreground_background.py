"""Foreground/background contrast: `push` parts two kinds of embeddings, `pull` joins those of one kind.

Letters: n and m embeddings, d channels.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from medcontrast.errors import InputError, unknown_name
from medcontrast.losses.arguments import require_embeddings, require_mask
from medcontrast.losses.precision import in_full_precision
from medcontrast.losses.similarity import cosine_matrix

Form = Literal["tangent", "clamp"]


@in_full_precision
def push(
    foreground: Tensor,
    background: Tensor,
    *,
    rank_decay: float = 2.5,
    rank_start: int = 0,
    clamp: tuple[float, float] = (0.0005, 0.9995),
    form: Form = "tangent",
    foreground_valid: Tensor | None = None,
    background_valid: Tensor | None = None,
) -> Tensor:
    """Mean over pairs of exp(-rank_decay r_ij) (-log(1 - s_ij)): small when the two kinds are unlike.

    s_ij is the cosine of foreground i and background j, r_ij its rank in row i, the most similar first. Ranks and means
    are over valid pairs; without any the loss is 0. It is at least -log(1 - clamp[0]) times the mean weight, and gives
    no gradient to pairs below clamp[0].

    Args:
        foreground: (n, d).
        background: (m, d).
        rank_decay: 0 gives the plain mean.
        rank_start: Rank of the most similar pair.
        clamp: Range of s, low before high, which is below 1.
        form: Above clamp[1]: "tangent" goes on in a straight line, "clamp" stays constant, without gradient.
        foreground_valid: (n,) bool; default: all.
        background_valid: (m,) bool; default: all.

    Raises:
        InputError: An unknown form, a range that is none, or shapes or types that do not fit.

    Paper: FBA-Net (Chung 2023), L_push.
    Deviation: ranks start at 0 and weights never exceed 1; the public code starts at -1 (rank_start=-1). The tangent
        parts foregrounds and backgrounds that begin alike, where the clamp has no gradient (form="clamp").
    """
    low, high = clamp
    _require_form(form, clamp, fits=low < high < 1.0, wanted="low < high < 1")
    require_embeddings(foreground=foreground, background=background)
    require_mask("foreground_valid", foreground_valid, (len(foreground),), "one an embedding")
    require_mask("background_valid", background_valid, (len(background),), "one an embedding")
    similarity = cosine_matrix(foreground, background)
    if form == "clamp":
        terms = -torch.log(1.0 - similarity.clamp(low, high))
    else:
        terms = _tangent_log(1.0 - similarity.clamp_min(low), knot=1.0 - high)
    pairs = _pairs(similarity, foreground_valid, background_valid)
    return _ranked_mean(terms, similarity, pairs, rank_decay, rank_start)


@in_full_precision
def pull(
    embeddings: Tensor,
    reference: Tensor | None = None,
    *,
    rank_decay: float = 0.25,
    rank_start: int = 0,
    clamp: tuple[float, float] = (0.0005, 0.9995),
    form: Form = "tangent",
    knot: float = 0.1,
    exclude_diagonal: bool = True,
    valid: Tensor | None = None,
    reference_valid: Tensor | None = None,
) -> Tensor:
    """Mean over pairs of exp(-rank_decay r_ij) (-log s_ij): small when all embeddings of a kind are alike.

    s_ij is the cosine of embedding i and reference j, r_ij its rank in row i, the most similar first. Ranks and means
    are over valid pairs; without any the loss is 0. It is at least -log(clamp[1]) times the mean weight.

    Args:
        embeddings: (n, d).
        reference: (m, d), for example a teacher's or a memory's; default: the embeddings themselves.
        rank_decay: 0 gives the plain mean.
        rank_start: Rank of the most similar pair.
        clamp: Range of s, low above 0 and before high; with form "tangent" its lower end is not used.
        form: Below `knot` ("tangent") -log s goes on in a straight line, down to s = -1; "clamp" stays constant below
            clamp[0], without gradient.
        knot: Where the straight line begins, above 0 and below clamp[1], for form "tangent".
        exclude_diagonal: Whether an embedding's pair with itself is left out; only where there is no reference.
        valid: (n,) bool; default: all.
        reference_valid: (m,) bool; default: all (`valid`, where there is no reference).

    Raises:
        InputError: An unknown form, a range that is none, or shapes or types that do not fit.

    Paper: FBA-Net (Chung 2023), L_pull.
    Deviation: below similarity 0.1 the tangent replaces -log s, so that opposed pairs come together as well: the
        paper's clamp gives them no gradient, and relies on embeddings that are never negative. Its slope there, 10,
        bounds the gradient; at 0.0005 it would be 2000. An embedding's pair with itself, a constant that takes the
        first rank, is left out. Ranks start at 0. The public code: form="clamp", exclude_diagonal=False, rank_start=-1.
    """
    low, high = clamp
    _require_form(form, clamp, fits=0.0 < low < high, wanted="0 < low < high")
    if form == "tangent" and not 0.0 < knot < high:
        raise InputError(f"knot must be a similarity, 0 < knot < {high:g}, but got {knot:g}.")
    others, others_valid = (embeddings, valid) if reference is None else (reference, reference_valid)
    require_embeddings(embeddings=embeddings, reference=others)
    require_mask("valid", valid, (len(embeddings),), "one an embedding")
    require_mask("reference_valid", others_valid, (len(others),), "one a reference")
    similarity = cosine_matrix(embeddings, others)
    if form == "clamp":
        terms = -torch.log(similarity.clamp(low, high))
    else:
        terms = _tangent_log(similarity.clamp_max(high), knot=knot)
    pairs = _pairs(similarity, valid, others_valid)
    if reference is None and exclude_diagonal:
        pairs = pairs & ~torch.eye(len(pairs), dtype=torch.bool, device=pairs.device)
    return _ranked_mean(terms, similarity, pairs, rank_decay, rank_start)


def _require_form(form: str, clamp: tuple[float, float], *, fits: bool, wanted: str) -> None:
    if form not in get_args(Form):
        raise unknown_name("form", form, get_args(Form))
    if not fits:
        raise InputError(f"clamp must be a range of similarities, {wanted}, but got {clamp}.")


def _tangent_log(value: Tensor, *, knot: float) -> Tensor:
    """-log(value) down to the knot, and below it the tangent there."""
    return -torch.log(value.clamp_min(knot)) + (knot - value).clamp_min(0.0) / knot


def _pairs(similarity: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    pairs = torch.ones_like(similarity, dtype=torch.bool)
    if rows is not None:
        pairs = pairs & rows[:, None]
    if columns is not None:
        pairs = pairs & columns[None, :]
    return pairs


def _ranked_mean(terms: Tensor, similarity: Tensor, pairs: Tensor, rank_decay: float, rank_start: int) -> Tensor:
    # Pairs that do not count come last, so that they take no rank from those that do.
    order = similarity.detach().masked_fill(~pairs, -torch.inf).argsort(dim=1, descending=True, stable=True)
    ranks = order.argsort(dim=1) + rank_start
    weights = torch.exp(-rank_decay * ranks.to(terms.dtype)) * pairs
    return (weights * terms).sum() / pairs.sum().clamp_min(1)
