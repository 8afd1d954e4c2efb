"""Values that no run may have: refused before any work, with the legal range and exit code 2"""
import math
import os
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from modspec import sweep
from modspec.cli import app, number, whole
from modspec.data import LOADERS
from modspec.experiment import ARCHITECTURES, RunConfig, check_device, check_threads
from modspec.sweep import load_config
from modspec.training import CHOICES, RANGES, Parameters

ROUNDS = 200
many = settings(max_examples=ROUNDS, deadline=None)
provokes = pytest.mark.provokes('illegal values', rounds=ROUNDS)
WHOLE = [name for name in RANGES if isinstance(getattr(Parameters(), name), int)]
NAN, INF = math.nan, math.inf

# The parameters by the paper's symbols: epochs, batch size, q, T, N and one that is a fraction of whole numbers
NAMED = ['epochs', 'batch_size', 'mask_fraction', 'n_steps', 'n_hidden', 'lr']
anything = st.one_of(
    st.integers(), st.integers(-3, 3), st.floats(), st.floats(-1, 2), st.sampled_from([NAN, INF, -INF, 0., 1., 1e-5]),
    st.integers().map(str), st.floats().map(str), st.sampled_from(['1', '0.5', '1e-3', 'nan', 'true', '', ' ', 'cpu']),
    st.booleans(), st.none(), st.text(max_size=5), st.dates(), st.binary(max_size=3),
    st.lists(st.floats(0, 1), max_size=2), st.dictionaries(st.text(max_size=2), st.integers(), max_size=1))


def is_number(value): return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value, least, most): return type(value) is int and least <= value <= most


def legal(name, value):
    "Whether a run may have the value, said once more and in other words than in the package"
    if name == 'sparsity': return is_number(value) and .0001 * (1 - 1e-9) <= value <= 1
    if name in ('seeds', 'seeds_per_run'): return is_whole(value, 1, 10_000)
    if name == 'first_seed': return is_whole(value, 0, 1_000_000)
    if name == 'dataset': return isinstance(value, str) and value in LOADERS
    if name == 'architecture': return isinstance(value, str) and value in ARCHITECTURES
    least, most, closed = RANGES[name]
    if name in WHOLE: return is_whole(value, least, most)
    return is_number(value) and (least <= value if closed else least < value) and value <= most


def invoke(*args): return CliRunner().invoke(app, list(map(str, args)))


class Started(Exception):
    "All checks have been passed"


@contextmanager
def empty_folder():
    "A folder to write in, from which no work is started: reaching it is an error that nobody catches"
    def start(*_, **__): raise Started
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for name in ('make_folder', 'execute'): patch.setattr(sweep, name, start)
        patch.chdir(folder)
        yield Path(folder)


def assert_refused(answer, name, folder, files):
    "Exit code 2 and one line with the name and the legal values; nothing written"
    assert answer.exit_code == 2 and answer.stdout == '', (answer, answer.exception)
    line, = answer.stderr.splitlines()
    assert line.startswith('modspec: ') and f'{name} must be ' in line and ', got ' in line, line
    assert any(part in line for part in (' in [', ' in (', ' one of [')), line
    assert sorted(path.name for path in folder.rglob('*')) == files


@provokes
@many
@given(st.sampled_from(['sparsity', 'seeds', 'seeds_per_run', 'dataset', 'architecture', *NAMED]), anything)
@example('sparsity', True)
@example('sparsity', '0.5')
@example('seeds', 2.)
@example('epochs', '3')
@example('mask_fraction', 0)
@example('batch_size', 10**30)
def test_sweeps_file(name, value):
    "Any value at any place of a sweep's file: what is legal is loaded, all else is refused"
    values = dict(sparsities=[.5])
    if name == 'sparsity': values['sparsities'] = [value]
    elif name in RANGES: values['parameters'] = {name: value}
    else: values[name] = value
    with empty_folder() as folder:
        Path('sweep.yaml').write_text(yaml.dump(values, allow_unicode=True), encoding='utf-8')
        value = yaml.safe_load(yaml.dump(value))  # YAML has its own opinion on what is a number
        too_few = name == 'n_hidden' and legal(name, value) and value < 2  # 0.5 of one connection
        if legal(name, value) and not too_few: assert load_config('sweep.yaml')
        elif not too_few: assert_refused(invoke('sweep', 'sweep.yaml', '--out', 'out'), name, folder, ['sweep.yaml'])


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
@given(st.sampled_from(['sparsity', 'dataset', 'seeds', 'architecture', 'first_seed']), anything)
@example('sparsity', None)
@example('sparsity', {.5: 1})
@example('sparsity', [])
def test_library(name, value):
    "The same for whoever builds a run in Python: never another error than ValueError, never a silent conversion"
    many_sparsities = name == 'sparsity' and isinstance(value, list) and value and all(legal(name, p) for p in value)
    if legal(name, value): assert RunConfig(**{'sparsity': .5, name: value})
    elif not many_sparsities:
        with pytest.raises(ValueError, match=f'{name} must be .*, got '): RunConfig(**{'sparsity': .5, name: value})


@provokes
@many
@given(st.sampled_from(['n_bottleneck', 'mask_epochs', 'readout_lr', *CHOICES, *NAMED]), anything)
def test_every_parameter(name, value):
    if name in CHOICES: good = isinstance(value, str) and value in CHOICES[name]
    else: good = legal(name, value)
    if good: assert getattr(Parameters(**{name: value}), name) == value
    else:
        with pytest.raises(ValueError, match=f'{name} must be .*, got '): Parameters(**{name: value})


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
