"""The command: what it refuses, how it says so, and how quickly it answers"""
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import typer
import yaml
from typer.testing import CliRunner

from modspec import claims, cli, evidence, modularity, sweep
from modspec.cli import app
from modspec.data import LOADERS
from modspec.experiment import ARCHITECTURES, RunConfig
from modspec.training import Parameters

MODSPEC = Path(sys.executable).with_name('modspec')
COMMANDS = ['run', 'sweep', 'status', 'reproduce', 'figures', 'collect', 'claims', 'q', 'verify', 'doctor', 'explore']
TINY = dict(epochs=1, n_hidden=10, n_pairs=200, batch_size=20)


def invoke(*args):
    "The command in this process, in a terminal wide enough for its help"
    terminal = CliRunner(env={'COLUMNS': '250', 'TERMINAL_WIDTH': '250', 'NO_COLOR': '1'})
    return terminal.invoke(app, [str(arg) for arg in args])


def modspec(*args, **env):
    "The command in a process of its own"
    return subprocess.run([MODSPEC, *map(str, args)], env=os.environ | env, capture_output=True, text=True)


def one_line(code, stderr):
    "Of an error: the line after 'modspec: '"
    lines = stderr.splitlines()
    assert code == 2 and len(lines) == 1 and lines[0].startswith('modspec: '), (code, stderr)
    return lines[0].removeprefix('modspec: ')


@pytest.fixture
def there(tmp_path, monkeypatch):
    "An empty working directory"
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def asked(monkeypatch):
    "What `run_notebook` is asked for, instead of running it"
    calls = []
    monkeypatch.setattr(sweep, 'run_notebook', lambda config, out, **how: calls.append((config, out, how)) or out)
    return calls


# help

def test_help_lists_the_commands():
    answer = invoke('--help')
    assert answer.exit_code == 0 and 'modspec reproduce config/quick.yaml' in answer.output
    assert sorted(command.name or command.callback.__name__ for command in app.registered_commands) == sorted(COMMANDS)
    for command in COMMANDS: assert f' {command} ' in answer.output


@pytest.mark.parametrize('command', COMMANDS)
def test_help_shows_an_example(command):
    answer = invoke(command, '--help')
    assert answer.exit_code == 0 and 'Example' in answer.output
    assert f'modspec {command} ' in answer.output.split('Example')[1]


@pytest.mark.parametrize('args', [['--help'], *([command, '--help'] for command in COMMANDS)], ids=' '.join)
def test_help_does_not_wait_for_pytorch(args):
    code = ('import sys\nfrom modspec.cli import app\ntry: app(sys.argv[1:])\n'
            'except SystemExit: print(sorted({"torch", "papermill", "pandas", "matplotlib"} & set(sys.modules)))')
    answer = subprocess.run([sys.executable, '-c', code, *args], capture_output=True, text=True, check=True)
    assert 'Usage' in answer.stdout and answer.stdout.splitlines()[-1] == '[]'


def test_no_arguments_is_help():
    assert 'Usage' in invoke().output


def test_version():
    answer = invoke('--version')
    assert answer.exit_code == 0 and answer.stdout == f'modspec {version("modspec")}\n'


@pytest.mark.parametrize('words, proposed', [
    ('modspec re', ['reproduce']), ('modspec run --arch', ['--architecture']),
    ('modspec run --architecture ', ['standard', 'bottleneck', 'both']), ('modspec run --dataset m', ['mnist']),
    ('modspec sweep --device cu', ['cuda'])])
def test_shell_completion(words, proposed):
    "in a process of its own, as the shell asks"
    asked = dict(_MODSPEC_COMPLETE='complete_bash', COMP_WORDS=words, COMP_CWORD=str(len(words.split(' ')) - 1))
    assert modspec(**asked).stdout.split() == proposed


def test_proposals_are_what_exists():
    "The command knows them without loading the modules that define them"
    command = typer.main.get_command(app).commands['run']
    proposed = {option.name: [item.value for item in option.shell_complete(None, '')] for option in command.params}
    assert proposed['dataset'] == list(LOADERS) and proposed['architecture'] == list(ARCHITECTURES)


# what is asked for

def test_run_asks_for_what_was_said(there, asked):
    cpu = dict(device='cpu', threads=1, download=False)
    assert invoke('run', '--sparsity', '0.1', '--out', 'a').exit_code == 0
    assert asked.pop() == (RunConfig(0.1), Path('a'), cpu)
    answer = invoke('run', '--sparsity', '1e-4', '--out', 'results/b', '--seeds', 3, '--dataset', 'mnist',
                    '--epochs', 4, '--architecture', 'bottleneck', '--batch-size', 32, '--device', 'cuda:1',
                    '--threads', 2, '--download')
    assert answer.exit_code == 0 and answer.stdout == 'results: results/b\n'
    parameters = Parameters(epochs=4, bottleneck_epochs=4, batch_size=32)
    assert asked.pop() == (RunConfig(1e-4, 'mnist', 3, 'bottleneck', parameters), Path('results/b'),
                           dict(device='cuda:1', threads=2, download=True))
    assert invoke('run', '--sparsity', '0.1', '--sparsity', '1', '--first-seed', 5, '--out', 'c').exit_code == 0
    assert asked.pop()[0] == RunConfig((0.1, 1.), first_seed=5)


def test_run_takes_all_from_a_file(there, asked):
    Path('sweep.yaml').write_text('sparsities: [0.1, 0.5]\nseeds: 7\narchitecture: standard\nparameters: {epochs: 2}\n'
                                  'variations: {still: {walk: 0}}')
    one = ['run', '--config', 'sweep.yaml', '--name', 'p=0.1,seeds=5-6,still', '--out', 'a']
    assert invoke(*one).exit_code == 0
    assert asked.pop()[0] == RunConfig(0.1, 'digits', 2, 'standard', Parameters(epochs=2, walk=0), 5)
    other = {'sparsity': 0.1, 'seeds': 4, 'first_seed': 0, 'dataset': 'mnist', 'architecture': 'both', 'epochs': 1,
             'batch_size': 2}
    for name, value in other.items():  # never ignored in silence
        answer = invoke(*one, f'--{name.replace("_", "-")}', value)
        assert f'settles {name}' in one_line(answer.exit_code, answer.stderr) and not asked


@pytest.mark.parametrize('args, message', [
    ('', 'give --sparsity, or a run of a sweep by --config and --name'),
    ('--config sweep.yaml', '--config and --name go together'),
    ('--config sweep.yaml --sparsity 0.1', '--config and --name go together'),
    ('--sparsity 0.1 --name p=0.1,seeds=0-4', '--config and --name go together'),
    ('--config sweep.yaml --name p=0.1,seeds=0-5', "'p=0.1,seeds=0-5'; did you mean 'p=0.1,seeds=0-4'?"),
    ('--sparsity 0.1 --sparsity 0.10001', 'distinct numbers of connections, got [1000, 1000]'),
    ('--sparsity 0.1 --sparsity 1e-5', 'sparsity must be a number in [1/N^2, 1] = [0.0001, 1], got 1e-05'),
    ('--sparsity 0.1 --first-seed -1', 'first_seed must be a whole number in [0, 1000000], got -1')])
def test_run_wants_one_run(there, asked, args, message):
    Path('sweep.yaml').write_text('sparsities: [0.1]\n')
    answer = invoke('run', '--out', 'a', *args.split())
    assert message in one_line(answer.exit_code, answer.stderr) and not asked


def test_names_of_results(there, monkeypatch):
    "`config/quick.yaml` goes to `results/quick` unless told otherwise"
    calls = []
    def note(value, *call): return calls.append(call) or value
    monkeypatch.setattr(sweep, 'run_sweep', lambda config, out, **how: note(out, config, out, how['cores']))
    monkeypatch.setattr(sweep, 'draw_figures', lambda results, out=None: note([Path('a.png')], results, out))
    monkeypatch.setattr(sweep, 'collect_sweep', lambda config, out, **how: note(out, config, out, how['finished_only']))
    monkeypatch.setattr(sweep, 'load_config', lambda config: SimpleNamespace(variations={}))
    monkeypatch.setattr(evidence, 'read_evidence', lambda results: SimpleNamespace(metrics=None, sensitivity=None))
    monkeypatch.setattr(claims, 'claims', lambda metrics, sensitivity: pd.DataFrame({'verdict': ['holds'] * 2}))
    config, quick = Path('config/quick.yaml'), Path('results/quick')
    answer = invoke('reproduce', config)
    summary = '2 claims: 2 hold; see: modspec claims results/quick'
    assert answer.stdout.splitlines() == ['figure: a.png (and .pdf)', summary]
    assert calls == [(config, quick, None), (quick, None)]
    calls.clear(), invoke('reproduce', config, '--out', 'x', '--cores', 3)
    assert calls == [(config, Path('x'), 3), (Path('x'), None)]
    calls.clear(), invoke('figures', quick, '--out', 'y')
    assert calls == [(quick, Path('y'))]
    calls.clear(), invoke('collect', config)
    assert calls == [(config, quick, False)]
    calls.clear(), invoke('collect', config, '--finished-only')
    assert calls == [(config, quick, True)]
    assert invoke('collect', config, '--out', 'z').stdout == 'tables: z\n'


# what is refused

REFUSED = {  # what is added to `modspec run --sparsity 0.1 --out out`: what the line says
    ('--sparsity', '2'): 'sparsity must be a number in [1/N^2, 1] = [0.0001, 1], got 2.0',
    ('--sparsity', '0'): '[0.0001, 1], got 0.0', ('--sparsity', '-1'): '[0.0001, 1], got -1.0',
    ('--sparsity', '1e-5'): '[0.0001, 1], got 1e-05', ('--sparsity', 'nan'): '[0.0001, 1], got nan',
    ('--sparsity', 'inf'): '[0.0001, 1], got inf', ('--sparsity', 'much'): "[0.0001, 1], got 'much'",
    ('--sparsity', ''): "[0.0001, 1], got ''",
    ('--seeds', '0'): 'seeds must be a whole number in [1, 10000], got 0', ('--seeds', '-1'): 'got -1',
    ('--seeds', '2.5'): "seeds must be a whole number in [1, 10000], got '2.5'",
    ('--epochs', '0'): 'epochs must be a whole number in [1, 10000], got 0', ('--epochs', '-3'): 'got -3',
    ('--epochs', 'x'): "epochs must be a whole number in [1, 10000], got 'x'",
    ('--batch-size', '0'): 'batch_size must be a whole number in [1, 1e+06], got 0', ('--batch-size', '-1'): 'got -1',
    ('--dataset', 'cifar'): "dataset must be one of ['digits', 'mnist'], got 'cifar'",
    ('--architecture', 'dense'): "architecture must be one of ['standard', 'bottleneck', 'both'], got 'dense'",
    ('--device', 'gpu'): "device must be one of ['cpu'", ('--device', 'meta'): "got 'meta'",
    ('--threads', '0'): f'threads must be a whole number in [1, {os.cpu_count()}], got 0',
    ('--threads', '9999'): 'got 9999',
    ('--out', 'file/out'): 'file/out cannot be written to (Not a directory); choose another with --out',
    ('--out', 'file'): 'file cannot be written to (File exists); choose another with --out',
    ('--out', 'mine'): "mine is no folder of a run, it holds 'thesis.tex'; choose another with --out",
    ('--dataset', 'mnist'): 'MNIST/raw/train-images-idx3-ubyte is missing; point MODSPEC_DATA at a folder that holds '
                            'MNIST/raw, or allow the download (--download)'}


@pytest.mark.provokes('illegal values')
@pytest.mark.parametrize('args', REFUSED, ids=' '.join)
def test_run_refuses(there, monkeypatch, args):
    "in one line, before a kernel starts, with nothing written"
    def forbidden(*_): raise AssertionError('a kernel was started')
    monkeypatch.setattr(sweep, 'execute', forbidden)
    monkeypatch.setenv('MODSPEC_DATA', str(there / 'nowhere'))
    Path('file').write_text('mine'), Path('mine').mkdir(), Path('mine', 'thesis.tex').write_text('mine')
    before = sorted(there.rglob('*'))
    options = dict(zip(['--sparsity', '--out', *args[::2]], ['0.1', 'out', *args[1::2]]))
    answer = invoke('run', *[word for option in options.items() for word in option])
    assert REFUSED[args] in one_line(answer.exit_code, answer.stderr) and answer.stdout == ''
    assert sorted(there.rglob('*')) == before and Path('file').read_text() == 'mine'


@pytest.mark.parametrize('args, name', [
    ('run', "'--out'"), ('run --sparsity 0.1', "'--out'"), ('run --sparsity 0.1 --out a --epoch 3', '--epoch'),
    ('runn', "'runn'"), ('reproduce', 'config'), ('reproduce a.yaml --cores 0', "'--cores'"), ('figures', 'results')])
def test_unknown_and_missing_options(there, args, name):
    answer = invoke(*args.split())
    assert answer.exit_code == 2 and name in answer.stderr and answer.stdout == ''
    assert 'Traceback' not in answer.stderr and list(there.iterdir()) == []


def test_sweeps_and_figures_refuse(there):
    Path('sweep.yaml').write_text('sparsities: [1e-4]\n')
    for command in ('reproduce', 'collect'):
        answer = invoke(command, 'sweep.yaml')
        assert "got '1e-4'; in YAML write 1.0e-4, not 1e-4" in one_line(answer.exit_code, answer.stderr)
        assert 'none.yaml cannot be read' in one_line((answer := invoke(command, 'none.yaml')).exit_code, answer.stderr)
    answer = invoke('run', '--config', 'none.yaml', '--name', 'p=0.1,seeds=0-4', '--out', 'out')
    assert 'none.yaml cannot be read' in one_line(answer.exit_code, answer.stderr)
    answer = invoke('figures', 'nowhere')
    assert 'nowhere holds no finished run: manifest.json is missing' in one_line(answer.exit_code, answer.stderr)
    assert [path.name for path in there.iterdir()] == ['sweep.yaml']


def test_refused_in_a_process_of_its_own(there):
    "Exit code 2, one line on stderr and nothing on stdout also for the shell; a data set that is missing"
    args = ['--sparsity', '0.1', '--dataset', 'mnist', '--out', 'out']
    answer = modspec('run', *args, MODSPEC_DATA=str(there / 'nowhere'))
    line = one_line(answer.returncode, answer.stderr)
    assert line.startswith(f'{there}/nowhere/MNIST/raw/train-images-idx3-ubyte is missing; point MODSPEC_DATA')
    assert answer.stdout == '' and list(there.iterdir()) == []


@pytest.mark.provokes('divergence')
def test_failed_run(there):
    "Exit code 1; network, epoch and step are named, and the notebook is kept"
    settings = dict(sparsities=[0.5], seeds=2, architecture='standard', parameters=TINY | dict(lr=1e6))
    Path('sweep.yaml').write_text(yaml.safe_dump(settings))
    answer = invoke('run', '--config', 'sweep.yaml', '--name', 'p=0.5,seeds=0-1', '--out', 'out')
    assert answer.exit_code == 1 and answer.stdout == '' and len(answer.stderr.splitlines()) == 1
    assert answer.stderr.startswith('modspec: p=0.5 failed, NonFiniteLoss: the loss of network 0 (seed 0) became ')
    assert ' in epoch 1, step ' in answer.stderr and 'lower the learning rates' in answer.stderr
    assert answer.stderr.endswith('out.failed/notebook.ipynb\n')
    assert 'NonFiniteLoss' in Path('out.failed/notebook.ipynb').read_text()
    assert not Path('out/manifest.json').exists() and not any(path.name.startswith('.') for path in there.iterdir())


def test_finished_run_is_not_repeated(smoke):
    "`modspec run` on a run of the sweep: the same answer, without a kernel, and every file as it was"
    folder = smoke.results / 'runs' / 'p=1.0,seeds=0-1'
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    answer = invoke('run', '--config', smoke.config, '--name', folder.name, '--out', folder)
    assert answer.exit_code == 0 and answer.stdout == f'results: {folder}\n'
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    answer = invoke('run', '--sparsity', '1', '--out', folder)
    assert 'p=1.0,seeds=0-1 holds another run (seeds: 2, asked 5; ' in one_line(answer.exit_code, answer.stderr)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_reproduce_ends_with_figures_and_claims(smoke):
    *lines, last = smoke.answer.stdout.splitlines()
    assert len(lines) >= 4 and all(line.startswith('figure: the results/figures/') for line in lines)
    assert re.match(r'\d+ claims: .*; see: modspec claims the results$', last)
    for line in lines:
        path = smoke.results.parent / line.removeprefix('figure: ').removesuffix(' (and .pdf)')
        assert path.suffix == '.png' and path.exists() and path.with_suffix('.pdf').exists()


# Q and p

@pytest.mark.parametrize('args, expected', [
    (['--sparsity', '0.01'], 'p = 0.01   Q = 0.490099'), (['--modularity', '0.35'], 'p = 0.176471   Q = 0.35'),
    (['--sparsity', '0'], 'p = 0   Q = 0.5'), (['--sparsity', '1'], 'p = 1   Q = 0'),
    (['--modularity', '0.5'], 'p = 0   Q = 0.5'), (['--modularity', '0'], 'p = 1   Q = 0'),
    (['--sparsity', '1e-4'], 'p = 0.0001   Q = 0.4999')])
def test_q(args, expected):
    answer = invoke('q', *args)
    assert answer.exit_code == 0 and answer.stdout == expected + '\n'


@pytest.mark.parametrize('args, message', [
    ([], 'give either --sparsity or --modularity'), (['--sparsity', '0.1', '--modularity', '0.1'], 'give either'),
    (['--sparsity', '1.5'], 'must be in [0, 1], got 1.5'), (['--sparsity', '-0.1'], 'must be in [0, 1], got -0.1'),
    (['--sparsity', 'nan'], 'must be in [0, 1], got nan'), (['--sparsity', 'x'], "must be a number in [0, 1], got 'x'"),
    (['--modularity', '0.6'], 'must be in [0, 0.5], got 0.6'), (['--modularity', '-0.1'], 'in [0, 0.5], got -0.1'),
    (['--modularity', 'nan'], 'in [0, 0.5], got nan'), (['--modularity', 'inf'], 'in [0, 0.5], got inf')])
def test_q_refuses(args, message):
    answer = invoke('q', *args)
    assert message in one_line(answer.exit_code, answer.stderr) and answer.stdout == ''


# verify, doctor, explore

def test_verify(smoke, tmp_path):
    answer = invoke('verify', smoke.results)
    assert answer.exit_code == 0 and answer.stdout == f'{smoke.results}: all is as it was written, in 3 folders\n'
    results = shutil.copytree(smoke.results, tmp_path / 'results')
    with open(results / 'metrics.parquet', 'ab') as table: table.write(b'X')
    (results / 'runs' / 'p=1.0,seeds=0-1' / 'notebook.ipynb').unlink()
    answer = invoke('verify', results)
    first, second = answer.stdout.splitlines()
    assert answer.exit_code == 1 and first.startswith(f'{results}/metrics.parquet: has ')
    assert second == f'{results}/runs/p=1.0,seeds=0-1/notebook.ipynb: is missing'
    answer = invoke('verify', tmp_path)
    assert f'{tmp_path} holds no results' in one_line(answer.exit_code, answer.stderr)


def test_doctor(monkeypatch, there):
    monkeypatch.setenv('MODSPEC_DATA', str(there))
    answer = invoke('doctor')
    assert answer.exit_code == 0  # MNIST is missing, but not needed
    lines = {line.split()[0]: line for line in answer.stdout.splitlines() if line[0] == ' ' and '→' not in line}
    assert lines['torch'].split() == ['torch', version('torch')] and 'products in bf16' in lines['processor']
    assert {'snakemake', 'python', 'threads', 'disk', 'digits', 'checkout'} <= lines.keys() and 'pytest' not in lines
    assert '! mnist         not found\n' in answer.stdout and '--download' in answer.stdout.split('→')[1]


@pytest.mark.parametrize('needs, advice', [
    ('modspec-no-such-library', "pip install 'modspec-no-such-library'"), ('typer>=999', "pip install 'typer>=999'")])
def test_doctor_names_libraries_that_are_missing(monkeypatch, needs, advice):
    "and looks no further, for the rest needs them"
    monkeypatch.setattr(cli, 'requires', lambda name: ['pyyaml', needs])
    answer = invoke('doctor')
    assert answer.exit_code == 1 and answer.stdout.splitlines()[-1].endswith(f'→ {advice}')
    assert 'checkout' not in answer.stdout


def test_explore(there, monkeypatch):
    calls = []
    monkeypatch.setattr(cli.os, 'execv', lambda path, command: calls.append(command))
    monkeypatch.setattr(sweep, 'repository', lambda: there)
    answer = invoke('explore')
    assert f'{there}/nbs/explore.ipynb is missing; ' in one_line(answer.exit_code, answer.stderr) and not calls
    (there / 'nbs').mkdir(), (there / 'nbs' / 'explore.ipynb').touch()
    assert invoke('explore', '--no-browser', '--port', 8889).exit_code == 0
    expected = ['-m', 'jupyterlab', f'{there}/nbs/explore.ipynb', '--no-browser', '--port', '8889']
    assert calls == [[sys.executable, *expected]]
    monkeypatch.setattr(cli, 'find_spec', lambda name: None)
    answer = invoke('explore')
    assert 'JupyterLab is not installed; get it with: pip install' in one_line(answer.exit_code, answer.stderr)


def test_only_mendable_errors_become_a_line(monkeypatch):
    def bug(p): raise RuntimeError('a bug')
    monkeypatch.setattr(modularity, 'q_from_sparsity', bug)
    answer = invoke('q', '--sparsity', '0.1')
    assert isinstance(answer.exception, RuntimeError) and answer.stderr == ''


def test_status_and_plan_of_a_finished_sweep(smoke):
    answer = invoke('status', str(smoke.config), '--out', str(smoke.results))
    assert answer.exit_code == 0 and answer.output.splitlines()[-1] == '2 done'
    rows = [line.split()[:3] for line in answer.output.splitlines()[1:3]]
    assert rows == [['0.0001', '0-1', 'done'], ['1', '0-1', 'done']]
    answer = invoke('sweep', str(smoke.config), '--out', str(smoke.results), '--dry-run')
    assert answer.exit_code == 0 and 'Nothing to be done' in answer.output
