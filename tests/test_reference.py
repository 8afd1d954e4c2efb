"""The stacked code against one plain network: values, gradients, training step by step, and accuracy over seeds"""
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tqdm import tqdm

from benchmarks import reference
from modspec.causes.deep_r import connection_rate
from modspec.core.data import load_dataset
from modspec.core.sparsity import connection_count
from modspec.core.tasks import PARITY, draw_pairs, held_out_pairs
from modspec.measures.performance import evaluate
from modspec.networks.recurrent import Recurrent, final_state, init_stack, input_drive, readouts
from modspec.training.loop import batch_loss, gather_batch, make_optimizers, train, train_epoch
from modspec.training.parameters import Parameters

DIGITS = load_dataset('digits')
ARCHITECTURES = [Recurrent(64, n_hidden=20), Recurrent(64, n_hidden=20, n_bottleneck=5)]
SPARSITIES = [1 / 400, .1, 1.]


class Mixture(reference.Network):
    "Decides for everything at once: log-probabilities, whose cross-entropy is the loss of a mixture of experts"
    def decide(self, r): return (r.amax(2).softmax(1)[..., None] * r.softmax(2)).sum(1).log()


PLAIN = dict(winner=reference.Network, mixture=Mixture)  # by `LOSSES`
each_architecture = pytest.mark.parametrize('architecture', ARCHITECTURES, ids=lambda a: a.name)


def some_pairs(n, seed=0):
    "Pairs of digits, shape (sub-networks, n)"
    return draw_pairs(DIGITS.train.labels, n, generator=torch.Generator().manual_seed(seed))


def networks(architecture, seeds=(3, 4, 5)):
    "Three networks, of one connection, of a tenth, and of all"
    return init_stack(architecture, seeds, SPARSITIES)


def with_gradients(stack):
    "The same networks, whose weights take gradients"
    return replace(stack, weights={name: w.clone().requires_grad_() for name, w in stack.weights.items()})


def assert_near(network, stack, k, atol, sparse_atol=0.):
    "The weights of a plain network are those of member k"
    for name, weight in network.named_weights().items():
        tolerance = dict(atol=sparse_atol if name == 'W_sparse' else atol, rtol=0.)
        torch.testing.assert_close(weight.detach(), stack.weights[name][k].detach(), **tolerance,
                                   msg=lambda text, name=name: f'{name} of network {k}: {text}')


# the plain network

@each_architecture
def test_copy(architecture):
    "has the weights of its member, exactly"
    stack = networks(architecture)
    for k in range(3): assert_near(reference.Network.from_stack(stack, k), stack, k, atol=0.)


@each_architecture
def test_own_start(architecture):
    "draws weights from the stack's distribution, and the exact number of connections"
    network = reference.Network(architecture, .1, generator=torch.Generator().manual_seed(1))
    assert network.mask.sum((1, 2)).tolist() == [connection_count(.1, architecture.n_hidden)] * 2
    assert ((network.connections != 0) == network.mask).all()
    for weight in network.parameters(): assert weight.abs().max() <= .1
    assert {name: w.shape for name, w in network.named_weights().items()} == \
           {name: w.shape[1:] for name, w in networks(architecture).weights.items()}


def test_other_message_is_refused():
    with pytest.raises(ValueError, match="'before'"): reference.Network(Recurrent(64, message='before'))


def test_plain_rewiring():
    "replaces connections one for one, at dormant places, and gives a just-deceased place only when no other is left"
    network = reference.Network(Recurrent(64, n_hidden=3), 8 / 9)
    deep_r = reference.PlainDeepR(network, Parameters(), generator=torch.Generator().manual_seed(0))
    before, died = network.mask.clone(), torch.zeros_like(network.mask)
    died[0].view(-1)[network.mask[0].flatten().nonzero()[:2, 0]] = True
    deep_r.rewire(died)
    assert network.mask[0].sum() == 8 and torch.equal(network.mask[1], before[1])
    assert network.mask[0][~before[0]].all() and network.mask[0][died[0]].sum() == 1
    assert (deep_r.strength[0][network.mask[0] & (died | ~before)[0]] == 1e-10).all()


# one step

@pytest.mark.provokes('threads and devices')
@each_architecture
@pytest.mark.parametrize(('decision', 'scored'), [('max', 'winner'), ('absolute', 'winner'), ('max', 'mixture')])
def test_same_values_and_gradients(architecture, decision, scored):
    "Read-outs within 1e-6; loss within 1e-6; gradients within 1e-7 (float32)"
    stack = with_gradients(networks(replace(architecture, decision=decision)))
    index = torch.stack([some_pairs(64, seed) for seed in range(3)])
    x, shown = gather_batch(DIGITS.train, index)
    target = PARITY.target(shown)
    weights = stack.weights
    r = readouts(weights, final_state(weights, input_drive(weights, x), architecture.n_steps, 'inside'))
    loss, accuracy = batch_loss(r, target, decision, scored)
    loss.sum().backward()
    for k in range(3):
        network = PLAIN[scored].from_stack(stack, k)
        (images, plain_target), = reference.load(DIGITS.train, index[k], Parameters())
        assert torch.equal(plain_target, target[k])
        plain = network(images)
        torch.testing.assert_close(plain, r[k].permute(2, 0, 1), atol=1e-6, rtol=0.)
        output = reference.Network.decide(network, plain)
        plain_loss = F.cross_entropy(network.decide(plain), plain_target)
        torch.testing.assert_close(plain_loss, loss[k], atol=1e-6, rtol=0.)
        assert (output.argmax(1) == plain_target).float().mean() == accuracy[k]
        plain_loss.backward()
        gradients = {name: weights[name].grad[k] for name in weights}
        for name, gradient in plain_gradients(network).items():
            there = network.mask if name == 'W_sparse' else torch.ones_like(gradient, dtype=torch.bool)
            torch.testing.assert_close(gradient[there], gradients[name][there], atol=1e-7, rtol=1e-4)


def plain_gradients(network):
    "The gradients of a plain network by the stack's names"
    twin = reference.Network(network.architecture)
    with torch.no_grad():
        for mine, other in zip(network.parameters(), twin.parameters()): other.copy_(mine.grad)
    return {name: w.detach() for name, w in twin.named_weights().items()}


# many steps

@pytest.mark.provokes('threads and devices')
@each_architecture
@pytest.mark.parametrize(('sparse_rate', 'scored'), [(.1, 'winner'), (.01, 'winner'), (.1, 'mixture')])
def test_same_training(architecture, sparse_rate, scored):
    "Same batches, no random draws: after 25 steps weights within 1e-5 and interconnections within 1e-4 (float32)"
    parameters = Parameters(walk=0., rewire=False, connection_lr_sparse=sparse_rate, loss=scored)
    before = networks(architecture)
    trained, pairs = with_gradients(before), torch.stack([some_pairs(25 * 64, seed) for seed in range(3)])
    optimizers = [optimizer for optimizer, _ in make_optimizers(trained, parameters)]
    with tqdm(disable=True) as bar:
        loss, accuracy = train_epoch(trained, DIGITS.train, pairs, parameters, optimizers, 1, bar)
    for k in range(3):
        network = PLAIN[scored].from_stack(before, k)
        optimizers = reference.make_optimizers(network, parameters, seed=0)
        assert optimizers[1].lr == pytest.approx(connection_rate(SPARSITIES[k], 20, bounds=(sparse_rate, .01)))
        plain = reference.train_epoch(network, reference.load(DIGITS.train, pairs[k], parameters), *optimizers)
        assert plain[0] == pytest.approx(loss[k].item(), abs=1e-3)
        if scored == 'winner': assert plain[1] == pytest.approx(accuracy[k].item(), abs=1e-3)
        assert_near(network, trained, k, atol=1e-5, sparse_atol=1e-4)
        for name, weight in trained.weights.items():  # far less than they have moved
            assert (weight - before.weights[name])[k].abs().max() > (1e-2 if name == 'W_sparse' else 1e-3)


@each_architecture
def test_adam(architecture):
    "Step by step torch.optim.Adam's weights of a plain network within 1e-5; the links, whose rate is 0, stay"
    parameters = Parameters(optimizer='adam', lr=.003, rho=.8, connection_lr=0., batch_size=32)
    trained, pairs = with_gradients(networks(architecture)), torch.stack([some_pairs(320, seed) for seed in range(3)])
    ours = [optimizer for optimizer, _ in make_optimizers(trained, parameters)]
    plain = [PLAIN[parameters.loss].from_stack(trained, k) for k in range(3)]
    theirs = [torch.optim.Adam(network.dense_parameters(), lr=.003, betas=(.8, .999)) for network in plain]
    for step, index in enumerate(pairs.split(32, 2)):
        with tqdm(disable=True) as bar: train_epoch(trained, DIGITS.train, index, parameters, ours, 1, bar)
        for k, (network, adam) in enumerate(zip(plain, theirs)):
            (images, target), = reference.load(DIGITS.train, index[k], parameters)
            adam.zero_grad()
            F.cross_entropy(network.decide(network(images)), target).backward()
            adam.step()
            assert_near(network, trained, k, atol=1e-5)
            if step == 5: adam.param_groups[0]['lr'] *= .5
        if step == 5: ours[0].decay(.5)


# many seeds

@pytest.mark.provokes('threads and devices')
@pytest.mark.parametrize('architecture, margin', [(Recurrent(64, n_hidden=40), .06),
                                                  (Recurrent(64, n_hidden=40, n_bottleneck=5), .12)],
                         ids=['standard', 'bottleneck'])
def test_same_accuracy(architecture, margin):
    "With walk, rewiring and draws of their own: means over four networks differ by less than a few standard errors"
    parameters, seeds = Parameters(n_hidden=40, epochs=2, bottleneck_epochs=2, n_pairs=16_000, loss='winner'), range(4)
    stack = init_stack(architecture, seeds, .1)
    with tqdm(disable=True) as bar: trained, _ = train(stack, DIGITS, parameters, bar=bar)
    stacked, _ = evaluate(trained, DIGITS.test)
    plain = []
    for seed in seeds:
        network = reference.Network(architecture, .1, generator=torch.Generator().manual_seed(seed))
        history = reference.train_network(network, DIGITS, parameters, seed=seed)
        assert len(history) == 2 and history[1][0] < history[0][0]
        plain.append(reference.accuracy(network, DIGITS.test, held_out_pairs(DIGITS.test)))
        assert network.mask.sum((1, 2)).tolist() == [connection_count(.1, 40)] * 2
    assert stacked.mean() == pytest.approx(sum(plain) / len(plain), abs=margin)
    assert stacked.mean() > .3
