"""Sweeps on a Slurm: whole, stopped, too long, too large, failing; `make test-slurm` starts one of one node for them"""
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml
from cluster import answer, cluster, missing_programs
from sweeps import swept, until, write_config

from modspec.engine.config import load_config
from modspec.engine.notebook import repository
from modspec.engine.status import sweep_status

MISSING = missing_programs()
pytestmark = [pytest.mark.slurm, pytest.mark.skipif(bool(MISSING), reason=f'not installed: {MISSING}')]

MODSPEC = Path(sys.executable).with_name('modspec')
SMOKE = repository() / 'config' / 'extreme_sparsity' / 'smoke.yaml'
SHIPPED = repository() / 'workflow' / 'profiles' / 'slurm'
NAMES = 'p0.01_seeds0-0', 'p1.0_seeds0-0'  # the runs of the sweep of `config`
TABLES = 'networks', 'values', 'history'


@pytest.fixture(scope='module')
def slurm(tmp_path_factory):
    "A Slurm of one node"
    with cluster(tmp_path_factory.mktemp('slurm')): yield


@pytest.fixture(scope='module')
def tables(tmp_path_factory) -> list[bytes]:
    "Those of the sweep of `config`, computed here"
    folder = tmp_path_factory.mktemp('here')
    return tables_of(swept(write_config(folder / 'sweep.yaml'), folder / 'results'))


@pytest.fixture
def config(there) -> Path:
    "A sweep of two runs that take a moment"
    return write_config()


@pytest.fixture
def quick(slurm, there):
    "The profile with an interval for tests, and settings of ours"
    def make(**settings) -> Path:
        values = yaml.safe_load((SHIPPED / 'config.yaml').read_text()) | {'seconds-between-status-checks': 2}
        resources = {name: settings.pop(name) for name in ('mem_mb', 'runtime') if name in settings}
        values['default-resources'] = values['default-resources'] | resources
        folder = there / 'profile'
        folder.mkdir()
        (folder / 'config.yaml').write_text(yaml.safe_dump(values | settings))
        return folder

    return make


GATE = """
import os, time
from pathlib import Path
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import launch_new_instance
gate, execute = Path(os.environ['GATE']), IPythonKernel.do_execute
async def gated(*args, **kwargs):
    Path(f'{gate}.{os.getpid()}').touch()
    while not gate.exists(): time.sleep(0.1)
    return await execute(*args, **kwargs)
IPythonKernel.do_execute = gated
launch_new_instance()
"""  # a kernel that executes nothing until a file exists, and says by another one that it waits


class Gate:
    "Lets the kernels of runs wait until it is opened"
    def __init__(self, folder: Path): self.path = folder / 'gate'
    def waiting(self) -> int: return len([*self.path.parent.glob('gate.*')])
    def open(self): self.path.touch()


@pytest.fixture
def gate(tmp_path, monkeypatch) -> Gate:
    "Runs load, and compute when the gate is opened"
    folder = tmp_path / 'jupyter' / 'kernels' / 'python3'
    folder.mkdir(parents=True)
    (folder / 'kernel.py').write_text(GATE)
    argv = [sys.executable, str(folder / 'kernel.py'), '-f', '{connection_file}']
    (folder / 'kernel.json').write_text(json.dumps(dict(argv=argv, display_name='python3', language='python')))
    monkeypatch.setenv('JUPYTER_PATH', str(tmp_path / 'jupyter'))
    monkeypatch.setenv('GATE', str(tmp_path / 'gate'))
    return Gate(tmp_path)


@pytest.fixture(autouse=True)
def idle(request):
    "Nothing is left in the queue by the test before"
    yield
    if 'slurm' in request.fixturenames:
        answer('scontrol', 'update', 'NodeName=localhost', 'State=RESUME')
        answer('scancel', *answer('squeue', '-h', '-o', '%A').split())
        until(lambda: not answer('squeue', '-h'))


def tables_of(results) -> list[bytes]: return [(Path(results) / f'{name}.parquet').read_bytes() for name in TABLES]
def states(config, results='results'): return [one['state'] for one in sweep_status(config, results)]
def said_by(path) -> str: return Path(path).read_text() if Path(path).exists() else ''


def start(config, profile, results='results') -> subprocess.Popen:
    "A sweep, as if from a terminal of its own"
    command = [MODSPEC, 'sweep', config, '--out', results, '--profile', profile]
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # as it is in the background
    try: return subprocess.Popen(command, text=True, stderr=subprocess.PIPE, start_new_session=True)
    finally: signal.signal(signal.SIGINT, ignored)


def end(process, code=0) -> str:
    "Wait for a sweep; what it says in its last line"
    said = process.communicate(timeout=900)[1]
    assert process.returncode == code, said + said_by('results/sweep.log')
    return said.strip().splitlines()[-1] if said else ''


def jobs(*asked) -> dict[str, tuple[str, str]]:
    "The run and the state of every job that Slurm remembers, by its number"
    lines = answer('squeue', '-h', '-r', '-o', '%i|%T|%k', *asked).splitlines()
    split = [line.split('|') for line in lines]
    return {number: (comment.partition('_wildcards_')[2], state) for number, state, comment in split}


def job_of(run: str, state: str = 'RUNNING') -> str:
    "The number of the job that computes a run"
    (number,) = [number for number, about in jobs().items() if about == (run, state)]
    return number


# a sweep

def test_tables_are_those_of_a_local_sweep(slurm, there):
    "byte for byte, with the profile as it is; of runs that went well Slurm leaves no log"
    runs = [*load_config(SMOKE).runs()]
    subprocess.run([MODSPEC, 'sweep', SMOKE, '--out', 'here'], check=True)
    end(start(SMOKE, SHIPPED))
    assert tables_of('results') == tables_of('here') and states(SMOKE) == ['done', 'done']
    assert {path.stem for path in Path('results/logs').glob('*.log')} == {'collect', *runs}
    assert not [*Path('results/logs/slurm').rglob('*.log')]
    assert len(re.findall('has been submitted with SLURM jobid', said_by('results/sweep.log'))) == 2


def test_queued_starting_running(config, quick, gate):
    "is what `status` tells apart"
    answer('scontrol', 'update', 'NodeName=localhost', 'State=DRAIN', 'Reason=test')
    process = start(config, quick())
    until(lambda: states(config) == ['queued', 'queued'])
    answer('scontrol', 'update', 'NodeName=localhost', 'State=RESUME')
    until(lambda: states(config) == ['starting', 'starting'])
    until(lambda: gate.waiting() == 2)
    assert states(config) == ['starting', 'starting']
    gate.open()
    until(lambda: 'running' in states(config))
    end(process)
    assert states(config) == ['done', 'done']


def test_job_array(config, quick, tables):
    "of all runs in one submission: the same tables"
    end(start(config, quick(**{'slurm-array-jobs': 'run'})))
    assert tables_of('results') == tables
    assert 'Submitted array job' in said_by('results/sweep.log')


# jobs that end too early

def test_cancelled_job_is_tried_again(config, quick, gate, tables):
    process = start(config, quick())
    until(lambda: gate.waiting() == 2)
    cancelled = job_of(NAMES[0])
    answer('scancel', cancelled)
    gate.open()
    end(process)
    assert tables_of('results') == tables
    assert f"SLURM-job '{cancelled}' failed, SLURM status is: 'CANCELLED'" in said_by('results/sweep.log')


def test_what_is_cancelled_twice_is_named(config, quick, gate):
    "and the other run is finished"
    process = start(config, quick())
    for attempt in range(2):
        until(lambda attempt=attempt: gate.waiting() == 2 + attempt)
        answer('scancel', job_of(NAMES[0]))
    gate.open()
    message = end(process, code=1)
    assert f'1 of 2 runs did not finish ({NAMES[0]})' in message and states(config) == ['missing', 'done']
    check_logs(message, NAMES[0], 'CANCELLED')


def test_over_its_time(config, quick, gate, tables):
    "a job is ended by Slurm, and tried again"
    process = start(config, quick(runtime=7))
    until(lambda: gate.waiting() == 2)
    number = job_of(NAMES[0])
    assert answer('squeue', '-h', '-j', number, '-o', '%l').strip() == '7:00'
    answer('scontrol', 'update', f'JobId={number}', 'TimeLimit=1')  # the shortest there is
    until(lambda: jobs('--states=all')[number][1] == 'TIMEOUT')
    until(lambda: f"SLURM-job '{number}' failed, SLURM status is: 'TIMEOUT'" in said_by('results/sweep.log'))
    gate.open()
    end(process)
    assert tables_of('results') == tables
    assert any('DUE TO TIME LIMIT' in path.read_text() for path in Path('results/logs/slurm').rglob(f'{number}.log'))


def test_over_its_memory(config, quick):
    "every attempt is ended by Slurm; the runs are named, and the logs say why"
    message = end(start(config, quick(mem_mb=400)), code=1)
    assert '2 of 2 runs did not finish' in message
    for name in NAMES: check_logs(message, name, 'exceeded memory limit')


def check_logs(message: str, run: str, reason: str) -> None:
    "The logs are where the message of a sweep says, and one of them gives the reason"
    log, folder = re.search(r'see (\S+) and ([^;\s]+)', message).groups()
    found = [*Path(folder).glob(f'{run}.log'), *Path(folder).glob(f'slurm/rule_run/{run}/*.log')]
    assert Path(log).is_file() and any(reason in path.read_text() for path in found), message


def test_a_failed_run_stops_no_other(there, quick):
    "it is named, with its log"
    config = write_config(sparsities=[0.5], axes=dict(lr=[0.001, 1e6]), settings=dict(n_pairs=256))
    message = end(start(config, quick()), code=1)
    bad = [*load_config(config).runs()][1]
    assert f'1 of 2 runs did not finish ({bad})' in message and states(config) == ['done', 'failed']
    check_logs(message, bad, 'lower the learning rates')


# failures are noticed within a minute

SACCT = """#!/bin/sh
# What slurmdbd knows, told by the controller: `sacct` appends who has cancelled a job
for asked; do case $before in --name) name=$asked;; esac; before=$asked; done
[ -n "$name" ] || exit 0
squeue --states=all --noheader --name "$name" --format '%A|%T' | sed 's/CANCELLED/CANCELLED by 0/'
"""


@pytest.mark.parametrize('accounts', [False, True])
def test_failures_are_noticed_within_a_minute(accounts, slurm, there, monkeypatch):
    "by the profile as it is where `sacct` says that it is disabled, and by `sacct` where there are accounts"
    profile = SHIPPED
    if accounts:
        programs, profile = there / 'programs', there / 'profile'
        for folder in (programs, profile): folder.mkdir()
        (programs / 'sacct').write_text(SACCT)
        (programs / 'sacct').chmod(0o755)
        monkeypatch.setenv('PATH', f'{programs}{os.pathsep}{os.environ["PATH"]}')
        settings = yaml.safe_load((SHIPPED / 'config.yaml').read_text()) | {'slurm-status-command': 'sacct'}
        (profile / 'config.yaml').write_text(yaml.safe_dump(settings))
    else: assert not answer('sacct')
    earlier, noticed = failed_jobs(), "failed, SLURM status is: 'FAILED'"
    process = start(write_config(sparsities=[0.5], settings=dict(lr=1e6, n_pairs=256)), profile)
    for attempt in (1, 2):
        until(lambda attempt=attempt: len(failed_jobs() - earlier) == attempt)
        assert until(lambda attempt=attempt: said_by('results/sweep.log').count(noticed) == attempt) < 60
    end(process, code=1)


def failed_jobs() -> set[str]:
    "The numbers of all jobs that ended with an error"
    return {number for number, (_, state) in jobs('--states=all').items() if state == 'FAILED'}


# the sweep's own process

def test_killed_and_resumed_while_jobs_run(config, quick, gate, tables):
    "The login node dies: its processes are gone, the jobs are not; the same command goes on beside them"
    profile = quick()
    process = start(config, profile)
    until(lambda: gate.waiting() == 2)
    for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]: one.kill()
    process.communicate()
    first = {*jobs()}
    assert len(first) == 2 and states(config) == ['starting', 'starting']
    again = start(config, profile)
    until(lambda: gate.waiting() == 4)
    gate.open()
    end(again)
    assert tables_of('results') == tables and states(config) == ['done', 'done']


def test_stopped_sweep_cancels_its_jobs(config, quick, gate, tables):
    "Of a command that is killed alone, Snakemake cancels the jobs; the same command computes what is missing"
    profile = quick()
    process = start(config, profile)
    until(lambda: gate.waiting() == 2)
    process.kill()
    process.communicate()
    until(lambda: not jobs())
    gate.open()
    end(start(config, profile))
    assert tables_of('results') == tables
