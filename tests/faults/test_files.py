"""Files that are damaged, and files that were made to do harm: refused with path and reason, never half loaded"""
import json
import pickle
import random
import re
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file, save_file
from sweeps import NORM, computed, contents, forgetting_plugins, swept, write_config
from typer.testing import CliRunner

from modspec.analysis.evidence import read_evidence
from modspec.analysis.tables import read_table
from modspec.cli import app
from modspec.core import registry
from modspec.core.data import load_mnist
from modspec.core.files import ResultError, read_manifest, write_manifest
from modspec.core.mnist import MNIST_FILES, DatasetError
from modspec.engine.collect import collect_sweep
from modspec.engine.config import load_config
from modspec.engine.notebook import draw_figures, execute, seal
from modspec.engine.processes import snakemake_command
from modspec.engine.run import run
from modspec.engine.status import verify_results
from modspec.engine.store import NOTEBOOK, TABLES, WEIGHTS, is_finished
from modspec.engine.sweep import run_sweep
from modspec.engine.weights import load_networks
from modspec.studies.extreme_sparsity.config import sparsity_run

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = 'manifest.json'
FLIPS = 60


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A finished sweep of two runs; nobody writes into it"
    folder = tmp_path_factory.mktemp('whole')
    write_config(folder / 'sweep.yaml')
    swept(folder / 'sweep.yaml', folder / 'results')
    return folder


@pytest.fixture
def there(whole, tmp_path, monkeypatch):
    "A copy of it, to be spoiled"
    shutil.copytree(whole, tmp_path / 'there')
    monkeypatch.chdir(tmp_path / 'there')
    return tmp_path / 'there'


RUN = Path('results/runs/p1.0_seeds0-0')
OTHER = RUN.with_name('p0.01_seeds0-0')


def file_of(folder, name):
    "A file of a run; its tables have names of their own"
    return folder / read_manifest(folder, verify=False)['tables'].get(name, name)


def the_run(): return load_config('sweep.yaml').runs()[RUN.name]


def refused(reading, *parts):
    "The error of something that must not be read"
    with pytest.raises(ResultError) as error: reading()
    for part in parts: assert part in str(error.value)
    assert '\n' not in str(error.value)


def flipped(content, rng):
    "One byte of the content is another"
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ rng.randrange(1, 256)]) + content[at + 1:]


DAMAGE = {'flipped': flipped, 'truncated': lambda content, rng: content[:rng.randrange(1, len(content))],
          'longer': lambda content, rng: content + rng.randbytes(3), 'empty': lambda content, rng: b'',
          'zeroed': lambda content, rng: bytes(len(content))}
ROUNDS = {damage: FLIPS if damage in ('flipped', 'truncated') else 1 for damage in DAMAGE}
every_damage = pytest.mark.parametrize('damage', [
    pytest.param(damage, marks=pytest.mark.provokes('damaged results', rounds=n)) for damage, n in ROUNDS.items()])


@every_damage
@pytest.mark.parametrize('name', [*TABLES, WEIGHTS, NOTEBOOK])
def test_damaged_run(there, name, damage):
    "Refused by whatever reads the run or adds to it, with the path; the sweep is not collected without it either"
    rng, path = random.Random(0), file_of(RUN, name)
    content = path.read_bytes()
    for _ in range(ROUNDS[damage]):
        path.write_bytes(DAMAGE[damage](content, rng))
        refused(lambda: read_manifest(RUN), str(path), 'SHA-256', 'run again')
        refused(lambda: read_table(RUN), str(path))
        refused(lambda: is_finished(RUN, the_run()), str(path))
        refused(lambda: run(the_run(), RUN), str(path))
        if name == WEIGHTS: refused(lambda: load_networks(path), str(path), 'SHA-256')
    before = contents(there)
    refused(lambda: collect_sweep('sweep.yaml', 'results'), str(path))
    assert contents(there) == before


@every_damage
def test_damaged_manifest(there, damage):
    "Also its numbers, which no other file repeats, and the name of its own checksum"
    rng, path = random.Random(1), RUN / MANIFEST
    content = path.read_bytes()
    renamed = content.replace(b'"sha256"', b'"sha255"')
    for damaged in [renamed, *(DAMAGE[damage](content, rng) for _ in range(ROUNDS[damage]))]:
        path.write_bytes(damaged)
        refused(lambda: read_manifest(RUN), str(path), 'damaged')
        refused(lambda: is_finished(RUN, the_run()), str(path))
        refused(lambda: collect_sweep('sweep.yaml', 'results'), str(path))


@pytest.mark.provokes('damaged results')
def test_damaged_values_while_a_measure_is_added(there):
    """The manifest is as it was, the table of values is not: nothing is measured, and nothing is written.

    The way out that the message names leads back to a whole result.
    """
    path = file_of(RUN, 'values')
    path.write_bytes(flipped(path.read_bytes(), random.Random(4)))
    before = contents(there)
    answer = CliRunner().invoke(app, ['measure', 'results', '--recompute'])
    assert answer.exit_code == 2 and str(path) in answer.stderr and 'run again' in answer.stderr
    assert contents(there) == before and list(verify_results('results')[1]) == [path]
    shutil.rmtree(RUN)
    computed(the_run(), RUN)  # what the message says
    assert verify_results('results')[1] == {} and read_table(RUN) is not None


@pytest.mark.provokes('damaged results', rounds=FLIPS)
@pytest.mark.parametrize('name', TABLES)
def test_damaged_tables_of_a_sweep(there, name):
    "Claims and figures are not made of them; the sweep itself makes them anew from its runs"
    rng, path = random.Random(2), Path('results', f'{name}.parquet')
    content = path.read_bytes()
    for _ in range(FLIPS):
        path.write_bytes(flipped(content, rng))
        refused(lambda: read_table('results', path.stem), str(path), 'SHA-256')
        refused(lambda: read_evidence('results'), str(path))
        refused(lambda: draw_figures('results'), str(path))
    assert read_table(collect_sweep('sweep.yaml', 'results'), path.stem) is not None and path.read_bytes() == content


@pytest.mark.provokes('damaged results', rounds=3)
def test_no_run_is_dropped(there):
    "A run that is missing, unfinished or another's stops the collection and is named"
    shutil.move(RUN, 'aside')
    refused(lambda: collect_sweep('sweep.yaml', 'results'), RUN.name, 'lacks 1 of 2 runs')
    RUN.mkdir()
    for path in Path('aside').glob('*.parquet'): shutil.copy(path, RUN)
    refused(lambda: collect_sweep('sweep.yaml', 'results'), RUN.name, 'lacks 1 of 2 runs')
    shutil.rmtree(RUN)
    shutil.copytree(OTHER, RUN)
    refused(lambda: collect_sweep('sweep.yaml', 'results'), str(RUN), 'another run')


@pytest.mark.provokes('damaged results', rounds=5)
def test_weights_without_their_manifest(there):
    "Nothing vouches for the numbers then, but half a file is still no file"
    path, content = RUN / WEIGHTS, (RUN / WEIGHTS).read_bytes()
    (RUN / MANIFEST).unlink()
    assert load_networks(path)
    for n in (0, 5, 8, 100, len(content) - 1):
        path.write_bytes(content[:n])
        refused(lambda: load_networks(path), str(path), 'holds no networks')


@pytest.mark.slow
@pytest.mark.provokes('damaged results', rounds=8 * (FLIPS + 5))
def test_verify_finds_every_damage(there):
    "One file at a time, of a run and of the tables; `modspec verify` names it, and nothing else"
    assert verify_results('results')[1] == {}
    rng = random.Random(3)
    for path in sorted(path for folder in (RUN, Path('results')) for path in folder.iterdir() if path.is_file()):
        content = path.read_bytes()
        for _ in range(FLIPS):
            path.write_bytes(flipped(content, rng))
            assert path in verify_results('results')[1], path
        for damage in ('truncated', 'longer', 'empty', 'zeroed'):
            path.write_bytes(DAMAGE[damage](content, rng))
            assert list(verify_results('results')[1]) == [path]
            if damage == 'truncated':
                answer = CliRunner().invoke(app, ['verify', 'results'])
                assert answer.exit_code == 1 and answer.stdout.startswith(f'{path}: ')
        path.unlink()
        assert path in verify_results('results')[1]
        path.write_bytes(content)
    assert verify_results('results')[1] == {} and CliRunner().invoke(app, ['verify', 'results']).exit_code == 0


@pytest.mark.provokes('damaged results', rounds=3)
def test_verify_finds_what_a_checksum_does_not(there):
    "A table of another run, and, vouched for, one without a column and one with an infinite value"
    path = file_of(RUN, 'networks')
    shutil.copy(file_of(OTHER, 'networks'), path)
    assert list(verify_results('results')[1]) == [path]
    shutil.copytree(OTHER, RUN, dirs_exist_ok=True)
    table = pd.read_parquet(values := file_of(OTHER, 'values'))
    table.drop(columns='value').to_parquet(values)
    vouched(OTHER)
    assert verify_results('results')[1][values] == 'lacks the columns value'
    table.assign(value=float('inf')).to_parquet(values)
    vouched(OTHER)
    assert verify_results('results')[1][values] == 'holds numbers that are not finite: value'


# data

MNIST = pytest.mark.provokes('damaged data')


@MNIST
def test_no_network(tmp_path, monkeypatch):
    "A real attempt to download, to which nobody answers: path and way out, exit code 2, and nothing is left of it"
    for name in ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY'):
        monkeypatch.setenv(name, 'http://127.0.0.1:9')
    for name in ('no_proxy', 'NO_PROXY'): monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('MODSPEC_DATA', str(tmp_path / 'data'))
    with pytest.raises(DatasetError, match='could not be downloaded to .*MODSPEC_DATA'): load_mnist(download=True)
    args = ['run', '--sparsity=0.5', '--dataset=mnist', '--download', f'--out={tmp_path}/out']
    answer = CliRunner().invoke(app, args)
    line, = [line for line in answer.stderr.splitlines() if line.startswith('modspec: ')]
    assert answer.exit_code == 2 and 'could not be downloaded' in line
    left = [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob('*'))]
    assert left == ['data', 'data/MNIST', 'data/MNIST/raw']  # empty folders


@MNIST
def test_no_download_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr('urllib.request.urlopen', lambda *_, **__: pytest.fail('asked the network'))
    monkeypatch.setenv('MODSPEC_DATA', str(tmp_path))
    with pytest.raises(DatasetError, match=f'{next(iter(MNIST_FILES))} is missing; point MODSPEC_DATA at'): load_mnist()
    assert list(tmp_path.iterdir()) == []


# files that were made to do harm

class Bomb:
    "Whoever unpickles it writes the canary"
    def __init__(self, canary): self.canary = canary

    def __reduce__(self): return Path.touch, (self.canary,)


@pytest.fixture
def canary(tmp_path):
    "A file that no test may bring about"
    yield tmp_path / 'canary'
    assert not (tmp_path / 'canary').exists()


def vouched(folder):
    "The manifest is made to agree with what is in the folder: checksums protect against accidents, not against malice"
    about = json.loads((folder / MANIFEST).read_text())
    write_manifest(folder, {key: value for key, value in about.items() if key not in ('files', 'sha256')},
                   list(about['files']))


@pytest.mark.provokes('hostile files', rounds=8)
def test_pickle_under_another_name(there, canary):
    "Named as each file of a result, with a manifest that vouches for it"
    bomb = pickle.dumps(Bomb(canary))
    readers = {WEIGHTS: lambda: load_networks(RUN / WEIGHTS), 'networks': lambda: read_table(RUN, 'networks'),
               'values': lambda: read_table(RUN), 'history': lambda: read_table(RUN, 'history'),
               MANIFEST: lambda: read_manifest(RUN)}
    for name, reading in readers.items():
        path = file_of(RUN, name)
        content = path.read_bytes()
        path.write_bytes(bomb)
        if name != MANIFEST: vouched(RUN)
        refused(reading, str(path))
        path.write_bytes(content)
        vouched(RUN)
    for name in ('a.pt', 'networks.pt'):
        Path(name).write_bytes(bomb)
        refused(lambda name=name: load_networks(name), name)
    with pytest.raises(ValueError, match='is no YAML file'):
        Path('bomb.yaml').write_bytes(bomb)
        load_config('bomb.yaml')
    pickle.loads(bomb)  # it is a real one
    assert canary.exists()
    canary.unlink()


@pytest.mark.provokes('hostile files')
def test_pickle_of_a_table(there, canary):
    "pandas can pickle a table, too"
    frame = pd.DataFrame({'value': [Bomb(canary)]})
    frame.to_pickle(path := file_of(RUN, 'values'))
    vouched(RUN)
    refused(lambda: read_table(RUN), path.name)


MODULES = ['harmful', 'modspec_plugin_harmful', 'modspec.networks.harmful', 'modspec.networks..harmful', 'os', '']


@pytest.mark.provokes('hostile files')
@pytest.mark.parametrize('module', MODULES)
def test_weights_that_name_a_module(there, canary, monkeypatch, module):
    "A file of networks says which model they are; it cannot have a file imported that lies beside it"
    Path(f'{module.rpartition(".")[2] or "x"}.py').write_text(f'open({str(canary)!r}, "w")')
    monkeypatch.syspath_prepend(there)
    about = dict(model='Recurrent', module=module, seeds=[0], n_connections=[1], architecture={})
    save_file(load_file(RUN / WEIGHTS), RUN / WEIGHTS, metadata={'networks': json.dumps({'standard': about})})
    vouched(RUN)
    refused(lambda: load_networks(RUN / WEIGHTS), WEIGHTS)


@pytest.mark.provokes('hostile files')
@pytest.mark.parametrize('model', ['init_stack', 'import_module', 'Stack', '__doc__', 'dataclass', 'stack.Stack'])
def test_weights_of_what_is_no_model(there, model):
    "Nothing but a model is called with what the file says"
    about = dict(model=model, module='modspec.networks.recurrent', seeds=[0], n_connections=[1], architecture={})
    save_file(load_file(RUN / WEIGHTS), RUN / WEIGHTS, metadata={'networks': json.dumps({'standard': about})})
    vouched(RUN)
    refused(lambda: load_networks(RUN / WEIGHTS), WEIGHTS)


@pytest.mark.provokes('damaged results', rounds=3)
def test_missing_column(there):
    "Of a table that its manifest vouches for: written by other code, or by hand"
    for name, column in (('values', 'value'), ('networks', 'seed'), ('history', 'loss')):
        path = file_of(RUN, name)
        content = path.read_bytes()
        pd.read_parquet(path).drop(columns=column).to_parquet(path)
        vouched(RUN)
        refused(lambda name=name: read_table(RUN, name), str(path), column)
        path.write_bytes(content)
        vouched(RUN)


TAGS = ['!!python/object/apply:os.system ["touch {}"]', '!!python/object/apply:pathlib.Path.touch [{}]',
        '!!python/object/new:os.system ["touch {}"]', '!!python/name:os.system', '!!python/module:os',
        '!!python/object:modspec.engine.config.SweepConfig {{}}']


@pytest.mark.provokes('hostile files', rounds=3)
@pytest.mark.parametrize('tag', TAGS)
def test_python_in_yaml(tmp_path, canary, tag):
    "in the place of each kind of value"
    value = tag.format(canary)
    for text in (value, f'axes: {{sparsity: [{value}]}}', f'axes: {{sparsity: [0.1]}}\nsettings: {{lr: {value}}}'):
        path = tmp_path / 'sweep.yaml'
        path.write_text(text)
        with pytest.raises(ValueError, match='sweep.yaml is no YAML file: .*python/'): load_config(path)


NASTY = '''$(touch canary);'"`touch canary`&[a]é # b: c\\d | >x'''


@pytest.mark.provokes('hostile files', rounds=9)
@pytest.mark.parametrize('value', ['../../../etc/passwd', '/etc/passwd', '$(touch canary)', 'x; touch canary', 'a\nb',
                                   NASTY])
def test_paths_and_shell_in_values(tmp_path, canary, monkeypatch, value):
    "A value that becomes part of a path or of a command is one of few, or is refused; the names of runs are ours"
    monkeypatch.chdir(tmp_path)
    for values in (dict(settings={'dataset': value}), dict(settings={'task': value}), dict(settings={value: 1}),
                   dict(axes={'sparsity': [.1], 'architecture': [value]}), dict(axes={'sparsity': [.1], value: [1]}),
                   dict(variations={value: {'walk': 0}}), dict(study=value), {value: 1}):
        Path('sweep.yaml').write_text(yaml.safe_dump({'axes': {'sparsity': [.1]}} | values, allow_unicode=True))
        with pytest.raises(ValueError, match='sweep.yaml: ') as error: load_config('sweep.yaml')
        assert len(str(error.value).splitlines()) == 1
    Path('sweep.yaml').write_text('axes: {sparsity: [0.1]}')
    answer = CliRunner().invoke(app, ['run', '--config', 'sweep.yaml', '--name', value, '--out', 'out'])
    assert answer.exit_code == 2 and 'unknown run of sweep.yaml' in answer.stderr and not Path('out').exists()


@pytest.mark.slow
@pytest.mark.provokes('hostile files')
def test_sweep_of_a_nasty_name(tmp_path, monkeypatch):
    "Configuration, plugin and results whose names are full of what shells and YAML look for, in a sweep for real"
    monkeypatch.chdir(tmp_path)
    plugin = Path(f'{NASTY}.py')
    plugin.write_text(NORM)
    config = write_config(Path(f'{NASTY[:-2].replace("/", "")}.yaml'), [.5], plugins=[plugin.name])
    with forgetting_plugins(): results = run_sweep(config, Path(NASTY))
    assert 'norm' in set(read_table(results)['measure']) and results == Path(NASTY)
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith(('.', '_'))}
    assert left == {NASTY, config.name, plugin.name}


@pytest.mark.slow
@pytest.mark.provokes('hostile files')
@pytest.mark.parametrize('name', ['007', 'true', 'a: b'])
def test_results_that_are_named_like_values(tmp_path, monkeypatch, name):
    "Snakemake takes words of its command line for numbers, truth values and mappings"
    monkeypatch.chdir(tmp_path)
    results = run_sweep(write_config(Path('sweep.yaml'), [.5]), name)
    assert results == Path(name) and len(read_table(results))
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith('.')} == {name, 'sweep.yaml'}


@pytest.mark.provokes('plugins', rounds=3)
@pytest.mark.parametrize('name', ['missing.py', 'folder', '$(touch canary).py', '../mine.py', 'text.py', 'nothing.py'])
def test_plugins_that_are_none(tmp_path, canary, monkeypatch, name):
    "A configuration may name programs, and only there: what is none is refused before any work"
    (tmp_path / 'cwd' / 'folder').mkdir(parents=True)
    monkeypatch.chdir(tmp_path / 'cwd')
    Path('text.py').write_text('no program')
    Path('nothing.py').write_text('x = 1\n')
    write_config('sweep.yaml', [.5], plugins=[name])
    before = contents(tmp_path)
    with forgetting_plugins():
        for command in (['sweep', 'sweep.yaml', '--out', 'out'], ['status', 'sweep.yaml'],
                        ['run', '--sparsity=0.5', '--out=out', f'--plugin={name}']):
            answer = CliRunner().invoke(app, command)
            line, = answer.stderr.splitlines()
            assert answer.exit_code == 2
            assert re.search(r'plugin .* (is missing|cannot be imported|registers nothing)', line)
        assert registry.PLUGINS == {}
    left = {path: data for path, data in contents(tmp_path).items() if '__pycache__' not in path.parts}
    assert left == before


@pytest.mark.provokes('hostile files')
def test_braces(tmp_path):
    "are Snakemake's own"
    with pytest.raises(ResultError, match='cannot hold a sweep'): snakemake_command('sweep.yaml', 'a {x}', 1)


# what must not be anywhere

def imported(module, names): return rf'\bfrom\s+{module}\s+import\s*(\([^)]*|[^(\n]*)\b({names})\b'


FORBIDDEN = {
    'pickle': r'(?i:pickle)(?!s\b|\s*=\s*False)|\b(joblib|dill|shelve|marshal)\b',
    'torch.load': r'\btorch\.(load|save|hub|package|serialization|jit\.load)\b|weights_only\s*=\s*False|'
                  + imported('torch', r'load|save|hub|package|serialization'),
    'yaml.load': r'\byaml\.((full_|unsafe_)?load(_all)?)\b|\bC?(Full|Unsafe)?Loader\b(?!=)|'
                 + imported('yaml', r'(full_|unsafe_)?load(_all)?'),
    'a shell': r'\bshell\s*=\s*(True|1)|\bos\.(system|popen)\b|\bget(status)?output\b|\bcreate_subprocess_shell\b|'
               + imported('os', r'system|popen') + r'|(?m:^\s*(%%?(system|sx|sh|bash|script)\b|!))',
    'code from text': r'(?<![\w.])(builtins\.)?(eval|exec|compile|__import__)\s*\(',
}
HARMFUL = {
    'pickle': ['import pickle', 'import cPickle', 'from pickle import loads', 'pd.read_pickle(path)',
               'table.to_pickle(path)', 'import cloudpickle', 'import _pickle', 'import pickle5', 'unpickle(path)',
               'numpy.load(path, allow_pickle=True)', 'np.load(path, allow_pickle = flag)', 'joblib.load(path)',
               'from joblib import load', 'import dill', 'shelve.open(path)', 'marshal.loads(data)'],
    'torch.load': ['torch.load(path)', 'from torch import load', 'from torch import nn, load as read',
                   'from torch import (\n    nn,\n    load,\n)', 'torch.save(weights, path)', 'torch.jit.load(path)',
                   "torch.hub.load('a', 'b')", 'torch.serialization.load(path)', 'f(path, weights_only=False)'],
    'yaml.load': ['yaml.load(text)', 'yaml.load_all(text)', 'yaml.full_load(text)', 'yaml.full_load_all(text)',
                  'yaml.unsafe_load(text)', 'yaml.unsafe_load_all(text)', 'f(text, Loader=yaml.Loader)',
                  'yaml.FullLoader(text)', 'yaml.UnsafeLoader(text)', 'f(text, Loader=CLoader)',
                  'from yaml import load', 'from yaml import YAMLError, unsafe_load'],
    'a shell': ['subprocess.run(line, shell=True)', 'subprocess.run(line, shell = True)', 'os.system(line)',
                'os.popen(line)', 'subprocess.getoutput(line)', 'subprocess.getstatusoutput(line)',
                'from os import path, system', 'asyncio.create_subprocess_shell(line)', '!ls {folder}', '%%bash\nls',
                '    %system ls'],
    'code from text': ['eval(text)', 'x = exec (text)', "__import__('os')", 'builtins.exec(text)',
                       "f(compile(text, '', 'exec'))"],
}
HARMLESS = [
    'np.load(path, allow_pickle=False)', "'pickles under other names'", 'yaml.safe_load(text)',
    'yaml.safe_load_all(text)', 'f(text, Loader=yaml.SafeLoader)', 'yaml.YAMLError', 'DataLoader(pairs)',
    'loader: DataLoader,', 'load_networks(path)',
    'from torch.utils.data import DataLoader', 'from torch import Tensor, nn\n\ndef load(path): pass',
    'from safetensors.torch import load_file, save_file', 'from yaml import safe_load', 'json.load(f)',
    'subprocess.run(words)', 'shell = ask()', "shell:\n    'modspec run --config {SWEEP:q}'", 'os.replace(a, b)',
    'import os, sys', 'system = Modular()', 'network.eval()', 'evaluate(network)', 're.compile(pattern)',
    'execute(notebook)', 'if a != b: pass', '%matplotlib inline', 'a = b %system', "'100%'",
]


def sources():
    "Path and text of all that is executed: modules, benchmarks, the workflow, and the code cells of every notebook"
    modules = [path for folder in ('modspec', 'benchmarks') for path in ROOT.glob(f'{folder}/**/*.py')]
    for path in (*modules, ROOT / 'setup.py', ROOT / 'workflow' / 'Snakefile'):
        yield path, path.read_text(encoding='utf-8')
    for path in ROOT.glob('nbs/**/*.ipynb'):
        if not {'results', '.ipynb_checkpoints'} & set(path.relative_to(ROOT / 'nbs').parts):
            cells = nbformat.read(path, 4).cells
            yield path, '\n'.join(cell.source for cell in cells if cell.cell_type == 'code')


@pytest.mark.provokes('hostile files')
@pytest.mark.parametrize('what', FORBIDDEN)
def test_nowhere(what):
    found = [(path.relative_to(ROOT).as_posix(), match.group()) for path, text in sources()
             for match in re.finditer(FORBIDDEN[what], text)]
    assert found == []


@pytest.mark.parametrize('what, line', [(what, line) for what in FORBIDDEN for line in HARMFUL[what]])
def test_search_finds(what, line):
    "whatever comes before and after"
    assert re.search(FORBIDDEN[what], line) and re.search(FORBIDDEN[what], f'import os\n{line}\nx = 1\n')


@pytest.mark.parametrize('line', HARMLESS)
def test_search_passes_over(line):
    assert [what for what in FORBIDDEN if re.search(FORBIDDEN[what], line)] == []


@pytest.mark.provokes('hostile files')
def test_every_value_in_a_shell_command_is_quoted():
    "The workflow is the one place where a shell is given a command"
    commands = re.findall(r"shell:\s*((?:'[^'\n]*'\s*)+)", (ROOT / 'workflow' / 'Snakefile').read_text())
    assert len(commands) == 2
    values = re.findall(r'{([^}]*)}', ''.join(commands))
    assert len(values) > 5 and {value for value in values if not value.endswith(':q')} == {
        'threads', 'MORE', 'RECOMPUTE'}  # a number, words that the Snakefile has quoted, and one of its own


# parameters of notebooks

@pytest.mark.provokes('parameters tag', rounds=2)
@pytest.mark.parametrize('tagged', ['no', 'misspelt', 'two'])
def test_cells_tagged_otherwise(tmp_path, monkeypatch, tagged):
    "of a run and of a figure: nothing is executed"
    figures = ROOT / 'nbs' / 'studies' / 'extreme_sparsity' / 'figures'
    for source in (ROOT / 'nbs' / 'runs' / 'extreme_sparsity.ipynb', figures / 'accuracy.ipynb'):
        notebook = nbformat.read(source, 4)
        cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
        at = next(i for i, cell in enumerate(cells) if 'parameters' in cell.metadata.get('tags', []))
        cells[at].metadata['tags'] = {'no': [], 'misspelt': ['parameter'], 'two': ['parameters']}[tagged]
        if tagged == 'two': cells[at + 1].metadata['tags'] = ['parameters']
        nbformat.write(notebook, tmp_path / source.name)
        monkeypatch.setattr('papermill.execute_notebook', lambda *_, **__: pytest.fail('executed'))
        with pytest.raises(ResultError, match=r'has [02] cells tagged "parameters", not one'):
            execute(tmp_path / source.name, tmp_path / 'out.ipynb', {'out': 'x'})


@pytest.mark.provokes('parameters tag')
def test_recorded_p_is_not_the_asked_one(tmp_path):
    "The run that a notebook with a deaf parameters cell leaves"
    settings = dict(seeds=1, architecture='standard', n_hidden=10, n_pairs=100, epochs=1)
    out = computed(sparsity_run(.3, **settings), tmp_path / 'out')
    asked = sparsity_run(.5, **settings)
    refused(lambda: seal(out, out / NOTEBOOK, asked), 'sparsity', '0.3', '0.5', 'tagged')
