"""Values that no run may have: refused before any work, with the legal range and exit code 2"""
import ast
import math
import os
import re
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from modspec.cli import app
from modspec.core.checks import check_device, check_threads
from modspec.engine import notebook, sweep
from modspec.engine.config import load_config, make_sweep
from modspec.engine.options import number, whole
from modspec.engine.plan import study_named
from modspec.studies.extreme_sparsity.config import STUDY, sparsity_run
from modspec.training.parameters import Parameters

ROUNDS = 200
many = settings(max_examples=ROUNDS, deadline=None)
provokes = pytest.mark.provokes('illegal values', rounds=ROUNDS)
NAN, INF = math.nan, math.inf

# What is legal, said once more: nothing here is taken from the package
WHOLE = {  # name: (least, most)
    'n_hidden': (2, 10_000), 'n_bottleneck': (1, 10_000), 'n_subnetworks': (1, 10), 'n_steps': (2, 1000),
    'n_pairs': (0, 100_000_000), 'settle': (0, 1_000_000), 'cost_every': (0, 1_000_000),
    'module_pairs': (0, 1_000_000)}
WHOLE |= {f'{part}epochs': (1, 10_000) for part in ('', 'bottleneck_', 'readout_', 'mask_')}
WHOLE |= {f'{part}batch_size': (1, 1_000_000) for part in ('', 'readout_', 'mask_')}
FRACTIONS = ['mask_fraction', 'decay', 'connection_decay', 'readout_decay']  # in (0, 1]
BETAS = ['rho', 'connection_beta']  # in [0, 0.999999]
RATES = ['lr', 'connection_lr_sparse', 'connection_lr_dense', 'readout_lr', 'mask_lr']  # in (0, 1e9]
STRENGTHS = ['walk', 'l1', 'connection_lr', 'l1_strength', 'l2_strength', 'cost_strength']  # in [0, 1e9]
SHARES = {'dropout': .99, 'pruning': .999, 'switching': 1.}  # in [0, so much]
EITHER = ['rewire', 'dropout_each_step', 'regrowth']  # true or false
OPTIONAL = ['connection_lr']  # may be none
CHOICES = {
    'dataset': ['digits', 'mnist', 'mnist_2000', 'retina'], 'architecture': ['standard', 'bottleneck', 'both'],
    'task': ['parity', 'parity_sentence', 'digit', 'retina', 'retina_random'],
    'inputs': ['unit', 'standardized'], 'message': ['inside', 'before'],
    'decision': ['max', 'absolute'], 'connection_start': ['uniform', 'normal'], 'mask_scores': ['own', 'incoming'],
    'mask_loss': ['winner', 'mixture'], 'loss': ['winner', 'mixture'], 'precision': ['fp32', 'bf16', 'auto'],
    'connection_signs': ['constant', 'free'], 'optimizer': ['adadelta', 'adam'], 'readouts': ['trained', 'frozen'],
    'pruning_when': ['during', 'after'], 'switch_to': ['related', 'permuted', 'near'],
    'cost_places': ['given', 'shuffled']}
OF_A_RUN = {'seeds': (1, 10_000), 'first_seed': (0, 1_000_000)}
OF_A_SWEEP = {'seeds': (1, 10_000), 'seeds_per_run': (1, 10_000), 'values_per_run': (1, 10_000)}
COUNTS = WHOLE | OF_A_RUN | OF_A_SWEEP
NUMBERS = [*WHOLE, *FRACTIONS, *BETAS, *RATES, *STRENGTHS, *SHARES]
DEFAULTS = {field.name: field.default for field in fields(STUDY.settings)}  # among them epochs, batch size, q, T and N
anything = st.one_of(
    st.integers(), st.integers(-3, 3), st.floats(), st.floats(-1, 2), st.sampled_from([NAN, INF, -INF, 0., 1., 1e-5]),
    st.integers().map(str), st.floats().map(str), st.sampled_from(['1', '0.5', '1e-3', 'nan', 'true', '', ' ', 'cpu']),
    st.sampled_from([choice for choices in CHOICES.values() for choice in choices]),
    st.booleans(), st.none(), st.text(max_size=5), st.dates(), st.binary(max_size=3),
    st.lists(st.floats(0, 1), max_size=2), st.dictionaries(st.text(max_size=2), st.integers(), max_size=1))


def is_number(value): return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value, least, most): return type(value) is int and least <= value <= most


def legal(name, value):
    "Whether a run may have the value, said once more and in other words than in the package"
    if name in COUNTS: return is_whole(value, *COUNTS[name])
    if name in CHOICES: return isinstance(value, str) and value in CHOICES[name]
    if name in EITHER: return isinstance(value, bool)
    if name in OPTIONAL and value is None: return True
    if not is_number(value): return False
    if name == 'sparsity': return .0001 * (1 - 1e-9) <= value <= 1  # of N = 100 units: 1/N² or more
    if name in FRACTIONS: return 0 < value <= 1
    if name in BETAS: return 0 <= value <= .999999
    if name in RATES: return 0 < value <= 1e9
    if name in SHARES: return 0 <= value <= SHARES[name]
    return name in STRENGTHS and 0 <= value <= 1e9


def beside(name, value=None):
    "What else is said with a setting, so that all of its legal values are: one way to decide, a task of its data"
    if name in ('dataset', 'task') and str(value).startswith('retina'):
        return {'dataset' if name == 'task' else 'task': 'retina'}
    return {'loss': 'winner'} if name == 'decision' else {}


def invoke(*args): return CliRunner().invoke(app, list(map(str, args)))


class Started(Exception):
    "All checks have been passed"


@contextmanager
def empty_folder():
    "A folder to write in, from which no work is started: reaching it is an error that nobody catches"
    def start(*_, **__): raise Started
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for module, name in ((notebook, 'make_folder'), (notebook, 'execute'), (sweep, 'make_folder')):
            patch.setattr(module, name, start)
        patch.chdir(folder)
        yield Path(folder)


def assert_refused(answer, name, folder, files):
    "Exit code 2 and one line with the name and the legal values; nothing written"
    assert answer.exit_code == 2 and answer.stdout == '', (answer, answer.exception)
    line, = answer.stderr.splitlines()
    said = f'{name} must be ' in line and ', got ' in line or f'{name} is empty; it must be ' in line
    assert line.startswith('modspec: ') and said, line
    assert any(part in line for part in (' in [', ' in (', ' one of [', ' true or false')), line
    assert sorted(path.name for path in folder.rglob('*')) == files


@provokes
@many
@given(st.sampled_from([*OF_A_SWEEP, *DEFAULTS]), anything, st.booleans())
@example('sparsity', True, True)
@example('sparsity', '0.5', True)
@example('seeds', 2., False)
@example('epochs', '3', False)
@example('mask_fraction', 0, True)
@example('batch_size', 10**30, False)
@example('connection_lr', NAN, False)
@example('connection_lr', '0.1', True)
@example('decision', 'absolute', True)
def test_sweeps_file(name, value, as_axis):
    "Any value at any place of a sweep's file: what is legal is loaded, all else is refused"
    values = dict(axes={'sparsity': [1]}, settings=beside(name, value))
    if name in OF_A_SWEEP: values[name] = value
    elif as_axis or name == 'sparsity': values['axes'] |= {name: [value]}
    else: values['settings'] |= {name: value}
    with empty_folder() as folder:
        Path('sweep.yaml').write_text(yaml.dump(values, allow_unicode=True), encoding='utf-8')
        value = yaml.safe_load(yaml.dump(value))  # YAML has its own opinion on what is a number
        if legal(name, value): assert load_config('sweep.yaml')
        else: assert_refused(invoke('sweep', 'sweep.yaml', '--out', 'out'), name, folder, ['sweep.yaml'])


words = st.one_of(st.text(max_size=6), st.integers().map(str), st.floats().map(str), st.floats(-1, 2).map(str),
                  st.integers(-2, 3).map(str), st.sampled_from(['nan', 'inf', '-inf', 'True', '1,5', '0x10', '']))
OPTIONS = {'sparsity': number, 'seeds': whole, 'first_seed': whole, 'epochs': whole, 'batch_size': whole,
           'dataset': str, 'architecture': str}


@provokes
@many
@given(st.sampled_from(list(OPTIONS)), words)
@example('seeds', '2.5')
@example('seeds', '')
@example('sparsity', 'nan')
def test_options(name, text):
    "Any text for any option of `modspec run`"
    with empty_folder() as folder:
        given = {'sparsity': '0.5', 'out': 'out', name: text}
        answer = invoke('run', *(f'--{key.replace("_", "-")}={value}' for key, value in given.items()))
        if text == 'mnist' or legal(name, OPTIONS[name](text)): assert isinstance(answer.exception, Started)
        else: assert_refused(answer, name, folder, [])


@provokes
@many
@given(st.sampled_from(list(DEFAULTS)), words)
@example('rewire', 'yes')
@example('lr', '1,5')
@example('epochs', '2.0')
@example('task', '')
@example('connection_lr', '0.1')
@example('connection_lr', '-1')
@example('connection_lr', '')
def test_any_setting(name, text):
    "Any text for any setting with `--set`"
    with empty_folder() as folder:
        more = [f'--set={other}={value}' for other, value in beside(name, text).items()]
        more += ['--sparsity=1'] * (name != 'sparsity')
        answer = invoke('run', '--out=out', '--set', f'{name}={text}', *more)
        kinds = {bool: lambda said: {'true': True, 'false': False}.get(said.lower(), said), int: whole, float: number,
                 type(None): number}
        value = kinds.get(type(DEFAULTS[name]), str)(text)
        if text == 'mnist' or legal(name, value): assert isinstance(answer.exception, Started)
        else: assert_refused(answer, name, folder, [])


@provokes
@many
@given(st.sampled_from(['sparsity', 'dataset', 'architecture', *OF_A_RUN]), anything)
@example('sparsity', None)
@example('sparsity', {.5: 1})
@example('sparsity', [])
def test_library(name, value):
    "The same for whoever builds a run in Python: never another error than ValueError, never a silent conversion"
    many_sparsities = name == 'sparsity' and isinstance(value, list) and value and all(legal(name, p) for p in value)
    if legal(name, value): assert sparsity_run(**{'sparsity': .5, name: value} | beside(name, value))
    elif not many_sparsities:
        with pytest.raises(ValueError, match=f'{name} must be .*, got '): sparsity_run(**{'sparsity': .5, name: value})


@pytest.mark.provokes('illegal values', rounds=5 * ROUNDS)
@settings(many, max_examples=5 * ROUNDS)
@given(st.sampled_from(list(DEFAULTS)), anything)
def test_every_setting(name, value):
    if legal(name, value):
        assert getattr(STUDY.settings(**{name: value} | beside(name, value)), name) == value or value == 'auto'
    else:
        with pytest.raises(ValueError, match=f'{name} must be .*, got '): STUDY.settings(**{name: value})


def ends(name):
    "The last values on either side that are legal, and the first that are not"
    if name in COUNTS: return COUNTS[name], (COUNTS[name][0] - 1, COUNTS[name][1] + 1)
    above = math.nextafter(0, 1)
    if name == 'sparsity': return (.0001, 1.), (.0001 * (1 - 1e-8), math.nextafter(1, 2))
    if name in FRACTIONS: return (above, 1.), (0., math.nextafter(1, 2))
    if name in BETAS: return (0., .999999), (-above, math.nextafter(.999999, 1))
    if name in SHARES: return (0., SHARES[name]), (-above, math.nextafter(SHARES[name], 2))
    return (above if name in RATES else 0., 1e9), (0. if name in RATES else -above, math.nextafter(1e9, INF))


@pytest.mark.provokes('illegal values')
@pytest.mark.parametrize('name', CHOICES)
def test_choices(name):
    "Each is accepted, and no other: the message lists all that are"
    for value in CHOICES[name]: assert STUDY.settings(**{name: value} | beside(name, value))
    with pytest.raises(ValueError) as error: STUDY.settings(**{name: None})
    assert str(error.value) == f'{name} must be one of {CHOICES[name]}, got None'


@pytest.mark.parametrize(('study', 'values', 'asks', 'lost'), [
    ('extreme_sparsity', dict(task='parity_sentence', switching=.1), 'switching', 'a second goal'),
    ('extreme_sparsity', dict(task='retina_random', dataset='retina', switching=1.), 'switching', 'a second goal'),
    ('causes', dict(task='retina_random', both_goals=1.), 'both_goals', 'a second goal'),
    ('causes', dict(task='retina_random', switching=.1, switch_to='permuted'), 'switching', 'a second goal'),
    ('upstream_downstream', dict(task='digit', switching=.1), 'switching', 'a second goal'),
    ('extreme_sparsity', dict(switching=.1, switch_to='near'), 'switching', "two answers that switch_to 'near' needs"),
    ('digit_pairs', dict(switching=.1, switch_to='near'), 'switching', "two answers that switch_to 'near' needs"),
    ('digit_pairs', dict(task='parity_sentence', pairs_adapt_steps=10), 'pairs_adapt_steps', "the goals ['reverse', "),
], ids=str)
def test_goals_that_a_task_lacks(study, values, asks, lost):
    "Refused when settings are read, in Python and in the file of a sweep; without the strength they are legal"
    made = study_named(study).settings
    with pytest.raises(ValueError, match=f'{asks} must be 0 with task .*{re.escape(lost)}') as error: made(**values)
    task = values.get('task', 'parity')
    can = ast.literal_eval(str(error.value).rpartition(': ')[2])
    assert can and task not in can and f'got {values[asks]!r}' in str(error.value)
    assert made(**{name: value for name, value in values.items() if name != asks})
    with empty_folder() as folder:
        axes = {} if study in ('causes', 'upstream_downstream') else {'sparsity': [1]}
        text = dict(study=study, axes=axes, variations={'mine': values})
        Path('sweep.yaml').write_text(yaml.dump(text), encoding='utf-8')
        answer = invoke('sweep', 'sweep.yaml', '--out', 'out')
        assert answer.exit_code == 2 and f'{asks} must be 0' in answer.stderr, answer
        assert sorted(path.name for path in folder.rglob('*')) == ['sweep.yaml']


def test_goals_that_a_task_has():
    assert study_named('causes').settings(switching=.1, switch_to='near', both_goals=1.)
    assert study_named('digit_pairs').settings(switching=.1, switch_to='permuted', pairs_adapt_steps=10)


@pytest.mark.provokes('illegal values', rounds=2)
@pytest.mark.parametrize('make, name', [
    *(pytest.param(lambda value, name=name: Parameters(**{name: value}), name, id=name) for name in NUMBERS),
    *(pytest.param(lambda value, name=name: sparsity_run(**{'sparsity': .5, name: value}), name, id=f'run-{name}')
      for name in ['sparsity', *OF_A_RUN]),
    *(pytest.param(lambda value, name=name: make_sweep({'axes': {'sparsity': [.5]}, name: value}, Path()), name,
                   id=f'sweep-{name}') for name in OF_A_SWEEP)])
def test_ends_of_ranges(make, name):
    "To the last digit, where random draws seldom fall"
    inside, outside = ends(name)
    for value in inside: assert legal(name, value) and make(value)
    for value in outside:
        assert not legal(name, value)
        with pytest.raises(ValueError, match=f'{name} must be .*, got '): make(value)


@provokes
@many
@given(anything)
@example('cuda:99')
@example('CPU')
@example(True)
def test_device_and_threads(value):
    "The legal devices and the number of threads depend on the machine, and the message says which they are"
    if value != 'cpu':
        with pytest.raises(ValueError, match=r"device must be one of \['cpu'.*, got "): check_device(value)
    if not is_whole(value, 1, os.cpu_count()):
        with pytest.raises(ValueError, match=rf'threads must be a whole number in \[1, {os.cpu_count()}\], got '):
            check_threads(value)


@pytest.mark.provokes('illegal values', rounds=8)
def test_device_and_threads_of_a_run():
    for args in ('--device=gpu', '--device=', '--device=meta', '--device=cuda:99', '--device=-1',
                 '--threads=0', '--threads=-1', '--threads=100000'):
        with empty_folder() as folder:
            answer = invoke('run', '--sparsity=0.5', '--out=out', args)
            assert_refused(answer, args[2:].partition('=')[0], folder, [])
