"""Deep-R's guarantees for any shape, count and gradient: exact number, constant signs, nothing dormant learns"""
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modspec.causes.deep_r import (
    ConnectionAdam,
    DeepR,
    births,
    births_by_ticket,
    connection_rate,
    drawn_ahead,
    split_signs,
)
from modspec.core.streams import generators
from modspec.networks.recurrent import random_connections

GRADIENTS = { # of a position, given signs and independent normal numbers
    'zero': lambda sign, noise: torch.zeros_like(noise),
    'random': lambda sign, noise: noise,
    'tiny': lambda sign, noise: noise * 1e-30,
    'huge': lambda sign, noise: noise * 1e15,
    'mixed': lambda sign, noise: noise * 10 ** (3 * noise),
    'deadly': lambda sign, noise: sign * noise.abs(),
    'friendly': lambda sign, noise: -sign * noise.abs()}


def connections(counts, N, n_directions=2, seed=0):
    "Stacked interconnections, one count per network"
    seeds = range(seed, seed + len(counts))
    return torch.stack([random_connections(N, k, n_directions, generator=g)
                        for k, g in zip(counts, generators(seeds, 'connections'))])


def normal(seeds, shape):
    "Endless normal numbers, one independent stream per network"
    streams = generators(seeds, 'gradients')
    while True: yield torch.stack([torch.randn(shape, generator=g) for g in streams])


@st.composite
def stacks(draw):
    "Any stack of networks with different counts, under any kind of gradient"
    N = draw(st.integers(1, 6))
    counts = draw(st.lists(st.integers(1, N**2), min_size=1, max_size=4))
    W = connections(counts, N, draw(st.integers(1, 3)), draw(st.integers(0, 999)))
    options = dict(walk=draw(st.sampled_from([0., .1, 5.])), l1=draw(st.sampled_from([0., .5])),
                   rewire=draw(st.booleans()))
    rates = draw(st.lists(st.sampled_from([1e-3, .1, 10.]), min_size=len(counts), max_size=len(counts)))
    kinds = draw(st.lists(st.sampled_from(list(GRADIENTS)), min_size=1, max_size=12))
    return W, counts, DeepR(W, rates, seeds=range(len(counts)), **options), [GRADIENTS[kind] for kind in kinds], options


# the guarantees

@settings(deadline=None, max_examples=200)
@given(stacks())
def test_guarantees(stack):
    W, counts, deep_r, kinds, options = stack
    start, seen = W != 0, W.sign()
    noise = normal(range(len(counts)), W.shape[1:])
    for gradient in kinds:
        W.grad = gradient(deep_r.sign, next(noise))
        deep_r.step()
        assert W.grad is None and W.isfinite().all()
        assert (W != 0).sum((2, 3)).tolist() == [[k] * W.shape[1] for k in counts]  # exact, in every direction
        assert not (seen * W.sign() < 0).any()  # a place never shows two signs
        seen = torch.where(W == 0, seen, W.sign())
        if not options['rewire']: assert torch.equal(W != 0, start)


@settings(deadline=None)
@given(stacks(), st.integers(0, 99))
def test_dormant_gradients_do_not_leak(stack, seed):
    "What a dormant connection's gradient is changes nothing, bit for bit"
    W, counts, deep_r, kinds, options = stack
    twin = W.clone()
    rates = deep_r.lr.flatten().tolist()
    deep_r_of_twin = DeepR(twin, rates, seeds=range(len(counts)), **options)
    noise, other = normal(range(len(counts)), W.shape[1:]), normal(range(seed, seed + len(counts)), W.shape[1:])
    for gradient in kinds:
        W.grad = gradient(deep_r.sign, next(noise))
        twin.grad = torch.where(twin == 0, 1e6 * next(other), W.grad)
        deep_r.step()
        deep_r_of_twin.step()
        assert torch.equal(W, twin)


@settings(deadline=None)
@given(stacks(), st.data())
def test_alone_as_in_the_stack(stack, choice):
    "Bit for bit, whatever the others do"
    W, counts, deep_r, kinds, options = stack
    k = choice.draw(st.integers(0, len(counts) - 1))
    alone = W[k:k + 1].clone()
    deep_r_alone = DeepR(alone, deep_r.lr.flatten().tolist()[k:k + 1], seeds=[k], **options)
    noise = normal(range(len(counts)), W.shape[1:])
    for gradient in kinds * 4:
        W.grad = gradient(deep_r.sign, next(noise))
        alone.grad = W.grad[k:k + 1].clone()
        deep_r.step()
        deep_r_alone.step()
        assert torch.equal(alone, W[k:k + 1])


def test_alone_as_in_the_stack_for_long():
    "300 steps, bit for bit: the others' deaths must leave no trace"
    counts, rates = [5, 18, 36], [.02, .05, .1]
    def run(members):
        W = connections(counts, 6)[members]
        deep_r = DeepR(W, [rates[k] for k in members], seeds=members)
        for gradient in itertools.islice(normal(members, W.shape[1:]), 300):
            W.grad = gradient
            deep_r.step()
        return W
    stacked = run([0, 1, 2])
    for k in range(3): assert torch.equal(run([k])[0], stacked[k])


def test_all_connections_present():
    "At p = 1 every place stays active, with its sign and without a random walk"
    W = connections([16, 16], 4)
    signs, start = W.sign(), W.clone()
    deep_r = DeepR(W, [.1, .1], seeds=[0, 1], walk=100.)
    W.grad = torch.zeros_like(W)
    deep_r.step()
    assert torch.equal(W, start)
    for gradient in itertools.islice(normal([0, 1], W.shape[1:]), 20):
        W.grad = signs * gradient.abs()  # all of them die and are born again in their places
        deep_r.step()
        assert torch.equal(W.sign(), signs)


def test_a_single_connection_moves():
    "Pushed below zero at every step it is elsewhere each time, and visits every place"
    W = connections([1], 3)
    deep_r = DeepR(W, [1.], seeds=[0])
    places = []
    for _ in range(200):
        places.append((W != 0).flatten(2).int().argmax(2).flatten().tolist())
        W.grad = deep_r.sign.clone()
        deep_r.step()
    for direction in zip(*places):
        assert all(a != b for a, b in itertools.pairwise(direction)) and set(direction) == set(range(9))


def test_a_strength_of_exactly_zero_is_dead():
    W = torch.zeros(1, 1, 3, 3)
    W[0, 0, 1, 2] = .5
    deep_r = DeepR(W, [.5], seeds=[0], walk=0., l1=1.)
    W.grad = torch.zeros_like(W)
    deep_r.step()
    assert W[0, 0, 1, 2] == 0 and (W != 0).sum() == 1


# births

def born_by_loop(before, signs, place, died, generator):
    "The new places, from the loops of the CPU"
    place, sign = place.clone(), signs.gather(1, place)
    luck = torch.rand(int(died.sum()), generator=generator, dtype=torch.float64)
    births(*(a.numpy() for a in (before, signs, place, sign, died, luck)))
    assert torch.equal(sign, signs.gather(1, place))
    return place


def born_by_ticket(before, signs, place, died, generator):
    "The new places, from the tickets of a GPU"
    return births_by_ticket(before, place, died, torch.rand(before.shape, generator=generator))


@pytest.mark.parametrize('born', [born_by_loop, born_by_ticket])
@settings(deadline=None)
@given(n_rows=st.integers(1, 4), N=st.integers(1, 5), seed=st.integers(0, 999), mortality=st.floats(0, 1),
       data=st.data())
def test_births(born, n_rows, N, seed, mortality, data):
    g, = generators([seed], 'births')
    k = data.draw(st.integers(1, N**2))
    place = torch.rand(n_rows, N**2, generator=g).argsort(1)[:, :k]
    before = torch.zeros(n_rows, N**2).scatter_(1, place, torch.randn(n_rows, k, generator=g) + 9)
    signs = torch.randint(2, before.shape, generator=g) * 2. - 1
    died = torch.rand(place.shape, generator=g) < mortality
    after = born(before, signs, place, died, g)
    assert torch.equal(after[~died], place[~died])  # the living stay
    for row in range(n_rows):
        assert len(after[row].unique()) == k  # no place is taken twice
        new, dead = after[row][died[row]], place[row][died[row]]
        in_place = torch.isin(new, dead)
        assert (before[row][new[~in_place]] == 0).all()
        assert in_place.sum() == max(0, len(dead) - (N**2 - k))  # reborn there only if no other place is left


@pytest.mark.parametrize('born', [born_by_loop, born_by_ticket])
def test_births_take_any_place(born):
    "Two of four die, 12 dormant places: pairs of places, all as often; 94.5 is chi-square's 99 % quantile for 65"
    n = 20_000
    place = torch.arange(4).expand(n, -1)
    before = torch.zeros(n, 16).scatter_(1, place, 1.)
    died = torch.tensor([True, False, True, False]).expand(n, -1)
    after = born(before, torch.ones(n, 16), place, died, generators([5], 'births')[0])[:, [0, 2]].sort(1).values - 4
    counts = torch.zeros(12, 12).index_put_(tuple(after.T), torch.ones(n), accumulate=True)
    pairs = counts[torch.ones(12, 12).triu(1) > 0]
    assert len(pairs) == 66 and pairs.sum() == n and ((pairs - n / 66) ** 2 / (n / 66)).sum() < 94.5


def test_births_are_uniform():
    "1,000 networks of 4 units, one connection that dies: 15 other places; 36.1 is chi-square's 99.9 % quantile for 14"
    active = torch.zeros(1000, 2, 4, 4)
    active[:, :, 1, 2] = 1.
    W = .01 * active
    deep_r = DeepR(W, [1.] * 1000, seeds=range(1000))
    W.grad = deep_r.sign.clone()
    deep_r.step()
    for d in range(2):
        counts = (W[:, d] != 0).sum(0)
        others = counts[active[0, 0] == 0].float()
        assert counts.sum() == 1000 and counts[1, 2] == 0
        assert ((others - 1000 / 15) ** 2 / (1000 / 15)).sum() < 36.1
    assert not torch.equal(W[:, 0] != 0, W[:, 1] != 0)  # directions are independent


def test_a_new_connection_is_weak_and_starts_afresh():
    "Its first step is the learning rate, whatever lived in its place and whatever its gradient"
    W = connections([6, 9, 12], 4)
    rates = torch.tensor([.01, .05, .2]).view(-1, 1, 1, 1).expand_as(W)
    deep_r = DeepR(W, [.01, .05, .2], seeds=range(3), walk=0.)
    n_checked, everywhere = 0, torch.zeros_like(W, dtype=torch.bool)
    noise = normal(range(3), W.shape[1:])
    for _ in range(300):
        before = W.clone()
        W.grad = deep_r.sign * (next(noise) + .5)  # kills now and then
        deep_r.step()
        born = (before == 0) & (W != 0)
        assert (W[born].abs() == torch.tensor(DeepR.birth)).all()
        if not born.any(): continue
        W.grad = torch.where(born, -deep_r.sign * 10 ** next(noise), 0.)  # of any size, in favor of what is new
        deep_r.step()
        torch.testing.assert_close(W[born].abs(), rates[born], rtol=1e-4, atol=0)
        n_checked, everywhere = n_checked + born.sum(), everywhere | born
    assert n_checked > 500 and everywhere.all()


# Adam

def compare_with_torch(adam, start, gradients, lr):
    "Whether `adam` steps as torch.optim.Adam does on parameters that begin at `start`"
    ours, theirs = start.clone(), start.clone().requires_grad_()
    reference = torch.optim.Adam([theirs], lr=lr)
    for gradient in gradients:
        ours += adam.step(gradient)
        theirs.grad = gradient.clone()
        reference.step()
        torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize('scale', [1e-4, 1., 1e6])
def test_connection_adam_is_adam(scale):
    start = torch.linspace(-1, 1, 50)
    gradients = [scale * g[0] for g in itertools.islice(normal([0], start.shape), 100)]
    adam = ConnectionAdam(start, .05)
    compare_with_torch(adam, start, gradients, .05)
    adam.forget(torch.zeros_like(start))
    compare_with_torch(adam, start, gradients[::-1], .05)  # as if new


def test_forgetting_one_leaves_the_others():
    keep = torch.tensor([1., 0., 1., 1.])
    gradients = [g[0] for g in itertools.islice(normal([0], (4,)), 60)]
    one, other, fresh = (ConnectionAdam(keep, .1) for _ in range(3))
    for gradient in gradients[:30]:
        one.step(gradient)
        other.step(gradient)
    one.forget(keep)
    for gradient in gradients[30:]:
        expected = torch.where(keep > 0, other.step(gradient), fresh.step(gradient))
        torch.testing.assert_close(one.step(gradient), expected, rtol=1e-5, atol=1e-7)


# walk, pull, rates

def test_drawn_ahead():
    "A network's numbers depend on its generator and its own shape alone, and never repeat"
    def first(widths, seeds, n_steps=40):
        steps = drawn_ahead(torch.randn, [(2, k) for k in widths], generators=generators(seeds, 'walk'))
        return torch.stack(list(itertools.islice(steps, n_steps)))
    stacked = first([3, 7, 1], [4, 5, 6])
    assert stacked.shape == (40, 3, 2, 7)
    for network, width in enumerate((3, 7, 1)):
        own = stacked[:, network, :, :width]
        assert torch.equal(own, first([width], [4 + network])[:, 0]) and len(own.unique()) == own.numel()
        assert not stacked[:, network, :, width:].any()


def test_without_walk_and_gradient_nothing_moves():
    W = connections([3, 8], 4)
    start = W.clone()
    deep_r = DeepR(W, [.1, .1], seeds=[0, 1], walk=0.)
    for _ in range(3):
        W.grad = torch.zeros_like(W)
        deep_r.step()
    assert torch.equal(W, start)


@pytest.mark.parametrize('k', [100, 2000, 3600])
def test_size_of_the_walk(k):
    "Normal with deviation walk * (1 - p) * lr, of active connections only; it follows the rate's decay"
    N = 60
    W = .05 * (torch.arange(N**2) < k).float().expand(1, 2, -1).unflatten(2, (N, N))
    deep_r = DeepR(W, [.01], seeds=[0], walk=.1)
    expected = .1 * (1 - k / N**2) * .01
    for factor in (1., .5):
        before = W.clone()
        W.grad = torch.zeros_like(W)
        deep_r.step()
        change = (W - before)[before != 0]
        assert abs(change.std() - factor * expected) < .15 * expected + 1e-9
        assert abs(change.mean()) < .3 * expected + 1e-9
        assert not (W - before)[before == 0].any()
        deep_r.decay(.5)


def test_l1_pulls_every_strength():
    W = connections([5, 16], 4)
    start = W.clone()
    deep_r = DeepR(W, [1e-4, 1e-5], seeds=[0, 1], walk=0., l1=.1)
    W.grad = torch.zeros_like(W)
    deep_r.step()
    pull = torch.tensor([1e-5, 1e-6]).view(2, 1, 1, 1)
    far = start.abs() > 1e-3
    torch.testing.assert_close((start.abs() - W.abs())[far], pull.expand_as(W)[far], rtol=.02, atol=0)


def test_beta_is_adams():
    "One connection that stays: the steps of torch.optim.Adam with that beta"
    W = torch.tensor([[[[.5]]]])
    theirs = W.abs().clone().requires_grad_()
    deep_r = DeepR(W, [1e-3], seeds=[0], walk=0., beta=.6)
    reference = torch.optim.Adam([theirs], lr=1e-3, betas=(.6, .999))
    for gradient in itertools.islice(normal([0], (1, 1, 1)), 30):
        W.grad, theirs.grad = gradient * deep_r.sign, gradient.clone()
        deep_r.step()
        reference.step()
        torch.testing.assert_close(W.abs(), theirs.detach(), rtol=0, atol=1e-6)


def test_free_signs():
    "Some connections change theirs; none moves or dies, and all take the steps of torch.optim.Adam"
    W = connections([2, 9, 25], 5)
    start, there = W.clone(), W != 0
    theirs = start[there].requires_grad_()
    deep_r, reference = DeepR(W, [.03] * 3, seeds=range(3), walk=0., signs='free'), torch.optim.Adam([theirs], lr=.03)
    for gradient in itertools.islice(normal(range(3), W.shape[1:]), 40):
        W.grad, theirs.grad = gradient.clone(), gradient[there]
        deep_r.step()
        reference.step()
        torch.testing.assert_close(W[there], theirs.detach(), rtol=0, atol=1e-5)
        assert torch.equal(W != 0, there)
    for network in range(3): assert (W[network] * start[network] < 0).any()


@pytest.mark.parametrize('signs', ['constant', 'free'])
def test_l1_pulls_towards_0(signs):
    "from either side"
    W = connections([25], 5)
    deep_r = DeepR(W, [.1], seeds=[0], walk=0., signs=signs)
    W.grad = deep_r.sign.clone()
    if signs == 'free': deep_r.step()  # all of them below 0, where none began
    deep_r.l1, before = 1e-3, W.clone()
    deep_r.adam.forget(torch.zeros_like(deep_r.phi))
    W.grad = torch.zeros_like(W)
    deep_r.step()
    far = before.abs() > 1e-3
    torch.testing.assert_close((before.abs() - W.abs())[far], torch.full([int(far.sum())], 1e-4), rtol=.02, atol=0)


def test_decay_lowers_the_rate_of_adam():
    W = connections([2], 3, n_directions=1)
    deep_r = DeepR(W, [.01], seeds=[0], walk=0.)
    for rate in (.01, .001):
        before = W.clone()
        W.grad = -deep_r.sign
        deep_r.step()
        torch.testing.assert_close((W - before).abs()[W != 0], torch.full([2], rate), rtol=1e-3, atol=0)
        deep_r.decay(.1)


def test_without_rewiring_the_dead_stay_in_place():
    W = connections([4], 3)
    places, signs = W != 0, W.sign()
    deep_r = DeepR(W, [1.], seeds=[0], rewire=False)
    W.grad = deep_r.sign.clone()
    deep_r.step()
    torch.testing.assert_close(W, signs * torch.where(places, DeepR.birth, 0.), rtol=0, atol=0)


def test_split_signs():
    W = connections([1, 300, 900], 30)
    phi, sign = split_signs(W, generators=generators(range(3), 'signs'))
    assert torch.equal(sign * phi, W) and torch.equal(phi, W.abs()) and set(sign.unique().tolist()) == {-1., 1.}
    assert abs(sign[0].mean()) < .1  # dormant signs are even
    assert not torch.equal(sign[0, 0], sign[0, 1])


@given(st.integers(2, 200), st.floats(0, 1))
def test_connection_rate_is_geometric_in_log_p(N, place):
    "The same factor per decade of p, from the sparsest to the densest"
    p = N ** (2 * (place - 1))
    assert connection_rate(p, N) == pytest.approx(.1 * .1 ** place, rel=1e-6)
    assert connection_rate(p, N, bounds=(.02, .08)) == pytest.approx(.02 * 4 ** place, rel=1e-6)
