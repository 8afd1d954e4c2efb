"""Feed-forward networks against torch.nn, their gates and their graph, alone and stacked, and what is refused"""
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from modspec.core.data import embedded_digits
from modspec.engine.config import load_config
from modspec.engine.plan import RunConfig
from modspec.engine.run import run
from modspec.engine.weights import load_networks
from modspec.measures.performance import evaluate
from modspec.networks.choices import ACTIVATIONS, layer_widths
from modspec.networks.feedforward import NONLINEARITIES, FeedForward, init_feedforward, layer_shapes
from modspec.networks.stack import last_state
from modspec.studies.upstream_downstream.config import UPSTREAM_DOWNSTREAM
from modspec.training.loop import train
from modspec.training.parameters import LayeredTraining

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / 'config' / 'upstream_downstream').glob('*.yaml'))
MODULES = dict(relu=torch.nn.ReLU, tanh=torch.nn.Tanh, linear=torch.nn.Identity)

models = st.builds(FeedForward, n_pixels=st.integers(1, 6), layers=st.lists(st.integers(1, 5), min_size=1, max_size=4),
                   n_classes=st.integers(3, 5), activation=st.sampled_from(ACTIVATIONS))


def sequential(network):
    "A stack of one, of PyTorch's own layers"
    names, parts = [name[2:] for name in network.weights if name.startswith('W_')], []
    for name in names:
        W, b = (network.weights[f'{part}_{name}'][0, 0] for part in 'Wb')
        parts.append(torch.nn.Linear(*W.shape[::-1]))
        parts[-1].load_state_dict(dict(weight=W, bias=b))
        if name != 'out': parts.append(MODULES[network.architecture.activation]())
    return torch.nn.Sequential(*parts)


def forward(stack, x, gates=None):
    return stack.architecture.readouts(stack.weights, last_state(stack.architecture, stack.weights, x, gates))


def inputs(model, n=3, networks=1):
    return torch.rand(networks, 1, n, model.n_pixels, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope='module')
def dataset(): return embedded_digits()


# forward and backward

@settings(deadline=None)
@given(models)
def test_as_in_pytorch(model):
    "every hidden layer, the read-outs, and the gradients of all weights"
    stack = init_feedforward(model, [0, 7])
    weights = {name: w.clone().requires_grad_() for name, w in stack.weights.items()}
    x = inputs(model, networks=2)
    states = [*model.states(weights, model.drive(weights, x))]
    assert [h.shape for h in states] == [(2, 1, width, 3) for width in model.layers]
    z = model.readouts(weights, states[-1])
    target = torch.tensor([0, 1, 1])
    F.cross_entropy(z[:, 0], target.expand(2, -1), reduction='none').mean(1).sum().backward()
    for k in range(2):
        plain = sequential(stack[k])
        h, found = x[k, 0], []
        for part in plain:
            h = part(h)
            if type(part) is MODULES[model.activation]: found.append(h)
        torch.testing.assert_close(z[k, 0].T, h, rtol=1e-4, atol=1e-6)
        for ours, theirs in zip(states, found, strict=True):
            torch.testing.assert_close(ours[k, 0].T, theirs, rtol=1e-4, atol=1e-6)
        F.cross_entropy(h, target).backward()
        theirs = [p.grad for p in plain.parameters()]
        for w, grad in zip(weights.values(), theirs, strict=True):
            torch.testing.assert_close(w.grad[k, 0], grad, rtol=1e-4, atol=1e-6)


def test_linear_network_is_one_matrix():
    stack = init_feedforward(FeedForward(5, (4, 3), n_classes=3, activation='linear'), [3])
    W, b = ({name[2:]: w[0, 0] for name, w in stack.weights.items() if name.startswith(part)} for part in 'Wb')
    x = inputs(stack.architecture)
    expected = W['out'] @ (W['2'] @ (W['1'] @ x[0, 0].T + b['1'][:, None]) + b['2'][:, None]) + b['out'][:, None]
    torch.testing.assert_close(forward(stack, x)[0, 0], expected)


def test_every_activation_is_there(): assert {*NONLINEARITIES} == {*ACTIVATIONS} == {*MODULES}


def test_fewer_bits():
    "computed in the precision of the inputs; read-outs in 32 bits"
    stack = init_feedforward(FeedForward(64), [0])
    x = inputs(stack.architecture)
    states = [*stack.architecture.states(stack.weights, stack.architecture.drive(stack.weights, x.bfloat16()))]
    assert {h.dtype for h in states} == {torch.bfloat16}
    z = stack.architecture.readouts(stack.weights, states[-1])
    assert z.dtype == torch.float32
    torch.testing.assert_close(z, forward(stack, x), rtol=0.05, atol=0.02)


# a stack

def test_weights_from_the_networks_own_seed():
    "within the bounds of nn.Linear, and the same in every stack, bit for bit"
    model = FeedForward(100, (400, 25))
    stack = init_feedforward(model, [4, 0, 9])
    assert {name: w.shape[1:] for name, w in stack.weights.items()} == layer_shapes(model)
    for name, w in stack.weights.items():
        bound = {'1': 100, '2': 400, 'out': 25}[name[2:]]**-0.5
        assert 0.9 * bound < w.abs().amax() <= bound
        for k, seed in enumerate(stack.seeds):
            assert torch.equal(init_feedforward(model, [seed]).weights[name][0], w[k])
    assert stack.n_connections == ()


@pytest.mark.parametrize('layers', [(64, 64), (32, 16, 8)])
def test_alone_as_in_the_stack(layers, dataset):
    "before and after training"
    stack = init_feedforward(FeedForward(64, layers), [2, 5, 1])
    brief = LayeredTraining(epochs=1, n_pairs=640)
    trained, history = train(stack, dataset, brief)
    assert len(history) == 3
    x = inputs(stack.architecture, 20)
    for k in range(3):
        torch.testing.assert_close(forward(stack[k], x), forward(stack, x)[k:k + 1], rtol=1e-5, atol=1e-6)
        alone, _ = train(stack[k], dataset, brief)
        for name, w in alone.weights.items():
            torch.testing.assert_close(w, trained.weights[name][k:k + 1], rtol=1e-4, atol=1e-5)


def test_learns_the_digits(dataset):
    trained, _ = train(init_feedforward(FeedForward(64), [0, 1]), dataset, LayeredTraining())
    accuracy, share = evaluate(trained, dataset.test, task='digit')
    assert accuracy.min() > 0.94 and share.tolist() == [[1], [1]]


# gates

def test_gates_of_one_change_nothing():
    stack = init_feedforward(FeedForward(6, (5, 4)), [0, 1])
    x = inputs(stack.architecture)
    assert torch.equal(forward(stack, x, [torch.ones(()), torch.ones(4, 1)]), forward(stack, x))


def test_gate_of_one_unit():
    "A silent unit is as good as a unit without outgoing weights; each network may have a gate of its own"
    stack = init_feedforward(FeedForward(6, (5, 4)), [0, 1])
    x, gate = inputs(stack.architecture), torch.ones(2, 1, 5, 1)
    gate[1, 0, 2] = 0
    cut = {name: w.clone() for name, w in stack.weights.items()}
    cut['W_2'][1, 0, :, 2] = 0
    torch.testing.assert_close(forward(stack, x, [gate, torch.ones(())]), forward(replace(stack, weights=cut), x))


@pytest.mark.parametrize('gates', [[], [torch.ones(())], [torch.ones(())] * 3])
def test_wrong_number_of_gates(gates):
    stack = init_feedforward(FeedForward(6, (5, 4)), [0])
    with pytest.raises(ValueError, match=f'gates must be one per layer, 2, got {len(gates)}'):
        forward(stack, inputs(stack.architecture), gates)


def test_two_classes_are_one_unit():
    "whose output is compared with 0: the softmax of the second class is the logistic function"
    stack = init_feedforward(FeedForward(5, (4, 3), n_classes=2), [3, 4])
    r = forward(stack, inputs(stack.architecture))
    assert stack.weights['W_out'].shape == (2, 1, 1, 3) and not r[:, :, 0].any()
    torch.testing.assert_close(r.softmax(2)[:, :, 1], r[:, :, 1].sigmoid())


@pytest.mark.parametrize('gain', [.5, 4.])
def test_glorot(gain):
    "weights within a bound that knows both sides, times the gain, and no biases"
    stack = init_feedforward(FeedForward(40, (60,), n_classes=3), [0, 1], start='glorot', gain=gain)
    bound = gain * (6 / 100)**.5
    assert .9 * bound < stack.weights['W_1'].abs().max() <= bound and not stack.weights['b_1'].any()
    with pytest.raises(ValueError, match="start must be one of .*got 'he'"):
        init_feedforward(FeedForward(4), [0], start='he')


# the graph

@settings(deadline=None)
@given(models)
def test_graph_leads_from_layer_to_layer(model):
    stack = init_feedforward(model, [0, 1])
    stack.weights['W_1'][1, 0, 0, 0] = 0
    graph = model.adjacency(stack.weights)
    sizes = model.n_pixels, *model.layers, model.n_classes
    assert graph.shape == (2, sum(sizes), sum(sizes)) and graph.dtype == torch.bool
    layer = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    expected = layer[None, :] == layer[:, None] + 1
    assert torch.equal(graph[0], expected)
    expected[0, model.n_pixels] = False # from the first pixel to the first unit
    assert torch.equal(graph[1], expected) and model.groups() is None


# refused

@pytest.mark.parametrize(('change', 'message'), [
    (dict(layers=()), 'layers must be the widths of hidden layers, got ()'),
    (dict(layers=64), 'layers must be the widths of hidden layers, got 64'),
    (dict(layers='64-64'), "layers must be the widths of hidden layers, got '64-64'"),
    (dict(layers=(64, 0)), 'the width of layer 2 must be a whole number in [1, 1000000], got 0'),
    (dict(layers=(6.5,)), 'the width of layer 1 must be a whole number in [1, 1000000], got 6.5'),
    (dict(n_pixels=0), 'n_pixels must be a whole number'),
    (dict(n_classes=1), 'n_classes must be a whole number in [2, 1000000], got 1'),
    (dict(activation='sigmoid'), "activation must be one of ['relu', 'tanh', 'linear'], got 'sigmoid'"),
    (dict(precision='fp64'), "precision must be one of ['fp32', 'bf16'], got 'fp64'"),
    (dict(decision='min'), "decision must be one of ['max', 'absolute'], got 'min'")])
def test_sizes_that_are_refused(change, message):
    with pytest.raises(ValueError) as caught: FeedForward(**dict(n_pixels=64) | change)
    assert message in str(caught.value)


def test_no_seeds():
    with pytest.raises(ValueError, match='at least one seed'): init_feedforward(FeedForward(64), [])


@pytest.mark.parametrize('text', ['', '-', '64-', '-64', '64--64', '64-0', '4097', '99999999', '6 4', '٣', '64,64',
                                  '1e2', '+4', '-'.join('1' * 11), None, 64, 64.5, True, ['64'], (64, 64)])
def test_layers_in_words_that_are_refused(text):
    for refuse in layer_widths, lambda text: LayeredTraining(layers=text):
        with pytest.raises(ValueError) as caught: refuse(text)
        assert str(caught.value).endswith(f'got {text!r}')


@settings(deadline=None)
@given(st.lists(st.integers(1, 4096), min_size=1, max_size=10))
def test_layers_in_words(widths): assert layer_widths('-'.join(map(str, widths))) == tuple(widths)


# the study

def test_model_is_made_again_from_its_record():
    model = FeedForward(64, (3, 2), activation='tanh')
    assert FeedForward(**asdict(model)) == model == FeedForward(**asdict(model) | dict(layers=[3, 2]))


def test_run_is_stored_and_read_like_the_rest(tmp_path, dataset):
    brief = UPSTREAM_DOWNSTREAM.settings(layers='8-4', activation='tanh', epochs=1, n_pairs=320)
    folder = run(RunConfig(UPSTREAM_DOWNSTREAM, brief, seeds=2, first_seed=3), tmp_path / 'run')
    stack = load_networks(folder / 'networks.safetensors')['feedforward']
    assert stack.architecture == FeedForward(64, (8, 4), activation='tanh') and stack.seeds == (3, 4)
    expected, _ = train(init_feedforward(stack.architecture, [3, 4]), dataset, brief)
    assert all(torch.equal(w, expected.weights[name]) for name, w in stack.weights.items())


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_configurations(path):
    "name this study, and no two runs are the same"
    sweep = load_config(path)
    assert sweep.study == UPSTREAM_DOWNSTREAM and len(sweep.runs()) >= 1


def test_there_are_configurations(): assert {path.stem for path in CONFIGS} >= {'smoke', 'quick'}
