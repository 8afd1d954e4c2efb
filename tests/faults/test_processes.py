"""Processes that are killed, stopped, out of room, in each other's way, or very many: nothing lost, nothing wrong"""
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest
from safetensors import SafetensorError
from sweeps import CONFIG, NORM, computed, contents, swept, until, write_config

from modspec.analysis.tables import read_table
from modspec.core import files
from modspec.core.files import ResultError, read_manifest
from modspec.engine import collect, notebook, processes
from modspec.engine import run as runs
from modspec.engine import weights as stored
from modspec.engine.collect import collect_sweep
from modspec.engine.config import load_config
from modspec.engine.notebook import RunFailed, draw_figures, publish, repository, run_notebook
from modspec.engine.processes import owned
from modspec.engine.progress import ProgressFile
from modspec.engine.run import run
from modspec.engine.status import sweep_status, verify_results
from modspec.engine.store import NOTEBOOK, TABLES, WEIGHTS, asked_measures, is_finished
from modspec.engine.sweep import run_sweep
from modspec.studies.extreme_sparsity.config import sparsity_run
from modspec.training.loop import NonFiniteLoss

MODSPEC = Path(sys.executable).with_name('modspec')
ROUNDS = int(os.environ.get('MODSPEC_ROUNDS', 20))  # of what is killed at a random moment
MANY = int(os.environ.get('MODSPEC_MANY', 500))  # runs in one process
RUNS = int(os.environ.get('MODSPEC_RUNS', 500))  # runs in one sweep


@pytest.fixture
def family(monkeypatch):
    "The living processes that this test has started, however far away they are now; killed at the end"
    mark = uuid.uuid4().hex
    monkeypatch.setenv('MODSPEC_TEST', mark)
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # as it is in the background

    def members():
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get('MODSPEC_TEST') == mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    yield members
    while left := members(): kill(left)
    signal.signal(signal.SIGINT, ignored)


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    "Lets every kernel begin with code of ours; `said` is what its run is told by the environment"
    folder = tmp_path / 'jupyter' / 'kernels' / 'python3'

    def make(code):
        folder.mkdir(parents=True)
        argv = [sys.executable, str(folder / 'kernel.py'), '-f', '{connection_file}']
        (folder / 'kernel.json').write_text(json.dumps(dict(argv=argv, display_name='python3', language='python')))
        (folder / 'kernel.py').write_text(
            'import os, signal, sys, tempfile, threading, time\nfrom pathlib import Path\n'
            "said = os.environ.get('MODSPEC_PROGRESS', '')\n"
            f'{code}\nfrom ipykernel.kernelapp import launch_new_instance\nlaunch_new_instance()\n')
        monkeypatch.setenv('JUPYTER_PATH', str(tmp_path / 'jupyter'))
        return folder

    return make


GATE = """
import modspec.engine.run as runs
train, gate = runs.train_run, os.environ.get('GATE', '')
def gated(*args):
    Path(gate + '.reached').touch()
    while gate and not Path(gate).exists(): sum(range(100_000))
    return train(*args)
runs.train_run = gated
"""  # for `kernel`: a run that computes until the file that the environment names exists


def kill(processes):
    for process in processes:
        with suppress(psutil.NoSuchProcess): process.kill()
    psutil.wait_procs(processes, timeout=5)


def start(*args, **env):
    "The command, in a session of its own as if from another terminal"
    return subprocess.Popen([MODSPEC, *map(str, args)], env=os.environ | env, start_new_session=True, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def modspec(*args, **env):
    "The command, to its end; what it said on stderr must be one line if it failed"
    process = start(*args, **env)
    out, err = process.communicate()
    lines = [line for line in err.splitlines() if line.startswith('modspec: ')]
    assert len(lines) == (process.returncode != 0), err
    return process.returncode, (lines or out.splitlines())[-1]


def finished_runs(results):
    "The files of the runs that have a manifest, with their bytes and places on the disk"
    return {path: (path.read_bytes(), path.stat().st_ino)
            for manifest in Path(results).glob('runs/[!.]*/manifest.json') for path in manifest.parent.iterdir()}


def n_finished(results):
    "How many runs have a manifest"
    return len(list(Path(results).glob('runs/[!.]*/manifest.json')))


def tables_of(results):
    "The bytes of the tables of a sweep or of a run"
    names = read_manifest(results).get('tables', {name: f'{name}.parquet' for name in TABLES})
    return [(Path(results) / names[name]).read_bytes() for name in TABLES]


def states(config, results): return [one['state'] for one in sweep_status(config, results)]


def nothing_half_done(results):
    "No files but those of finished runs, logs and tables"
    hidden = [path for path in Path(results).rglob('.*') if path.name != '.ipynb_checkpoints']
    assert hidden == [], hidden


# killed sweep

def everybody(command, family): return family()
def the_command(command, family): return [psutil.Process(command.pid)]


def snakemake(command, family):
    "Or the command, as long as it has not started Snakemake"
    return [p for p in family() if 'followed_snakemake' in ' '.join(p.cmdline())] or the_command(command, family)


@pytest.mark.slow
@pytest.mark.provokes('killed sweep', rounds=ROUNDS)
def test_killed_at_a_random_moment(there, family, record_property):
    """The smoke sweep, killed while it runs: all of its processes at once, or only one, which the others notice.

    Its two runs take turns and the moment is between their ends, or they share the time and it is any moment. The same
    command then ends with the tables of a sweep that nobody interrupted, and leaves finished runs alone.
    """
    config, draw = repository() / 'config' / 'extreme_sparsity' / 'smoke.yaml', random.Random(0)
    names = set(load_config(config).runs())
    begin = time.monotonic()
    assert modspec('sweep', config, '--out', 'whole', '--cores', 2)[0] == 0
    together = time.monotonic() - begin
    command = start('sweep', config, '--out', 'in turns', '--cores', 1)
    until(lambda: n_finished('in turns') == 1)
    second = until(lambda: n_finished('in turns') == 2)
    command.communicate()
    killed = partly = 0
    for n in range(ROUNDS):
        victims, cores, results = (everybody, the_command, snakemake)[n % 3], 1 + n % 2, Path(f'killed {n}')
        command = start('sweep', config, '--out', results, '--cores', cores)
        if cores == 1: until(lambda results=results: n_finished(results))
        with suppress(subprocess.TimeoutExpired): command.wait(draw.uniform(0, second if cores == 1 else together))
        running = command.poll() is None
        with suppress(psutil.NoSuchProcess): kill(victims(command, family))
        command.communicate()
        until(lambda: not family(), 60)
        before = finished_runs(results)
        killed += running
        partly += running and n_finished(results) == 1
        assert modspec('sweep', config, '--out', results, '--cores', 2)[0] == 0
        after = finished_runs(results)
        assert {path: after[path] for path in before} == before
        assert {path.name for path in (results / 'runs').iterdir()} == names
        assert tables_of(results) == tables_of('whole')
        nothing_half_done(results)
    record_property('measured', f'{killed} of {ROUNDS} killed while running, {partly} of them with one run of two done')
    assert killed >= ROUNDS // 2 and partly >= ROUNDS // 5


@pytest.mark.slow
@pytest.mark.provokes('killed sweep')
def test_finished_run_whose_snakemake_was_killed(there, family):
    """A run that ends when its Snakemake is gone already, so that Snakemake holds it for incomplete, is kept.

    What is left of such a moment are the marks of a run that was begun, in Snakemake's own folder.
    """
    config = write_config(sparsities=[0.01])
    assert modspec('sweep', config, '--out', 'results')[0] == 0
    before, tables = finished_runs('results'), tables_of('results')
    target = 'results/runs/p0.01_seeds0-0/manifest.json'
    code = ('import sys; from base64 import urlsafe_b64encode as b; from pathlib import Path\n'
            "folder = Path('.snakemake/incomplete'); folder.mkdir(exist_ok=True, parents=True)\n"
            '(folder / b(sys.argv[1].encode()).decode()).touch()')
    subprocess.run([sys.executable, '-c', code, target], check=True)
    Path('results/manifest.json').unlink()
    assert modspec('sweep', config, '--out', 'results')[0] == 0
    assert finished_runs('results') == before and tables_of('results') == tables


# killed while a measure is added

MINE = """
import os, time
from pathlib import Path
import torch
REGISTERED = [dict(kind='measure', name='mine', object='mine', needs=[], values={'mine': dict(
    axes=[], label='mine', raw='mine', color='k', marker='o', range=[0, 1], null=None)})]
def mine(stack, dataset, parameters, *, bar):
    gate = os.environ.get('GATE', '')
    if gate: Path(gate + '.reached').touch()
    while gate and not Path(gate).exists(): time.sleep(0.01)
    return {'mine': torch.ones(len(stack))}
"""  # a plugin that measures until the file that the environment names exists


def ordered(values):
    "A table of values whose measures were taken in any order"
    return values.sort_values([*values.columns], ignore_index=True)


@pytest.mark.provokes('killed sweep')
def test_killed_while_a_measure_is_added(there, family):
    "To a finished sweep: what was there stays as it was, and the same command goes on without training"
    config = write_config(sparsities=[0.5])
    before, plugin = contents(swept(config, there / 'results')), there / 'mine.py'
    values = read_table('results')
    plugin.write_text(MINE)
    args = ['measure', 'results', '--plugin', plugin, '--config', config]
    command = start(*args, GATE=str(there / 'gate'))
    until((there / 'gate.reached').exists)
    command.kill()
    command.communicate()
    assert {path: data for path, (data, _) in contents('results').items()} == {
        path: data for path, (data, _) in before.items()}
    (folder, asked), = load_config(config).folders('results').items()
    assert verify_results('results')[1] == {} and is_finished(folder, asked)
    assert modspec(*args)[0] == 0
    after = read_table('results')
    assert set(after['measure']) == {*values['measure'], 'mine'} and verify_results('results')[1] == {}
    pd.testing.assert_frame_equal(ordered(after[after['measure'] != 'mine']), ordered(values))
    weights = (folder / WEIGHTS).relative_to('results')
    assert contents('results')[weights] == before[weights]


EACH_WRITE = """
import os, shutil, signal
from sweeps import CONFIG
from modspec.analysis.tables import read_table
from modspec.engine.run import run
from modspec.engine.status import verify_results

def rows(folder):
    table = read_table(folder)[['epoch', 'measure', 'subnetwork', 'subtask', 'value']]
    return {tuple(row) for row in table.astype(str).values}

whole, out = rows(run(CONFIG, 'whole')), rows(run(CONFIG, 'out', only=['performance']))
replace = os.replace
for n in range(100):
    shutil.rmtree('more', ignore_errors=True)
    shutil.copytree('out', 'more')
    child = os.fork()
    if not child:
        left = n
        def dying(*args):
            global left
            left -= 1
            if left < 0: os.kill(os.getpid(), signal.SIGKILL)
            replace(*args)
        os.replace = dying
        run(CONFIG, 'more')
        os._exit(0)
    if not os.waitpid(child, 0)[1]: break
    assert verify_results('more')[1] == {} and out <= rows('more') <= whole
    assert rows(run(CONFIG, 'more')) == whole and not verify_results('more')[1]
print(n)
"""


@pytest.mark.provokes('killed sweep', rounds=8)
def test_killed_at_each_write_of_a_measure(there):
    "kill -9 right before a file of a run that is being measured gets its name: each time, all earlier values are there"
    answer = subprocess.run([sys.executable, '-c', EACH_WRITE], capture_output=True, text=True,
                            env=os.environ | {'PYTHONPATH': str(Path(__file__).parents[1])})
    assert answer.returncode == 0, answer.stderr
    assert int(answer.stdout.splitlines()[-1]) >= 8  # a probe, the networks, and two for each measure


@pytest.mark.provokes('two sweeps')
def test_two_measures_at_once(tmp_path, monkeypatch):
    "on one run take turns, and neither loses what the other has found"
    out, first, measured = run(CONFIG, tmp_path / 'out', only=[]), threading.Event(), runs.measured

    def slow(*args):
        first.set()
        time.sleep(0.2)
        return measured(*args)

    monkeypatch.setattr(runs, 'measured', slow)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(run, CONFIG, out, only=['performance'])
        first.wait()
        other = pool.submit(run, CONFIG, out, only=['correlation', 'weight_mask'])
        one.result(), other.result()
    names = [found['measure'] for found in read_manifest(out)['measured']]
    assert names == ['performance', 'correlation', 'weight_mask'] and verify_results(out)[1] == {}


# orphaned run

@pytest.mark.slow
@pytest.mark.provokes('orphaned run')
def test_orphan_finds_its_successor_done(there, kernel, family):
    "Two commands compute one run; the second to finish discards its work and says so, which is a success"
    kernel(GATE)
    args = ['run', '--config', write_config(), '--name', 'p1.0_seeds0-0', '--out', 'out']
    orphan = start(*args, GATE=str(there / 'gate'))
    until((there / 'gate.reached').exists)
    assert modspec(*args) == (0, 'results: out')
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in Path('out').iterdir()}
    (there / 'gate').touch()
    _, said = orphan.communicate()
    assert orphan.returncode == 0 and 'out was finished by another process meanwhile' in said
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in Path('out').iterdir()} == before
    assert not Path('out.failed').exists() and not [path for path in there.glob('.out*')] and not family()


@pytest.mark.slow
@pytest.mark.provokes('orphaned run')
def test_successor_finds_the_orphan_done(there, kernel, family):
    """The other way round, in a sweep: its run loses to one that was started elsewhere, and is not counted as failed.

    Snakemake, which would remove the output of a failed job and again before the next attempt, leaves it alone.
    """
    kernel(GATE)
    config, name = write_config(sparsities=[0.01]), 'p0.01_seeds0-0'
    command = start('sweep', config, '--out', 'results', GATE=str(there / 'gate'))
    until((there / 'gate.reached').exists)
    assert modspec('run', '--config', config, '--name', name, '--out', f'results/runs/{name}')[0] == 0
    before = finished_runs('results')
    (there / 'gate').touch()
    _, said = command.communicate()
    assert command.returncode == 0, said
    assert 'finished by another process meanwhile' in (there / 'results' / 'logs' / f'{name}.log').read_text()
    assert 'Trying to restart job' not in (there / 'results' / 'sweep.log').read_text()
    assert finished_runs('results') == before and len(before) == len([*TABLES, WEIGHTS, NOTEBOOK, 'manifest.json'])
    nothing_half_done('results')


RACE = """
first, gate = Path(os.environ['GATE'] + '.first'), Path(os.environ['GATE'])
import modspec.engine.run as runs
train = runs.train_run
def racing(*args):
    mine = not first.exists()
    (first if mine else first.with_suffix('.second')).touch()
    while not gate.exists(): time.sleep(0.01)
    made = Path(said.replace('/.', '/').removesuffix('.progress.json'), 'manifest.json')
    while mine != (gate.read_text() == 'first') and not made.exists(): time.sleep(0.01)
    return train(*args)
runs.train_run = racing
"""  # for `kernel`: two that compute one run; the file that the environment names says which of them is to end first


@pytest.mark.slow
@pytest.mark.provokes('orphaned run')
@pytest.mark.parametrize('winner', ['first', 'second'])
def test_shell_of_a_job_is_killed(there, kernel, family, winner):
    "Its run goes on beside the one that Snakemake starts in its place: whichever ends first, the sweep is done"
    kernel(RACE)
    config, name, gate = write_config(sparsities=[0.01]), 'p0.01_seeds0-0', there / 'gate'
    command = start('sweep', config, '--out', 'results', GATE=str(gate))
    until(Path(f'{gate}.first').exists)
    shells = [p for p in family() if 'bash' in p.name() and any('modspec run' in word for word in p.cmdline())]
    assert len(shells) == 1
    kill(shells)
    until(Path(f'{gate}.second').exists)
    gate.with_name('opened').write_text(winner), gate.with_name('opened').rename(gate)
    _, said = command.communicate()
    assert command.returncode == 0 and 'modspec: ' not in said, said
    until(lambda: not family(), 60)
    assert states(config, 'results') == ['done'] and set(read_table('results')['sparsity']) == {0.01}
    assert {path.name for path in Path('results/runs').iterdir()} == {name}
    nothing_half_done('results')


@pytest.mark.provokes('orphaned run', rounds=50)
def test_one_of_many_wins(tmp_path):
    "Runs that finish at the same time: one keeps its place, whole, and the others are told that they lost"
    for n in range(50):
        place, barrier = tmp_path / str(n), threading.Barrier(8)
        place.mkdir()
        (place / 'values.parquet').write_text('half')

        def race(racer, place=place, barrier=barrier):
            own = place.with_name(f'.{place.name}.attempt-{racer}')
            own.mkdir()
            for name in ('values.parquet', 'manifest.json'): (own / name).write_text(str(racer))
            barrier.wait()
            return racer if publish(own, place) else None

        with ThreadPoolExecutor(8) as pool: winners = [racer for racer in pool.map(race, range(8)) if racer is not None]
        assert len(winners) == 1
        assert {path.name: path.read_text() for path in place.iterdir()} == {
            'values.parquet': str(winners[0]), 'manifest.json': str(winners[0])}


def test_progress_is_no_reason_to_fail(tmp_path):
    "A progress file that cannot be written, because its folder is gone or another process has tidied up"
    with ProgressFile(tmp_path / 'gone' / 'progress.json', 2) as bar:
        bar.update()
        bar.set_description('lost')


# plugins

@pytest.mark.provokes('plugins')
def test_results_of_a_plugin_that_is_gone(there, family):
    "are read as before, with what the plugin said of its measure; its file, named again, is missed before any work"
    plugin, config = there / 'mine.py', write_config(sparsities=[0.5])
    plugin.write_text(MINE)
    swept(config, there / 'results')
    assert modspec('measure', 'results', '--plugin', plugin, '--config', config)[0] == 0
    plugin.unlink()
    table = read_table('results')
    assert 'mine' in set(table['measure']) and table.attrs['measures']['mine']['label'] == 'mine'
    code, said = modspec('measure', 'results', '--plugin', plugin)
    assert code == 2 and f'plugin {plugin} is missing; give the path of a Python file' in said
    for args in (['verify', 'results'], ['status', config, '--out', 'results'], ['measure', 'results']):
        assert modspec(*args)[0] == 0, args
    assert ordered(read_table('results')).equals(ordered(table))


@pytest.mark.slow
@pytest.mark.provokes('plugins')
def test_plugin_disappears_between_a_sweep_and_its_run(there, kernel, family):
    "The run says so, and is failed; the file put back, the same command ends well"
    kernel("Path(os.environ['PLUGIN']).unlink(missing_ok=True)")
    plugin, config = there / 'mine.py', write_config(sparsities=[0.5], plugins=['mine.py'])
    plugin.write_text(MINE)
    code, said = modspec('sweep', config, '--out', 'results', PLUGIN=str(plugin))
    assert code == 1 and '1 of 1 runs did not finish (p0.5_seeds0-0)' in said
    assert f'plugin {plugin} is missing' in Path('results/logs/p0.5_seeds0-0.log').read_text()
    assert not list(Path('results').rglob('*.parquet')) and not family()
    plugin.write_text(MINE)
    assert modspec('sweep', config, '--out', 'results', PLUGIN='nothing')[0] == 0
    assert 'mine' in set(read_table('results')['measure'])
    nothing_half_done('results')


# killed kernel

DEATHS = {  # by the code of the kernel: what the log says
    'kill -9': ("""
def die():
    while not Path(said).exists(): time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=die, daemon=True).start()
""", 'the kernel died; was there enough memory'),
    'memory limit': ("""
import resource
import modspec.engine.run as runs
train = runs.train_run
def limited(*args):
    size = int(Path('/proc/self/statm').read_text().split()[0]) * os.sysconf('SC_PAGESIZE')
    resource.setrlimit(resource.RLIMIT_AS, [size + 16 * 2**20] * 2)
    return train(*args)
runs.train_run = limited
""", 'allocate|memory|Memory')}


@pytest.mark.slow
@pytest.mark.provokes('killed kernel')
@pytest.mark.parametrize('death', DEATHS)
def test_kernel_dies_in_a_sweep(there, kernel, family, death):
    """The run is tried once more, then counted as failed, with its notebook and log; another goes on.

    The networks that meet the limit need 16 MB for each copy of their recurrent matrix.
    """
    code, reason = DEATHS[death]
    code = ''.join(f'    {line}\n' for line in code.splitlines())
    kernel(f"if 'p0.5_' in said:\n    tempfile.mkstemp(dir={str(there)!r}, suffix='.attempt')\n{code}")
    size = dict(n_hidden=1000, n_pairs=4, batch_size=2) if death == 'memory limit' else dict(n_pairs=64_000)
    config = write_config(sparsities=[0.5, 1.], settings=size)
    code, said = modspec('sweep', config, '--out', 'results', '--cores', 2)
    assert code == 1 and '1 of 2 runs did not finish (p0.5_seeds0-0); see results/sweep.log' in said
    folder, other = (there / 'results' / 'runs' / f'p{p}_seeds0-0' for p in (0.5, 1.0))
    assert len(list(there.glob('*.attempt'))) == 2
    assert re.search(f'p=0.5 failed, .*({reason})', (there / 'results' / 'logs' / f'{folder.name}.log').read_text())
    assert folder.with_name(f'{folder.name}.failed').joinpath('notebook.ipynb').exists() and not list(folder.glob('*'))
    nothing_half_done('results')
    assert is_finished(other, load_config(config).runs()[other.name])
    assert states(config, 'results') == ['failed', 'done']
    assert not Path('results/manifest.json').exists() and not family()


# two sweeps

@pytest.mark.slow
@pytest.mark.provokes('two sweeps')
def test_second_sweep_is_told_who_was_first(there, kernel, family):
    "The same command, and one of another configuration; the kernel of the operating system forgets those who died"
    config, other = write_config(sparsities=[0.01]), write_config('other.yaml', [0.3])
    first = start('sweep', config, '--out', 'results')
    log = there / 'results' / 'sweep.log'
    until(lambda: log.exists() and log.read_text().startswith(f'process {first.pid} on '))
    before = contents(there / 'results' / 'runs')
    for second in (config, other):
        with pytest.raises(ResultError, match=f'results is in use by process {first.pid} on .*; wait until it ends'):
            run_sweep(second, 'results')
    assert modspec('sweep', config, '--out', 'results')[0] == 2
    assert first.poll() is None and contents(there / 'results' / 'runs') == before
    first.kill()
    first.communicate()
    with owned(log): assert log.read_text().startswith(f'process {os.getpid()} on ')
    until(lambda: not family(), 60)


@pytest.mark.provokes('two sweeps')
def test_disk_that_knows_no_locks(tmp_path, monkeypatch):
    "is no reason to refuse a sweep"
    def unknown(*_): raise OSError(95, 'Operation not supported')
    monkeypatch.setattr(processes.fcntl, 'flock', unknown)
    with owned(tmp_path / 'sweep.log'), owned(tmp_path / 'sweep.log'): pass


# full disk

@contextmanager
def room_for(size):
    "No file of this process grows beyond `size` bytes in the block"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextmanager
def full_at(name, monkeypatch, size=100, spared=0):
    "Room for `size` bytes whenever a file whose name begins like that is written, but for the first ones"
    written_whole, count = files.written_whole, 0

    @contextmanager
    def limited(path):
        nonlocal count
        mine = path.name.startswith(name)
        count += mine
        with written_whole(path) as temporary, ExitStack() as limits:
            if mine and count > spared: limits.enter_context(room_for(size))
            yield temporary

    with monkeypatch.context() as patch:
        for module in (files, runs, stored, collect): patch.setattr(module, 'written_whole', limited)
        yield


@pytest.mark.provokes('full disk')
@pytest.mark.parametrize('size', [0, 100])
@pytest.mark.parametrize('name', [*TABLES, WEIGHTS, 'manifest.json'])
def test_no_room_for_a_file_of_a_run(tmp_path, monkeypatch, name, size):
    "An error, no file of that name nor a half one, no result; with room, the same command ends well"
    before = contents(run(CONFIG, tmp_path / 'older'))
    with full_at(name, monkeypatch, size), pytest.raises((OSError, SafetensorError), match='too large'):
        run(CONFIG, tmp_path / 'out')
    left = {path.name.split('-')[0] for path in (tmp_path / 'out').iterdir()}
    assert left <= {*TABLES, WEIGHTS} and name not in left and contents(tmp_path / 'older') == before
    with pytest.raises(ResultError, match='no results'): read_table(tmp_path / 'out')
    run(CONFIG, tmp_path / 'out')
    assert tables_of(tmp_path / 'out') == tables_of(tmp_path / 'older')


@pytest.mark.provokes('full disk')
@pytest.mark.parametrize('name', ['values', 'manifest.json'])
@pytest.mark.parametrize('spared', [1, 3])
def test_no_room_for_another_measure(tmp_path, monkeypatch, name, spared):
    "The networks are trained and perhaps measured by then: they are kept, and the same command measures the rest"
    older = run(CONFIG, tmp_path / 'older')
    with full_at(name, monkeypatch, spared=spared), pytest.raises(OSError, match='too large'):
        run(CONFIG, tmp_path / 'out')
    manifest = read_manifest(tmp_path / 'out')
    assert len(manifest['measured']) == spared - 1 and verify_results(tmp_path / 'out')[1] == {}
    run(CONFIG, tmp_path / 'out')
    again = read_manifest(tmp_path / 'out')
    assert tables_of(tmp_path / 'out') == tables_of(older) and again['training'] == manifest['training']
    assert {path.name for path in older.iterdir()} == {path.name for path in (tmp_path / 'out').iterdir()}


@pytest.mark.provokes('full disk')
@pytest.mark.parametrize('name', [*TABLES, 'manifest.json'])
def test_no_room_for_the_tables_of_a_sweep(there, monkeypatch, name):
    "The older tables stay whole"
    results = swept(write_config(), there / 'results')
    before = contents(results)
    more = write_config('more.yaml', [0.01, 0.5, 1.])
    of_run = load_config(more).runs()['p0.5_seeds0-0']
    run(of_run, results / 'runs' / 'p0.5_seeds0-0')
    with full_at(name, monkeypatch), pytest.raises(OSError, match='too large'): collect_sweep(more, results)
    assert {path: data for path, data in contents(results).items() if 'p0.5_' not in str(path)} == before
    assert set(read_table(results)['sparsity']) == {0.01, 1.}
    nothing_half_done(results)
    collect_sweep(more, results)
    assert set(read_table(results)['sparsity']) == {0.01, 0.5, 1.}


@pytest.mark.slow
@pytest.mark.provokes('full disk', rounds=2)
def test_no_room_for_the_notebook_of_a_run(there, monkeypatch, family):
    "papermill writes it again after each cell: not even the first time, or all but its end, when the tables are there"
    from papermill.iorw import LocalHandler
    write = LocalHandler.write
    older = run_notebook(CONFIG, Path('older'))
    before = contents(older)
    for size in (0, (older / NOTEBOOK).stat().st_size - 200):
        def limited(self, text, path, size=size):
            with room_for(size): write(self, text, path)

        with monkeypatch.context() as patch:
            patch.setattr(LocalHandler, 'write', limited)
            with pytest.raises(RunFailed, match=r'p=0.07 failed, .*too large; see .*/out\.failed/notebook\.ipynb'):
                run_notebook(CONFIG, Path('out'))
        assert contents(older) == before and not family()
        assert Path('out/manifest.json').exists() == (size > 0) and not is_finished('out', CONFIG)
    training = read_manifest('out')['training']
    run_notebook(CONFIG, Path('out'))
    assert is_finished('out', CONFIG) and read_manifest('out')['training'] == training
    assert tables_of('out') == tables_of(older) and {path.name for path in there.iterdir()} == {'older', 'out'}


@pytest.mark.provokes('full disk')
def test_no_room_for_the_seal_of_a_run(there, monkeypatch):
    "The manifest that takes the executed notebook in; without it the run is trained, but not done"
    older = computed(CONFIG, Path('older'))
    before = contents(older)

    def executed(page, target, values):
        run(CONFIG, values['out'])
        target.write_text('{}')

    monkeypatch.setattr(notebook, 'execute', executed)
    spared = 1 + len(asked_measures(CONFIG))  # that of the training, and one after each measure
    with full_at('manifest.json', monkeypatch, spared=spared), pytest.raises(RunFailed, match='p=0.07 .*too large'):
        run_notebook(CONFIG, Path('out'))
    assert contents('older') == before and verify_results('out')[1] == {} and not list(there.glob('.*'))
    assert Path('out.failed/notebook.ipynb').exists() and not is_finished('out', CONFIG)
    assert is_finished(run_notebook(CONFIG, Path('out')), CONFIG) and tables_of('out') == tables_of('older')
    assert set(read_manifest('out')['files']) == set(read_manifest('older')['files'])
    assert not Path('out.failed').exists()


def in_a_mount_of_its_own(code, *args):
    "What Python code says that mounts a small disk for itself"
    private = ['unshare', '--user', '--map-root-user', '--mount']
    if not shutil.which('unshare') or subprocess.run([*private, 'true'], capture_output=True).returncode:
        pytest.skip('needs a mount of its own, which this system does not allow')
    answer = subprocess.run([*private, sys.executable, '-c', code, *args], capture_output=True, text=True,
                            env=os.environ | {'PYTHONPATH': str(Path(__file__).parents[1])})
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


FULL = """
import os, subprocess
from pathlib import Path
from sweeps import CONFIG
from modspec.analysis.tables import read_table
from modspec.engine.run import run
from modspec.engine.status import verify_results
from modspec.engine.store import lacking, run_manifest

subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', 'disk'], check=True)
older, out, filler = Path('disk', 'older'), Path('disk', 'out'), Path('disk', 'filler')
run(CONFIG, older)
before, refused, trained = {path: path.read_bytes() for path in older.iterdir()}, 0, 0
for free in range(0, 120, 4):
    filler.write_bytes(b'0' * (os.statvfs('disk').f_bavail * os.statvfs('disk').f_frsize - free * 1024))
    try: run(CONFIG, out)
    except Exception as error:
        refused += 1
        assert 'No space left on device' in str(error), repr(error)
        assert not list(out.glob('.*')), list(out.iterdir())
        if (out / 'manifest.json').exists():
            trained += 1
            assert verify_results(out)[1] == {} and len(read_table(out, 'history'))
    else: break
    filler.unlink()
    if not (out / 'manifest.json').exists(): subprocess.run(['rm', '-rf', out])
    assert {path: path.read_bytes() for path in older.iterdir()} == before
assert refused > 3 and not lacking(run_manifest(out, CONFIG), CONFIG), refused
print(refused, trained)
"""


@pytest.mark.provokes('full disk', rounds=5)
def test_disk_that_is_full(there):
    "A small disk, with room for ever more of a run: nothing half done at any point, until all of it fits"
    Path('disk').mkdir()
    refused, trained = map(int, in_a_mount_of_its_own(FULL).splitlines()[-1].split())
    assert refused >= 5 and trained >= 1


FULL_FOR_TABLES = """
import os, shutil, subprocess, sys
from pathlib import Path
from modspec.engine.store import TABLES

subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', 'results'], check=True)
shutil.copytree('older', 'results', dirs_exist_ok=True)
filler, refused = Path('results', 'filler'), 0
for free in range(0, 80, 8):
    filler.write_bytes(b'0' * (os.statvfs('results').f_bavail * os.statvfs('results').f_frsize - free * 1024))
    answer = subprocess.run([sys.argv[1], 'sweep', 'more.yaml', '--out', 'results'], capture_output=True, text=True)
    filler.unlink()
    if not answer.returncode: break
    refused += 1
    assert answer.stderr.splitlines()[-1].startswith('modspec: '), answer.stderr
    print(answer.stderr, *(path.read_text() for path in Path('results').rglob('*.log')))
    for name in (*(f'{name}.parquet' for name in TABLES), 'manifest.json'):
        assert Path('results', name).read_bytes() == Path('older', name).read_bytes(), (free, name)
    assert not list(Path('results').rglob('.*'))
print(f'refused {refused} times')
shutil.copytree('results', 'copy')
"""


@pytest.mark.slow
@pytest.mark.provokes('full disk', rounds=2)
def test_disk_that_is_full_when_tables_are_made(there):
    """In a sweep, all of whose runs are done: room for ever more of its logs and tables, until all of it fits.

    The older tables stay whole also when Snakemake puts its copies in their place, after a job that failed.
    """
    older = swept(write_config(), there / 'older')
    more = write_config('more.yaml', [0.01, 0.5, 1.])
    computed(load_config(more).runs()['p0.5_seeds0-0'], older / 'runs' / 'p0.5_seeds0-0')
    Path('results').mkdir()
    said = in_a_mount_of_its_own(FULL_FOR_TABLES, str(MODSPEC))
    assert int(re.search(r'refused (\d+) times\n$', said)[1]) >= 2 <= said.count('No space left on device')
    assert 'Restored previous version of results/' in said
    assert set(read_table('copy')['sparsity']) == {0.01, 0.5, 1.}


FULL_FOR_RUNS = """
import os, subprocess, sys
from pathlib import Path

subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=' + sys.argv[2], 'tmpfs', 'results'], check=True)
answer = subprocess.run([sys.argv[1], 'sweep', 'sweep.yaml', '--out', 'results', '--cores', '1'], capture_output=True,
                        text=True)
half = [str(path) for path in Path('results').rglob('.*')]
print(answer.returncode, answer.stderr.splitlines()[-1], *half, sep='\\n')
"""


@pytest.mark.slow
@pytest.mark.provokes('full disk', rounds=2)
@pytest.mark.parametrize('size', ['64k', '16k'])
def test_disk_without_room_for_any_run(there, kernel, family, size):
    "The first run is not tried twice and no other is begun; the last line says that it is the disk"
    (there / 'kernels').mkdir()
    kernel(f"tempfile.mkstemp(dir={str(there / 'kernels')!r})")
    write_config(sparsities=[0.01, 0.3, 1.])
    Path('results').mkdir()
    code, said, *half = in_a_mount_of_its_own(FULL_FOR_RUNS, str(MODSPEC), size).splitlines()
    assert code == '1' and 'No space left on device' in said and '3 of 3 runs did not finish' in said and not half
    assert len(list((there / 'kernels').iterdir())) <= 1 and not family()


READ_ONLY = """
import subprocess, sys
from pathlib import Path

script = 'mount -t tmpfs -o size=8m tmpfs disk && cp -r results disk/ && mount -o remount,ro disk'
subprocess.run(script, shell=True, check=True)
for line in sys.argv[2:]:
    answer = subprocess.run([sys.argv[1], *line.split()], capture_output=True, text=True)
    print(answer.returncode, answer.stderr.strip())
"""


@pytest.mark.slow
@pytest.mark.provokes('full disk', rounds=7)
def test_disk_that_is_read_only(there):
    "is refused in the same words by all that writes"
    swept(write_config(), there / 'results')
    Path('norm.py').write_text(NORM), Path('disk').mkdir()
    lines = ['run --sparsity 0.1 --out disk/one', 'sweep sweep.yaml --out disk/new', 'figures disk/results',
             'reproduce sweep.yaml --out disk/new', 'figures results --out disk/figures',
             'collect sweep.yaml --out disk/results', 'measure disk/results --plugin norm.py']
    for line in in_a_mount_of_its_own(READ_ONLY, str(MODSPEC), *lines).splitlines():
        assert re.fullmatch(r'2 modspec: disk/\S+ cannot be written to \(Read-only file system\); ch.* --out.*', line)


@pytest.mark.slow
@pytest.mark.provokes('full disk')
def test_run_without_room_does_not_stop_the_others(there, kernel, family):
    "In a sweep: the run says why, and the others and what was there before are whole"
    kernel("if 'p0.01_' in said:\n    import resource\n    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))")
    older = swept(write_config('older.yaml', [0.3]), there / 'results') / 'runs'
    before = contents(older)
    config = write_config(sparsities=[0.01, 0.3, 1.])
    code, said = modspec('sweep', config, '--out', 'results', '--cores', 2)
    assert code == 1 and '1 of 3 runs did not finish (p0.01_seeds0-0)' in said
    log = Path('results/logs/p0.01_seeds0-0.log').read_text()
    assert 'p=0.01 failed' in log and 'too large' in log
    assert states(config, 'results') == ['failed', 'done', 'done']
    assert {path: data for path, data in contents(older).items() if path.parts[0].startswith('p0.3_')} == before
    assert set(read_table('results')['sparsity']) == {0.3}  # the older tables
    assert not [path for path in older.rglob('.*')] and not family()


# divergence

POISON = """
from modspec.training.optimizers import Adadelta
step, calls = Adadelta.step, []
def poisoned(self):
    step(self)
    calls.append(0)
    if len(calls) == 2: self.weights[0].data[1] = float('nan')
Adadelta.step = poisoned
"""


@pytest.mark.slow
@pytest.mark.provokes('divergence')
def test_poisoned_weight_in_a_sweep(there, kernel, family):
    "The run is marked as failed, its log says which network, epoch and step; no table is made without it"
    kernel(f"if 'p0.5_' in said:\n    exec({POISON!r})")
    config = write_config(sparsities=[0.5, 1.], seeds=2, settings=dict(n_pairs=256))
    code, said = modspec('sweep', config, '--out', 'results', '--cores', 2)
    assert code == 1 and '1 of 2 runs did not finish (p0.5_seeds0-1)' in said
    log = Path('results/logs/p0.5_seeds0-1.log').read_text()
    assert 'NonFiniteLoss: the loss of network 1 (seed 1) became nan in epoch 1, step 3; lower' in log
    assert states(config, 'results') == ['failed', 'done']
    assert not Path('results/manifest.json').exists()
    for path in Path('results').rglob('values*.parquet'): assert pd.read_parquet(path)['value'].notna().all()
    with pytest.raises(ResultError, match='results holds no finished run'): draw_figures('results')
    assert not family()


@pytest.mark.slow
@pytest.mark.provokes('divergence')
def test_one_run_of_a_sweep_diverges(there, family):
    "Of a variation whose learning rate is too high: marked as failed, with the reason in its log; the others are done"
    config = write_config(sparsities=[0.5], settings=dict(n_pairs=256), variations=dict(hot=dict(lr=1e6)))
    code, said = modspec('sweep', config, '--out', 'results', '--cores', 2)
    assert code == 1 and '1 of 2 runs did not finish (p0.5_seeds0-0_hot); see results/sweep.log' in said
    log = Path('results/logs/p0.5_seeds0-0_hot.log').read_text()
    assert re.search(r'NonFiniteLoss: the loss of network 0 \(seed 0\) became \d+\.\d+ in epoch 1, step 2; lower', log)
    assert states(config, 'results') == ['done', 'failed']
    tables = [pd.read_parquet(path) for path in Path('results').rglob('*.parquet')]
    assert len(tables) == len(TABLES)
    for table in tables: assert table.select_dtypes('float').notna().all(axis=None)
    assert not Path('results/manifest.json').exists() and not family()
    with pytest.raises(ResultError, match='lacks 1 of 2 runs: p0.5_seeds0-0_hot; '): collect_sweep(config, 'results')


@pytest.mark.provokes('divergence')
@pytest.mark.parametrize('lr', [1e6, 1e9])
def test_enormous_learning_rate(tmp_path, lr):
    "No number overflows, but the losses are absurd: the run stops, and leaves nothing"
    message = r'the loss of network \d \(seed \d\) became \d+\.\d+ in epoch 1, step \d+; lower the learning rates'
    with pytest.raises(NonFiniteLoss, match=message):
        run(sparsity_run(0.5, seeds=2, architecture='standard', epochs=2, n_pairs=2000, lr=lr), tmp_path / 'out')
    assert not list((tmp_path / 'out').iterdir())


# order and processes

@pytest.mark.provokes('order and processes')
def test_fresh_processes_agree(there):
    "and do not depend on how Python hashes its strings"
    code = ('import sys; from modspec.engine.run import run\n'
            'from modspec.studies.extreme_sparsity.config import sparsity_run\n'
            'tiny = dict(epochs=1, bottleneck_epochs=1, n_hidden=10, n_pairs=200)\n'
            'run(sparsity_run([0.07, 0.5], seeds=2, **tiny), sys.argv[1])')
    for seed in ('0', '1', 'random'):
        subprocess.run([sys.executable, '-c', code, seed], env=os.environ | {'PYTHONHASHSEED': seed}, check=True,
                       capture_output=True)
    assert tables_of('0') == tables_of('1') == tables_of('random')
    files = [read_manifest(seed)['files'] for seed in ('0', '1', 'random')]
    assert files[0] == files[1] == files[2]  # the weights as well


@pytest.mark.provokes('order and processes')
def test_order_of_sparsities(there):
    settings = dict(seeds=2, settings=dict(architecture='both', bottleneck_epochs=1))
    one = swept(write_config('one.yaml', [0.01, 0.3, 1.], **settings), there / 'one')
    other = swept(write_config('other.yaml', [1., 0.01, 0.3], **settings), there / 'other')
    assert tables_of(one) == tables_of(other)


@pytest.mark.provokes('order and processes')
def test_stack_of_8_or_16(there):
    "Identical rows; values within the tolerance that other orders of summation need"
    settings = dict(sparsities=[0.01, 0.3], seeds=8, seeds_per_run=8,
                    settings=dict(architecture='both', bottleneck_epochs=1))
    eight = swept(write_config('eight.yaml', **settings), there / 'eight')
    sixteen = swept(write_config('sixteen.yaml', **settings, values_per_run=2), there / 'sixteen')
    assert [len(load_config(f'{name}.yaml').runs()) for name in ('eight', 'sixteen')] == [2, 1]
    for name in ('values', 'history'):
        pd.testing.assert_frame_equal(read_table(eight, name), read_table(sixteen, name), check_exact=False,
                                      rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.provokes('order and processes')
def test_one_or_two_jobs(there, family):
    config = write_config(seeds=2, seeds_per_run=1)
    for jobs in (1, 2): assert modspec('sweep', config, '--out', f'results {jobs}', '--cores', jobs)[0] == 0
    assert tables_of('results 1') == tables_of('results 2')


# signals

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}


def stop(command, number, family):
    "Send a signal; the exit code, the last line on stderr, and the seconds until no process is left"
    command.send_signal(number)
    begin = time.monotonic()
    _, err = command.communicate()
    until(lambda: not family(), 60)
    return command.returncode, err.splitlines()[-1], time.monotonic() - begin


STOPPED = 'modspec: stopped; the same command goes on from here'


@pytest.mark.slow
@pytest.mark.provokes('signals')
@pytest.mark.parametrize('number', SIGNALS)
def test_signal_during_a_run(there, kernel, family, record_property, number):
    "No half a run and no process are left; the same command then ends well"
    kernel(GATE)
    args = ['run', '--config', write_config(), '--name', 'p1.0_seeds0-0', '--out', 'out']
    command = start(*args, GATE=str(there / 'gate'))
    until((there / 'gate.reached').exists)
    code, said, seconds = stop(command, number, family)
    record_property('measured', f'{number.name}: stopped after {seconds:.1f} s')
    assert (code, said) == (SIGNALS[number], STOPPED) and seconds < 20
    assert {path.name for path in there.iterdir()} == {'sweep.yaml', 'out', 'gate.reached'}
    assert not list(Path('out').iterdir())
    assert modspec(*args) == (0, 'results: out')


@pytest.mark.slow
@pytest.mark.provokes('signals')
@pytest.mark.parametrize('number', SIGNALS)
@pytest.mark.parametrize('name', ['sweep', 'reproduce'])
def test_signal_during_a_sweep(there, kernel, family, record_property, name, number):
    "Snakemake, its runs and their kernels end with the command; the finished run stays, the other is computed anew"
    kernel(f"if 'p0.01_' in said:\n{''.join(f'    {line}' for line in GATE.splitlines(keepends=True))}")
    config = write_config()
    command = start(name, config, '--out', 'results', '--cores', 2, GATE=str(there / 'gate'))
    runs = {p: there / 'results' / 'runs' / f'p{p}_seeds0-0' for p in (0.01, 1.0)}
    until((there / 'gate.reached').exists), until((runs[1.0] / 'manifest.json').exists)
    before = finished_runs('results')
    code, said, seconds = stop(command, number, family)
    record_property('measured', f'{number.name}: stopped after {seconds:.1f} s')
    assert (code, said) == (SIGNALS[number], STOPPED) and seconds < 20
    nothing_half_done('results')
    assert {path.name for path in runs[1.0].parent.iterdir()} <= {path.name for path in runs.values()}
    assert finished_runs('results') == before and not Path('results/manifest.json').exists()
    run_sweep(config, 'results')
    assert {path: found for path, found in finished_runs('results').items() if path in before} == before
    assert set(read_table('results')['sparsity']) == {0.01, 1.}


@pytest.mark.slow
@pytest.mark.provokes('signals')
@pytest.mark.parametrize('number', SIGNALS)
def test_signal_while_figures_are_drawn(there, kernel, family, record_property, number):
    "Their kernels end with the command"
    config = write_config()
    swept(config, there / 'results')
    kernel(f'Path({str(there)!r}, str(os.getpid()) + ".kernel").touch()\nif os.environ.get("GATE"): time.sleep(600)')
    command = start('reproduce', config, '--out', 'results', GATE='closed')
    until(lambda: list(there.glob('*.kernel')))
    code, said, seconds = stop(command, number, family)
    record_property('measured', f'{number.name}: stopped after {seconds:.1f} s')
    assert (code, said) == (SIGNALS[number], STOPPED) and seconds < 20
    assert not list(Path('results/figures').glob('*.png'))


# many runs

def resources():
    "Memory in MB, and open files, of this process"
    process = psutil.Process()
    return process.memory_info().rss / 2**20, process.num_fds(), process.num_threads()


def used(command):
    "Memory in MB, and open files, of a sweep's command and of Snakemake, but not of their runs"
    processes = [psutil.Process(command.pid), *psutil.Process(command.pid).children()]
    return sum(p.memory_info().rss for p in processes) / 2**20, sum(p.num_fds() for p in processes)


@pytest.mark.slow
@pytest.mark.provokes('many runs', rounds=MANY)
def test_many_runs_in_one_process(tmp_path, record_property):
    "Memory and open files are what they were after the first tenth; each run goes to a folder of its own"
    before = None
    for n in range(MANY):
        run(replace(CONFIG, first_seed=n), tmp_path / str(n))
        if n == MANY // 10: before = resources()
    (memory, files, threads), (memory_before, files_before, threads_before) = resources(), before
    record_property('measured', f'{memory - memory_before:+.0f} MB and {files - files_before:+} open files from run '
                                f'{MANY // 10} to run {MANY}')
    assert files <= files_before and threads <= threads_before and memory < memory_before + 30
    assert len(list(tmp_path.glob('*/manifest.json'))) == MANY


@pytest.mark.slow
@pytest.mark.provokes('many runs', rounds=RUNS)
def test_many_runs_in_a_sweep(there, family, record_property):
    """Memory and open files of the command and of Snakemake, as medians, are what they were when a tenth was done.

    Also, what a run costs beside its computing, in processor time: imports, a kernel, and Snakemake's share.
    """
    config = write_config(sparsities=[0.01], seeds=RUNS, seeds_per_run=1)
    before, samples = sum(os.times()[2:4]), []
    command = start('sweep', config, '--out', 'results', '--cores', 2)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(command.communicate)
        while not answer.done():
            with suppress(psutil.Error): samples.append((n_finished('results') / RUNS, *used(command)))
            time.sleep(0.2)
    assert command.returncode == 0, answer.result()
    computing = sum(about['seconds']['total'] for about in read_manifest('results')['runs'].values())
    overhead = (sum(os.times()[2:4]) - before - computing) / RUNS
    samples = pd.DataFrame(samples, columns=['done', 'memory', 'files'])
    early, late = (samples[samples['done'].between(*part)].median() for part in ((.1, .2), (.8, .99)))
    memory, files = late['memory'] - early['memory'], late['files'] - early['files']
    record_property('measured', f'{overhead:.1f} s of processor time per run beside its computing; {memory:+.0f} MB '
                                f'and {files:+.0f} open files from run {RUNS // 10} to run {RUNS}')
    assert overhead < 10 and memory < 30 and files <= 0 and len(read_manifest('results')['runs']) == RUNS
    nothing_half_done('results')
