"""What a killed process leaves is swept by the next one; what any process writes can be read by others"""
import os
import signal
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from sweeps import CONFIG, TINY, computed, swept, write_config

from modspec.analysis.plot import save_figure
from modspec.core import mnist
from modspec.core.files import locked, make_folder, own_folder, remove_left, written_whole
from modspec.engine.attempts import attempt
from modspec.engine.config import load_config
from modspec.engine.notebook import private_sockets
from modspec.engine.progress import say_progress
from modspec.engine.run import run
from modspec.engine.sweep import tidy_folders


def in_download(place, die, patch):
    patch.setattr('torchvision.datasets.MNIST', die)
    mnist.download_mnist(place)


def in_progress(place, die, patch):
    patch.setattr(os, 'replace', die)
    say_progress(place / '.run.progress.json', 1, 2, 'half')


def within(make):
    def inside(place, die, patch):
        with make(place): die()
    return inside


KILLED = {  # what is going on in a folder when the process is killed, and what removes the rest
    'file': (within(lambda place: written_whole(place / 'file')), make_folder),
    'own folder': (within(own_folder), own_folder),
    'attempt': (within(lambda place: attempt(place / 'run')), lambda place: attempt(place / 'run')),
    'attempt in a sweep': (within(lambda place: attempt(place / 'run')),
                           lambda place: tidy_folders({place / 'run': CONFIG})),
    'sockets': (within(lambda place: private_sockets()), lambda place: private_sockets()),
    'progress': (in_progress, lambda place: tidy_folders({place / 'run': CONFIG})),
    'download': (in_download, own_folder),
}


def child(action, place, monkeypatch, lives):
    "A process that says when it has come to the middle of something; it dies there, or stays until it is killed"
    here, there = os.pipe()
    pid = os.fork()
    if not pid:
        def die(*_, **__):
            os.write(there, b'there')
            time.sleep(600 * lives)
            os.kill(os.getpid(), signal.SIGKILL)
        try: action(place, die, monkeypatch)
        finally: os._exit(1)
    os.close(there)
    said = os.read(here, 9)
    os.close(here)
    assert said == b'there'
    return pid


def left(place): return {path.name for path in place.rglob('*') if path.name.startswith('.')}


def let(sweeper, place):
    "Call what sweeps, to its end"
    found = sweeper(place)
    if found is not None:
        with found: pass


@pytest.mark.provokes('killed sweep')
@pytest.mark.parametrize('name', KILLED)
def test_what_a_killed_process_leaves_is_removed_by_the_next(tmp_path, monkeypatch, name):
    "and nothing of a process that lives, nor what has another name"
    action, sweeper = KILLED[name]
    place, others = tmp_path, {'.x.tmp', '.x.1.tmp', '.modspec-mine', '.run.attempt', '.mnist-raw'}
    monkeypatch.setattr('tempfile.tempdir', str(place))
    for other in others: (place / other).mkdir()
    assert os.waitstatus_to_exitcode(os.waitpid(child(action, place, monkeypatch, False), 0)[1]) == -signal.SIGKILL
    dead = left(place) - others
    pid = child(action, place, monkeypatch, True)
    theirs = left(place) - others - dead
    assert len(dead) == len(theirs) == 1
    let(sweeper, place)
    assert left(place) == others | theirs if name != 'progress' else others  # a run's progress has one owner
    os.kill(pid, signal.SIGKILL), os.waitpid(pid, 0)
    let(sweeper, place)
    assert left(place) == others


def test_where_nothing_can_be_locked(tmp_path, monkeypatch):
    "nothing is removed, and everything else works"
    def unknown(*_): raise OSError(95, 'Operation not supported')
    monkeypatch.setattr('fcntl.flock', unknown)
    (tmp_path / '.x.1.modspec.tmp').touch()
    with locked(tmp_path) as ours, own_folder(tmp_path) as folder: assert not ours and folder.is_dir()
    make_folder(tmp_path), remove_left(tmp_path, '.*')
    with written_whole(tmp_path / 'file') as temporary: temporary.write_text('whole')
    assert {path.name for path in tmp_path.iterdir()} == {'.x.1.modspec.tmp', 'file'}


# permissions

def modes(folder):
    "The files below a folder whose permissions are not those that the umask gives"
    before = os.umask(0)
    os.umask(before)
    return {path.name: oct(path.stat().st_mode & 0o777) for path in Path(folder).rglob('*')
            if path.is_file() and path.stat().st_mode & 0o777 != 0o666 & ~before}


@pytest.mark.parametrize('umask', [0o022, 0o027, 0o077, 0o002])
def test_every_file_has_the_permissions_of_the_umask(there, umask):
    before = os.umask(umask)
    try:
        results = swept(write_config(settings=TINY), there / 'results')
        save_figure(plt.figure(), results / 'figures', 'empty')
        say_progress(there / 'progress.json', 1, 2, 'half')
        assert len([*results.rglob('*.safetensors')]) == 2 and modes(there) == {}
    finally: os.umask(before)


def test_every_file_of_a_sweep_can_be_read_by_colleagues(smoke):
    "those that Snakemake, papermill and the figures write as well"
    assert modes(smoke.results) == {}


def test_downloaded_data_can_be_read_by_colleagues(tmp_path, monkeypatch):
    "although the folder in which they are fetched is private"
    def fetch(root, download):
        raw = Path(root, 'MNIST', 'raw')
        raw.mkdir(parents=True)
        for name in mnist.MNIST_FILES: (raw / name).write_bytes(b'data')

    monkeypatch.setattr('torchvision.datasets.MNIST', fetch)
    monkeypatch.setattr(mnist, 'check_mnist_file', lambda path: path.read_bytes())
    mnist.download_mnist(tmp_path)
    assert len([*(tmp_path / 'MNIST' / 'raw').iterdir()]) == 4 and modes(tmp_path) == {} and left(tmp_path) == set()


def test_a_run_that_was_killed_leaves_nothing_in_its_folder(tmp_path):
    "once measures are added to it by the next"
    out = run(CONFIG, tmp_path / 'out', only=['performance'])
    (out / '.values-0123.parquet.1.modspec.tmp').write_text('half')
    run(CONFIG, out)
    assert left(out) == set()


def test_attempts_at_runs_that_are_done_are_swept_by_the_sweep(there):
    folders = load_config(write_config()).folders('results')
    folder, config = next(iter(folders.items()))
    computed(config, folder)
    folder.with_name(f'.{folder.name}.attempt-1').mkdir()
    with attempt(folder.with_name('other')) as living:
        tidy_folders(folders)
        assert living.exists() and left(folder.parent) == {living.name}
