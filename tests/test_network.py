"""The stacked forward pass against plain loops, exact connection counts, initial weights, and sizes that are refused"""
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modspec.core.sparsity import connection_count
from modspec.core.streams import generators
from modspec.networks.choices import DECISIONS, MESSAGES, STARTS
from modspec.networks.recurrent import (
    DTYPES,
    Recurrent,
    decide,
    directions,
    final_state,
    hidden_states,
    init_stack,
    input_drive,
    random_connections,
    readouts,
    sparsities,
)
from modspec.networks.stack import Stack

architectures = st.builds(Recurrent, n_pixels=st.integers(1, 6), n_hidden=st.integers(1, 6),
                          n_subnetworks=st.integers(1, 3), n_classes=st.integers(2, 5), n_bottleneck=st.integers(0, 3),
                          n_steps=st.integers(1, 5), message=st.sampled_from(MESSAGES))


def plain_network(w, x, n_steps, message='inside'):
    "The paper's equations for one network and one pair, loop by loop: states over time, and read-outs, per sub-network"
    S = len(x)
    h, states = [torch.zeros_like(w['b_hh'][n]) for n in range(S)], []
    for _ in range(n_steps):
        new = []
        for n in range(S):
            heard = torch.zeros_like(h[n])
            for m in range(S):
                if m != n: heard = heard + w['W_sparse'][n * (S - 1) + (m if m < n else m - 1)] @ h[m]
            recurrent = w['W_hh'][n] @ (h[n] + heard) if message == 'before' else w['W_hh'][n] @ h[n] + heard
            new.append(torch.tanh(w['W_ih'][n] @ x[n] + w['b_ih'][n] + w['b_hh'][n] + recurrent))
        h = new
        states.append(h)
    if 'W_hb' in w:
        b = [w['W_hb'][n] @ h[n] + w['b_hb'][n] for n in range(S)]
        return states, [w['W_br'][n] @ b[n] + w['b_br'][n] for n in range(S)]
    return states, [w['W_hr'][n] @ h[n] + w['b_hr'][n] for n in range(S)]


def one(weights, k):
    "The weights of network k, without the axis of networks, in float64"
    return {name: w[k].double() for name, w in weights.items()}


def lively(architecture, seeds, sparsity, gain=8.):
    "Random networks with weights large enough for tanh to bend"
    stack = init_stack(architecture, seeds, sparsity)
    return Stack(architecture, {name: w * gain for name, w in stack.weights.items()}, stack.seeds,
                    stack.n_connections)


# the forward pass

@settings(deadline=None)
@given(architectures, st.integers(1, 3), st.integers(1, 4), st.integers(0, 999), st.data())
def test_forward_is_the_plain_network(architecture, n_networks, n_pairs, seed, choice):
    S, N = architecture.n_subnetworks, architecture.n_hidden
    fractions = [choice.draw(st.integers(1, N**2)) / N**2 for _ in range(n_networks)]
    stack = lively(architecture, range(seed, seed + n_networks), fractions)
    shared = choice.draw(st.booleans())  # one batch for all networks
    x = torch.rand(1 if shared else n_networks, S, n_pairs, architecture.n_pixels, generator=generators([seed], 'x')[0])
    drive = input_drive(stack.weights, x)
    states = torch.stack(list(hidden_states(stack.weights, drive, architecture.n_steps, architecture.message)))
    assert torch.equal(final_state(stack.weights, drive, architecture.n_steps, architecture.message), states[-1])
    r = readouts(stack.weights, states[-1])
    for k, pair in itertools.product(range(n_networks), range(n_pairs)):
        seen = x.expand(n_networks, -1, -1, -1)[k, :, pair].double()
        h_plain, r_plain = plain_network(one(stack.weights, k), seen, architecture.n_steps, architecture.message)
        h_plain = torch.stack([torch.stack(h) for h in h_plain])
        torch.testing.assert_close(states[:, k, ..., pair].double(), h_plain, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(r[k, ..., pair].double(), torch.stack(r_plain), atol=1e-4, rtol=1e-5)


def test_alone_as_in_the_stack():
    "Within 1e-6: batched products may add in another order"
    architecture = Recurrent(n_pixels=64, n_hidden=20, n_bottleneck=5)
    stack = init_stack(architecture, [3, 1, 4], [1 / 400, .1, 1.])
    x = torch.rand(3, 2, 16, 64, generator=generators([0], 'x')[0])
    def forward(weights, x): return readouts(weights, final_state(weights, input_drive(weights, x)))
    stacked = forward(stack.weights, x)
    for k in range(3):
        torch.testing.assert_close(forward(stack[k].weights, x[k:k + 1]), stacked[k:k + 1], atol=1e-6, rtol=0)


def test_bf16_rounds_and_no_more():
    "Read-outs within a few roundings of 1 / 256, gradients in the same direction"
    g, = generators([0], 'x')
    stack = init_stack(Recurrent(n_pixels=64), [3, 1, 4], [1e-4, .01, 1.])
    x, slope = torch.rand(3, 2, 16, 64, generator=g), torch.randn(3, 2, 10, 16, generator=g)
    found = {}
    for precision, dtype in DTYPES.items():
        weights = {name: w.clone().requires_grad_() for name, w in stack.weights.items()}
        h = final_state(weights, input_drive(weights, x.to(dtype)))
        assert h.dtype == dtype
        r = readouts(weights, h)
        assert r.dtype == torch.float32
        (r * slope).sum().backward()
        found[precision] = r.detach(), {name: w.grad for name, w in weights.items()}
    torch.testing.assert_close(found['bf16'][0], found['fp32'][0], atol=.03, rtol=0)
    for name, exact in found['fp32'][1].items():
        rounded = found['bf16'][1][name]
        assert rounded.dtype == torch.float32
        assert torch.cosine_similarity(exact.flatten(1), rounded.flatten(1)).min() > .999, name


@pytest.mark.parametrize('S', [2, 3])
def test_a_message_takes_one_step_to_its_receiver(S):
    "One interconnection, no other recurrence: the receiving unit alone changes, at the second step"
    for d, (n, m) in enumerate(itertools.permutations(range(S), 2)):
        assert directions(S)[d] == (n, m)
        weights = {'W_hh': torch.zeros(1, S, 4, 4), 'W_sparse': torch.zeros(1, S * (S - 1), 4, 4)}
        weights['W_sparse'][0, d, 2, 1] = .5
        drive = torch.zeros(1, S, 4, 1)
        drive[0, m, 1] = 1.
        first, second = hidden_states(weights, drive, 2)
        assert torch.equal(first, drive.tanh())
        expected = first.clone()
        expected[0, n, 2] = math.tanh(.5 * math.tanh(1))
        torch.testing.assert_close(second, expected)


# the decision

@settings(deadline=None)
@given(st.integers(2, 3), st.integers(2, 4), st.integers(1, 6), st.integers(0, 999))
def test_largest_readout_decides(S, n_classes, n_pairs, seed):
    "Read-outs are small whole numbers, so ties are frequent"
    r = torch.randint(-2, 3, (2, S, n_classes, n_pairs), generator=generators([seed], 'r')[0]).float()
    for rule, size in (('max', float), ('absolute', abs)):
        output, winner = decide(r, rule)
        for k, pair in itertools.product(range(2), range(n_pairs)):
            best = [max(map(size, r[k, n, :, pair].tolist())) for n in range(S)]
            assert winner[k, pair] == best.index(max(best))  # the first of the best
            assert torch.equal(output[k, :, pair], r[k, winner[k, pair], :, pair])


def test_largest_is_not_largest_absolute():
    r = torch.tensor([[-9., 0.], [1., .5]])[None, ..., None]
    assert decide(r)[1].item() == 1 and decide(r, 'absolute')[1].item() == 0


def test_a_readout_that_is_nan_is_not_hidden():
    r = torch.tensor([[5., 6.], [0., torch.nan]])[None, ..., None]
    for rule in DECISIONS: assert decide(r, rule)[0].isnan().any()


# counts

@given(st.integers(1, 60), st.floats(0, 1))
def test_connection_count_is_the_nearest_whole_number(N, position):
    p = 1 / N**2 + position * (1 - 1 / N**2)
    k = connection_count(min(p, 1.), N)
    assert 1 <= k <= N**2 and abs(k - p * N**2) <= .5 + 1e-6


@given(st.integers(1, 200), st.data())
def test_every_count_can_be_asked_for(N, choice):
    k = choice.draw(st.integers(1, N**2))
    assert connection_count(k / N**2, N) == k


@pytest.mark.parametrize('sparsity', [0, 0., -.1, .99e-4, 1.0001, 2, math.nan, math.inf, -math.inf, '0.1', True, None])
def test_bad_sparsity(sparsity):
    with pytest.raises(ValueError, match=r'sparsity must be a number in \[1/N\^2, 1\] = \[0.0001, 1\], got ') as error:
        connection_count(sparsity)
    assert str(error.value).endswith(f'got {sparsity!r}')


@settings(deadline=None)
@given(st.integers(1, 7), st.integers(1, 6), st.integers(0, 999), st.data())
def test_random_connections_are_exactly_k(N, n_directions, seed, choice):
    k = choice.draw(st.integers(1, N**2))
    W = random_connections(N, k, n_directions, generator=generators([seed], 'c')[0])
    assert W.shape == (n_directions, N, N) and W.abs().max() <= .1
    assert (W != 0).sum((1, 2)).tolist() == [k] * n_directions


@settings(deadline=None)
@given(st.integers(1, 7), st.integers(0, 999), st.data())
def test_normal_connections_are_exactly_k(N, seed, choice):
    "At the places of uniform ones, since places are drawn first"
    k = choice.draw(st.integers(1, N**2))
    uniform, normal = (random_connections(N, k, generator=generators([seed], 'c')[0], start=start) for start in STARTS)
    assert (normal != 0).sum((1, 2)).tolist() == [k, k] and torch.equal(uniform != 0, normal != 0)


def test_normal_connections_are_normal():
    "N(0, 1) / 10, signs included: Kolmogorov's distance to the normal distribution below its 99.9 % quantile"
    stack = init_stack(Recurrent(n_pixels=4), range(8), .02, connection_start='normal')
    values = np.sort(stack.weights['W_sparse'][stack.weights['W_sparse'] != 0].numpy()) * 10
    expected = [(1 + math.erf(v / 2**.5)) / 2 for v in values]
    assert np.abs(expected - (np.arange(len(values)) + .5) / len(values)).max() < 1.95 / len(values) ** .5


@pytest.mark.parametrize('k', [0, -1, 17])
def test_random_connections_refuse(k):
    with pytest.raises(ValueError, match=rf'k must be in 1..N\^2 = 1..16, got {k}'):
        random_connections(4, k, generator=generators([0], 'c')[0])


def test_places_of_connections_are_uniform():
    "10,000 places over 25 positions in 2 directions; 85.4: 99.9 % quantile of chi-square with 49 degrees of freedom"
    drawn = [random_connections(5, 2, generator=g) for g in generators(range(2500), 'c')]
    counts = (torch.stack(drawn) != 0).sum(0).flatten()
    assert counts.sum() == 10_000 and ((counts - 200) ** 2 / 200).sum() < 85.4
    assert sum(torch.equal(*(W != 0)) for W in drawn) < 25  # directions are independent: 1 of 300 by chance


# initial weights

def is_uniform(values, bound=.1):
    "Whether many numbers look like U(-bound, bound): Kolmogorov's distance below its 99.9 % quantile"
    values = np.sort(values.flatten().double().numpy())
    distance = np.abs((values + bound) / (2 * bound) - (np.arange(len(values)) + .5) / len(values)).max()
    return (np.abs(values) <= bound).all() and distance < 1.95 / len(values) ** .5


def test_initial_weights_are_uniform():
    for B in (0, 5):
        stack = init_stack(Recurrent(n_pixels=64, n_bottleneck=B), range(8), .02)
        for name, w in stack.weights.items(): assert is_uniform(w[w != 0] if name == 'W_sparse' else w), name


def test_initial_stack():
    architecture = Recurrent(n_pixels=9, n_hidden=6, n_subnetworks=3, n_bottleneck=2)
    fractions = [1 / 36, .5, 1.]
    stack = init_stack(architecture, [5, 7, 5], fractions)
    assert stack.n_connections == (1, 18, 36) and sparsities(stack) == fractions and stack.seeds == (5, 7, 5)
    assert (stack.weights['W_sparse'] != 0).sum((2, 3)).tolist() == [[1] * 6, [18] * 6, [36] * 6]
    for name, w in stack.weights.items():
        assert not w.requires_grad and not torch.equal(w[0, 0], w[0, 1]) and not torch.equal(w[0], w[1])
        if name != 'W_sparse': assert torch.equal(w[0], w[2])  # the same seed: the same dense weights at every sparsity
        alone = [init_stack(architecture, [s], p).weights[name][0] for s, p in zip(stack.seeds, fractions)]
        assert torch.equal(w, torch.stack(alone))  # bit for bit


def test_places_of_connections_do_not_depend_on_the_weights():
    "Streams of their own: the mean of the first dense weights at the places of connections is near 0"
    weights = init_stack(Recurrent(n_pixels=10, n_hidden=10), range(100), .1).weights
    there = weights['W_sparse'][:, 0] != 0
    for name in ('W_ih', 'W_hh'): assert abs(weights[name][:, 0][there].mean()) < .01


def test_initial_weights_ignore_the_global_generator():
    before = torch.get_rng_state()
    first = init_stack(Recurrent(n_pixels=4, n_hidden=4), [0], 1.).weights
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(7)
    second = init_stack(Recurrent(n_pixels=4, n_hidden=4), [0], 1.).weights
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(('seeds', 'sparsity'), [([], .5), ([], []), ([0, 1], [.5]), ([0], [.5, .5])])
def test_seeds_and_sparsities_must_match(seeds, sparsity):
    with pytest.raises(ValueError, match='at least one seed and one sparsity per seed'):
        init_stack(Recurrent(n_pixels=4, n_hidden=4), seeds, sparsity)


def test_one_bad_sparsity_among_many():
    with pytest.raises(ValueError, match='sparsity must be .* got nan'):
        init_stack(Recurrent(n_pixels=4, n_hidden=4), [0, 1], [.5, math.nan])


# stacks and sizes

def test_networks_of_an_ensemble():
    stack = init_stack(Recurrent(n_pixels=4, n_hidden=4), [8, 9], [.5, 1.])
    assert [(len(e), e.seeds, e.n_connections) for e in stack] == [(1, (8,), (8,)), (1, (9,), (16,))]
    last = stack[-1]
    for name, w in stack.weights.items(): assert torch.equal(last.weights[name], w[1:])
    for k in (2, -3):
        with pytest.raises(IndexError): stack[k]


LEAST = dict(n_pixels=1, n_hidden=1, n_subnetworks=1, n_classes=2, n_bottleneck=0, n_steps=1)


@pytest.mark.parametrize('name', LEAST)
def test_bad_architecture(name):
    Recurrent(**LEAST)
    for value in (LEAST[name] - 1, -5, 5., 2.5, True, '5', None, math.nan, math.inf, [5]):
        with pytest.raises(ValueError, match=f'{name} must be a whole number in ') as error:
            Recurrent(**LEAST | {name: value})
        assert str(error.value).endswith(f'got {value!r}')


@pytest.mark.parametrize('value', ['Inside', 'largest', '', None, True, 3, ['inside']])
def test_bad_choices(value):
    "Where they are used, as well as where they are stored"
    g, = generators([0], 'c')
    weights, r = {'W_hh': torch.zeros(1, 2, 3, 3), 'W_sparse': torch.zeros(1, 2, 3, 3)}, torch.zeros(1, 2, 3, 1)
    for name, legal, use in [
            ('message', MESSAGES, lambda: Recurrent(**LEAST, message=value)),
            ('message', MESSAGES, lambda: next(hidden_states(weights, torch.zeros(1, 2, 3, 1), 2, value))),
            ('decision', DECISIONS, lambda: Recurrent(**LEAST, decision=value)),
            ('rule', DECISIONS, lambda: decide(r, value)),
            ('start', STARTS, lambda: random_connections(3, 1, generator=g, start=value))]:
        with pytest.raises(ValueError) as error: use()
        assert str(error.value) == f'{name} must be one of {[*legal]}, got {value!r}'


def test_names():
    assert [Recurrent(4, n_bottleneck=B).name for B in (0, 5)] == ['standard', 'bottleneck']
