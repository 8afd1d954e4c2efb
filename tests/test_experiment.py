"""Runs: what is refused, what is written, and whether it can be trusted"""
import json
import os
import subprocess
import sys
from dataclasses import asdict, fields, replace
from fractions import Fraction
from itertools import product
from pathlib import Path

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tqdm.auto import tqdm

from modspec import experiment
from modspec.data import load_dataset
from modspec.experiment import (
    RUN_FILES,
    TABLES,
    LogLines,
    ProgressFile,
    ResultError,
    RunConfig,
    as_recorded,
    check_device,
    check_threads,
    collect,
    compute,
    damages,
    is_finished,
    load_networks,
    make_parameters,
    n_run_steps,
    package_hash,
    progress_bar,
    read_manifest,
    read_table,
    run,
    save_networks,
    sha256,
    write_manifest,
    written_whole,
)
from modspec.modularity import network_adjacency, newman_q, subnetwork_groups
from modspec.network import recurrent_matrix
from modspec.training import CHOICES, RANGES, Parameters, evaluate

TINY = Parameters(n_hidden=10, n_pairs=100, epochs=2, bottleneck_epochs=1, readout_epochs=1)
CONFIG = RunConfig(sparsity=0.07, seeds=2, parameters=TINY)
DIGITS = load_dataset('digits')
COLUMNS = {'dataset': 'str', 'architecture': 'str', 'sparsity': 'float64', 'n_connections': 'int64', 'q': 'float64',
           'seed': 'int64', 'trained': 'bool', 'metric': 'str', 'subnetwork': 'Int64', 'subtask': 'Int64',
           'value': 'float64'}
INDICES = {  # (architecture, metric): does a value belong to one sub-network, and to one sub-task?
    ('standard', 'accuracy'): (False, False), ('standard', 'decision_share'): (True, False),
    ('standard', 'weight_mask'): (True, True), ('standard', 'weight_mask_accuracy'): (False, True),
    ('standard', 'correlation'): (True, True), ('standard', 'correlation_base'): (True, False),
    ('standard', 'cka'): (True, True),
    ('bottleneck', 'accuracy'): (False, False), ('bottleneck', 'decision_share'): (True, False),
    ('bottleneck', 'bottleneck'): (True, True)}
NAN, INF = float('nan'), float('inf')


class Counter:
    "A progress bar that counts"
    def __init__(self): self.n = 0
    def update(self, n=1): self.n += n
    def set_description(self, text, refresh=True): pass


def contents(folder):
    "Every file below a folder, with its bytes and its time"
    return {path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in sorted(Path(folder).rglob('*')) if path.is_file()}


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    "The folder of a finished run; nobody writes into it"
    return run(CONFIG, tmp_path_factory.mktemp('runs') / 'tiny')


@pytest.fixture
def altered(finished, tmp_path):
    "A copy of the finished run, to be damaged"
    folder = tmp_path / 'copy'
    folder.mkdir()
    for path in finished.iterdir(): (folder / path.name).write_bytes(path.read_bytes())
    return folder


# what is asked for

@pytest.mark.parametrize('value', [0, 0., -0.1, 9.9e-5, 1.0001, 2, NAN, INF, -INF, '0.1', '1e-3', None, True, {},
                                   {0.1}])
def test_sparsity_is_refused(value):
    "alone and as one of several"
    for sparsity in (value, [value], (0.1, value)):
        with pytest.raises(ValueError) as error: RunConfig(sparsity)
        assert str(error.value) == f'sparsity must be a number in [1/N^2, 1] = [0.0001, 1], got {value!r}'


@given(st.one_of(st.floats(max_value=1e-2, exclude_max=True), st.floats(min_value=1, exclude_min=True), st.text()))
def test_any_other_sparsity_is_refused(value):
    "The range follows the size of the network; a relative error of rounding is forgiven"
    if isinstance(value, float) and np.isclose(value, 1e-2, rtol=2e-9, atol=0): return
    with pytest.raises(ValueError, match=r'sparsity must be .* = \[0\.01, 1\]'): replace(CONFIG, sparsity=value)


@pytest.mark.parametrize('value, count', [(1e-4, 1), (1e-4 * (1 - 1e-12), 1), (0.00016, 2), (0.5, 5000), (1, 10_000)])
def test_legal_sparsities(value, count):
    assert RunConfig(value).n_connections == [count] and RunConfig([value]) == RunConfig(value)


def test_several_sparsities():
    "are a stack of every seed of every sparsity; equal runs are equal however they were spelled"
    config = RunConfig([0.5, 1], seeds=2, first_seed=3)
    assert config == RunConfig((0.5, 1.0), seeds=2, first_seed=3) and config.sparsity == (0.5, 1.)
    assert config.networks == [(3, 0.5), (4, 0.5), (3, 1.), (4, 1.)] and config.n_connections == [5000, 10_000]
    assert config.p_in_words == '0.5…1' and RunConfig(1e-4).p_in_words == '0.0001'
    assert type(RunConfig(1).sparsity) is float
    with pytest.raises(ValueError, match='must be a number or a list of numbers, got an empty list'): RunConfig([])
    for same in ([0.01, 0.010001], [0.01, 0.5, 0.01], [1, 1.]):
        with pytest.raises(ValueError, match=r'distinct numbers of connections, got \['): RunConfig(same)


@pytest.mark.parametrize('name, values, legal', [
    ('seeds', [0, -1, 10_001, True, False, 2., '2', None, NAN], 'a whole number in [1, 10000]'),
    ('first_seed', [-1, 1_000_001, True, 2., '2', None, NAN], 'a whole number in [0, 1000000]'),
    ('dataset', ['', 'Digits', 'cifar', None, 3, ['digits'], {}], "one of ['digits', 'mnist']"),
    ('architecture', ['', 'Both', 'dense', None, 0, ['standard'], {}], "one of ['standard', 'bottleneck', 'both']")])
def test_settings_are_refused(name, values, legal):
    for value in values:
        with pytest.raises(ValueError) as error: RunConfig(0.1, **{name: value})
        assert str(error.value) == f'{name} must be {legal}, got {value!r}'


@pytest.mark.parametrize('name', RANGES)
def test_every_parameter_has_a_range(name):
    "Below, above, not a number, of another type: each with name, value and range"
    least, most, closed = RANGES[name]
    whole = isinstance(getattr(Parameters(), name), int)
    below = least - 1 if closed else least
    for value in [below, most + 1 if whole else most * 1.001, NAN, INF, -INF, True, '1', None, [1]] + [1.] * whole:
        with pytest.raises(ValueError) as error: make_parameters({name: value})
        assert f'{name} must be a' in str(error.value) and f'got {value!r}' in str(error.value)
        assert f'{least:g}, {most:g}]' in str(error.value)


def test_every_number_is_checked():
    assert {f.name for f in fields(Parameters)} == {*RANGES, *CHOICES, 'rewire'}


@pytest.mark.parametrize('value', ['xor', '', None, 0, ['parity'], {}])
def test_task_is_refused(value):
    with pytest.raises(ValueError) as error: make_parameters({'task': value})
    assert str(error.value) == f"task must be one of ['parity', 'parity_sentence'], got {value!r}"


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown parameter 'batchsize'; did you mean 'batch_size'"):
        make_parameters({'batchsize': 3})
    with pytest.raises(ValueError, match="unknown parameter 'zzz'; known are n_hidden, n_subnetworks"):
        make_parameters({'zzz': 3})
    with pytest.raises(ValueError, match="unknown setting 'seed'; did you mean 'seeds'"):
        RunConfig.from_dict({'sparsity': 0.1, 'seed': 3})
    with pytest.raises(ValueError, match="unknown parameter 'epoch'; did you mean 'epochs'"):
        RunConfig.from_dict({'sparsity': 0.1, 'parameters': {'epoch': 3}})


@given(st.builds(RunConfig, st.one_of(st.floats(1e-4, 1), st.just([0.01, 0.1])), st.sampled_from(['digits', 'mnist']),
                 st.integers(1, 10_000), st.sampled_from(['standard', 'bottleneck', 'both']),
                 st.builds(Parameters, epochs=st.integers(1, 10_000), lr=st.floats(1e-9, 1e9)),
                 st.integers(0, 1_000_000)))
def test_config_survives_json(config):
    "A manifest's config is compared with the one asked for: nothing may be lost on the way"
    again = json.loads(json.dumps(asdict(config)))
    assert again == as_recorded(config) and RunConfig.from_dict(again) == config


@pytest.mark.parametrize('value', ['', 'gpu', 'cuda:99', 'cuda:-1', 'meta', 'hpu', 'mps', None, 0, ['cpu']])
def test_device_is_refused(value):
    "Also one that PyTorch knows but cannot compute on here"
    with pytest.raises(ValueError) as error: check_device(value)
    assert str(error.value).startswith("device must be one of ['cpu'") and str(error.value).endswith(f'got {value!r}')


def test_device_is_accepted():
    assert check_device('cpu') == torch.device('cpu')


@pytest.mark.parametrize('value', [0, -1, 10_000, True, 1., '1', None])
def test_threads_are_refused(value):
    with pytest.raises(ValueError) as error: check_threads(value)
    assert str(error.value) == f'threads must be a whole number in [1, {os.cpu_count()}], got {value!r}'


@pytest.mark.parametrize('wrong', [{'device': 'meta'}, {'device': 'gpu'}, {'threads': 0}])
def test_nothing_is_written_for_a_wrong_machine(tmp_path, wrong):
    with pytest.raises(ValueError, match='must be'): run(CONFIG, tmp_path / 'out', **wrong)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_without_data(tmp_path, monkeypatch):
    monkeypatch.setenv('MODSPEC_DATA', str(tmp_path / 'nowhere'))
    with pytest.raises(ValueError, match='MNIST.*is missing.*MODSPEC_DATA'):
        run(replace(CONFIG, dataset='mnist'), tmp_path / 'out')
    assert list(tmp_path.iterdir()) == []


# the tables

def test_table_keeps_the_contract(finished):
    table = read_table(finished)
    assert {name: str(dtype) for name, dtype in table.dtypes.items()} == COLUMNS
    assert not table.drop(columns=['subnetwork', 'subtask']).isna().any(axis=None) and np.isfinite(table['value']).all()
    assert not table.duplicated([name for name in COLUMNS if name != 'value']).any()
    expected = dict(dataset={'digits'}, sparsity={0.07}, n_connections={7}, seed={0, 1}, trained={False, True})
    assert {name: set(table[name]) for name in expected} == expected


def test_table_holds_every_value(finished):
    "Per network, before and after training: one row for each sub-network and sub-task that a metric has"
    table = read_table(finished)
    groups = dict(iter(table.groupby(['architecture', 'metric', 'seed', 'trained'])))
    assert groups.keys() == {(*names, *network) for names in INDICES for network in product((0, 1), (False, True))}
    for (architecture, metric, *_), rows in groups.items():
        per_sub, per_task = INDICES[architecture, metric]
        expected = [(n, k) for n in (range(2) if per_sub else [-1]) for k in (range(2) if per_task else [-1])]
        assert sorted(zip(rows['subnetwork'].fillna(-1), rows['subtask'].fillna(-1))) == expected


def test_values_mean_what_they_say(finished):
    "Recomputed from the saved networks, and put where they belong"
    table = read_table(finished).query('trained')
    for name, ensemble in load_networks(finished / 'networks.safetensors').items():
        accuracy, share = evaluate(ensemble, DIGITS.test)
        for seed in range(2):
            rows = table[(table['architecture'] == name) & (table['seed'] == seed)]
            assert rows.loc[rows['metric'] == 'accuracy', 'value'].tolist() == [accuracy[seed].item()]
            assert rows.loc[rows['metric'] == 'decision_share', 'value'].tolist() == share[seed].tolist()
            assert share[seed].sum() == pytest.approx(1)


def test_indices_are_not_swapped(finished):
    "The correlation of each sub-network and sub-task, measured again, against the rows of the table"
    networks = load_networks(finished / 'networks.safetensors')['standard']
    values = experiment.correlation_metric(networks, DIGITS, TINY)
    table = read_table(finished).query('trained')
    rows = table[table['metric'].isin(values)]
    for row in rows.itertuples():
        n, k = (0 if pd.isna(index) else index for index in (row.subnetwork, row.subtask))
        assert row.value == values[row.metric][row.seed, n, k].item()
    assert len(set(rows['value'])) == len(rows) == 2 * (4 + 4 + 2)


def test_untrained_values_belong_to_untrained_networks(finished):
    from modspec.network import init_ensemble
    for architecture in experiment.architectures(CONFIG, DIGITS.n_pixels):
        accuracy, _ = evaluate(init_ensemble(architecture, range(2), 0.07), DIGITS.test)
        rows = read_table(finished).query('not trained and metric == "accuracy" and architecture == @architecture.name')
        assert rows.sort_values('seed')['value'].tolist() == accuracy.tolist()


def test_history(finished):
    history = read_table(finished, 'history')
    assert list(history) == ['architecture', 'seed', 'epoch', 'n_connections', 'loss', 'accuracy']
    epochs = {'standard': TINY.epochs, 'bottleneck': TINY.bottleneck_epochs}
    assert sorted(zip(history['architecture'], history['seed'], history['epoch'])) == sorted(
        (name, seed, epoch) for name, n in epochs.items() for seed in (0, 1) for epoch in range(1, n + 1))
    assert (history['n_connections'] == 7).all() and np.isfinite(history[['loss', 'accuracy']]).all(axis=None)


def q_by_both(weights, k):
    "Q of one trained network's graph, by us and by networkx; a dense block is dense whatever its weights are"
    S, N = weights['W_hh'].shape[1:3]
    groups = subnetwork_groups(S, N)
    adjacency = network_adjacency(recurrent_matrix(weights)[k])
    adjacency[groups[:, None] == groups] = 1
    sets = [set(np.flatnonzero(groups == n).tolist()) for n in range(S)]
    graph = nx.from_numpy_array(adjacency, create_using=nx.DiGraph)
    return newman_q(adjacency, groups), nx.community.modularity(graph, sets)


def assert_structure(folder, n_hidden):
    "Exact numbers of connections in trained networks, and the table's Q is the Q of their graphs"
    table = read_table(folder)
    count, = set(table['n_connections'])
    q, = set(table['q'])
    networks = load_networks(folder / 'networks.safetensors')
    assert networks.keys() == {'standard', 'bottleneck'}
    for ensemble in networks.values():
        assert set((ensemble.weights['W_sparse'] != 0).sum((2, 3)).flatten().tolist()) == {count}
        assert set(ensemble.n_connections) == {count} and ensemble.architecture.n_hidden == n_hidden
        for k in range(len(ensemble)):
            for measured in q_by_both(ensemble.weights, k): assert abs(q - measured) < 1e-12


def test_structure_of_tiny_networks(finished):
    assert_structure(finished, 10)
    assert np.allclose(read_table(finished)['q'], 0.5 * 0.93 / 1.07, rtol=0, atol=1e-15)


@pytest.mark.parametrize('name, q', [('p=0.0001,seeds=0-1', 0.5 * 0.9999 / 1.0001), ('p=1.0,seeds=0-1', 0.)])
def test_structure_of_full_networks(smoke, name, q):
    folder = smoke.results / 'runs' / name
    assert_structure(folder, 100)
    assert np.allclose(read_table(folder)['q'], q, rtol=0, atol=1e-15)


def test_more_than_two_subnetworks():
    "Nothing that is two in the paper by accident is hard-coded"
    config = replace(CONFIG, seeds=1, parameters=replace(TINY, n_subnetworks=3))
    result = compute(config, DIGITS, Counter())
    assert set(result.metrics.query('metric == "correlation"')['subnetwork']) == {0, 1, 2}
    q, = set(result.metrics['q'])
    assert all(abs(q - measured) < 1e-12 for measured in q_by_both(result.networks['standard'].weights, 0))


@pytest.mark.parametrize('change', [
    {'inputs': 'standardized'}, {'message': 'before'}, {'decision': 'absolute'}, {'connection_start': 'normal'},
    {'rewire': False}, {'rho': 0.5}, {'connection_beta': 0.5}, {'task': 'parity_sentence'}, {'l1': 1.},
    {'mask_scores': 'incoming'}], ids=lambda change: next(iter(change)))
def test_open_choices_reach_the_networks(change):
    "Each alternative changes the trained networks; the last one, only what is measured on them"
    parameters = replace(TINY, connection_lr_sparse=1., connection_lr_dense=1.)
    first, second = (compute(replace(CONFIG, architecture='standard', parameters=p), DIGITS, Counter())
                     for p in (parameters, replace(parameters, **change)))
    weights = [result.networks['standard'].weights for result in (first, second)]
    same = all(torch.equal(w, weights[1][name]) for name, w in weights[0].items())
    assert same == ('mask_scores' in change) and not first.metrics.equals(second.metrics)


NETWORK = ['architecture', 'n_connections', 'seed']  # which network a row is about


def of_network(table, architecture, k, seed):
    "The rows of one network"
    return table[(table[NETWORK] == [architecture, k, seed]).all(axis=1)].reset_index(drop=True)


def test_a_stack_is_its_networks():
    "Several sparsities and a slice of the seeds: each network is what it is in a run of its own, up to rounding"
    config = replace(CONFIG, sparsity=[0.07, 0.5], seeds=2, first_seed=3, parameters=replace(TINY, epochs=1))
    bar = Counter()
    stack = compute(config, DIGITS, bar)
    assert bar.n == n_run_steps(config, DIGITS)
    for table in (stack.metrics, stack.history):
        assert set(zip(table['n_connections'], table['seed'])) == {(k, seed) for k in (7, 50) for seed in (3, 4)}
    columns = [name for name in COLUMNS if name != 'value']
    assert not stack.metrics.duplicated(columns).any() and not stack.history.duplicated([*NETWORK, 'epoch']).any()
    alone = compute(replace(config, sparsity=0.5, first_seed=4, seeds=1), DIGITS, Counter())
    for architecture in ('standard', 'bottleneck'):
        for whole, part in [(stack.metrics, alone.metrics), (stack.history, alone.history)]:
            found, expected = (of_network(table, architecture, 50, 4) for table in (whole, part))
            pd.testing.assert_frame_equal(found, expected, check_exact=False, rtol=1e-3, atol=1e-3)
        one = alone.networks[architecture].weights
        for name, w in stack.networks[architecture][3].weights.items(): assert torch.allclose(w, one[name], atol=1e-4)


def test_progress_names_the_sparsities():
    texts, bar = set(), Counter()
    bar.set_description = lambda text, refresh=True: texts.add(text.split(',')[0])
    compute(replace(CONFIG, sparsity=[0.07, 0.5, 1.], seeds=1), DIGITS, bar)
    assert texts == {'p=0.07…1 standard', 'p=0.07…1 bottleneck'}


@pytest.mark.parametrize('architecture, names', [('standard', ['standard']), ('bottleneck', ['bottleneck'])])
def test_one_architecture_alone(architecture, names):
    "is the same as in a run of both, and the progress bar ends where it said it would"
    both, bar = compute(CONFIG, DIGITS, Counter()), Counter()
    config = replace(CONFIG, architecture=architecture)
    alone = compute(config, DIGITS, bar)
    assert list(alone.networks) == names and bar.n == n_run_steps(config, DIGITS)
    expected = both.metrics[both.metrics['architecture'] == architecture].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone.metrics, expected, check_exact=True)


def test_the_same_again_in_a_fresh_process(finished, tmp_path):
    "No result depends on the process: not on what ran before, nor on a global random state"
    torch.manual_seed(123)
    code = ('import json, sys; from modspec.experiment import RunConfig, run; '
            'run(RunConfig.from_dict(json.loads(sys.argv[1])), sys.argv[2])')
    env = {k: v for k, v in os.environ.items() if k != 'MODSPEC_PROGRESS'} | {'PYTHONHASHSEED': '7'}
    subprocess.run([sys.executable, '-c', code, json.dumps(asdict(CONFIG)), tmp_path / 'again'], env=env, check=True,
                   capture_output=True)
    for name in (*TABLES, 'networks.safetensors'):
        assert (tmp_path / 'again' / name).read_bytes() == (finished / name).read_bytes()


# files

def test_networks_survive_being_saved(tmp_path):
    networks = compute(CONFIG, DIGITS, Counter()).networks
    save_networks(networks, tmp_path / 'networks.safetensors')
    again = load_networks(tmp_path / 'networks.safetensors')
    assert [p.name for p in tmp_path.iterdir()] == ['networks.safetensors'] and list(again) == list(networks)
    for name, ensemble in networks.items():
        assert (again[name].architecture, again[name].seeds, again[name].n_connections) == (
            ensemble.architecture, ensemble.seeds, ensemble.n_connections)
        assert again[name].weights.keys() == ensemble.weights.keys()
        for key, w in ensemble.weights.items(): assert torch.equal(again[name].weights[key], w)


def test_saving_over_a_file_that_is_read(tmp_path):
    "Weights that were loaded lazily stay what they were when their file is replaced"
    networks = compute(replace(CONFIG, architecture='standard'), DIGITS, Counter()).networks
    path = tmp_path / 'networks.safetensors'
    save_networks(networks, path)
    loaded = load_networks(path)
    save_networks(loaded, path)
    for key, w in networks['standard'].weights.items():
        assert torch.equal(loaded['standard'].weights[key], w)
        assert torch.equal(load_networks(path)['standard'].weights[key], w)


@pytest.mark.parametrize('before', [None, b'old'])
def test_written_whole_leaves_nothing_behind(tmp_path, before):
    path = tmp_path / 'file'
    if before: path.write_bytes(before)
    with pytest.raises(KeyError), written_whole(path) as temporary:
        temporary.write_bytes(b'half')
        raise KeyError
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({'file': before} if before else {})
    with written_whole(path) as temporary:
        temporary.write_bytes(b'new')
        assert (path.read_bytes() if path.exists() else None) == before
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {'file': b'new'}


def test_manifest(finished):
    manifest = read_manifest(finished)
    names = {path.name for path in finished.iterdir()}
    assert names == set(RUN_FILES) - {'notebook.ipynb'}
    assert manifest['files'] == {name: sha256(finished / name) for name in names - {'manifest.json'}}
    assert manifest['config'] == as_recorded(CONFIG) and manifest['device'] == 'cpu' and manifest['threads'] == 1
    assert manifest['package'] == package_hash()
    assert manifest['versions'].keys() == {'torch', 'numpy', 'pandas', 'modspec', 'python'}
    assert torch.__version__.startswith(manifest['versions']['torch'])
    assert manifest['seconds'].keys() == {'training', 'bottleneck', 'weight_mask', 'correlation', 'total'}
    *stages, total = (manifest['seconds'][s] for s in ('training', 'bottleneck', 'weight_mask', 'correlation', 'total'))
    assert sum(stages) <= total + 0.01 and min(stages) >= 0


def test_package_hash_covers_what_a_run_is_computed_with():
    "and nothing else: a new figure does not make old results worthless"
    names = "import sys, modspec.experiment; print(*sorted(name for name in sys.modules if 'modspec.' in name))"
    loaded = subprocess.run([sys.executable, '-c', names], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == [f'modspec.{name}' for name in experiment.COMPUTING]


def test_checksum_is_sha256(tmp_path):
    (tmp_path / 'file').write_bytes(b'abc')
    assert sha256(tmp_path / 'file') == 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {'flipped': flip, 'truncated': lambda path: path.write_bytes(path.read_bytes()[:-1]), 'missing': Path.unlink,
          'empty': lambda path: path.write_bytes(b'')}


@pytest.mark.provokes('damaged results')
@pytest.mark.parametrize('damage', DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize('name', [*TABLES, 'networks.safetensors'])
def test_damage_is_noticed(altered, name, damage):
    "by everything that reads a run, and the message names the file"
    damage(altered / name)
    for reading in [lambda: read_manifest(altered), lambda: collect([altered], 'metrics'),
                    lambda: is_finished(altered, CONFIG)]:
        with pytest.raises(ResultError, match=f'{name} has SHA-256 .*run again'): reading()
    for table in TABLES:
        with pytest.raises(ResultError, match=f'{name} (has SHA-256|is missing)'): read_table(altered, Path(table).stem)


@pytest.mark.provokes('damaged results')
@pytest.mark.parametrize('text', ['', '{', '[]', 'null', '{}', '{"config": {}}', '{"files": {}}', '\x00\x01',
                                  '"config files"', '{"config": 1, "files": {}}', '{"config": {}, "files": ["a"]}'])
def test_damaged_manifest(altered, text):
    (altered / 'manifest.json').write_text(text)
    for reading in [lambda: read_manifest(altered), lambda: is_finished(altered, CONFIG), lambda: read_table(altered)]:
        with pytest.raises(ResultError, match='manifest.json is damaged: .*run again'): reading()


def test_manifest_of_something_else(altered):
    "A configuration that lacks what ours has is another one"
    (altered / 'manifest.json').write_text('{"config": {"sparsity": 0.07}, "files": {}}')
    with pytest.raises(ResultError, match='holds another run.*choose another with --out'): is_finished(altered, CONFIG)


def test_no_manifest_no_result(altered):
    (altered / 'manifest.json').unlink()
    for reading in [lambda: read_manifest(altered), lambda: collect([altered], 'metrics'), lambda: read_table(altered)]:
        with pytest.raises(ResultError, match='manifest.json is missing'): reading()
    assert not is_finished(altered, CONFIG)


def test_no_table_no_result(tmp_path):
    with pytest.raises(ResultError, match='metrics.parquet is missing; make it with: modspec reproduce'):
        read_table(tmp_path)


def test_manifest_is_written_last(tmp_path, monkeypatch, finished):
    "A run that is interrupted while it writes is no result, and is completed the next time"
    def interrupted(*_): raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(experiment, 'save_networks', interrupted)
        with pytest.raises(KeyboardInterrupt): run(CONFIG, tmp_path / 'out')
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == sorted(TABLES)
    run(CONFIG, tmp_path / 'out')
    assert read_manifest(tmp_path / 'out')['files'] == read_manifest(finished)['files']


# folders

def test_finished_run_is_not_repeated(finished, monkeypatch):
    def forbidden(*_, **__): raise AssertionError('computed again')
    before = contents(finished)
    monkeypatch.setattr(experiment, 'compute', forbidden)
    monkeypatch.setattr(experiment, 'load_dataset', forbidden)
    assert run(CONFIG, finished) == finished and run(RunConfig.from_dict(asdict(CONFIG)), str(finished)) == finished
    assert contents(finished) == before


@pytest.mark.parametrize('change, message', [
    ({'sparsity': 0.5}, 'sparsity: 0.07, asked 0.5'), ({'seeds': 3}, 'seeds: 2, asked 3'),
    ({'sparsity': (0.07, 0.5)}, 'sparsity: 0.07, asked [0.07, 0.5]'), ({'first_seed': 2}, 'first_seed: 0, asked 2'),
    ({'architecture': 'standard'}, "architecture: 'both', asked 'standard'"),
    ({'parameters': replace(TINY, lr=0.4)}, 'lr: 0.5, asked 0.4'),
    ({'dataset': 'mnist', 'seeds': 1}, "dataset: 'digits', asked 'mnist'; seeds: 2, asked 1")])
def test_another_run_is_left_alone(finished, change, message):
    before = contents(finished)
    with pytest.raises(ResultError) as error: run(replace(CONFIG, **change), finished)
    assert str(error.value) == f'{finished} holds another run ({message}); choose another with --out'
    assert contents(finished) == before


@pytest.mark.parametrize('strange', ['thesis.tex', 'runs/p=0.1/manifest.json', 'metrics.csv'])
def test_somebody_elses_folder_is_left_alone(tmp_path, strange):
    path = tmp_path / 'mine' / strange
    path.parent.mkdir(parents=True)
    path.write_text('mine')
    before = contents(tmp_path)
    message = f"mine is no folder of a run, it holds '{Path(strange).parts[0]}'; choose another with --out"
    with pytest.raises(ResultError, match=message): run(CONFIG, tmp_path / 'mine')
    assert contents(tmp_path) == before


def test_a_look_does_not_spoil_a_run(altered):
    "JupyterLab leaves its checkpoints beside a notebook that somebody read"
    (altered / '.ipynb_checkpoints').mkdir()
    assert is_finished(altered, CONFIG)


def test_rest_of_an_interrupted_run_is_written_over(tmp_path):
    for name in RUN_FILES[:-1]: (tmp_path / name).write_text('half')
    assert not is_finished(tmp_path, CONFIG)
    assert contents(tmp_path).keys() == {Path(name) for name in RUN_FILES[:-1]}


@pytest.mark.parametrize('path', ['file', 'file/out', 'file/deep/er'])
def test_a_file_is_in_the_way(tmp_path, path):
    (tmp_path / 'file').write_text('mine')
    with pytest.raises(ResultError, match=f'{path} cannot be written to .*; choose another with --out'):
        run(CONFIG, tmp_path / path)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {'file': 'mine'}


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
@pytest.mark.parametrize('path', ['.', 'out'])
def test_read_only_folder(tmp_path, path):
    tmp_path.chmod(0o500)
    with pytest.raises(ResultError, match='cannot be written to .Permission denied.; choose another with --out'):
        run(CONFIG, tmp_path / path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses(tmp_path, monkeypatch):
    "What the read-only folder shows, for root as well"
    def refuse(*_): raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr(os, 'replace', refuse)
    with pytest.raises(ResultError, match='cannot be written to .Permission denied.; choose another with --out'):
        run(CONFIG, tmp_path / 'out')
    assert contents(tmp_path) == {}


def test_collect_joins_in_order(finished, altered):
    table = read_table(finished)
    pd.testing.assert_frame_equal(collect([finished, altered], 'metrics'), pd.concat([table, table], ignore_index=True))


def test_write_manifest_wants_its_files(tmp_path):
    with pytest.raises(FileNotFoundError): write_manifest(tmp_path, {'config': {}}, ['metrics.parquet'])
    assert list(tmp_path.iterdir()) == []


# progress

def test_progress_file(tmp_path):
    path = tmp_path / 'progress.json'
    with ProgressFile(path, 10) as bar:
        bar.set_description('starting')
        assert json.loads(path.read_text()) == {'n': 0, 'total': 10, 'text': 'starting'}
        for _ in range(3): bar.update()
        bar.update(2)
        bar.set_description('five')
        assert json.loads(path.read_text()) == {'n': 5, 'total': 10, 'text': 'five'}
        assert list(tmp_path.iterdir()) == [path]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError), ProgressFile(path, 10) as bar:
        bar.set_description('failing')
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_progress_goes_where_it_is_asked_for(tmp_path, monkeypatch):
    "and ends at the number of steps that was announced"
    path, seen = tmp_path / 'progress.json', []
    monkeypatch.setenv('MODSPEC_PROGRESS', str(path))
    monkeypatch.setattr(ProgressFile, '__exit__', lambda bar, *error: seen.append((bar.path, bar.n, bar.total)))
    run(CONFIG, tmp_path / 'out')
    assert seen == [(path, n_run_steps(CONFIG, DIGITS), n_run_steps(CONFIG, DIGITS))]
    assert 'training' in json.loads(path.read_text())['text']
    monkeypatch.delenv('MODSPEC_PROGRESS')
    for seen, kind in (True, tqdm), (False, LogLines):
        monkeypatch.setattr(experiment, 'watched', lambda seen=seen: seen)
        with progress_bar(3) as bar: assert bar.total == 3 and isinstance(bar, kind)


def test_log_lines(capfd, monkeypatch):
    "A line a minute, and where one is asked for"
    clock = [0.]
    monkeypatch.setattr(experiment.time, 'monotonic', lambda: clock[0])
    with LogLines(200) as bar:
        bar.set_description('training', refresh=False)
        for _ in range(100):
            clock[0] += 1.5
            bar.update()
        assert capfd.readouterr().err == 'training, 20% after 1 min\ntraining, 40% after 2 min\n'
        bar.set_description('measuring')
    assert capfd.readouterr().err == 'measuring, 50% after 2 min\n'


# damage

def rewritten(folder, name, change):
    "A table with a change, and a manifest that vouches for it"
    table = pd.read_parquet(folder / name)
    change(table).to_parquet(folder / name)
    manifest = {key: value for key, value in read_manifest(folder, verify=False).items() if key != 'files'}
    write_manifest(folder, manifest, (*TABLES, 'networks.safetensors'))


def test_whole_run(altered):
    assert damages(altered) == {}


@pytest.mark.parametrize('name, change, reason', [
    ('metrics.parquet', lambda table: table.assign(value=np.nan), 'holds numbers that are not finite: value'),
    ('history.parquet', lambda table: table.assign(loss=np.inf), 'holds numbers that are not finite: loss'),
    ('metrics.parquet', lambda table: table.drop(columns=['q', 'seed']), 'lacks the columns q, seed')])
def test_content_with_the_right_checksum(altered, name, change, reason):
    rewritten(altered, name, change)
    assert damages(altered) == {altered / name: reason}


@pytest.mark.parametrize('name', ['metrics.parquet', 'networks.safetensors'])
def test_unreadable_with_the_right_checksum(altered, name):
    (altered / name).write_text('nonsense')
    write_manifest(altered, {'config': {}}, (*TABLES, 'networks.safetensors'))
    (path, reason), = damages(altered).items()
    assert path == altered / name and reason.startswith('cannot be read: ')


def test_weights_that_are_not_finite(altered):
    networks = load_networks(altered / 'networks.safetensors')
    networks['standard'].weights['W_sparse'][0, 0, 0, 0] = torch.nan
    save_networks(networks, altered / 'networks.safetensors')
    write_manifest(altered, {'config': {}}, (*TABLES, 'networks.safetensors'))
    assert damages(altered) == {
        altered / 'networks.safetensors': 'holds numbers that are not finite: standard.W_sparse'}


def test_manifest_that_vouches_for_too_little(altered):
    write_manifest(altered, {'config': {}}, ['metrics.parquet'])
    assert damages(altered) == dict.fromkeys(
        (altered / 'history.parquet', altered / 'networks.safetensors'), 'is not in the manifest')


def test_every_legal_number_can_be_recorded():
    "and equal numbers are equal runs"
    odd, plain = Parameters(lr=np.float32(.5), decay=Fraction(1, 2), walk=0), Parameters(lr=.5, decay=.5, walk=0.)
    assert json.dumps(experiment.as_recorded(odd)) == json.dumps(experiment.as_recorded(plain))


@pytest.mark.provokes('damaged results')
def test_other_ends_of_lines_are_damage(tmp_path):
    "A manifest whose text means the same, but is not that which was written"
    write_manifest(tmp_path, dict(config={}), [])
    whole = (tmp_path / 'manifest.json').read_bytes()
    at = [i for i, byte in enumerate(whole) if byte == ord('\n')]
    assert len(at) > 3
    for i in at:
        (tmp_path / 'manifest.json').write_bytes(whole[:i] + b'\r' + whole[i + 1:])
        with pytest.raises(ResultError, match='does not have the checksum that it says'): read_manifest(tmp_path)


@pytest.mark.provokes('divergence')
def test_metric_that_is_nan(tmp_path, monkeypatch):
    "A metric of somebody else's: nothing is published"
    monkeypatch.setitem(experiment.METRICS, 'odd', experiment.Metric(
        lambda ensemble, *_, **__: dict(odd=torch.full((len(ensemble.seeds), 1, 1), float('nan')))))
    config = RunConfig(1., seeds=2, architecture='standard', parameters=Parameters(epochs=1, n_hidden=10, n_pairs=100))
    with pytest.raises(ValueError, match=r'the metric odd is not finite for the networks of seeds \[0, 1\]'):
        run(config, tmp_path / 'out')
    assert not list((tmp_path / 'out').iterdir())


def test_probe_of_a_killed_process_does_no_harm(tmp_path, monkeypatch):
    "Killed between making sure that a folder can be written to and tidying up"
    monkeypatch.setattr(Path, 'unlink', lambda *_, **__: None)
    experiment.make_folder(tmp_path)
    assert list(tmp_path.iterdir()) and not experiment.is_finished(tmp_path, RunConfig(1.))
