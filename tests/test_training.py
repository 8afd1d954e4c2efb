"""Optimizers against PyTorch's, gradients against a plain network, stacks against networks alone, bad parameters"""
import io
import itertools
import math
from dataclasses import fields, replace

import llvmlite.binding
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_network import lively, one, plain_network
from tqdm import tqdm

from modspec.causes.deep_r import DeepR
from modspec.core.data import load_dataset
from modspec.core.streams import generators
from modspec.core.tasks import admissible, draw_pairs, held_out_pairs, task_named
from modspec.measures.links import link_strength
from modspec.measures.performance import evaluate
from modspec.networks.choices import PRECISIONS
from modspec.networks.recurrent import Recurrent, decide, final_state, init_stack, input_drive, readouts
from modspec.training import loop
from modspec.training.loop import (
    NonFiniteLoss,
    batch_loss,
    batches,
    check_finite,
    epoch_pairs,
    gather_batch,
    make_optimizers,
    n_training_steps,
    train,
)
from modspec.training.optimizers import Adadelta, adadelta_on_gpu
from modspec.training.parameters import Parameters

DIGITS = load_dataset('digits')
SMALL = Recurrent(n_pixels=64, n_hidden=8)
SHORT = Parameters(epochs=2, bottleneck_epochs=2, n_pairs=160, batch_size=16)


def small(seeds=(10, 11, 12), sparsity=(1 / 64, .25, 1.), B=0):
    "Three small networks"
    return init_stack(replace(SMALL, n_bottleneck=B), list(seeds), list(sparsity))


def silent(total=0):
    "A progress bar that shows nothing"
    return tqdm(total=total, disable=True)


def same(first, second):
    return all(torch.equal(w, second.weights[name]) for name, w in first.weights.items())


# optimizers

@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=4), st.integers(0, 99),
       st.sampled_from([.01, .5, 1.]), st.sampled_from([1e-6, 1., 1e6]))
def test_adadelta_is_torchs(shapes, seed, lr, scale):
    "Tensors of any shapes, and a rate that changes on the way; the operations of a GPU do the same"
    g, = generators([seed], 'adadelta')
    ours = [torch.randn(shape, generator=g) for shape in shapes]
    theirs, on_gpu = [w.clone().requires_grad_() for w in ours], [w.clone() for w in ours]
    optimizer, reference, other = Adadelta(ours, lr), torch.optim.Adadelta(theirs, lr=lr), Adadelta(on_gpu, lr)
    for step in range(20):
        if step == 10: optimizer.lr = other.lr = reference.param_groups[0]['lr'] = lr / 10
        for w, v, u in zip(ours, theirs, on_gpu):
            w.grad = scale * torch.randn(w.shape, generator=g)
            v.grad, u.grad = w.grad.clone(), w.grad.clone()
        optimizer.step()
        reference.step()
        for w, v, u in zip(other.weights, other.square, other.change):
            adadelta_on_gpu(w, w.grad, v, u, other.lr, other.rho, other.eps)
        for w, v, u in zip(ours, theirs, on_gpu):
            assert w.grad is None
            torch.testing.assert_close(w, v.detach(), rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(u, v.detach(), rtol=1e-5, atol=1e-6)


def recorded(monkeypatch, owner, what):
    "Record `what(self)` at every step of an optimizer"
    record, step = [], owner.step
    def spy(self):
        record.append(what(self))
        step(self)
    monkeypatch.setattr(owner, 'step', spy)
    return record


def test_rates_of_the_paper(monkeypatch):
    "0.5 for the sub-networks, 0.1 to 0.01 for the interconnections, lowered by 0.9 and 0.95 after each epoch"
    dense = recorded(monkeypatch, Adadelta, lambda o: o.lr)
    sparse = recorded(monkeypatch, DeepR, lambda o: o.lr.flatten().tolist())
    train(small(sparsity=[1 / 64, 1 / 8, 1.]), DIGITS, replace(SHORT, epochs=3, batch_size=80))
    assert dense == pytest.approx([.5, .5, .45, .45, .405, .405])
    for epoch, rates in enumerate(sparse[::2]):
        assert rates == pytest.approx([.95**epoch * rate for rate in (.1, 10**-1.5, .01)])


def test_optimizer_constants():
    "What Table 1's betas may mean reaches the optimizers"
    (dense, _), (sparse, _) = make_optimizers(small(), replace(SHORT, rho=.7, connection_beta=.95))
    assert dense.rho == .7 and sparse.adam.betas == (.95, .999)
    (dense, decay), (sparse, connection_decay) = make_optimizers(small(), SHORT)
    assert (decay, connection_decay) == (.9, .95)
    assert dense.rho == .9 and sparse.adam.betas == (.9, .999)


# gradients

def plain_loss(w, x, shown, architecture, task, scored):
    "Cross-entropy of the deciding read-out, or minus log-likelihood of the mixture, pair by pair"
    loss, size = 0., abs if architecture.decision == 'absolute' else float
    for images, digits in zip(x.transpose(0, 1), shown):
        r = plain_network(w, images, architecture.n_steps, architecture.message)[1]
        mu = max(range(len(r)), key=lambda n: max(map(size, r[n].tolist())))
        gate = torch.stack([one.max() for one in r]).softmax(0)
        likely = sum(g * one.softmax(0)[task(digits)] for g, one in zip(gate, r))
        loss = loss - (likely.log() if scored == 'mixture' else r[mu].log_softmax(0)[task(digits)])
    return loss / len(shown)


@pytest.mark.parametrize(('S', 'B', 'task', 'message', 'decision', 'scored'), [
    (2, 0, 'parity', 'inside', 'max', 'winner'), (2, 3, 'parity_sentence', 'inside', 'max', 'winner'),
    (3, 0, 'parity', 'inside', 'max', 'winner'), (3, 2, 'parity', 'inside', 'max', 'winner'),
    (2, 0, 'parity', 'before', 'max', 'winner'), (2, 0, 'parity', 'inside', 'absolute', 'winner'),
    (3, 2, 'parity', 'before', 'absolute', 'winner'), (2, 0, 'parity', 'inside', 'max', 'mixture'),
    (2, 3, 'parity_sentence', 'inside', 'max', 'mixture'), (3, 2, 'parity', 'before', 'max', 'mixture')])
def test_gradients_are_the_plain_networks(S, B, task, message, decision, scored):
    architecture = Recurrent(64, 6, n_subnetworks=S, n_bottleneck=B, message=message, decision=decision)
    stack = lively(architecture, [0, 1, 2], [1 / 36, .5, 1.], gain=4.)
    weights = {name: w.requires_grad_() for name, w in stack.weights.items()}
    index = epoch_pairs(DIGITS.train.labels, 8, generators([0, 1, 2], 'pairs'), S)
    x, shown = gather_batch(DIGITS.train, index)
    r = readouts(weights, final_state(weights, input_drive(weights, x), message=message))
    loss, accuracy = batch_loss(r, task_named(task).target(shown), decision, scored)
    loss.sum().backward()
    for k in range(3):
        plain = {name: w.detach().requires_grad_() for name, w in one(weights, k).items()}
        expected = plain_loss(plain, x[k].double(), shown[k], architecture, task_named(task).target, scored)
        expected.backward()
        assert loss[k].item() == pytest.approx(expected.item(), rel=1e-5)
        for name, w in plain.items():
            torch.testing.assert_close(weights[name].grad[k].double(), w.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize('S', [1, 2, 3])
def test_mixture_is_the_likelihood_of_its_experts(S):
    "Pair by pair: how likely each read-out is to decide, times how likely it is then to be right"
    r = 3 * torch.randn(2, S, 10, 7, generator=generators([0], 'r')[0])
    target = torch.randint(10, (2, 7), generator=generators([0], 't')[0])
    loss, accuracy = batch_loss(r, target, scored='mixture')
    for m in range(2):
        likely = [sum(g * one[:, i].softmax(0)[target[m, i]] for g, one in zip(r[m, ..., i].amax(1).softmax(0), r[m]))
                  for i in range(7)]
        assert loss[m].item() == pytest.approx(-torch.stack(likely).log().mean().item(), rel=1e-5)
    winner, same = batch_loss(r, target)
    assert torch.equal(accuracy, same)
    if S == 1: torch.testing.assert_close(loss, winner)  # one expert: the cross-entropy


def test_loss_of_the_winner_alone():
    "Accuracy and cross-entropy of the deciding read-out; the other one receives no gradient"
    r = torch.randn(3, 2, 10, 40, generator=generators([0], 'r')[0]).requires_grad_()
    target = torch.randint(10, (3, 40), generator=generators([0], 't')[0])
    loss, accuracy = batch_loss(r, target)
    winner = decide(r)[1]
    loss.sum().backward()
    for k in range(3):
        says = torch.stack([r[k, winner[k, i], :, i] for i in range(40)])
        assert loss[k].item() == pytest.approx(F.cross_entropy(says, target[k]).item(), rel=1e-5)
        assert accuracy[k].item() == pytest.approx((says.argmax(1) == target[k]).float().mean().item())
        for i, mu in enumerate(winner[k]):
            assert not r.grad[k, 1 - mu, :, i].any() and r.grad[k, mu, :, i].any()


# batches

@given(st.integers(1, 200), st.integers(1, 70), st.integers(1, 5))
def test_batches(n_pairs, batch_size, epochs):
    "Equal parts in order; a remainder is dropped unless it is all there is; as many as the progress bar expects"
    pairs = torch.arange(n_pairs).expand(2, 3, -1)
    parts = list(batches(pairs, batch_size))
    kept = torch.cat(parts, 2)
    assert torch.equal(kept, pairs[..., :kept.shape[2]]) and n_pairs - kept.shape[2] < batch_size
    assert {part.shape[2] for part in parts} == {min(batch_size, n_pairs)}
    parameters = Parameters(n_pairs=n_pairs, batch_size=batch_size, epochs=epochs, bottleneck_epochs=epochs + 1)
    assert n_training_steps(DIGITS, SMALL, parameters) == epochs * len(parts)
    assert n_training_steps(DIGITS, replace(SMALL, n_bottleneck=2), parameters) == (epochs + 1) * len(parts)


def test_pairs_of_an_epoch():
    "Admissible, each network's own, and new in every epoch"
    labels, streams = DIGITS.train.labels, generators([4, 5], 'pairs')
    first, second = (epoch_pairs(labels, 50, streams) for _ in range(2))
    assert first.shape == (2, 2, 50) and admissible(labels[first].transpose(1, 2)).all()
    assert torch.equal(first[1:], epoch_pairs(labels, 50, generators([5], 'pairs')))
    assert not torch.equal(first[0], first[1]) and not torch.equal(first, second)


def test_batch_is_what_the_index_says():
    index = torch.tensor([[[3, 5], [7, 1]], [[0, 0], [2, 9]]])
    x, shown = gather_batch(DIGITS.train, index)
    for k, n, i in np.ndindex(2, 2, 2):
        assert torch.equal(x[k, n, i] * 255, DIGITS.train.images[index[k, n, i]].float())
        assert shown[k, i, n] == DIGITS.train.labels[index[k, n, i]]


def test_batch_of_standardized_digits():
    dataset, index = DIGITS.standardized(), torch.tensor([[[3, 5], [7, 1]]])
    for digits, plain in ((dataset.train, DIGITS.train), (dataset.test, DIGITS.test)):
        expected = (gather_batch(plain, index)[0] - dataset.train.mean) / dataset.train.std
        torch.testing.assert_close(gather_batch(digits, index)[0], expected)


# training

@pytest.mark.parametrize('B', [0, 3])
def test_alone_as_in_the_stack(B):
    "Within 1e-4 after 20 steps, with the same places of interconnections: batched products may add in another order"
    stacked, history = train(small(B=B), DIGITS, SHORT)
    for k in range(3):
        alone, alone_history = train(small(B=B)[k], DIGITS, SHORT)
        for name, w in alone.weights.items():
            torch.testing.assert_close(w, stacked.weights[name][k:k + 1], rtol=0, atol=1e-4, msg=name)
        assert torch.equal(alone.weights['W_sparse'] != 0, stacked.weights['W_sparse'][k:k + 1] != 0)
        numbers = [table[['loss', 'accuracy']] for table in (alone_history, history[history.seed == 10 + k])]
        np.testing.assert_allclose(*numbers, rtol=0, atol=1e-4)


def test_same_seed_same_bits():
    "Whatever the state of the global generator, which is left as it was"
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, history = train(small(), DIGITS, SHORT)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    second, again = train(small(), DIGITS, SHORT)
    assert same(first, second) and history.equals(again)
    other, _ = train(small(seeds=(20, 21, 22)), DIGITS, SHORT)
    assert not any(torch.equal(w, other.weights[name]) for name, w in first.weights.items())


def test_untrained_networks_stay_as_they_are():
    untrained, fresh = small(), small()
    images, labels = DIGITS.train.images.clone(), DIGITS.train.labels.clone()
    trained, _ = train(untrained, DIGITS, SHORT)
    assert same(untrained, fresh)
    assert torch.equal(images, DIGITS.train.images) and torch.equal(labels, DIGITS.train.labels)
    for w in (*untrained.weights.values(), *trained.weights.values()): assert not w.requires_grad and w.grad is None
    assert (trained.seeds, trained.n_connections, trained.architecture) == (fresh.seeds, fresh.n_connections, SMALL)
    for name, w in trained.weights.items(): assert not torch.equal(w, untrained.weights[name]), name


@pytest.mark.parametrize('rewire', [True, False])
def test_interconnections_after_training(rewire):
    before = small()
    after, _ = train(before, DIGITS, replace(SHORT, connection_lr_sparse=1., connection_lr_dense=1., rewire=rewire))
    there = [stack.weights['W_sparse'] != 0 for stack in (before, after)]
    assert there[1].sum((2, 3)).tolist() == [[1, 1], [16, 16], [64, 64]]
    assert torch.equal(*there) != rewire


@pytest.mark.parametrize('more', [dict(), dict(connection_signs='free'), dict(rewire=False, connection_beta=0)])
def test_links_without_a_rate_stay(more):
    "Bit for bit, and their norm with them, whatever else would change them; all other weights learn"
    before, parameters = small(), replace(SHORT, connection_lr=0, walk=1., l1=.1, **more)
    after, _ = train(before, DIGITS, parameters)
    for name, w in after.weights.items(): assert torch.equal(w, before.weights[name]) == (name == 'W_sparse'), name
    first, last = (link_strength(stack, DIGITS, parameters) for stack in (before, after))
    assert torch.equal(first['link_norm'], last['link_norm']) and not last['moved'].any()
    assert not torch.equal(first['recurrent_norm'], last['recurrent_norm'])


def test_one_rate_is_both_bounds():
    "Bit for bit, at every sparsity"
    first, history = train(small(), DIGITS, replace(SHORT, connection_lr=.03))
    second, again = train(small(), DIGITS, replace(SHORT, connection_lr_sparse=.03, connection_lr_dense=.03))
    assert same(first, second) and history.equals(again) and not same(first, train(small(), DIGITS, SHORT)[0])


@pytest.mark.parametrize(('B', 'frozen'), [(0, {'W_hr', 'b_hr'}), (3, {'W_hb', 'b_hb', 'W_br', 'b_br'})])
def test_frozen_readouts(B, frozen):
    "stay as they were drawn, and nothing else does"
    before = small(B=B)
    after, _ = train(before, DIGITS, replace(SHORT, readouts='frozen'))
    assert {name for name, w in after.weights.items() if torch.equal(w, before.weights[name])} == frozen
    assert not any(w.requires_grad for w in after.weights.values())


def test_learning():
    "Loss falls in every epoch, and held-out accuracy rises far above an untrained network's, in both architectures"
    for B in (0, 5):
        untrained = init_stack(Recurrent(n_pixels=64, n_hidden=20, n_bottleneck=B), [0, 1], .1)
        parameters = Parameters(epochs=4, bottleneck_epochs=4, n_pairs=3200, batch_size=32)
        trained, history = train(untrained, DIGITS, parameters)
        for _, network in history.groupby('seed'):
            assert network.loss.is_monotonic_decreasing and network.loss.iloc[-1] < .8 * network.loss.iloc[0]
            assert network.accuracy.iloc[-1] > network.accuracy.iloc[0] + .15
        assert (evaluate(trained, DIGITS.test)[0] > evaluate(untrained, DIGITS.test)[0] + .2).all()


@pytest.mark.parametrize(('B', 'name', 'epochs', 'scored'), [
    (0, 'standard', 2, 'mixture'), (0, 'standard', 2, 'winner'), (3, 'bottleneck', 3, 'mixture')])
def test_history(B, name, epochs, scored):
    "One row per epoch and network; at a vanishing rate, loss and accuracy are those of the untrained network"
    tiny = dict(lr=1e-30, connection_lr=0, loss=scored)
    parameters = replace(SHORT, bottleneck_epochs=3, **tiny)
    untrained = small(B=B)
    _, history = train(untrained, DIGITS, parameters)
    assert set(history) == {'architecture', 'network', 'seed', 'n_connections', 'epoch', 'loss', 'accuracy'}
    assert len(history) == 3 * epochs and (history.architecture == name).all() and not history.isna().any(axis=None)
    rows = history.set_index(['epoch', 'seed', 'n_connections'])[['loss', 'accuracy']]
    streams, weights = generators(untrained.seeds, 'training pairs'), untrained.weights
    for epoch in range(1, epochs + 1):
        x, shown = gather_batch(DIGITS.train, epoch_pairs(DIGITS.train.labels, 160, streams))
        r = readouts(weights, final_state(weights, input_drive(weights, x)))
        expected = batch_loss(r, task_named('parity').target(shown), scored=scored)
        for seed, k, loss, accuracy in zip((10, 11, 12), (1, 16, 64), *expected):
            assert rows.loc[(epoch, seed, k)].tolist() == pytest.approx([loss.item(), accuracy.item()], rel=1e-4)


def test_progress():
    "A bar that is given advances by one per step, also one that shows nothing or knows no total"
    bar = tqdm(total=20, file=io.StringIO())
    train(small(), DIGITS, SHORT, bar=bar)
    assert bar.n == n_training_steps(DIGITS, SMALL, SHORT) == 20
    for total in (0, None): train(small(), DIGITS, SHORT, bar=silent(total))


@pytest.mark.parametrize('changes', [dict(n_hidden=2), dict(n_steps=2), dict(n_subnetworks=3), dict(n_pairs=1),
                                     dict(batch_size=1000), dict(batch_size=1, n_pairs=20), dict(walk=0), dict(l1=1),
                                     dict(rho=0), dict(connection_beta=0)])
def test_legal_corners(changes):
    "Parameters that are accepted can be trained with"
    parameters = replace(SHORT, **dict(n_hidden=8) | changes)
    architecture = Recurrent(64, parameters.n_hidden, parameters.n_subnetworks, n_steps=parameters.n_steps)
    trained, history = train(init_stack(architecture, [0], 1.), DIGITS, parameters)
    assert np.isfinite(history.loss).all() and all(w.isfinite().all() for w in trained.weights.values())


@pytest.mark.parametrize('name', ['n_hidden', 'n_steps'])
def test_least_sizes_can_be_trained(name):
    "The smallest size that `Parameters` accepts"
    least = {field.name: field.metadata['least'] for field in fields(SHORT)}
    test_legal_corners({name: least[name]})


# losses that are not finite

@pytest.mark.provokes('divergence')
def test_poisoned_network_is_named():
    for value in (math.nan, math.inf):
        stack = small()
        stack.weights['W_hr'][1, 0, 3, 2] = value
        with pytest.raises(NonFiniteLoss, match=r'network 1 \(seed 11\) became (nan|inf) in epoch 1, step 1;'):
            train(stack, DIGITS, SHORT)


@pytest.mark.provokes('divergence')
def test_overflow_is_named():
    stack = small()
    for name in ('W_hr', 'b_hr'): stack.weights[name][2] *= 1e39
    with pytest.raises(NonFiniteLoss, match=r'network 2 \(seed 12\) became (nan|inf) in epoch 1, step 1;'):
        train(stack, DIGITS, SHORT)


@pytest.mark.provokes('divergence')
@pytest.mark.parametrize('step', [1, 60, 120])
def test_epoch_and_step_are_named(monkeypatch, step):
    "In the second epoch of 120 steps, which is the last"
    calls = itertools.count(1)
    def poisoned(r, target, *how):
        loss, accuracy = batch_loss(r, target, *how)
        poisoned.calls = next(calls)
        return (loss * torch.tensor([1., 1., math.inf]) if poisoned.calls >= 120 + step else loss), accuracy
    monkeypatch.setattr(loop, 'batch_loss', poisoned)
    with pytest.raises(NonFiniteLoss, match=rf'network 2 \(seed 12\) became inf in epoch 2, step {step};'):
        train(small(), DIGITS, replace(SHORT, epochs=3, n_pairs=240, batch_size=2))
    assert poisoned.calls == 240


@given(st.integers(1, 6), st.integers(1, 4), st.data())
def test_first_loss_that_is_not_finite(n_steps, n_networks, choice):
    losses = torch.rand(n_steps, n_networks)
    check_finite(losses, range(n_networks), 1)
    step, network = choice.draw(st.integers(0, n_steps - 1)), choice.draw(st.integers(0, n_networks - 1))
    losses[step:, network:] = choice.draw(st.sampled_from([math.nan, math.inf, -math.inf]))
    message = rf'network {network} \(seed {network + 100}\) .* in epoch 7, step {step + 1};'
    with pytest.raises(NonFiniteLoss, match=message):
        check_finite(losses, range(100, 100 + n_networks), 7)


# precision

def test_auto_is_what_the_processor_has(monkeypatch):
    for able, precision in [({}, 'fp32'), ({'avx512bf16': True}, 'bf16'), ({'amx-bf16': True}, 'bf16'),
                            ({'avx512f': True, 'avx512bf16': False}, 'fp32')]:
        monkeypatch.setattr(llvmlite.binding, 'get_host_cpu_features', lambda able=able: able)
        assert Parameters(precision='auto') == Parameters(precision=precision)


def test_bf16_learns_as_fp32_does():
    "Same seeds, same pairs: what differs is rounding"
    accuracy = {}
    for precision in PRECISIONS:
        untrained = init_stack(Recurrent(64, precision=precision), [0, 1, 2, 3], .01)
        trained, history = train(untrained, DIGITS, Parameters(epochs=2, precision=precision))
        assert all(w.dtype == torch.float32 for w in trained.weights.values())
        accuracy[precision] = evaluate(trained, DIGITS.test)[0].mean().item()
    assert abs(accuracy['bf16'] - accuracy['fp32']) < .05 and min(accuracy.values()) > .6


# the test set

@pytest.mark.parametrize(('message', 'decision'), [('inside', 'max'), ('before', 'absolute')])
def test_evaluate_counts(message, decision):
    "Accuracy and shares of decisions, pair by pair, over more than one chunk"
    stack = lively(replace(SMALL, message=message, decision=decision), [0, 1], [1 / 64, 1.])
    size = abs if decision == 'absolute' else float
    pairs = draw_pairs(DIGITS.test.labels, 620, generator=generators([0], 'pairs')[0])
    targets = {task: task_named(task).target for task in ('parity', 'parity_sentence')}
    right = {task: np.zeros(2) for task in targets}
    decided = np.zeros((2, 2))
    x, shown = gather_batch(DIGITS.test, pairs[None])
    for k, i in np.ndindex(2, 620):
        r = plain_network(one(stack.weights, k), x[0, :, i].double(), 5, message)[1]
        mu = int(max(map(size, r[1].tolist())) > max(map(size, r[0].tolist())))
        decided[k, mu] += 1
        for task, target in targets.items(): right[task][k] += int(r[mu].argmax() == target(shown[0, i]))
    for task in targets:
        accuracy, share = evaluate(stack, DIGITS.test, pairs, task=task)
        np.testing.assert_allclose(accuracy, right[task] / 620, atol=2 / 620)
        np.testing.assert_allclose(share, decided / 620, atol=2 / 620)
        torch.testing.assert_close(share.sum(1), torch.ones(2))
    default = evaluate(stack, DIGITS.test)
    assert torch.equal(default[0], evaluate(stack, DIGITS.test, held_out_pairs(DIGITS.test))[0])
