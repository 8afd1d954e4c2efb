"""The command: what it refuses, how it says so, and what it does not load"""
import ast
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from sweeps import BAD_PAST, NORM, TINY, contents, forgetting_plugins, older_code, swept, weights, write_config
from typer.testing import CliRunner

from modspec import cli
from modspec.analysis.tables import read_table
from modspec.cli import app
from modspec.core import shipped
from modspec.core import sparsity as numbers
from modspec.core.files import read_manifest
from modspec.core.mnist import MNIST_FILES
from modspec.core.registry import entries
from modspec.engine import collect, doctor, notebook, run, sweep
from modspec.engine.options import assigned
from modspec.engine.plan import Study, make_run, study_named
from modspec.engine.terminal import plainly
from modspec.studies.extreme_sparsity.config import ARCHITECTURES, sparsity_run

MODSPEC = Path(sys.executable).with_name('modspec')
COMMITTED = Path(__file__).parent.parent / 'results' / 'causes_mediation'
COMMANDS = ['run', 'sweep', 'status', 'measure', 'reproduce', 'figures', 'collect', 'claims', 'table', 'q', 'verify',
            'show', 'compare', 'doctor', 'inspect', 'explore']


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
    monkeypatch.setattr(notebook, 'run_notebook', lambda config, out, **how: calls.append((config, out, how)) or out)
    return calls


# help and what is loaded

def test_help_lists_the_commands():
    answer = invoke('--help')
    assert answer.exit_code == 0
    assert sorted(command.name or command.callback.__name__ for command in app.registered_commands) == sorted(COMMANDS)
    for command in COMMANDS: assert f' {command} ' in answer.output


@pytest.mark.parametrize('command', COMMANDS)
def test_help_shows_an_example(command):
    answer = invoke(command, '--help')
    assert answer.exit_code == 0 and 'Example' in answer.output
    assert f'modspec {command} ' in answer.output.split('Example')[1]


LARGE = {'torch', 'numba', 'papermill', 'snakemake', 'matplotlib', 'pandas'}


def loaded(*args, cwd):
    "Which of some large libraries the command has loaded when it ends"
    code = ("import sys\nfrom modspec.cli import app\ntry: app(sys.argv[1:])\nexcept SystemExit as end: code = end.code"
            f"\nprint(code, *sorted({LARGE} & set(sys.modules)))")
    answer = subprocess.run([sys.executable, '-c', code, *map(str, args)], cwd=cwd, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    code, *found = answer.stdout.splitlines()[-1].split()
    return code, found


@pytest.mark.parametrize('command', COMMANDS)
def test_help_loads_nothing_large(there, command): assert loaded(command, '--help', cwd=there) == ('0', [])


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    "Of a finished sweep, with its file beside it; nobody writes into them"
    folder = tmp_path_factory.mktemp('finished')
    return swept(write_config(folder / 'sweep.yaml'), folder / 'results')


@pytest.mark.parametrize('args', [
    'q --sparsity 0.1', 'status sweep.yaml --out results', 'status sweep.yaml --out nowhere', 'verify results',
    'sweep sweep.yaml --out results --dry-run', 'sweep sweep.yaml --out nowhere --dry-run', 'run --out x --sparsity 7',
    'run --out x --sparsity 0.1 --set lr=-1', 'sweep wrong.yaml', 'sweep other.yaml --out results',
    'collect sweep.yaml --out results', 'measure results --measure nothing'])
def test_what_does_not_compute_loads_no_torch(results, args):
    (results.parent / 'wrong.yaml').write_text('axes: {sparsity: [7]}')
    write_config(results.parent / 'other.yaml', settings=dict(lr=0.1))
    code, found = loaded(*args.split(), cwd=results.parent)
    heavy = {'collect': ['pandas'], 'verify': ['pandas']}.get(args.split()[0], [])
    light = args.split()[0] in ('q', 'status', 'verify', 'run') or '--dry-run' in args
    assert not (LARGE - {"pandas"}) & {*found}
    if light: assert [*found] == heavy
    assert code == ('2' if {'7', 'lr=-1', 'wrong.yaml', 'other.yaml', 'nothing'} & {*args.split()} else '0')


@pytest.mark.parametrize('command', ['', *COMMANDS])
def test_h_is_help(there, command):
    "for every command, and for the command itself; a flag takes no value and shows no type of one"
    words = [command] if command else []
    answer = invoke(*words, '-h')
    assert answer.exit_code == 0 and answer.output == invoke(*words, '--help').output and 'Usage' in answer.output
    assert '<bool>' not in answer.output and 'BOOLEAN' not in answer.output and re.search('--help +-h', answer.output)
    assert list(there.iterdir()) == []


@pytest.mark.parametrize('args', ['--version', '-h', 'q -h', 'q --sparsity 0.01', 'q', 'nothing', 'status none.yaml'])
def test_as_a_module(there, args):
    "`python -m modspec` is the same command"
    answers = [subprocess.run([*how, *args.split()], capture_output=True, text=True)
               for how in ([MODSPEC], [sys.executable, '-m', 'modspec'])]
    (one, other) = ((a.returncode, re.sub('python -m modspec|modspec', 'it', a.stdout + a.stderr)) for a in answers)
    assert one[0] == other[0] and one[1].split() == other[1].split()


# characters that cannot be written

def test_characters_of_this_package_can_be_written_plainly():
    "with something that stands for them; a page to play with needs a browser, and has what that shows"
    for path in Path(cli.__file__).parent.rglob('*.py'):
        if 'explorer' in path.parts: continue
        texts = [node.value for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
                 if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        for character in {c for text in texts for c in text if ord(c) > 127}:
            assert '?' not in plainly(character), (character, path)


@pytest.mark.parametrize('text', ['', 'plain', 'p → 0', 'a\u0308', '\udce9', '漢字', '\U0001f600', '\x00\x85', 'Ωμέγα'])
@pytest.mark.parametrize('encoding', ['ascii', 'latin-1', 'cp1252', 'koi8-r', 'utf-8'])
def test_every_text_can_be_written(text, encoding):
    written = text.encode(encoding, 'modspec.plainly').decode(encoding)
    if text.isascii(): assert written == text
    assert len(written) >= len(text) - 1  # an accent may be lost, a letter not


def in_ascii(*args):
    "What a terminal of plain characters shows"
    terminal = CliRunner(charset='ascii', env={'COLUMNS': '80', 'NO_COLOR': '1'})
    answer = terminal.invoke(app, [str(arg) for arg in args])
    assert answer.output.isascii() and 'codec' not in answer.output, answer.output
    return answer


@pytest.mark.parametrize('command', ['', *COMMANDS])
def test_help_in_ascii(command):
    assert in_ascii(*[command] if command else [], '--help').exit_code == 0


def test_commands_in_ascii(copied, monkeypatch):
    "What they say, and what they refuse"
    monkeypatch.setenv('MODSPEC_DATA', str(copied.parent / 'näh'))
    shutil.copytree(copied, other := copied.with_name('größer'))
    refused = ['run --sparsity 7 --out é', 'status ∞.yaml', 'claims größer −5',
               'run --sparsity 1 --dataset mnist --out x']
    claims = ['claims', COMMITTED, '--verdict', 'holds partly']
    assert in_ascii(*claims).exit_code == 0
    for line in ['q --sparsity 0.1', 'status sweep.yaml --out größer', 'sweep sweep.yaml --out größer --dry-run',
                 'verify größer', 'show größer', 'compare results größer', 'collect sweep.yaml --out größer',
                 'measure größer', 'doctor', *refused]:
        answer = in_ascii(*line.split())
        assert answer.exit_code == (2 if line in refused else 0), (line, answer.output)
        if 'größer' in line and 'claims' not in line and '--' not in line: assert 'gro' in answer.output
    assert other.is_dir()


def test_a_process_in_ascii():
    "as a shell starts it, whose streams are not those of a test"
    for args in (['run', '--help'], ['claims', COMMITTED]):
        answer = modspec(*args, PYTHONIOENCODING='ascii')
        assert answer.returncode == 0 and answer.stderr == '' and answer.stdout.isascii()


def test_no_arguments_is_help():
    assert 'Usage' in invoke().output


def test_version():
    answer = invoke('--version')
    assert answer.exit_code == 0 and answer.stdout == f'modspec {version("modspec")}\n'


@pytest.mark.parametrize('words, proposed', [
    ('modspec re', ['reproduce']), ('modspec run --arch', ['--architecture']),
    ('modspec run --architecture ', ['standard', 'bottleneck', 'both']),
    ('modspec run --dataset m', ['mnist', 'mnist_2000']),
    ('modspec sweep --device cu', ['cuda'])])
def test_shell_completion(words, proposed):
    "in a process of its own, as the shell asks"
    asked = dict(_MODSPEC_COMPLETE='complete_bash', COMP_WORDS=words, COMP_CWORD=str(len(words.split(' ')) - 1))
    assert modspec(**asked).stdout.split() == proposed


def test_proposals_are_what_exists():
    "The command knows them without loading the modules that define them"
    command = typer.main.get_command(app).commands['run']
    proposed = {option.name: [item.value for item in option.shell_complete(None, '')] for option in command.params}
    assert proposed['dataset'] == list(entries('dataset')) and proposed['architecture'] == list(ARCHITECTURES)


# what is asked for

def test_run_asks_for_what_was_said(there, asked):
    how = dict(device='cpu', threads=1, download=False, outdated=False)
    assert invoke('run', '--sparsity', '0.1', '--out', 'a').exit_code == 0
    assert asked.pop() == (sparsity_run(0.1), Path('a'), how)
    answer = invoke('run', '--sparsity', '1e-4', '--out', 'results/b', '--seeds', 3, '--dataset', 'mnist',
                    '--epochs', 4, '--architecture', 'bottleneck', '--batch-size', 32, '--device', 'cuda:1',
                    '--threads', 2, '--download', '--recompute')
    assert answer.exit_code == 0 and answer.stdout == 'results: results/b\n'
    settings = dict(dataset='mnist', architecture='bottleneck', epochs=4, bottleneck_epochs=4, batch_size=32)
    assert asked.pop() == (sparsity_run(1e-4, seeds=3, **settings), Path('results/b'),
                           dict(device='cuda:1', threads=2, download=True, outdated=True))
    assert invoke('run', '--sparsity', '0.1', '--sparsity', '1', '--first-seed', 5, '--out', 'c').exit_code == 0
    assert asked.pop()[0] == sparsity_run((0.1, 1.), first_seed=5)


def test_run_takes_any_setting(there, asked):
    "of the study that is asked for; each is read as what its default is"
    given = ['mask_fraction=0.1', 'readout_lr=5e-1', 'n_hidden=20', 'rewire=false', 'connection_start=normal', 'walk=0']
    options = [word for one in given for word in ('--set', one)]
    assert invoke('run', '--sparsity', '0.1', '--out', 'a', *options).exit_code == 0
    assert asked.pop()[0] == sparsity_run(0.1, mask_fraction=0.1, readout_lr=0.5, n_hidden=20, rewire=False,
                                          connection_start='normal', walk=0.)
    assert invoke('run', '--set', 'sparsity=0.1', '--out', 'a').exit_code == 0
    assert asked.pop()[0] == sparsity_run(0.1)
    assert invoke('run', '--sparsity', '0.1', '--out', 'a', '--set', 'connection_lr=0.1').exit_code == 0
    assert asked.pop()[0] == sparsity_run(0.1, connection_lr=0.1)
    answer = invoke('run', '--study', 'upstream_downstream', '--set', 'layers=16-8', '--epochs', 2, '--out', 'a')
    assert answer.exit_code == 0, answer.output
    assert asked.pop()[0] == make_run('upstream_downstream', dict(layers='16-8', epochs=2))


def test_texts_and_numbers_are_told_apart():
    defaults = dict(name='a', number=0.5, whole=3, yes=True)
    found = assigned(['name=1', 'number=1', 'whole=1', 'yes=true'], defaults)
    assert found == dict(name='1', number=1., whole=1, yes=True)
    assert assigned(['name=a=b', 'yes=False'], defaults) == dict(name='a=b', yes=False)
    wrong = assigned(['number=x', 'whole=1.5', 'yes=1'], defaults)
    assert wrong == dict(number='x', whole='1.5', yes='1')  # to be refused where the range is known


def test_run_takes_all_from_a_file(there, asked):
    write_config(sparsities=[0.1, 0.5], settings=dict(epochs=2), seeds=7, variations={'still': {'walk': 0}})
    one = ['run', '--config', 'sweep.yaml', '--name', 'p0.1_seeds5-6_still', '--out', 'a']
    assert invoke(*one).exit_code == 0
    assert asked.pop()[0] == sparsity_run(0.1, seeds=2, first_seed=5, **TINY | dict(epochs=2, walk=0.))
    other = {'sparsity': 0.1, 'seeds': 4, 'first_seed': 0, 'dataset': 'mnist', 'architecture': 'both', 'epochs': 1,
             'batch_size': 2, 'study': 'extreme_sparsity'}
    for name, value in other.items():  # never ignored in silence
        answer = invoke(*one, f'--{name.replace("_", "-")}', value)
        assert f'settles {name}' in one_line(answer.exit_code, answer.stderr) and not asked
    answer = invoke(*one, '--set', 'lr=1')
    assert 'settles lr' in one_line(answer.exit_code, answer.stderr) and not asked


P = '--sparsity 0.1 '


@pytest.mark.parametrize('args, message', [
    ('', 'give sparsity'), ('--config sweep.yaml', '--config and --name go together'),
    ('--config sweep.yaml --sparsity 0.1', '--config and --name go together'),
    (P + '--name p0.1_seeds0-4', '--config and --name go together'),
    ('--config sweep.yaml --name p0.1_seeds0-5', "'p0.1_seeds0-5'; did you mean 'p0.1_seeds0-4'?"),
    (P + '--sparsity 0.10001', 'sparsity must have distinct values, got [0.1, 0.10001]'),
    (P + '--sparsity 1e-5', 'sparsity must be a number in [1/N^2, 1] = [0.0001, 1], got 1e-05'),
    (P + '--first-seed -1', 'first_seed must be a whole number in [0, 1000000], got -1'),
    (P + '--set mask_fractoin=0.1', "unknown parameter 'mask_fractoin'; did you mean 'mask_fraction'?"),
    (P + '--set lr=0.1 --set lr=0.2', 'lr twice'), (P + '--set lr', "--set must be NAME=VALUE, got 'lr'"),
    (P + '--set lr=fast', "lr must be a number in (0, 1e+09], got 'fast'"),
    (P + '--set lr=-1', 'lr must be a number in (0, 1e+09], got -1.0'), (P + '--set lr=nan', 'got nan'),
    (P + '--set n_hidden=1.5', "n_hidden must be a whole number in [2, 10000], got '1.5'"),
    (P + '--set rewire=1', "rewire must be true or false, got '1'"), (P + '--set n_hidden=', "got ''"),
    (P + '--set task=xor', "task must be one of ['parity', "), (P + '--set =1', "unknown parameter ''"),
    (P + '--epochs 3 --set epochs=2', 'epochs is given twice'),
    (P + '--set sparsity=0.2', 'sparsity is given twice'),
    (P + '--dataset digits --set dataset=mnist', 'dataset is given'),
    (P + '--set seeds=3', "unknown parameter 'seeds'"), (P + '--study nothing', "study must be one of ['"),
    (P + '--study upstream_downstream', 'got [0.1]'),
    ('--study upstream_downstream --architecture both', "unknown parameter 'architecture'"),
    ('--study upstream_downstream --set layers=0', "got '0'"), (P + '--plugin none.py', 'plugin none.py is missing'),
    (P + '--plugin sweep.yaml', 'plugin sweep.yaml')])
def test_run_wants_one_run(there, asked, args, message):
    Path('sweep.yaml').write_text('axes: {sparsity: [0.1]}\n')
    answer = invoke('run', '--out', 'a', *args.split(' ') if args else [])
    assert message in one_line(answer.exit_code, answer.stderr) and not asked
    assert [path.name for path in there.iterdir()] == ['sweep.yaml']


def test_a_plugin_on_the_command_line(there, asked):
    "brings its settings"
    with forgetting_plugins():
        Path('norm.py').write_text(NORM)
        answer = invoke('run', '--sparsity', '0.1', '--out', 'a', '--plugin', 'norm.py', '--set', 'power=3')
        assert answer.exit_code == 0, answer.output
        assert asked.pop()[0].settings.power == 3.
    answer = invoke('run', '--sparsity', '0.1', '--out', 'a', '--set', 'power=3')
    assert "unknown parameter 'power'" in one_line(answer.exit_code, answer.stderr)


def test_names_of_results(there, monkeypatch):
    "`config/quick.yaml` goes to `results/quick` unless told otherwise"
    calls = []
    def note(value, *call): return calls.append(call) or value
    def joined(config, out, **how): return note(out, config, out, how['finished_only'])
    monkeypatch.setattr(sweep, 'run_sweep', lambda config, out, **how: note(out, config, out, how['cores']))
    monkeypatch.setattr(notebook, 'draw_figures', lambda results, out=None, **how: note([Path('a.png')], results, out))
    monkeypatch.setattr(collect, 'collect_sweep', joined)
    ledger = SimpleNamespace(summarized=lambda results: 'ledger: 2 hold')
    monkeypatch.setattr(Study, 'load', lambda study, what: ledger)
    monkeypatch.setattr(cli, 'warn_of', lambda older: None)
    monkeypatch.setattr('modspec.engine.status.verify_results', lambda results: ([], {}))
    Path('config').mkdir()
    config, quick = write_config('config/quick.yaml'), Path('results/quick')
    answer = invoke('reproduce', config)
    assert answer.exit_code == 0, answer.output
    summary = 'ledger: 2 hold; see: modspec claims results/quick'
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
    ('--batch-size', '0'): 'batch_size must be a whole number in [1, 1000000], got 0', ('--batch-size', '-1'): 'got -1',
    ('--dataset', 'cifar'): "dataset must be one of ['digits', 'mnist', 'mnist_2000', 'retina'], got 'cifar'",
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
    monkeypatch.setattr(notebook, 'execute', forbidden)
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
    Path('sweep.yaml').write_text('axes: {sparsity: [1e-4]}\n')
    for command in ('reproduce', 'collect', 'sweep', 'status'):
        answer = invoke(command, 'sweep.yaml')
        assert "got '1e-4'; in YAML write 1.0e-4, not 1e-4" in one_line(answer.exit_code, answer.stderr)
        assert 'none.yaml cannot be read' in one_line((answer := invoke(command, 'none.yaml')).exit_code, answer.stderr)
    answer = invoke('run', '--config', 'none.yaml', '--name', 'p0.1_seeds0-4', '--out', 'out')
    assert 'none.yaml cannot be read' in one_line(answer.exit_code, answer.stderr)
    for command in ('figures', 'claims', 'measure', 'verify'):
        answer = invoke(command, 'nowhere')
        assert 'nowhere holds no ' in one_line(answer.exit_code, answer.stderr)
    assert [path.name for path in there.iterdir()] == ['sweep.yaml']


def test_what_a_study_does_not_have(there, monkeypatch):
    "A study may have no figures and no claims yet"
    Path('layers.yaml').write_text('study: upstream_downstream\nseeds: 1\n'
                                   'settings: {layers: "8", epochs: 1, n_pairs: 100}\n')
    swept(Path('layers.yaml'), there / 'results')
    before = contents(there)
    monkeypatch.setattr('modspec.engine.notebook.repository', lambda: there)
    monkeypatch.setattr(cli, 'study_named', lambda name: replace(study_named(name), ledger=''))
    for command, message in dict(figures='has no figures yet', claims='has no claims yet').items():
        answer = invoke(command, 'results')
        assert f'upstream_downstream {message}' in one_line(answer.exit_code, answer.stderr)
    answer = invoke('reproduce', 'layers.yaml', '--out', 'elsewhere')
    assert 'has no figures yet' in one_line(answer.exit_code, answer.stderr)
    assert invoke('verify', 'results').exit_code == 0 and contents(there) == before
    assert invoke('status', 'layers.yaml', '--out', 'results').stdout.splitlines()[-1].startswith('1 done')


def test_figures_would_mix_variations(there):
    write_config(variations={'no_walk': {'walk': 0}})
    answer = invoke('reproduce', 'sweep.yaml', '--out', 'elsewhere')
    assert 'use: modspec sweep sweep.yaml' in one_line(answer.exit_code, answer.stderr)
    assert not Path('elsewhere').exists()


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
    write_config(sparsities=[0.5], settings=dict(lr=1e6, n_pairs=200, batch_size=20), seeds=2)
    answer = invoke('run', '--config', 'sweep.yaml', '--name', 'p0.5_seeds0-1', '--out', 'out')
    assert answer.exit_code == 1 and answer.stdout == '' and len(answer.stderr.splitlines()) == 1
    assert answer.stderr.startswith('modspec: p=0.5 failed, NonFiniteLoss: the loss of network 0 (seed 0) became ')
    assert ' in epoch 1, step ' in answer.stderr and 'lower the learning rates' in answer.stderr
    assert answer.stderr.endswith('out.failed/notebook.ipynb\n')
    assert 'NonFiniteLoss' in Path('out.failed/notebook.ipynb').read_text()
    assert not Path('out/manifest.json').exists() and not any(path.name.startswith('.') for path in there.iterdir())


def test_finished_run_is_not_repeated(results):
    "`modspec run` on a run of the sweep: the same answer, without a kernel, and every file as it was"
    folder, before = results / 'runs' / 'p1.0_seeds0-0', contents(results)
    answer = invoke('run', '--config', results.with_name('sweep.yaml'), '--name', folder.name, '--out', folder)
    assert answer.exit_code == 0 and answer.stdout == f'already complete: {folder}\n'
    answer = invoke('run', '--sparsity', '1', '--out', folder)
    assert 'p1.0_seeds0-0 holds another run (seeds: 1, asked 5; ' in one_line(answer.exit_code, answer.stderr)
    assert contents(results) == before


@pytest.mark.parametrize('command', ['run', 'measure', 'sweep'])
def test_what_was_complete_already_is_said(copied, monkeypatch, command):
    "and nothing else is called so"
    folder = copied / 'runs' / 'p1.0_seeds0-0'
    args = {'run': ['--config', 'sweep.yaml', '--name', folder.name, '--out', folder], 'measure': ['results'],
            'sweep': ['sweep.yaml', '--out', 'results']}[command]

    def compute(config, out, **how): return older_code(folder, 'training') or out
    monkeypatch.setattr(sweep, 'run_sweep', lambda config, out, **how: out)
    before = contents(copied)
    for _ in range(2): assert invoke(command, *args).stdout.startswith('already complete: ')
    assert contents(copied) == before
    if command == 'sweep': monkeypatch.setattr(sweep, 'run_sweep', compute)
    if command == 'run': monkeypatch.setattr(notebook, 'run_notebook', compute)
    if command == 'measure': older_code(folder, 'correlation'), args.append('--recompute')
    assert invoke(command, *args).stdout.startswith('measured: ' if command == 'measure' else 'results: ')


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


# verify

@pytest.fixture
def copied(results, there):
    "The finished sweep in the working directory, to be changed"
    shutil.copy(results.with_name('sweep.yaml'), there)
    return shutil.copytree(results, there / 'results')


def test_verify(copied):
    answer = invoke('verify', 'results')
    assert answer.exit_code == 0 and answer.stdout == 'results: all is as it was written, in 3 folders\n'
    with open('results/values.parquet', 'ab') as table: table.write(b'X')
    Path('results/runs/p1.0_seeds0-0/notebook.ipynb').unlink()
    answer = invoke('verify', 'results')
    first, second = answer.stdout.splitlines()
    assert answer.exit_code == 1 and first.startswith('results/values.parquet: has ')
    assert second == 'results/runs/p1.0_seeds0-0/notebook.ipynb: is missing'
    answer = invoke('verify', copied.parent / 'nowhere')
    assert 'nowhere holds no results' in one_line(answer.exit_code, answer.stderr)


def test_results_of_other_code_are_used_with_a_warning(copied, monkeypatch):
    "by `verify`, `status` and `sweep`: how many, and which part"
    for folder in (copied / 'runs').iterdir(): older_code(folder, 'correlation')
    answer = invoke('verify', 'results')
    assert answer.exit_code == 0 and answer.stderr.startswith('modspec: correlation of 2 runs ')
    assert '--recompute' in answer.stderr and len(answer.stderr.splitlines()) == 1
    answer = invoke('status', 'sweep.yaml', '--out', 'results')
    assert answer.stdout.count('correlation') == 2 and '2 done' in answer.stdout
    monkeypatch.setattr(sweep, 'run_sweep', lambda config, results, **how: results)
    answer = invoke('sweep', 'sweep.yaml', '--out', 'results')
    assert answer.exit_code == 0 and 'correlation of 2 runs' in answer.stderr


def test_status_and_plan_of_a_finished_sweep(copied):
    answer = invoke('status', 'sweep.yaml', '--out', 'results')
    *rows, last = answer.stdout.splitlines()
    assert answer.exit_code == 0 and last.startswith('2 done')
    assert [line.split()[:2] for line in rows] == [['p0.01_seeds0-0', 'done'], ['p1.0_seeds0-0', 'done']]
    answer = invoke('sweep', 'sweep.yaml', '--out', 'results', '--dry-run')
    assert answer.exit_code == 0 and answer.stdout.count('nothing to do') == 2


# measure

def test_measure(copied, monkeypatch):
    "a measure of one's own on networks that are there; the tables are joined anew if the file is given"
    before = weights(copied)
    monkeypatch.setattr(run, 'train', None)
    with forgetting_plugins():
        Path('norm.py').write_text(NORM)
        answer = invoke('measure', 'results', '--plugin', 'norm.py', '--measure', 'norm', '--config', 'sweep.yaml')
        assert answer.exit_code == 0, answer.output
        assert answer.stdout.splitlines() == ['measured: the networks of 2 runs in results', 'tables: results']
        assert 'norm' in set(read_table('results')['measure'])
    assert weights(copied) == before
    answer = invoke('measure', 'results/runs/p1.0_seeds0-0')
    assert answer.exit_code == 0 and '1 run in' in answer.stdout


def test_measure_again(copied):
    "what other code has measured"
    folder = copied / 'runs' / 'p1.0_seeds0-0'
    older_code(folder, 'correlation')
    assert invoke('measure', 'results').exit_code == 0 and BAD_PAST in str(read_manifest(folder))
    assert invoke('measure', 'results', '--recompute').exit_code == 0 and BAD_PAST not in str(read_manifest(folder))


def test_measure_refuses(copied):
    answer = invoke('measure', 'results', '--measure', 'corelation')
    assert "measure must be one of" in one_line(answer.exit_code, answer.stderr) and 'correlation' in answer.stderr
    for more in (['--measure', 'correlation'], ['--config', 'sweep.yaml']):
        answer = invoke('measure', 'results', '--retrain', *more)
        assert '--retrain takes all measures' in one_line(answer.exit_code, answer.stderr)
    shutil.rmtree('results/runs')
    answer = invoke('measure', 'results')
    assert 'only tables; ' in one_line(answer.exit_code, answer.stderr) and '--retrain' in answer.stderr


def test_measure_tables_without_networks(copied):
    "Trained again, compared, measured and joined"
    before = {path.name: path.read_bytes() for path in copied.glob('*.parquet')}
    shutil.rmtree('results/runs')
    answer = invoke('measure', 'results', '--retrain')
    assert answer.exit_code == 0, answer.output
    first, second, third = answer.stdout.splitlines()
    assert first.endswith('differ from those in the tables by at most 0')
    assert second.startswith('measured: the networks of 2 runs') and third == 'tables: results'
    assert {path.name: path.read_bytes() for path in copied.glob('*.parquet')} == before
    assert invoke('verify', 'results').exit_code == 0


# doctor, explore

def test_doctor(monkeypatch, there):
    monkeypatch.setenv('MODSPEC_DATA', str(there))
    answer = invoke('doctor')
    assert answer.exit_code == 0  # MNIST is missing, but not needed
    lines = {line.split()[0]: line for line in answer.stdout.splitlines() if line[0] == ' ' and '→' not in line}
    assert lines['torch'].split() == ['torch', version('torch')] and 'products in bf16' in lines['processor']
    assert {'snakemake', 'python', 'threads', 'disk', 'digits', 'files'} <= lines.keys() and 'pytest' not in lines
    assert '! mnist         not found\n' in answer.stdout and '--download' in answer.stdout.split('→')[1]


@pytest.mark.provokes('damaged data')
@pytest.mark.parametrize('damage, state', [
    ('truncated', 'damaged'), ('empty', 'damaged'), ('altered', 'damaged'), ('folder', 'damaged'),
    ('missing', 'incomplete'), ('none', 'not found'), ('nowhere', 'not found')])
def test_doctor_tells_damaged_data_from_none(monkeypatch, there, damage, state):
    raw = there / 'MNIST' / 'raw'
    if damage != 'nowhere': raw.mkdir(parents=True)
    for name, (size, _) in MNIST_FILES.items() if damage not in ('nowhere', 'none') else ():
        if damage == 'folder': (raw / name).mkdir()
        elif damage != 'missing' or 'labels' in name:
            (raw / name).write_bytes(b'\0' * {'empty': 0, 'truncated': 1000, 'altered': size}.get(damage, size))
    monkeypatch.setenv('MODSPEC_DATA', str(there))
    answer = invoke('doctor')
    assert answer.exit_code == 0 and f'! mnist         {state}\n' in answer.stdout
    found = {one['what']: one for one in json.loads(invoke('doctor', '--json').stdout)}
    assert found['mnist']['found'] == state and found['mnist']['advice'] in answer.stdout


def test_no_cuda_is_explained(there, monkeypatch):
    "in the words of PyTorch; another device that does not exist is refused as before"
    import torch
    def init(): raise RuntimeError('Found no driver. See https://example.org')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.setattr(torch.cuda, 'init', init)
    for device in ('cuda', 'cuda:0', 'cuda:7'):
        answer = invoke('run', '--sparsity', '0.1', '--out', 'out', '--device', device)
        line = one_line(answer.exit_code, answer.stderr)
        assert line.startswith('no CUDA device was found (Found no driver); device must be one of ') and device in line
    answer = invoke('run', '--sparsity', '0.1', '--out', 'out', '--device', 'gpu')
    assert 'CUDA' not in one_line(answer.exit_code, answer.stderr)
    assert 'none (Found no driver); runs compute on the processor' in invoke('doctor').stdout
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    answer = invoke('run', '--sparsity', '0.1', '--out', 'out', '--device', 'cuda:7')
    assert one_line(answer.exit_code, answer.stderr).startswith("device must be one of ['cpu', 'cuda', 'cuda:0'], got ")
    assert list(there.iterdir()) == []


# JSON

def document(*args, code=0):
    "What a command prints for programs"
    answer = invoke(*args, '--json')
    assert answer.exit_code == code and answer.stdout.isascii(), answer.output
    return json.loads(answer.stdout, parse_constant=lambda word: pytest.fail(f'{word} is not JSON'))


def test_json(copied):
    "says what the lines say, with the exit code of the command"
    status = document('status', 'sweep.yaml', '--out', 'results')
    assert [one['state'] for one in status['runs']] == ['done', 'done'] and status['seconds_left'] == 0
    assert [one['state'] for one in document('status', 'sweep.yaml', '--out', 'nowhere')['runs']] == ['missing'] * 2
    sound = document('verify', 'results')
    assert len(sound['folders']) == 3 and sound['wrong'] == sound['other_code'] == {}
    older_code(copied / 'runs' / 'p1.0_seeds0-0', 'correlation')
    assert document('verify', 'results')['other_code'] == {'correlation': 1}
    with open('results/values.parquet', 'ab') as table: table.write(b'X')
    (path, reason), = document('verify', 'results', code=1)['wrong'].items()
    assert path == 'results/values.parquet' and reason.startswith('has ')
    names = {one['what'] for one in document('doctor')}
    assert {'torch', 'python', 'disk', 'mnist'} <= names
    assert document('show', 'results/runs/p0.01_seeds0-0')['kind'] == 'run'


@pytest.mark.parametrize('args', ['status none.yaml', 'verify nowhere', 'claims nowhere', 'show nowhere',
                                  'compare nowhere nowhere'])
def test_json_of_what_is_refused(there, args):
    "is the line on standard error, and nothing else"
    answer = invoke(*args.split(), '--json')
    assert one_line(answer.exit_code, answer.stderr) and answer.stdout == ''


@pytest.mark.parametrize('needs, advice', [
    ('modspec-no-such-library', "pip install 'modspec-no-such-library'"), ('typer>=999', "pip install 'typer>=999'")])
def test_doctor_names_libraries_that_are_missing(monkeypatch, needs, advice):
    "and looks no further, for the rest needs them"
    monkeypatch.setattr(doctor, 'requires', lambda name: ['pyyaml', needs])
    answer = invoke('doctor')
    assert answer.exit_code == 1 and answer.stdout.splitlines()[-1].endswith(f'→ {advice}')
    assert 'files' not in answer.stdout


def test_explore(there, monkeypatch):
    calls = []
    monkeypatch.setattr(cli.os, 'execv', lambda path, command: calls.append(command))
    monkeypatch.setattr(shipped, 'repository', lambda: there)
    answer = invoke('explore')
    assert f'{there}/nbs/explorer/explore.ipynb is missing; ' in one_line(answer.exit_code, answer.stderr) and not calls
    (there / 'nbs' / 'explorer').mkdir(parents=True)
    (there / 'nbs' / 'explorer' / 'explore.ipynb').touch()
    assert invoke('explore', '--no-browser', '--port', 8889).exit_code == 0
    expected = ['-m', 'jupyterlab', f'{there}/nbs/explorer/explore.ipynb', '--no-browser', '--port', '8889']
    assert calls == [[sys.executable, *expected]]
    monkeypatch.setattr(cli, 'find_spec', lambda name: None)
    answer = invoke('explore')
    assert 'JupyterLab is not installed; get it with: pip install' in one_line(answer.exit_code, answer.stderr)


def test_only_mendable_errors_become_a_line(monkeypatch):
    def bug(p): raise RuntimeError('a bug')
    monkeypatch.setattr(numbers, 'q_from_sparsity', bug)
    answer = invoke('q', '--sparsity', '0.1')
    assert isinstance(answer.exception, RuntimeError) and answer.stderr == ''
