"""Tests of push and pull: reference (plain float64 loops), by hand on the unit circle, property, gradient."""

import math
import re

import pytest
import torch

from medcontrast.errors import InputError
from medcontrast.losses.foreground_background import pull, push

PUSH_FLOOR = -math.log(1 - 0.0005)
PULL_FLOOR = -math.log(0.9995)


def circle(*degrees):
    angles = torch.tensor(degrees, dtype=torch.float64) * math.pi / 180
    return torch.stack([angles.cos(), angles.sin()], 1)


def cosine(first, second):
    dot = sum(a * b for a, b in zip(first, second, strict=True))
    return dot / math.sqrt(sum(a * a for a in first) * sum(b * b for b in second))


def loop(first, second, term, rank_decay, rank_start, keep):
    """mean over kept pairs of exp(-decay rank) term(cosine), from the equation."""
    total, count = 0.0, 0
    for i, a in enumerate(first.tolist()):
        row = [(cosine(a, b), j) for j, b in enumerate(second.tolist()) if keep(i, j)]
        for rank, (s, _) in enumerate(sorted(row, reverse=True)):
            total += math.exp(-rank_decay * (rank + rank_start)) * term(s)
            count += 1
    return total / count


def push_clamped(s):
    return -math.log(1 - min(max(s, 0.0005), 0.9995))


def pull_clamped(s):
    return -math.log(min(max(s, 0.0005), 0.9995))


def push_tangent(s):
    return push_clamped(s) if s <= 0.9995 else -math.log(0.0005) + (s - 0.9995) / 0.0005


def pull_tangent(s):
    return -math.log(min(s, 0.9995)) if s >= 0.1 else -math.log(0.1) + (0.1 - s) / 0.1


@pytest.mark.parametrize(("n", "m", "d"), [(2, 2, 3), (4, 4, 8), (3, 7, 2)])
@pytest.mark.parametrize("rank_decay", [0.0, 0.25, 2.5])
@pytest.mark.parametrize("rank_start", [0, -1])
def test_against_plain_loops(n, m, d, rank_decay, rank_start):
    torch.manual_seed(n * m * d)
    first, second = torch.randn(n, d, dtype=torch.float64), torch.randn(m, d, dtype=torch.float64)
    ranked = {"rank_decay": rank_decay, "rank_start": rank_start}

    def everything(i, j):
        return True

    def off_diagonal(i, j):
        return i != j

    for form, push_term, pull_term in (("clamp", push_clamped, pull_clamped), ("tangent", push_tangent, pull_tangent)):
        expected = loop(first, second, push_term, rank_decay, rank_start, everything)
        assert push(first, second, form=form, **ranked).item() == pytest.approx(expected, rel=1e-9)
        expected = loop(first, second, pull_term, rank_decay, rank_start, everything)
        assert pull(first, second, form=form, **ranked).item() == pytest.approx(expected, rel=1e-9)
        expected = loop(first, first, pull_term, rank_decay, rank_start, off_diagonal)
        assert pull(first, form=form, **ranked).item() == pytest.approx(expected, rel=1e-9)
        expected = loop(first, first, pull_term, rank_decay, rank_start, everything)
        assert pull(first, form=form, exclude_diagonal=False, **ranked).item() == pytest.approx(expected, rel=1e-7)


def test_two_embeddings_on_the_unit_circle_by_hand():
    # Foregrounds at 0 and 60 degrees: both off-diagonal cosines are 1/2, each the first of its row.
    assert pull(circle(0, 60)).item() == pytest.approx(math.log(2))
    # The public form: the diagonal (0.9995) at weight exp(0.25), then 1/2 at weight 1.
    expected = (math.exp(0.25) * PULL_FLOOR + math.log(2)) / 2
    public = pull(circle(0, 60), form="clamp", exclude_diagonal=False, rank_start=-1)
    assert public.item() == pytest.approx(expected)
    # Foregrounds at 0 and 60, backgrounds at 60 and 120: cosines (1/2, -1/2) and (1, 1/2).
    below = PUSH_FLOOR
    weight = math.exp(-2.5)
    expected = (math.log(2) + weight * below + -math.log(0.0005) + weight * math.log(2)) / 4
    assert push(circle(0, 60), circle(60, 120), form="clamp").item() == pytest.approx(expected)
    # The tangent adds (1 - 0.9995) / 0.0005 = 1 to the pair that is alike.
    assert push(circle(0, 60), circle(60, 120)).item() == pytest.approx(expected + 1 / 4)


def test_symmetric_cases_by_hand():
    for turn in (0, 33, 200):
        assert pull(circle(turn, turn + 45)).item() == pytest.approx(math.log(2) / 2)
        assert pull(circle(turn, turn - 45)).item() == pytest.approx(math.log(2) / 2)
    first, second = circle(0, 90), circle(45, 45)
    assert push(first, second).item() == pytest.approx(push(second, first).item())


def test_opposed_pairs_by_hand():
    # Cosine -1: the tangent at 0.1 gives ln 10 + 1.1 / 0.1; the clamp -ln 0.0005.
    assert pull(circle(0, 180)).item() == pytest.approx(math.log(10) + 11)
    assert pull(circle(0, 180), form="clamp").item() == pytest.approx(-math.log(0.0005))


@pytest.mark.parametrize("form", ["tangent", "clamp"])
def test_floors(form):
    assert pull(circle(10, 10, 10), rank_decay=0.0, form=form).item() == pytest.approx(PULL_FLOOR)
    for degrees in (90, 120, 180):
        apart = push(circle(0, 0), circle(degrees, degrees), rank_decay=0.0, form=form)
        assert apart.item() == pytest.approx(PUSH_FLOOR)


@pytest.mark.parametrize("form", ["tangent", "clamp"])
def test_push_grows_and_pull_falls_as_embeddings_align(form):
    angles = range(85, 4, -5)
    pushed = [push(circle(0, 0), circle(a, a), form=form).item() for a in angles]
    pulled = [pull(circle(0, a), form=form).item() for a in angles]
    assert pushed == sorted(pushed) and len(set(pushed)) == len(pushed)
    assert pulled == sorted(pulled, reverse=True) and len(set(pulled)) == len(pulled)


def test_rank_decay_0_is_the_plain_mean():
    first, second = circle(0, 20, 50), circle(70, 10)
    cosines = [cosine(a, b) for a in first.tolist() for b in second.tolist()]
    expected = sum(map(push_clamped, cosines)) / 6
    assert push(first, second, rank_decay=0.0, rank_start=-1).item() == pytest.approx(expected)
    assert pull(first, second, rank_decay=0.0).item() == pytest.approx(sum(map(pull_clamped, cosines)) / 6)


def test_weights_exceed_one_only_with_the_public_start():
    pair = circle(0, 60)
    assert pull(pair, rank_start=-1).item() == pytest.approx(math.exp(0.25) * math.log(2))
    assert push(pair[:1], pair[1:], rank_start=-1).item() == pytest.approx(math.exp(2.5) * math.log(2))


@pytest.mark.parametrize("form", ["tangent", "clamp"])
def test_invariant_to_scale_and_to_the_order_of_the_batch(form):
    torch.manual_seed(0)
    first, second = torch.randn(5, 8, dtype=torch.float64), torch.randn(5, 8, dtype=torch.float64)
    scales = torch.tensor([1e-3, 1.0, 7.0, 1e3, 1e5], dtype=torch.float64)[:, None]
    order = torch.tensor([3, 0, 4, 1, 2])
    for loss in (lambda a, b: push(a, b, form=form), lambda a, b: pull(a, form=form)):
        value = loss(first, second)
        torch.testing.assert_close(loss(first * scales, second / scales), value)
        torch.testing.assert_close(loss(first[order], second[order]), value)
        torch.testing.assert_close(loss(first[order], second), value)


def test_invalid_rows_count_for_nothing():
    torch.manual_seed(0)
    first, second = torch.randn(5, 4), torch.randn(6, 4)
    rows, columns = torch.tensor([1, 0, 1, 1, 0], dtype=torch.bool), torch.tensor([0, 1, 1, 0, 1, 1], dtype=torch.bool)
    first[~rows] = 1e4
    kept = push(first[rows], second[columns])
    torch.testing.assert_close(push(first, second, foreground_valid=rows, background_valid=columns), kept)
    kept = pull(first[rows], second[columns])
    torch.testing.assert_close(pull(first, second, valid=rows, reference_valid=columns), kept)
    torch.testing.assert_close(pull(first, valid=rows), pull(first[rows]))


@pytest.mark.parametrize("n", [0, 1, 3])
def test_without_pairs_the_loss_is_0_and_the_graph_stays(n):
    embeddings = torch.randn(n, 4, requires_grad=True)
    nothing = torch.zeros(n, dtype=torch.bool)
    losses = [pull(embeddings, valid=nothing), push(embeddings, embeddings, background_valid=nothing)]
    losses += [pull(embeddings)] if n < 2 else []
    for loss in losses:
        assert loss.item() == 0.0
        loss.backward()
    assert (embeddings.grad == 0).all()


@pytest.mark.parametrize("form", ["tangent", "clamp"])
def test_an_embedding_of_zeros_stays_finite(form):
    embeddings = torch.randn(3, 4)
    embeddings[1] = 0
    embeddings.requires_grad_()
    (pull(embeddings, form=form) + push(embeddings, embeddings.detach(), form=form)).backward()
    assert embeddings.grad.isfinite().all() and embeddings.grad.abs().max() < 1e4


@pytest.mark.parametrize("form", ["tangent", "clamp"])
def test_gradcheck(form):
    # Angles at which no cosine lies on a knot or an end of the clamp.
    first, second = circle(3, 50, 130, 215).requires_grad_(), circle(20, 77, 160).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: push(a, b, form=form), (first, second))
    assert torch.autograd.gradcheck(lambda a, b: pull(a, b, form=form), (first, second))
    assert torch.autograd.gradcheck(lambda a: pull(a, form=form), (first,))


def test_the_clamp_never_moves_opposed_pairs_and_the_tangent_does():
    for degrees in (95, 120, 170):
        clamped, moved = circle(0, degrees).requires_grad_(), circle(0, degrees).requires_grad_()
        pull(clamped, form="clamp").backward()
        pull(moved).backward()
        assert (clamped.grad == 0).all()
        before, after = circle(0, degrees), (moved - 0.01 * moved.grad).detach()
        assert cosine(*after.tolist()) > cosine(*before.tolist())


def test_the_slope_of_pull_is_bounded_at_right_angles():
    right = circle(0, 90).requires_grad_()
    pull(right).backward()
    assert right.grad.norm(dim=1).max() == pytest.approx(10, rel=1e-6)


def test_push_parts_embeddings_that_begin_alike_where_the_clamp_is_flat():
    for form, alive in (("tangent", True), ("clamp", False)):
        foreground = circle(0.5).requires_grad_()
        push(foreground, circle(0.0), form=form).backward()
        assert (foreground.grad.abs().max() > 1) == alive


def test_bfloat16_stays_finite_and_equals_float32_under_autocast():
    # In bfloat16 the clamp's upper end is 1, and the loss would be infinite.
    assert torch.tensor(0.9995).bfloat16().item() == 1.0
    torch.manual_seed(0)
    alike = torch.ones(4, 8) + 1e-3 * torch.randn(4, 8)
    low = alike.bfloat16().requires_grad_()
    for form in ("tangent", "clamp"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = push(low, low.detach().clone(), form=form) + pull(low, form=form)
        assert loss.dtype == torch.float32 and loss.isfinite()
        full = low.detach().float()
        torch.testing.assert_close(loss, push(full, full, form=form) + pull(full, form=form))
        loss.backward()
        assert low.grad.isfinite().all()


@pytest.mark.parametrize(
    "loss", [lambda form: push(circle(0), circle(9), form=form), lambda form: pull(circle(0), form=form)]
)
def test_an_unknown_form_is_refused(loss):
    with pytest.raises(InputError, match=r"There is no form 'tangens'; the forms are tangent, clamp\. Did you mean"):
        loss("tangens")


def test_a_range_that_is_none_is_refused():
    sentence = "clamp must be a range of similarities, low < high < 1, but got (0.9, 0.1)."
    with pytest.raises(InputError, match=re.escape(sentence)):
        push(circle(0), circle(9), clamp=(0.9, 0.1))
    for clamp in ((0.9, 0.1), (0.5, 0.5), (0.0, 0.9), (math.nan, 0.9)):
        sentence = f"clamp must be a range of similarities, 0 < low < high, but got {clamp}."
        with pytest.raises(InputError, match=re.escape(sentence)):
            pull(circle(0, 9), clamp=clamp)
    with pytest.raises(InputError, match="low < high < 1"):  # where all are alike it would be infinite
        push(circle(0), circle(0), clamp=(0.1, 1.0), form="clamp")


@pytest.mark.parametrize("knot", [0.0, -1.0, 0.9995, 2.0, math.nan])
def test_a_knot_outside_of_the_range_is_refused(knot):
    with pytest.raises(InputError, match=r"^knot must be a similarity, 0 < knot < 0\.9995, but got "):
        pull(circle(0, 9), knot=knot)
    assert pull(circle(0, 9), knot=knot, form="clamp").isfinite()  # which has no use for it


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (torch.zeros(3, 7), "{} must have as many channels as {}, 8, but got 7."),
        (torch.zeros(3, 8, dtype=torch.float64), "{} must have the type of {}, torch.float32, but got torch.float64."),
        (torch.zeros(3, 8, dtype=torch.int64), "{} must be embeddings, rows x channels of a floating type, but got"),
        (torch.zeros(3, 8, 1), "{} must be embeddings, rows x channels of a floating type, but got shape (3, 8, 1) of"),
    ],
)
def test_embeddings_that_have_no_cosine_are_named(other, sentence):
    one = torch.zeros(4, 8)
    with pytest.raises(InputError, match=re.escape(sentence.format("background", "foreground"))):
        push(one, other)
    with pytest.raises(InputError, match=re.escape(sentence.format("reference", "embeddings"))):
        pull(one, other)


def test_what_says_which_embeddings_are_valid_is_bool_and_one_each():
    one, two = torch.rand(4, 8), torch.rand(3, 8)
    calls = {
        "foreground_valid": (4, lambda valid: push(one, two, foreground_valid=valid)),
        "background_valid": (3, lambda valid: push(one, two, background_valid=valid)),
        "valid": (4, lambda valid: pull(one, valid=valid)),
        "reference_valid": (3, lambda valid: pull(one, two, reference_valid=valid)),
    }
    for name, (count, call) in calls.items():
        with pytest.raises(InputError, match=f"^{name} must be bool, but got torch.float32"):
            call(torch.ones(count))
        with pytest.raises(InputError, match=rf"^{name} must have shape \({count},\), one an? \w+, but got \(5,\)"):
            call(torch.ones(5, dtype=torch.bool))


def test_half_precision_goes_with_full_precision():
    one, two = torch.rand(4, 8), torch.rand(3, 8).bfloat16()
    torch.testing.assert_close(push(one, two), push(one, two.float()))
