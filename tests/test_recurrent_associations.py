"""Associations of recurrent units against automatic derivatives, and times when modules are there by construction"""
from dataclasses import replace

import pytest
import torch
from torch.func import jacrev, vmap

from modspec.measures.associations import as_associations
from modspec.measures.communities import maximize
from modspec.measures.recurrent_associations import on_diagonal, recurrent_associations
from modspec.networks.feedforward import FeedForward, init_feedforward
from modspec.networks.recurrent import Recurrent, init_stack


def drawn(p=.2, seeds=(0, 1), **sizes):
    "Networks in double precision, with weights large enough for tanh to bend"
    stack = init_stack(Recurrent(**dict(n_pixels=9, n_hidden=6, n_classes=4, n_steps=4) | sizes), [*seeds], p)
    return replace(stack, weights={name: 4 * w.double() for name, w in stack.weights.items()})


def images(S=2, n=20, networks=1):
    return torch.rand(networks, S, n, 9, generator=torch.Generator().manual_seed(0), dtype=torch.double)


def by_definition(network, x, up, down):
    "Means over the pairs; the network is rerun from a change of its states at a step"
    model, weights = network.architecture, network.weights

    def states(x, step=0, change=0.):
        h, found = torch.zeros(1, model.n_subnetworks, model.n_hidden, 1).double(), []
        drive = model.drive(weights, x[None, :, None])
        for t in range(1, model.n_steps + 1):
            W = weights['W_hh'] @ h
            for d, (n, m) in enumerate((n, m) for n in range(model.n_subnetworks)
                                       for m in range(model.n_subnetworks) if n != m):
                message = weights['W_sparse'][:, d] @ h[:, m]
                if model.message == 'before': message = weights['W_hh'][:, n] @ message
                W = W + torch.eye(model.n_subnetworks).double()[n][None, :, None, None] * message[:, None]
            h = torch.tanh(drive + W)
            if t == step: h = h + change.view_as(h)
            found.append(h)
        return found

    def state(x): return states(x)[up - 1].flatten()
    def answers(change, x): return model.readouts(weights, states(x, down, change)[-1]).flatten()
    x = x.transpose(0, 1)
    h, J = vmap(state)(x), vmap(jacrev(state))(x).flatten(2)
    G = vmap(jacrev(answers))(torch.zeros_like(h), x)
    return dict(input_covariance=h.T.cov(correction=0), input_jacobian=(J @ J.mT).mean(0),
                output_jacobian=(G.mT @ G).mean(0))


@pytest.mark.parametrize('sizes', [{}, dict(n_bottleneck=2), dict(n_subnetworks=3), dict(message='before'),
                                   dict(n_subnetworks=1), dict(n_hidden=12)])
@pytest.mark.parametrize('steps', [(None, 1), (1, 4), (3, 2), (2, 3)])
def test_against_definition(sizes, steps):
    "Forms, sizes and steps; more units than pixels, too"
    stack = drawn(**sizes)
    x, (up, down) = images(stack.architecture.n_subnetworks), steps
    found = recurrent_associations(stack, x, upstream_at=up, downstream_at=down)
    for k in range(2):
        means = by_definition(stack[k], x[0], up or 4, down)
        slow = as_associations({name: M[None] for name, M in means.items()})
        assert [*found] == [*slow]
        for name, A in found.items(): torch.testing.assert_close(A[k], slow[name][0], rtol=1e-6, atol=1e-12)


def test_form():
    "Not negative, symmetric, without a diagonal; the same alone, and with images of each network's own"
    stack, x = drawn(), images()
    found, own = recurrent_associations(stack, x), recurrent_associations(stack, x.expand(2, -1, -1, -1))
    alone = recurrent_associations(stack[1], x)
    for name, A in found.items():
        assert A.shape == (2, 12, 12) and A.dtype == torch.double and (A >= 0).all()
        assert torch.equal(A, A.mT) and not A.diagonal(dim1=1, dim2=2).any()
        torch.testing.assert_close(alone[name][0], A[1], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(own[name], A, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('p', [.05, 1.])
def test_modules_by_construction(p):
    "Upstream at the first step and downstream at the last one, at any number of interconnections; and nowhere else"
    stack = drawn(p)
    between = stack.architecture.groups()[:, None] != stack.architecture.groups()
    for step in (1, 2, 3, 4):
        A = recurrent_associations(stack, images(), upstream_at=step, downstream_at=step)
        for k in range(2):
            assert A['input_jacobian'][k][between].any() == (step > 1)
            assert A['output_jacobian'][k][between].any() == (step < 4)


def test_no_interconnections():
    "T16: the gradients see nothing between the two, and no module holds units of both"
    stack = drawn()
    stack.weights['W_sparse'].zero_()
    groups = stack.architecture.groups()
    between, A = groups[:, None] != groups, recurrent_associations(stack, images())
    for name, graphs in A.items():
        if 'covariance' in name: continue
        assert not graphs[:, between].any() and graphs[:, ~between].any()
        for graph in graphs:
            labels, _ = maximize(graph, seed=0, trials=5)
            assert not {*labels[:6]} & {*labels[6:]}


def test_blocks():
    parts = torch.arange(12.).view(1, 2, 2, 3)
    assert torch.equal(on_diagonal(parts)[0], torch.block_diag(*parts[0]))


@pytest.mark.parametrize(('change', 'message'), [
    (dict(upstream_at=0), r'upstream_at must be a whole number in \[1, 4\], got 0'),
    (dict(downstream_at=5), r'downstream_at must be a whole number in \[1, 4\], got 5'),
    (dict(inputs=images(3)), r'inputs must be \(networks or 1, 2, pairs, 9\), got shape \(1, 3, 20, 9\)'),
    (dict(inputs=images()[0]), r'got shape \(2, 20, 9\)'),
    (dict(stack=init_feedforward(FeedForward(9), [0])), 'need a recurrent network, got FeedForward'),
])
def test_refused(change, message):
    with pytest.raises(ValueError, match=message):
        recurrent_associations(**dict(stack=drawn(), inputs=images()) | change)


def test_weights_that_are_nan():
    stack = drawn()
    stack.weights['W_hh'][1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r'network 1 \(seed 1\)'): recurrent_associations(stack, images())
