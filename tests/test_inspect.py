"""A network of one's own: what is refused, which units it has, its values and its nulls, and the report"""
import pickle
import re
import zipfile

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18
from typer.testing import CliRunner

from modspec.cli import app
from modspec.core.data import as_inputs, load_dataset
from modspec.core.files import read_manifest
from modspec.core.streams import generators
from modspec.engine.attempts import RunFailed
from modspec.engine.store import NOTEBOOK
from modspec.inspection import report
from modspec.inspection.module import Examples, built, load_builder, read_weights, with_weights
from modspec.inspection.report import VALUES, beside_both_nulls, inspect_report, module_agreement, remarks
from modspec.inspection.values import (
    MOST_MEASURED,
    inspected,
    layout_of,
    prepared,
    shuffled_network,
    unit_associations,
)
from modspec.inspection.watched import called_layers, hidden_calls, obstacles, reaches_answer
from modspec.measures.channels import channel_covariances, draw_positions
from modspec.networks.residual import init_residual

MINE = f'''
import torch
from torch import nn

def build(): return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
def text(): return 'a network'
def fails(): raise KeyError('two\\nlines')
def leaves(): raise SystemExit(3)
def needs(size): return build()
def same():
    torch.manual_seed(0)
    return build()
def shallow(): return nn.Linear(6, 3)
def wide(): return nn.Sequential(nn.Linear(6, {MOST_MEASURED + 1}), nn.ReLU(), nn.Linear({MOST_MEASURED + 1}, 3))
def large(): return nn.Sequential(nn.Linear(6, 1000), *[nn.Linear(1000, 1000) for _ in range(55)], nn.Linear(1000, 3))
def image(): return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4, 3))
def pair(): return nn.Sequential(nn.Linear(6, 5), nn.LSTM(5, 3))
def broken():
    net = build()
    net[4].bias.data[:] = torch.nan
    return net
'''


def rng(seed=0): return generators([seed], 'test')[0]


def random(*shape, seed=0): return torch.rand(*shape, generator=rng(seed))


def invoke(*args):
    "The command in this process; its exit code, and the lines it has written"
    answer = CliRunner().invoke(app, [str(arg) for arg in args])
    return answer.exit_code, answer.output.splitlines()


@pytest.fixture
def there(tmp_path, monkeypatch):
    "A working directory with a network, its weights and examples"
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'mine.py').write_text(MINE)
    net = built(load_builder('mine.py:build'), 5)
    save_file(net.state_dict(), 'w.safetensors')
    np.savez('x.npz', inputs=random(30, 6).numpy(), targets=np.arange(30) % 3)
    return tmp_path


@pytest.fixture
def no_kernel(monkeypatch):
    def forbidden(*_, **__): raise AssertionError('a kernel was started')
    monkeypatch.setattr(report, 'execute', forbidden)


# bad input

def data(name, **arrays):
    np.savez(name, **arrays)
    return dict(data=name)


def written(name, content):
    with open(name, 'wb') as f: f.write(content)
    return name


def weights_of(net, **changes):
    state = net.state_dict() | changes
    save_file({name: w.contiguous() for name, w in state.items() if w is not None}, 'other.safetensors')
    return dict(weights='other.safetensors')


X = np.linspace(0, 1, 30 * 6).reshape(30, 6)
HOLE = np.where(X == X[2, 1], np.nan, X)
BAD = {
    'no function named': (lambda net: dict(model='mine.py'), "the model must be FILE.py:FUNCTION, got 'mine.py'"),
    'no file': (lambda net: dict(model='my.py:build'), 'my.py is missing'),
    'does not import': (lambda net: dict(model=written('bad.py', b'import no_such_thing') + ':build'),
                        'bad.py cannot be imported: ModuleNotFoundError'),
    'is no Python': (lambda net: dict(model=written('bad.py', b'def build(:') + ':build'), 'imported: SyntaxError'),
    'exits': (lambda net: dict(model=written('bad.py', b'raise SystemExit(3)') + ':build'), 'imported: SystemExit'),
    'no such function': (lambda net: dict(model='mine.py:bild'), "no function 'bild'; it has build, text"),
    'no module': (lambda net: dict(model='mine.py:text'), 'must return a torch.nn.Module, got str'),
    'builder fails': (lambda net: dict(model='mine.py:fails'), 'the builder fails: KeyError'),
    'builder exits': (lambda net: dict(model='mine.py:leaves'), 'the builder fails: SystemExit: 3'),
    'builder needs arguments': (lambda net: dict(model='mine.py:needs'), 'the builder fails: TypeError'),
    'one seed': (lambda net: dict(model='mine.py:same'), 'the same weights with every seed, so there is no null'),
    'nothing to measure': (lambda net: dict(model='mine.py:shallow'), 'has no hidden layer that can be measured'),
    'too many units': (lambda net: dict(model='mine.py:wide'), f'units; at most {MOST_MEASURED} can be'),
    'too much memory': (lambda net: dict(model='mine.py:large'), 'GB of memory; at most 4 GB are taken'),
    'images for a list': (lambda net: dict(model='mine.py:image'), 'cannot take inputs of shape (examples, 6)'),
    'two answers': (lambda net: dict(model='mine.py:pair'), 'answer with read-outs (examples, classes), got tuple'),
    'answers NaN': (lambda net: dict(model='mine.py:broken'), 'answers with numbers that are not finite'),
    'no weights': (lambda net: dict(weights='no.safetensors'), 'no.safetensors is missing'),
    'pickles': (lambda net: dict(weights=written('w.pt', pickle.dumps({'a': 1}))), 'holds pickles'),
    'text': (lambda net: dict(weights=written('w.txt', b'weights')), 'is no file of safetensors'),
    'weight missing': (lambda net: weights_of(net, **{'2.bias': None}), 'do not fit the network: 2.bias is missing'),
    'weight too many': (lambda net: weights_of(net, more=torch.ones(2)), 'do not fit the network: more has no place'),
    'weight of another shape': (lambda net: weights_of(net, **{'0.weight': torch.ones(5, 7)}),
                                '0.weight has shape (5, 7), expected (5, 6)'),
    'weight NaN': (lambda net: weights_of(net, **{'0.bias': torch.full((5,), torch.nan)}), '0.bias is not finite'),
    'no data': (lambda net: dict(data='no.npz'), 'no.npz is missing'),
    'data of another kind': (lambda net: dict(data=written('x.txt', b'1 2 3')), 'x.txt is no .npz file of numbers'),
    'data of pickles': (lambda net: data('o.npz', inputs=np.array([{}, None])), 'is no .npz file of numbers'),
    'data of text': (lambda net: data('o.npz', inputs=np.array(['a', 'b'])), 'inputs must be numbers, got <U1'),
    'data misnamed': (lambda net: data('o.npz', input=X), "did you mean 'inputs'?"),
    'no inputs': (lambda net: data('o.npz', targets=np.arange(3)), 'must hold an array named inputs'),
    'data of another shape': (lambda net: data('o.npz', inputs=X[:, :5]), 'cannot take inputs of shape (examples, 5)'),
    'data NaN': (lambda net: data('o.npz', inputs=HOLE), 'inputs must be finite, got nan at [2, 1]'),
    'one example': (lambda net: data('o.npz', inputs=X[:1]), 'at least 2 examples'),
    'targets of another number': (lambda net: data('o.npz', inputs=X, targets=np.arange(3)), 'one for each of the 30'),
    'targets no classes': (lambda net: data('o.npz', inputs=X, targets=X[:, 0]), 'targets must be whole numbers'),
    'targets out of range': (lambda net: data('o.npz', inputs=X, targets=np.arange(30)), 'must be in 0..2'),
    'one draw': (lambda net: dict(draws=1), 'draws must be a whole number in [2, 1000], got 1'),
    'no trial': (lambda net: dict(trials=0), 'trials must be a whole number in [1, 1000], got 0'),
    'no threads': (lambda net: dict(threads=0), 'threads must be a whole number'),
    'a folder that is there': (lambda net: dict(out='.'), 'is there already, and a report replaces nothing'),
    'a folder in a file': (lambda net: dict(out='mine.py/report'), 'cannot be written to'),
}


@pytest.mark.parametrize('case', BAD)
def test_refused_in_one_line(there, no_kernel, case):
    "with exit code 2, before anything is started, and nothing is left behind"
    make, message = BAD[case]
    given = dict(model='mine.py:build', data='x.npz', out='report', weights='w.safetensors')
    if 'model' in (made := make(built(load_builder('mine.py:build'), 5))): del given['weights']
    given |= made
    before = sorted(path for path in there.rglob('*') if '__pycache__' not in path.parts)
    code, lines = invoke('inspect', given.pop('model'), *(part for name, value in given.items()
                                                         for part in (f'--{name}', value)))
    assert code == 2 and len(lines) == 1 and lines[0].startswith('modspec: ') and message in lines[0], lines
    assert sorted(path for path in there.rglob('*') if '__pycache__' not in path.parts) == before


def test_a_pickle_is_not_opened(there, no_kernel):
    "neither an old one nor PyTorch's zip; the way to convert is said"
    class Bomb:
        def __reduce__(self): return open, ('canary', 'w')
    (there / 'old.pt').write_bytes(pickle.dumps(Bomb()))
    with zipfile.ZipFile(there / 'new.safetensors', 'w') as f: f.writestr('archive/data.pkl', pickle.dumps(Bomb()))
    np.savez('bomb.npz', inputs=np.array([Bomb()], dtype=object))
    for more in (('--weights', 'old.pt'), ('--weights', 'new.safetensors'), ('--data', 'bomb.npz')):
        code, lines = invoke('inspect', 'mine.py:build', '--data', 'x.npz', '--out', 'report', *more)
        assert code == 2 and len(lines) == 1 and not (there / 'canary').exists()
        if '--weights' in more: assert 'safetensors.torch.save_file(network.state_dict()' in lines[0]


def test_any_size_of_a_header_is_one(there):
    "The first bytes of safetensors are a length, which may look like the beginning of a pickle"
    w = torch.ones(2)
    for n in range(1, 200):
        save_file({'w': w}, 'one.safetensors', metadata={'about': 'x' * n})
        if (there / 'one.safetensors').read_bytes()[0] == 0x80: break
    assert n < 199 and torch.equal(read_weights('one.safetensors')['w'], w)


def test_a_file_imports_what_lies_beside_it(there, tmp_path):
    (tmp_path / 'deep').mkdir()
    (tmp_path / 'deep' / 'sizes_of_mine.py').write_text('HIDDEN = 7')
    (tmp_path / 'deep' / 'net.py').write_text(
        'from torch import nn\ndef build():\n    from sizes_of_mine import HIDDEN\n    return nn.Linear(3, HIDDEN)')
    assert built(load_builder('deep/net.py:build'), 0).weight.shape == (7, 3)


def test_seeds_make_networks_and_leave_the_shared_source_alone(there):
    build, before = load_builder('mine.py:build'), torch.get_rng_state()
    one, same, other = (built(build, seed)[0].weight for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other) and torch.equal(torch.get_rng_state(), before)


def test_tied_weights_may_be_stored_once():
    def tied():
        net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        net[2].weight = net[0].weight
        return net
    state = {name: w for name, w in tied().state_dict().items() if name != '2.weight'}
    net = with_weights(built(tied, 1), state)
    assert torch.equal(net[2].weight, state['0.weight'])
    assert 'more than once' in layout_of(net, Examples(random(4, 4))).no_graph


# which units

def names(net, x): return [*hidden_calls(*reaches_answer(net.eval(), x)).values()]


def test_units_of_a_residual_network():
    "Each convolution once; the two that are added have their sum as their state"
    found = names(resnet18(num_classes=10), random(2, 3, 32, 32))
    assert len(found) == 17 and 'layer2.0.conv2 + layer2.0.downsample.0' in found and 'fc' not in found


class Functional(nn.Module):
    def __init__(self, inplace=False):
        super().__init__()
        self.conv, self.norm, self.more = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
        self.out, self.inplace = nn.Linear(4, 3), inplace

    def forward(self, x):
        h = F.relu(self.norm(self.conv(x)), self.inplace)
        g = self.more(h)
        if self.inplace: g += h
        else: g = h + g
        return self.out(F.relu(g, self.inplace).mean((2, 3)))


def test_functions_modules_and_work_in_place_are_the_same():
    "A state is what the next layer sees, however it is written"
    a, b, x = Functional(), Functional(inplace=True), Examples(random(20, 1, 6, 6))
    b.load_state_dict(a.state_dict())
    found = [unit_associations(net, layout_of(net, x), x) for net in (a.eval(), b.eval())]
    assert all(torch.equal(p[name], q[name]) for p, q in zip(*found) for name in p)
    calls, _ = called_layers(a, x.inputs)
    h = F.relu(a.norm(a.conv(x.inputs)))
    assert torch.equal(calls[0].h, h) and torch.equal(calls[1].h, F.relu(h + a.more(h)))
    assert calls[1].passed == ('add', 'relu')


def test_a_state_that_is_changed_later_is_refused():
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            h = self.a(x)
            g = self.b(h.clone())
            h.mul_(2)
            return self.c(g + h)
    with pytest.raises(ValueError, match='the output of a is changed in place'):
        layout_of(Late().eval(), Examples(random(3, 4)))


def test_layers_that_are_not_measured():
    "Heads that the answer does not need, single units, layers at many places"
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.one, self.tokens = nn.Linear(4, 5), nn.Linear(4, 1), nn.Linear(2, 3)
            self.hidden, self.out = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            self.head(x)
            h = self.hidden(x * self.one(x) * self.tokens(x.view(-1, 2, 2)).mean((1, 2))[:, None])
            return self.out(torch.tanh(h))
    assert names(Odd(), random(3, 4)) == ['hidden']


@pytest.mark.parametrize('between, why', [
    ([nn.ReLU()], None), ([nn.Dropout(), nn.Tanh()], None), ([], None), ([nn.BatchNorm1d(5)], 'a normalization'),
    ([nn.Unflatten(1, (1, 5)), nn.Flatten()], 'do not all listen'), ([nn.Softmax(1)], 'do not all listen')])
def test_what_is_a_graph(between, why):
    net = nn.Sequential(nn.Linear(6, 5), *between, nn.Linear(5, 3)).eval()
    found = [*obstacles(called_layers(net, random(4, 6))[0])]
    assert len(found) == (why is not None) and all(why in one for one in found)


# values

def towers():
    "Two networks side by side that share nothing"
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():
        for part in net[::2]:
            a, b = (n // 2 for n in part.weight.shape)
            part.weight[:a, b:] = part.weight[a:, :b] = 0
    return net


@pytest.fixture(scope='module')
def of_towers():
    return inspected(lambda: nn.Sequential(*[type(p)(p.in_features, p.out_features) if isinstance(p, nn.Linear)
                                             else p for p in towers()]),
                     built(towers, 0).state_dict(), Examples(random(60, 8), torch.arange(60) % 4), draws=4)


def test_two_towers_are_modular_by_structure_and_function(of_towers):
    "The n-cut, of four clusters, tells them from untrained networks only: shuffled, few weights fall apart as well"
    found = beside_both_nulls(of_towers)
    ncut, q = (found.loc[('', name, '', '')] for name in ('ncut', 'q_max'))
    assert q['value'] > .45 and q['untrained_p'] == q['shuffled_p'] == 1 / 5 and q['untrained_mean'] < .3
    assert ncut['untrained_p'] == 1 / 5
    jacobian = found.loc[('0', 'q', 'input_jacobian', '')]
    assert jacobian['value'] > jacobian['untrained_mean'] + 2 * jacobian['untrained_sd']


def test_table_of_values(of_towers):
    "Eight associations of both layers, all pairs of them, and numbers everywhere"
    assert of_towers['value'].notna().all() and of_towers.groupby(['network', 'draw']).size().nunique() == 1
    own = of_towers[of_towers['network'] == 'network']
    assert len(own) == 3 + 1 + 2 * (8 + 8 + 2 * 28) and own['association'].nunique() == 8
    A = module_agreement(of_towers, 'untrained').to_numpy()
    assert (A == A.T).all() and (A.diagonal() == 1).all()


def test_share_of_draws_is_exact():
    rows = [dict(network=kind, draw=k, layer='a', measure=measure, association=None, against=None, value=value)
            for measure in ('q', 'ncut') for kind, values in dict(network=[2.], untrained=[1., 2., 3.],
                                                                 shuffled=[0., 0., 5.]).items()
            for k, value in enumerate(values)]
    found = beside_both_nulls(pd.DataFrame(rows)).droplevel(['layer', 'association', 'against'])
    assert found['untrained_p'].to_dict() == {'q': 3 / 4, 'ncut': 3 / 4}
    assert found['shuffled_p'].to_dict() == {'q': 2 / 4, 'ncut': 3 / 4} and found.loc['q', 'untrained_sd'] == 1


def test_shuffled_networks_keep_their_weights():
    net = Functional().eval()
    other = shuffled_network(net, rng())
    assert torch.equal(net.conv.bias, other.conv.bias) and not torch.equal(net.conv.weight, other.conv.weight)
    for name in ('conv', 'more', 'out'):
        a, b = (getattr(one, name).weight.flatten().sort().values for one in (net, other))
        assert torch.equal(a, b)


def test_channels_are_those_of_the_study():
    "The first layer of the package's own residual network, whose state is normalized and bent here"
    net, x = init_residual((4, 4, 6, 6), seed=0).eval(), random(30, 1, 8, 8)
    layout = layout_of(net, Examples(x))
    assert layout.layers[0] == 'stem' and layout.units[0] == 4 and layout.unwatched == {'BatchNorm2d': 16}

    class Stem:
        def answers(self, x): return [F.relu(net.stages[0][0].norm_1(net.stem(x)))], None
    places = draw_positions(Stem(), x, rng=generators([0], 'inspected positions and probes')[0])
    M = channel_covariances(Stem(), x, places)[0].fill_diagonal_(0).abs()
    found = unit_associations(net, layout, Examples(x))[0]['input_covariance']
    assert torch.allclose(found, M, atol=1e-12)


def test_silent_layers_have_no_modules():
    def silent():
        net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        nn.init.constant_(net[0].bias, -99.)
        return net
    found = beside_both_nulls(inspected(silent, None, Examples(random(20, 4)), draws=2, trials=1))
    assert found.loc[('0', 'q', 'input_covariance', ''), 'value'] == 0
    assert found.loc[('0', 'modules', 'input_jacobian', ''), 'value'] == 0


def test_what_does_not_apply_is_said():
    _, layout = prepared(lambda: Functional(), None, x := Examples(random(4, 1, 6, 6)), draws=2, trials=1)
    text = ' '.join(remarks(layout, x))
    assert 'no n-cut' in text and 'convolution' in text and '1 × BatchNorm2d' in text and 'No targets' in text


# the report

def test_report(there):
    "A folder with a page, a table and a manifest; the second time it is refused"
    code, lines = invoke('inspect', 'mine.py:build', '--weights', 'w.safetensors', '--data', 'x.npz', '--out', 'report',
                         '--draws', 2, '--trials', 1)
    assert code == 0 and lines[-1] == f'report: report/{NOTEBOOK}'
    assert sorted(path.name for path in (there / 'report').iterdir()) == [VALUES, 'manifest.json', NOTEBOOK]
    manifest = read_manifest('report')
    assert {*manifest['files']} == {NOTEBOOK, VALUES} and {*manifest['brought']} == {'model', 'weights', 'data'}
    table = pd.read_parquet(there / 'report' / VALUES)
    assert table.groupby('network')['draw'].nunique().to_dict() == dict(network=1, shuffled=2, untrained=2)
    outputs = [out for cell in nbformat.read(there / 'report' / NOTEBOOK, 4).cells for out in cell.get('outputs', [])]
    assert sum('image/png' in out.get('data', {}) for out in outputs) == 3
    assert not [out for out in outputs if out['output_type'] == 'error' or 'Warning' in out.get('text', '')]
    code, lines = invoke('inspect', 'mine.py:build', '--data', 'x.npz', '--out', 'report')
    assert code == 2 and 'is there already' in lines[0] and read_manifest('report') == manifest


def test_a_report_that_fails_is_none(there, monkeypatch):
    "Its page is kept beside the place, which stays free"
    def failing(notebook, target, values):
        target.write_text('{}')
        raise RunFailed('MemoryError')
    monkeypatch.setattr(report, 'execute', failing)
    with pytest.raises(RunFailed, match='MemoryError; see .*report.failed'):
        inspect_report('mine.py:build', 'x.npz', 'report')
    left = {path.name for path in there.iterdir() if re.match(r'\.?report', path.name)}
    assert left == {'report.failed'}


def test_the_small_network_is_the_default():
    build, weights, examples = report.brought('', '', '')
    digits = load_dataset('digits').test
    assert weights is None and torch.equal(examples.inputs, as_inputs(digits.images)) and build()(examples.inputs).ndim
