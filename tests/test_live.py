"""How training goes, for whoever looks: bars, lines, TensorBoard; and the same bits whoever does"""
import importlib.util
import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tqdm import tqdm
from typer.testing import CliRunner

from modspec import cli
from modspec.core import checks
from modspec.core.data import load_dataset
from modspec.engine import notebook
from modspec.engine.plan import make_run
from modspec.networks.recurrent import Recurrent, init_stack
from modspec.training import live
from modspec.training.live import Epoch, SparseLines, each_of, log_folder, log_of_run, logged, run_log, said_in
from modspec.training.loop import train
from modspec.training.parameters import Parameters

DIGITS = load_dataset('digits')
SHORT = Parameters(epochs=6, n_pairs=64, batch_size=16)


def small(): return init_stack(Recurrent(64, n_hidden=8), [3, 4], .1)


def epoch(number, last=5, loss=(.5, .7), accuracy=(.8, .6)):
    return Epoch(number, last, small(), torch.tensor(loss), torch.tensor(accuracy))


@pytest.fixture
def clock(monkeypatch):
    "A clock that a test turns"
    class Clock:
        now = 100.
        def monotonic(self): return self.now
    found = Clock()
    monkeypatch.setattr(live, 'time', found)
    return found


class Terminal(io.StringIO):
    def isatty(self): return True


@pytest.fixture
def shown(monkeypatch):
    "What is written where a bar would be"
    def into(stream):
        monkeypatch.setattr(sys, 'stderr', stream)
        return stream
    return into


# what is said

def test_an_epoch_says_the_mean_over_those_that_learn():
    assert str(epoch(3)) == 'epoch 3 of 5: loss 0.6, accuracy 0.70'
    assert str(epoch(3, loss=(.5, torch.nan), accuracy=(.8, torch.nan))) == 'epoch 3 of 5: loss 0.5, accuracy 0.80'


def test_train_tells_every_epoch():
    "With the numbers of the history, to whatever can be called"
    told = []
    _, history = train(small(), DIGITS, SHORT, log=told.append, progress=False)
    assert [(one.number, one.last) for one in told] == [(k, 6) for k in range(1, 7)]
    for name in ('loss', 'accuracy'):
        assert np.allclose(torch.cat([getattr(one, name) for one in told]), history[name], rtol=0, atol=0)


def test_same_bits_whoever_looks(shown, tmp_path):
    "On a terminal, in a log, with something that is called, and without"
    plain, history = train(small(), DIGITS, SHORT, progress=False)
    for stream in (Terminal(), io.StringIO()):
        shown(stream)
        watched, again = train(small(), DIGITS, SHORT, log=lambda one: str(one))
        assert history.equals(again)
        for name, w in plain.weights.items(): assert torch.equal(w, watched.weights[name])


# where it is said

def test_no_terminal_no_bar(shown):
    "A few lines, each whole; the README's ten lines left hundreds"
    stream = shown(io.StringIO())
    train(small(), DIGITS, SHORT)
    lines = stream.getvalue().splitlines(keepends=True)
    assert '\r' not in stream.getvalue() and len(lines) == 2 and all(line.endswith('\n') for line in lines)
    assert lines[0].startswith('training, epoch 1 of 6: loss ') and lines[1].startswith('training, epoch 6 of 6: loss ')


def test_a_terminal_has_a_bar_that_says_how_it_goes(shown):
    stream = shown(Terminal())
    train(small(), DIGITS, SHORT)
    assert '\r' in stream.getvalue() and 'training, epoch 6 of 6: loss ' in stream.getvalue().split('\r')[-1]


@pytest.mark.parametrize('stream', [Terminal, io.StringIO])
def test_no_progress_is_silent(shown, stream):
    stream = shown(stream())
    train(small(), DIGITS, SHORT, progress=False)
    assert stream.getvalue() == ''


def test_a_bar_that_is_given_says_nothing_by_itself(shown):
    "and need not be able to"
    class Steps:
        n = 0
        def update(self, n): self.n += n
    stream, bar = shown(Terminal()), Steps()
    train(small(), DIGITS, SHORT, bar=bar)
    assert bar.n == 24 and stream.getvalue() == ''


@pytest.mark.parametrize(('seconds', 'said'), [(0., [1, 100]), (1., [1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 100]),
                                               (60., [*range(1, 101)])])
def test_lines_are_sparse(shown, clock, seconds, said):
    stream, say = shown(io.StringIO()), SparseLines('it')
    for number in range(1, 101):
        say(epoch(number, 100))
        clock.now += seconds
    assert [int(line.split()[2]) for line in stream.getvalue().splitlines()] == said


def test_any_bar_says_it():
    bar = tqdm(total=3, file=io.StringIO())
    each_of(None, said_in(bar, 'p=0.01, training'))(epoch(2))
    assert bar.desc.startswith('p=0.01, training, epoch 2 of 5: loss 0.6')


# what runs log

def test_what_there_is_not(monkeypatch, tmp_path):
    for kind in ('wandb', '', 'Tensorboard', 3):
        with pytest.raises(ValueError, match=r"^log must be one of \['tensorboard'\], got "): log_folder(kind, tmp_path)
    monkeypatch.setattr(checks, 'find_spec', lambda name: None)
    message = r"needs the package tensorboard; install it with: pip install 'modspec\[tensorboard\]'$"
    with pytest.raises(ValueError, match=message): log_folder('tensorboard', tmp_path)
    with pytest.raises(ValueError, match=message), live.tensorboard_log(tmp_path / 'log'): pytest.fail('went on')
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize('before', [None, '/elsewhere'])
def test_the_environment_is_left_as_it_was(monkeypatch, before):
    if before: monkeypatch.setenv('MODSPEC_LOG', before)
    else: monkeypatch.delenv('MODSPEC_LOG', raising=False)
    with logged(None): assert os.environ.get('MODSPEC_LOG') == before
    with pytest.raises(KeyError), logged(Path('/logs')), logged(log_of_run('one')):
        assert log_of_run('') == Path('/logs/one')
        raise KeyError
    assert os.environ.get('MODSPEC_LOG') == before


def test_nothing_is_logged_unasked(monkeypatch, tmp_path):
    monkeypatch.delenv('MODSPEC_LOG', raising=False)
    with run_log() as log: log(epoch(1))
    assert log_of_run('one') is None and log_folder(None, tmp_path) is None


@pytest.mark.skipif(importlib.util.find_spec('tensorboard') is None, reason='TensorBoard, an extra, is not installed')
def test_tensorboard(monkeypatch, tmp_path):
    "Every number of the history, and the same bits as without"
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    plain, history = train(small(), DIGITS, SHORT, progress=False)
    with logged(tmp_path / 'logs'), run_log() as log:
        trained, again = train(small(), DIGITS, SHORT, log=log, progress=False)
    assert history.equals(again) and all(torch.equal(w, plain.weights[name]) for name, w in trained.weights.items())
    events = EventAccumulator(str(tmp_path / 'logs')).Reload()
    for kind in ('loss', 'accuracy'):
        for k, rows in history.groupby('network'):
            found = events.Scalars(f'{kind}/standard {k} (seed {3 + k})')
            assert [one.step for one in found] == [*range(1, 7)]
            assert [one.value for one in found] == pytest.approx(rows[kind].tolist(), rel=1e-6)


@pytest.mark.parametrize(('args', 'folder'), [
    (['run', '--sparsity', '.1', '--out', 'results/one'], 'results/tensorboard'),
    (['sweep', 'tiny.yaml', '--out', 'here'], 'here/tensorboard')])
def test_commands_log_if_they_are_asked_to(monkeypatch, tmp_path, args, folder):
    "beside the results; what there is not is refused before anything begins"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('MODSPEC_LOG', raising=False)
    asked = []
    def computed(*what, **how):
        asked.append(os.environ.get('MODSPEC_LOG'))
        return Path('done')
    monkeypatch.setattr(notebook, 'run_notebook', computed)
    monkeypatch.setattr(cli, 'computed_sweep', computed)
    monkeypatch.setattr(live, 'check_installed', lambda *_: None)
    for more in ([], ['--log', 'tensorboard']): assert CliRunner().invoke(cli.app, [*args, *more]).exit_code == 0
    assert asked == [None, str(tmp_path / folder)] and 'MODSPEC_LOG' not in os.environ
    answer = CliRunner().invoke(cli.app, [*args, '--log', 'wandb'])
    assert answer.exit_code == 2 and "log must be one of ['tensorboard'], got 'wandb'" in answer.output
    assert len(asked) == 2 and not [*tmp_path.iterdir()]


@pytest.mark.parametrize('name', ['p0.01_seeds0-4', 'one'])
def test_each_run_has_a_folder_of_its_own(monkeypatch, tmp_path, name):
    "as the kernel of its notebook is told"
    told = []
    def execute(*_):
        told.append(os.environ.get('MODSPEC_LOG'))
        raise notebook.RunFailed('far enough')
    monkeypatch.setattr(notebook, 'execute', execute)
    with logged(tmp_path / 'logs'), pytest.raises(notebook.RunFailed):
        notebook.run_notebook(make_run('extreme_sparsity', {}, [.01]), tmp_path / name)
    assert told == [str(tmp_path / 'logs' / name)]
