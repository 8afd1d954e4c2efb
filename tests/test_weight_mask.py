"""Masks of exact size, the straight-through gradient of their scores, and masked networks against plain ones"""
import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_network import lively, one, plain_network

from modspec.core.data import load_dataset
from modspec.core.tasks import held_out_pairs
from modspec.measures import weight_mask
from modspec.measures.weight_mask import (
    flatten_scored,
    mask_accuracy,
    masked_readouts,
    n_mask_steps,
    scored_weights,
    top_mask,
    train_masks,
    unbiased_drive,
    unflatten_scored,
    weight_mask_metric,
)
from modspec.networks.recurrent import Recurrent, directions, final_state, input_drive, readouts
from modspec.training.loop import batch_loss, gather_batch
from modspec.training.parameters import Parameters

DIGITS = load_dataset('digits')
SHORT = Parameters(n_pairs=96, mask_batch_size=32)
SIZES = [(0, 2), (3, 2), (0, 3), (2, 3)]  # of the bottleneck, and sub-networks
both = pytest.mark.parametrize(('B', 'S'), SIZES)


SCORES = 'own', 'incoming'


def some(B=0, S=2, N=5, gain=6., **options):
    return lively(Recurrent(64, n_hidden=N, n_subnetworks=S, n_bottleneck=B, **options), [0, 1], [.2, 1.], gain)


def random_gates(stack, *shape, share, mask_scores='own'):
    "Random masks that keep a share of the weights"
    S, P = flatten_scored(stack.weights, mask_scores).shape[1:]
    return (torch.rand(*shape, S, P, generator=torch.Generator().manual_seed(0)) < share).float()


# masks

@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 40), st.floats(0, 1, exclude_min=True), st.integers(0, 99),
       st.sampled_from([None, 0, 1]))
def test_exact_number_is_kept(M, S, P, fraction, seed, decimals):
    "Those with the highest scores, also where scores are equal"
    scores = torch.randn(M, S, P, generator=torch.Generator().manual_seed(seed))
    if decimals is not None: scores = scores.round(decimals=decimals)
    mask = top_mask(scores, fraction)
    assert mask.shape == scores.shape and mask.dtype == scores.dtype and set(mask.unique().tolist()) <= {0., 1.}
    for one_mask, one_score in zip(mask, scores):
        kept = max(1, round(fraction * S * P))
        assert one_mask.sum() == kept
        if kept < S * P: assert one_score[one_mask == 1].min() >= one_score[one_mask == 0].max()


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 30), st.floats(0, 1, exclude_min=True), st.integers(0, 99), st.data())
def test_weights_that_do_not_exist_are_passed_over(M, P, fraction, seed, choice):
    "They are neither kept nor counted, however high their scores, and members of a stack may have different numbers"
    g = torch.Generator().manual_seed(seed)
    scores, exists = torch.randn(M, 2, P, generator=g), torch.rand(M, 2, P, generator=g) < .5
    exists[:, 0, 0] = True
    mask = top_mask(torch.where(exists, scores, scores + 100), fraction, exists)
    for one_mask, one_score, there in zip(mask, scores, exists):
        kept = max(1, round(fraction * there.sum().item()))
        assert one_mask.sum() == kept and not one_mask[~there].any()
        assert torch.equal(one_score[one_mask == 1].sort().values, one_score[there].sort().values[-kept:])


@both
@pytest.mark.parametrize('mask_scores', SCORES)
def test_flatten_and_back(B, S, mask_scores):
    weights = some(B, S).weights
    flat = flatten_scored(weights, mask_scores)
    back = unflatten_scored(flat, weights, mask_scores)
    unscored = {'W_ih', 'b_ih'} | ({'W_sparse'} if mask_scores == 'own' else set())
    assert set(weights) - set(back) == unscored and list(back) == list(scored_weights(weights, mask_scores))
    for name, w in back.items(): assert torch.equal(w, weights[name])
    assert flat.shape[2] == sum(weights[name][0].numel() for name in back) / S
    twice = torch.cat([flat, -flat])
    assert torch.equal(flatten_scored(unflatten_scored(twice, weights, mask_scores), mask_scores), twice)


@pytest.mark.parametrize('S', [2, 3])
def test_an_interconnection_counts_for_its_receiver(S):
    weights = some(0, S).weights
    marked = {name: torch.zeros_like(w) for name, w in weights.items()}
    for d, (receiver, sender) in enumerate(directions(S)): marked['W_sparse'][:, d] = receiver + .1 * sender
    rows = scored_weights(marked, 'incoming')['W_sparse']
    for n, m in directions(S):
        assert (rows[:, n, m if m < n else m - 1] == torch.tensor(n + .1 * m)).all()
    for n in range(S): assert (flatten_scored(marked, 'incoming')[:, n].floor() <= n).all()


# masked networks

@both
@pytest.mark.parametrize(('mask_scores', 'message'), [('own', 'inside'), ('own', 'before'), ('incoming', 'inside')])
def test_masked_networks_are_plain_networks(B, S, mask_scores, message):
    "Every mask of every network against a plain network whose weights were set to 0 by hand"
    stack, K = some(B, S, n_steps=3, message=message), 3
    weights = stack.weights
    gates = random_gates(stack, 2 * K, share=.5, mask_scores=mask_scores)
    x = torch.rand(1, S, 4, 64, generator=torch.Generator().manual_seed(1))
    r = masked_readouts(weights, unbiased_drive(weights, x), gates, stack.architecture, mask_scores)
    parts = unflatten_scored(gates, weights, mask_scores)
    for m, k, i in itertools.product(range(2), range(K), range(4)):
        by_hand = {name: w * parts[name][m * K + k] if name in parts else w for name, w in one(weights, m).items()}
        expected = torch.stack(plain_network(by_hand, x[0, :, i].double(), 3, message)[1])
        torch.testing.assert_close(r[m * K + k, ..., i].double(), expected, rtol=1e-5, atol=1e-5)


def test_a_mask_that_keeps_everything_changes_nothing():
    weights = some().weights
    x = torch.rand(2, 2, 7, 64, generator=torch.Generator().manual_seed(1))
    ones = torch.ones_like(flatten_scored(weights))
    r = masked_readouts(weights, unbiased_drive(weights, x), ones, some().architecture)
    unmasked = readouts(weights, final_state(weights, input_drive(weights, x)))
    torch.testing.assert_close(r, unmasked, rtol=1e-5, atol=1e-5)


def test_accuracy_of_masks():
    "Counted pair by pair for each sub-task"
    stack = some(N=4)
    masks = random_gates(stack, 2, 2, share=.7)
    accuracy = mask_accuracy(stack, DIGITS, masks)
    pairs = held_out_pairs(DIGITS.test)
    x, shown = gather_batch(DIGITS.test, pairs[None])
    for m, k in itertools.product(range(2), range(2)):
        parts = unflatten_scored(masks[m, k:k + 1], stack.weights)
        masked = {name: w[m:m + 1] * parts.get(name, torch.ones(1)) for name, w in stack.weights.items()}
        r = readouts(masked, final_state(masked, input_drive(masked, x)))
        assert accuracy[m, k].item() == pytest.approx(batch_loss(r, shown[..., k])[1].item(), abs=2 / pairs.shape[1])


# training masks

def spied(monkeypatch):
    "Record what goes into the masked networks, and the gradients of the scores that come out"
    calls, gradients, forward, grad = [], [], masked_readouts, torch.autograd.grad
    def spy(weights, drive, gates, *how):
        calls.append((drive, gates.detach().clone()))
        return forward(weights, drive, gates, *how)
    def spy_on_grad(loss, scores):
        slope, = grad(loss, scores)
        gradients.append((scores.detach().clone(), slope.clone()))
        return slope,
    monkeypatch.setattr(weight_mask, 'masked_readouts', spy)
    monkeypatch.setattr(torch.autograd, 'grad', spy_on_grad)
    return calls, gradients


def test_scores_take_the_steps_of_sgd(monkeypatch):
    _, gradients = spied(monkeypatch)
    masks = train_masks(some(), DIGITS, Parameters(n_pairs=320, mask_batch_size=32, mask_lr=.3))
    theirs = gradients[0][0].requires_grad_()
    sgd = torch.optim.SGD([theirs], lr=.3, momentum=.9, weight_decay=5e-4)
    for ours, slope in gradients:
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-7)
        theirs.grad = slope
        sgd.step()
    assert len(gradients) == 10 and torch.equal(top_mask(theirs.detach(), .05), masks.flatten(0, 1))


@pytest.mark.parametrize(('B', 'scored'), [(0, 'winner'), (0, 'mixture'), (3, 'mixture')])
def test_straight_through_gradient(monkeypatch, B, scored):
    "A score receives theta dL/d(masked theta), kept or not; the forward pass sees the mask itself, exactly 0 and 1"
    targets, loss_of = [], batch_loss
    def spy(r, target, *how):
        targets.append(target)
        return loss_of(r, target, *how)
    monkeypatch.setattr(weight_mask, 'batch_loss', spy)
    calls, gradients = spied(monkeypatch)
    stack = some(B)
    train_masks(stack, DIGITS, Parameters(n_pairs=96, mask_batch_size=32, mask_fraction=.3, mask_loss=scored))
    assert len(calls) == len(gradients) == n_mask_steps(DIGITS, SHORT) == 3
    theta = flatten_scored(stack.weights).repeat_interleave(2, 0)
    for (drive, gates), (_, gradient), target in zip(calls, gradients, targets):
        assert set(gates.unique().tolist()) == {0., 1.}
        assert (gates.sum((1, 2)) == round(.3 * theta[0].numel())).all()
        masked = (theta * gates).requires_grad_()  # the masked weights as free variables of four networks
        weights = unflatten_scored(masked, stack.weights)
        weights['W_sparse'] = stack.weights['W_sparse'].repeat_interleave(2, 0)
        h = final_state(weights, drive.repeat_interleave(2, 0) + weights['b_hh'][..., None], 5)
        loss_of(readouts(weights, h), target, scored=scored)[0].sum().backward()
        torch.testing.assert_close(gradient, theta * masked.grad, rtol=1e-4, atol=1e-7)
        assert (gradient[gates == 0] != 0).any()


def test_every_epoch_has_new_pairs(monkeypatch):
    calls, _ = spied(monkeypatch)
    train_masks(some(), DIGITS, Parameters(n_pairs=32, mask_batch_size=32, mask_epochs=2))
    (first, _), (second, _) = calls
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])


@both
def test_trained_masks(B, S):
    "Exact numbers, one mask per sub-task, and shares that add up to 1"
    stack = some(B, S)
    parameters = Parameters(n_pairs=96, mask_batch_size=32, mask_fraction=.1)
    masks = train_masks(stack, DIGITS, parameters)
    P = flatten_scored(stack.weights).shape[2]
    assert masks.shape == (2, S, S, P) and set(masks.unique().tolist()) == {0., 1.}
    assert (masks.sum((2, 3)) == round(.1 * S * P)).all() and not torch.equal(masks[:, 0], masks[:, 1])
    result = weight_mask_metric(stack, DIGITS, parameters)
    M, accuracy = result['weight_mask'], result['weight_mask_accuracy']
    torch.testing.assert_close(M.sum(1), torch.ones(2, S))
    for m, n, k in itertools.product(range(2), range(S), range(S)):
        assert M[m, n, k].item() == pytest.approx((masks[m, k, n].sum() / masks[m, k].sum()).item())
    assert torch.equal(accuracy, mask_accuracy(stack, DIGITS, masks)) and accuracy.shape == (2, S)


@both
def test_trained_masks_of_incoming_connections(B, S):
    "The fraction of the weights that exist in each network, none of them a dormant connection; shares add up to 1"
    stack = some(B, S)
    parameters = Parameters(n_pairs=96, mask_batch_size=32, mask_fraction=.4, mask_scores='incoming')
    masks = train_masks(stack, DIGITS, parameters)
    flat = flatten_scored(stack.weights, 'incoming')
    own = flatten_scored(stack.weights).shape[2]
    exists = torch.cat([torch.ones_like(flat[..., :own]), (flat[..., own:] != 0).float()], 2)
    for m, k in itertools.product(range(2), range(S)):
        n_weights = S * own + S * (S - 1) * stack.n_connections[m]
        assert exists[m].sum() == n_weights and masks[m, k].sum() == round(.4 * n_weights)
        assert (masks[m, k] <= exists[m]).all()
    result = weight_mask_metric(stack, DIGITS, parameters)
    torch.testing.assert_close(result['weight_mask'].sum(1), torch.ones(2, S))
    torch.testing.assert_close(result['weight_mask_accuracy'], mask_accuracy(stack, DIGITS, masks, 'incoming'))


def test_training_helps_the_masks():
    "Masks that were trained serve their sub-task better than those they started from"
    stack = some(N=30, gain=3.)
    parameters = Parameters(n_pairs=6400, mask_batch_size=32, mask_fraction=.5)
    start = train_masks(stack, DIGITS, replace(parameters, n_pairs=32, mask_lr=1e-30))
    masks = train_masks(stack, DIGITS, parameters)
    assert (mask_accuracy(stack, DIGITS, masks) > mask_accuracy(stack, DIGITS, start) + .15).all()
