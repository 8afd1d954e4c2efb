"""Retrained read-outs on made-up states that say it all, and their loss and accuracy against plain loops"""
import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_network import lively, one, plain_network

from modspec.core.data import load_dataset
from modspec.core.streams import generators
from modspec.core.tasks import draw_pairs
from modspec.measures.bottleneck import (
    bottleneck_metric,
    frozen_states,
    n_readout_steps,
    readout_accuracy,
    readout_gradient,
    retrain_readouts,
)
from modspec.networks.recurrent import Recurrent, init_stack
from modspec.training.loop import NonFiniteLoss, epoch_pairs
from modspec.training.optimizers import Adadelta
from modspec.training.parameters import Parameters

DIGITS = load_dataset('digits')
sizes = st.tuples(*(st.integers(1, 3) for _ in range(3)), st.integers(2, 5), st.integers(1, 4), st.integers(1, 6))


class Count:
    "A progress bar that only counts"
    def __init__(self): self.n = 0
    def update(self, n): self.n += n


def random_readouts(M, S, K, C, U, seed):
    g, = generators([seed], 'readouts')
    return torch.randn(M, S, K, C, U, generator=g), torch.randn(M, S, K, C, 1, generator=g)


@settings(deadline=None)
@given(sizes, st.integers(0, 99))
def test_loss_gradient_and_accuracy_count_every_pair(size, seed):
    M, S, K, C, U, n_pairs = size
    g, = generators([seed], 'states')
    states, shown = torch.randn(M, S, U, n_pairs, generator=g), torch.randint(C, (M, n_pairs, K), generator=g)
    W, b = random_readouts(M, S, K, C, U, seed)
    weights = torch.cat([W, b], 4).requires_grad_()
    loss, gradient = readout_gradient(weights.detach(), F.pad(states, (0, 0, 0, 1), value=1.), shown.transpose(1, 2))
    accuracy = readout_accuracy(W, b, states, shown)
    assert loss.shape == (M,) and accuracy.shape == (M, S, K)
    for m in range(M):
        expected = torch.zeros(())
        for n, k in itertools.product(range(S), range(K)):
            own = weights[m, n, k]
            r = torch.stack([own[:, :-1] @ states[m, n, :, i] + own[:, -1] for i in range(n_pairs)])
            expected = expected + F.cross_entropy(r, shown[m, :, k])
            right = [r[i].argmax() == shown[m, i, k] for i in range(n_pairs)]
            assert accuracy[m, n, k].item() == pytest.approx(sum(right) / n_pairs)
        assert loss[m].item() == pytest.approx(expected.item(), rel=1e-4)
        expected.backward()
    torch.testing.assert_close(gradient, weights.grad, rtol=1e-4, atol=1e-6)


def test_test_pairs_shared_by_all_networks():
    W, b = random_readouts(3, 2, 2, 10, 4, 0)
    states = torch.randn(3, 2, 4, 20, generator=generators([0], 'states')[0])
    shown = torch.randint(10, (1, 20, 2), generator=generators([0], 'shown')[0])
    assert torch.equal(readout_accuracy(W, b, states, shown), readout_accuracy(W, b, states, shown.expand(3, -1, -1)))


# retraining

def coded(shown, knows, units=10):
    "States in which sub-network n holds digit `knows[n]` as one active unit among ten, and noise about nothing else"
    noise = .1 * torch.randn(len(shown), len(knows), units, shown.shape[1], generator=generators([0], 'noise')[0])
    return noise + torch.stack([F.one_hot(shown[..., k], units).transpose(1, 2) for k in knows], 1)


@pytest.mark.parametrize('knows', [(0, 1), (1, 0), (0, 0)])
def test_what_states_hold_is_learned(knows):
    "Perfect on the digit that is there; on the other at most what the exclusion of pairs gives away, 1/8"
    labels, parameters = DIGITS.train.labels, Parameters(readout_batch_size=16)
    seeds = 3, 4
    shown, test = (labels[epoch_pairs(labels, n, generators(seeds, name))].transpose(1, 2)
                   for n, name in ((2000, 'train'), (1000, 'test')))
    counted = Count()
    readouts = retrain_readouts(coded(shown, knows), shown, parameters, seeds=seeds, bar=counted)
    M = readout_accuracy(*readouts, coded(test, knows), test)
    for n, k in itertools.product(range(2), range(2)):
        if k == knows[n]: assert (M[:, n, k] > .99).all()
        else: assert (M[:, n, k] < .2).all()
    assert counted.n == 5 * 125 == n_readout_steps(DIGITS, Parameters(readout_batch_size=16, n_pairs=2000))


def test_retraining_depends_on_the_seed_alone():
    "Bit for bit the same again; alone as in the stack within 1e-5; another seed, other read-outs"
    labels, parameters, seeds = DIGITS.train.labels, Parameters(readout_epochs=2), (3, 4, 3)
    shown = labels[epoch_pairs(labels, 320, generators([0], 'pairs'))].transpose(1, 2).expand(3, -1, -1)
    states = coded(shown, (0, 1)).clone().requires_grad_(False)
    before = states.clone(), torch.get_rng_state()
    W, b = retrain_readouts(states, shown, parameters, seeds=seeds)
    assert torch.equal(states, before[0]) and torch.equal(torch.get_rng_state(), before[1])
    again = retrain_readouts(states, shown, parameters, seeds=seeds)
    assert torch.equal(W, again[0]) and torch.equal(b, again[1])
    alone = retrain_readouts(states[1:2], shown[1:2], parameters, seeds=seeds[1:2])
    for stacked, single in zip((W, b), alone): torch.testing.assert_close(stacked[1:2], single, rtol=0, atol=1e-5)
    assert not torch.allclose(W[0], W[1], atol=1e-3)


def test_readouts_start_afresh():
    "At a vanishing rate they keep their start: U(-0.1, 0.1), different for every sub-network, sub-task and seed"
    shown = torch.zeros(4, 64, 2, dtype=torch.long)
    W, b = retrain_readouts(torch.zeros(4, 2, 50, 64), shown, Parameters(readout_lr=1e-30), seeds=(0, 1, 2, 3))
    for w in (W, b):
        assert w.abs().max() <= .1 and w.std() == pytest.approx(.2 / 12**.5, rel=.1) and abs(w.mean()) < .02
        assert len(w.flatten(3).flatten(0, 2).unique(dim=0)) == 16
    assert W.shape == (4, 2, 2, 10, 50) and b.shape == (4, 2, 2, 10, 1)


def test_rate_of_the_paper(monkeypatch):
    "0.5, lowered by 0.9 after each epoch"
    rates, step = [], Adadelta.step
    monkeypatch.setattr(Adadelta, 'step', lambda self: (rates.append(self.lr), step(self)))
    shown = torch.zeros(1, 128, 2, dtype=torch.long)
    retrain_readouts(torch.zeros(1, 2, 5, 128), shown, Parameters(readout_epochs=3), seeds=(0,))
    assert rates == pytest.approx([.5, .5, .45, .45, .405, .405])


def test_states_that_are_not_finite():
    states = torch.zeros(2, 2, 5, 64)
    states[1, 0, 3, 7] = torch.nan
    with pytest.raises(NonFiniteLoss, match=r'network 1 \(seed 9\) became nan in epoch 1'):
        retrain_readouts(states, torch.zeros(2, 64, 2, dtype=torch.long), Parameters(), seeds=(8, 9))


# states

@pytest.mark.parametrize(('B', 'S'), [(0, 2), (3, 2), (3, 3)])
def test_frozen_states_are_the_plain_networks(B, S):
    "The bottleneck's, or without one the hidden units'; over more pairs than one chunk"
    stack = lively(Recurrent(64, n_hidden=6, n_subnetworks=S, n_bottleneck=B), [0, 1], [.1, 1.])
    pairs = torch.stack([draw_pairs(DIGITS.test.labels, 510, generator=g, n_subnetworks=S)
                         for g in generators([0, 1], 'pairs')])
    states, shown = frozen_states(stack, DIGITS.test, pairs)
    assert states.shape == (2, S, B or 6, 510) and shown.shape == (2, 510, S) and not states.requires_grad
    for m, i in itertools.product(range(2), (0, 1, 499, 500, 509)):
        w = one(stack.weights, m)
        x = DIGITS.test.images[pairs[m, :, i]].double() / 255
        h = plain_network(w, x, 5)[0][-1]
        expected = [w['W_hb'][n] @ h[n] + w['b_hb'][n] for n in range(S)] if B else h
        torch.testing.assert_close(states[m, ..., i].double(), torch.stack(expected), rtol=1e-5, atol=1e-5)
        assert shown[m, i].tolist() == DIGITS.test.labels[pairs[m, :, i]].tolist()


def test_the_read_out_of_the_network_does_not_matter():
    "It is replaced: the metric reads the bottleneck, not what the network says"
    stack = init_stack(Recurrent(64, n_hidden=8, n_bottleneck=3), [0], 1.)
    parameters = Parameters(n_pairs=320, readout_epochs=1)
    before = bottleneck_metric(stack, DIGITS, parameters)['bottleneck']
    for name in ('W_br', 'b_br'): stack.weights[name].zero_()
    assert torch.equal(before, bottleneck_metric(stack, DIGITS, parameters)['bottleneck'])
