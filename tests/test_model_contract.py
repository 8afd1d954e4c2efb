"""One contract for every model: what training and measures rely on, whatever a network is made of"""
import pytest
import torch

from modspec.networks.feedforward import FeedForward, init_feedforward
from modspec.networks.recurrent import Recurrent, init_stack
from modspec.networks.stack import last_state

SEEDS = 3, 1, 4


def recurrent(S, B=0, message='inside'):
    "Sub-networks of the paper, and the number of their hidden layers"
    model = Recurrent(12, n_hidden=6, n_subnetworks=S, n_bottleneck=B, n_steps=4, message=message)
    return init_stack(model, SEEDS, [1 / 36, .5, 1.]), model.n_steps


def layered(*layers):
    "Networks of layers, and the number of these"
    return init_feedforward(FeedForward(12, layers), SEEDS), len(layers)


MODELS = {  # name: (what makes a stack of three networks, its arguments)
    'one': (recurrent, (1,)), 'two': (recurrent, (2,)), 'three': (recurrent, (3,)),
    'layers': (layered, (7, 5)), 'bottleneck': (recurrent, (2, 3)), 'message before': (recurrent, (2, 0, 'before')),
}


@pytest.fixture(params=MODELS)
def made(request):
    "A stack, and how many hidden layers or time steps its networks have"
    make, arguments = MODELS[request.param]
    return make(*arguments)


def inputs(stack, n_networks=None, n_examples=5):
    model = stack.architecture
    shape = n_networks or len(stack), model.n_subnetworks, n_examples, model.n_pixels
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def states_of(stack, x, gates=None):
    return list(stack.architecture.states(stack.weights, stack.architecture.drive(stack.weights, x), gates))


def test_every_layer_is_handed_out(made):
    stack, n_layers = made
    states = states_of(stack, inputs(stack))
    assert len(states) == n_layers
    for h in states: assert h.shape[:2] == (3, stack.architecture.n_subnetworks) and h.shape[3] == 5
    assert torch.equal(last_state(stack.architecture, stack.weights, inputs(stack)), states[-1])
    r = stack.architecture.readouts(stack.weights, states[-1])
    assert r.shape == (3, stack.architecture.n_subnetworks, stack.architecture.n_classes, 5)


def test_one_batch_for_all_networks(made):
    stack, _ = made
    x = inputs(stack, n_networks=1)
    for ours, theirs in zip(states_of(stack, x), states_of(stack, x.expand(3, -1, -1, -1))):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_gates_of_ones_change_nothing(made):
    "Bit for bit"
    stack, _ = made
    states = states_of(stack, inputs(stack))
    assert all(map(torch.equal, states_of(stack, inputs(stack), [torch.ones_like(h) for h in states]), states))


def test_gates_of_zeros_silence(made):
    "In one layer alone: it is silent, and those before it do not notice"
    stack, n_layers = made
    states = states_of(stack, inputs(stack))
    for silent in range(n_layers):
        gates = [torch.zeros_like(h) if i == silent else torch.ones_like(h) for i, h in enumerate(states)]
        gated = states_of(stack, inputs(stack), gates)
        assert not gated[silent].any() and all(map(torch.equal, gated[:silent], states[:silent]))


def test_alone_as_in_the_stack(made):
    "Within 1e-6: batched products may add in another order"
    stack, _ = made
    x, states = inputs(stack), states_of(stack, inputs(stack))
    for k in range(3):
        for alone, stacked in zip(states_of(stack[k], x[k:k + 1]), states):
            torch.testing.assert_close(alone, stacked[k:k + 1], rtol=0, atol=1e-6)


def test_start_does_not_depend_on_the_stack(made):
    "The first weights of member k are those of its seed"
    stack, _ = made
    assert stack.seeds == SEEDS and len({len(w) for w in stack.weights.values()}) == 1
    for w in stack.weights.values(): assert w.dtype == torch.float32 and w.isfinite().all()


def test_gradients_reach_every_weight(made):
    stack, _ = made
    weights = {name: w.clone().requires_grad_() for name, w in stack.weights.items() if w.numel()}
    all_weights = stack.weights | weights
    h = last_state(stack.architecture, all_weights, inputs(stack))
    stack.architecture.readouts(all_weights, h).square().sum().backward()
    for name, w in weights.items():
        assert w.grad.isfinite().all() and w.grad.flatten(1).any(1).all(), name


def test_gradients_flow_through_gates(made):
    "A gate is part of the computation"
    stack, _ = made
    gates = [torch.ones_like(h).requires_grad_() for h in states_of(stack, inputs(stack))]
    stack.architecture.readouts(stack.weights, states_of(stack, inputs(stack), gates)[-1]).square().sum().backward()
    assert all(gate.grad.any() for gate in gates)


def test_graph(made):
    "Edges between units, and the sub-network of each, in the order of the states"
    stack, _ = made
    edges, groups = stack.architecture.adjacency(stack.weights), stack.architecture.groups()
    assert edges.dtype == torch.bool and edges.shape[0] == 3 and edges.shape[1] == edges.shape[2]
    if groups is not None:
        assert groups.shape == edges.shape[1:2]
        assert groups.unique().tolist() == list(range(stack.architecture.n_subnetworks))


@pytest.mark.parametrize('S', [1, 2, 3])
def test_edges_of_recurrent_sub_networks(S):
    "Dense within, and between two sub-networks as many as there are interconnections"
    stack, _ = recurrent(S)
    edges, groups = stack.architecture.adjacency(stack.weights), stack.architecture.groups()
    inside = groups[:, None] == groups
    assert edges[:, inside].all() and (edges & ~inside).sum((1, 2)).tolist() == [k * S * (S - 1) for k in (1, 18, 36)]


def test_an_edge_leads_from_sender_to_receiver():
    stack, _ = recurrent(2)
    weights = stack.weights | {'W_sparse': torch.zeros_like(stack.weights['W_sparse'])}
    weights['W_sparse'][:, 0, 2, 4] = 1.  # onto unit 2 of sub-network 0, from unit 4 of sub-network 1
    edges = stack.architecture.adjacency(weights)
    assert edges[:, 6 + 4, 2].all() and not edges[:, 2, 6 + 4].any()
