"""Runs: what is trained, what is measured, what is written, and whether it can be trusted"""
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from textwrap import dedent

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from sweeps import CONFIG, NORM, TINY, contents, forgetting_plugins
from tqdm.auto import tqdm

from modspec.analysis.tables import read_table
from modspec.core.checks import check_device, check_threads
from modspec.core.data import load_dataset
from modspec.core.files import ResultError, read_manifest
from modspec.core.registry import add_plugin, entries
from modspec.engine import progress
from modspec.engine import run as engine
from modspec.engine.identity import as_recorded, recorded_run
from modspec.engine.measure import applies, has, tidy
from modspec.engine.plan import make_run
from modspec.engine.progress import LogLines, ProgressFile, progress_bar
from modspec.engine.run import run, untrained_networks
from modspec.engine.store import NOTEBOOK, TABLES, WEIGHTS, asked_measures, lacking, run_manifest
from modspec.engine.weights import load_networks, save_networks
from modspec.measures.correlation import correlation_metric
from modspec.measures.performance import evaluate
from modspec.measures.structure import newman_q
from modspec.networks.graph import network_adjacency, subnetwork_groups
from modspec.networks.recurrent import recurrent_matrix

BOTH = TINY | dict(architecture='both', epochs=2, bottleneck_epochs=1, readout_epochs=1)
TWO = replace(make_run('extreme_sparsity', BOTH, [0.07]), seeds=2)
DIGITS = load_dataset('digits')
INDICES = {  # (architecture, measure): does a value belong to one sub-network, to one sub-task, to one time step?
    ('standard', 'accuracy'): (False, False), ('standard', 'decision_share'): (True, False),
    ('standard', 'weight_mask'): (True, True), ('standard', 'weight_mask_accuracy'): (False, True),
    ('standard', 'correlation'): (True, True), ('standard', 'correlation_base'): (True, False),
    ('standard', 'cka'): (True, True),
    ('bottleneck', 'accuracy'): (False, False), ('bottleneck', 'decision_share'): (True, False),
    ('bottleneck', 'bottleneck'): (True, True)}
INDICES |= {(architecture, measure): where for architecture in ('standard', 'bottleneck') for measure, where in dict(
    link_norm=(False, False), recurrent_norm=(False, False), moved=(False, False), saturation=(True, False, True),
    effective_rank=(True, False, True), explained=(True, True, True)).items()}


def asked(**settings):
    "A run of one tiny network"
    return make_run('extreme_sparsity', TINY | settings, [0.07], seeds=1)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    "The folder of a finished run; nobody writes into it"
    return run(TWO, tmp_path_factory.mktemp('runs') / 'tiny')


@pytest.fixture
def altered(finished, tmp_path):
    "A copy of the finished run, to go on with"
    return shutil.copytree(finished, tmp_path / 'copy')


@pytest.fixture
def norm(tmp_path):
    "A measure of the user's own"
    with forgetting_plugins():
        (tmp_path / 'norm.py').write_text(NORM)
        yield add_plugin(tmp_path / 'norm.py')


@pytest.fixture
def no_training(monkeypatch):
    "Fails if a network is trained"
    def forbidden(*_, **__): raise AssertionError('something was trained')
    monkeypatch.setattr(engine, 'train', forbidden)


def tables(folder):
    "The bytes of a run's tables, and of its weights"
    files = read_manifest(folder)['tables']
    return {name: (folder / files.get(name, name)).read_bytes() for name in (*TABLES, WEIGHTS)}


# the machine

@pytest.mark.parametrize('value', ['', 'gpu', 'cuda:99', 'cuda:-1', 'meta', 'hpu', 'mps', None, 0, ['cpu']])
def test_device_is_refused(value):
    "Also one that PyTorch knows but cannot compute on here"
    with pytest.raises(ValueError) as error: check_device(value)
    assert "device must be one of ['cpu'" in str(error.value) and str(error.value).endswith(f'got {value!r}')
    assert check_device('cpu') == 'cpu'


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
        run(asked(dataset='mnist'), tmp_path / 'out')
    assert list(tmp_path.iterdir()) == []


# the tables

def test_networks_have_all_their_settings(finished):
    table = read_table(finished, 'networks')
    assert table['network'].tolist() == [0, 1, 2, 3] and table['seed'].tolist() == [0, 1, 0, 1]
    assert table['architecture'].tolist() == ['standard'] * 2 + ['bottleneck'] * 2
    assert (table['n_connections'] == 7).all() and np.allclose(table['q'], 0.5 * 0.93 / 1.07, rtol=0, atol=1e-15)
    for name, value in asdict(TWO.settings).items():
        if name == 'architecture': continue
        assert (table[name].isna() if value is None else table[name] == value).all(), name


def test_table_holds_every_value(finished):
    "Per network, before and after training: one row for each sub-network and sub-task that a measure has"
    table = read_table(finished)
    assert np.isfinite(table['value']).all() and set(table['epoch']) == {0, 1, 2}
    assert set(table.query('trained and architecture == "standard"')['epoch']) == {2}
    assert not table.duplicated(['network', 'epoch', 'measure', 'time', 'subnetwork', 'subtask']).any()
    groups = dict(iter(table.groupby(['architecture', 'measure', 'seed', 'trained'])))
    assert groups.keys() == {(*names, *network) for names in INDICES for network in product((0, 1), (False, True))}
    for (architecture, measure, *_), rows in groups.items():
        per_sub, per_task, per_step = (*INDICES[architecture, measure], False)[:3]
        axes = [range(5) if per_step else [-1], *(range(2) if one else [-1] for one in (per_sub, per_task))]
        found = rows[['time', 'subnetwork', 'subtask']].fillna(-1).itertuples(index=False, name=None)
        assert sorted(found) == [*product(*axes)]


def test_values_mean_what_they_say(finished):
    "Recomputed from the saved networks, and put where they belong"
    table = read_table(finished).query('trained')
    for name, stack in load_networks(finished / WEIGHTS).items():
        accuracy, share = evaluate(stack, DIGITS.test)
        for seed in range(2):
            rows = table[(table['architecture'] == name) & (table['seed'] == seed)]
            assert rows.loc[rows['measure'] == 'accuracy', 'value'].tolist() == [accuracy[seed].item()]
            assert rows.loc[rows['measure'] == 'decision_share', 'value'].tolist() == share[seed].tolist()
            assert share[seed].sum() == pytest.approx(1)


def test_indices_are_not_swapped(finished):
    "The correlation of each sub-network and sub-task, measured again, against the rows of the table"
    networks = load_networks(finished / WEIGHTS)['standard']
    values = correlation_metric(networks, DIGITS, TWO.settings)
    table = read_table(finished).query('trained')
    rows = table[table['measure'].isin(values)]
    for row in rows.itertuples():
        n, k = (0 if pd.isna(index) else index for index in (row.subnetwork, row.subtask))
        found = values[row.measure][row.seed]
        assert row.value == (found[n] if found.dim() == 1 else found[n, k]).item()
    assert len(set(rows['value'])) == len(rows) == 2 * (4 + 4 + 2)


def test_untrained_values_belong_to_untrained_networks(finished):
    for name, stack in untrained_networks(TWO, DIGITS).items():
        rows = read_table(finished).query('not trained and measure == "accuracy"')
        rows = rows[rows['architecture'] == name]
        assert rows.sort_values('seed')['value'].tolist() == evaluate(stack, DIGITS.test)[0].tolist()


def test_history(finished):
    history = read_table(finished, 'history')
    epochs = {'standard': 2, 'bottleneck': 1}
    assert sorted(zip(history['architecture'], history['seed'], history['epoch'])) == sorted(
        (name, seed, epoch) for name, n in epochs.items() for seed in (0, 1) for epoch in range(1, n + 1))
    assert np.isfinite(history[['loss', 'accuracy']]).all(axis=None)


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
    table = read_table(folder, 'networks')
    (count,), (q,) = set(table['n_connections']), set(table['q'])
    networks = load_networks(folder / WEIGHTS)
    assert [*networks] == [*dict.fromkeys(table['architecture'])]
    for stack in networks.values():
        assert set((stack.weights['W_sparse'] != 0).sum((2, 3)).flatten().tolist()) == {count}
        assert set(stack.n_connections) == {count} and stack.architecture.n_hidden == n_hidden
        for k in range(len(stack)):
            for measured in q_by_both(stack.weights, k): assert abs(q - measured) < 1e-12


def test_structure_of_tiny_networks(finished): assert_structure(finished, 10)


@pytest.mark.parametrize('name, q', [('p0.0001_seeds0-1', 0.5 * 0.9999 / 1.0001), ('p1.0_seeds0-1', 0.)])
def test_structure_of_full_networks(smoke, name, q):
    folder = smoke.results / 'runs' / name
    assert_structure(folder, 100)
    assert np.allclose(read_table(folder, 'networks')['q'], q, rtol=0, atol=1e-15)


@pytest.mark.parametrize('s', [1, 3])
def test_another_number_of_subnetworks(tmp_path, s):
    "Nothing that is two in the paper by accident is hard-coded; what needs several is not measured on one"
    config = make_run('extreme_sparsity', BOTH | dict(n_subnetworks=s), [1. if s == 1 else 0.07], seeds=1)
    folder = run(config, tmp_path / 'out')
    table = read_table(folder)
    assert set(table.query('measure == "decision_share"')['subnetwork']) == {*range(s)}
    if s > 1:
        assert set(table.query('measure == "correlation"')['subnetwork']) == {*range(s)}
        assert_structure(folder, 10)
    else: assert set(table['q']) == {0} and 'weight_mask' not in set(table['measure'])


@pytest.mark.parametrize('change', [
    {'inputs': 'standardized'}, {'message': 'before'}, {'decision': 'absolute'}, {'connection_start': 'normal'},
    {'rewire': False}, {'rho': 0.5}, {'connection_beta': 0.5}, {'task': 'parity_sentence'}, {'l1': 1.},
    {'connection_lr': 0.5}, {'connection_signs': 'free'}, {'optimizer': 'adam'}, {'readouts': 'frozen'},
    {'loss': 'mixture'}, {'mask_scores': 'incoming'}], ids=lambda change: next(iter(change)))
def test_open_choices_reach_the_networks(tmp_path, change):
    "Each alternative changes the trained networks; the last one, only what is measured on them"
    fast = dict(connection_lr=1., epochs=2, loss='winner')
    first, second = (run(asked(**fast | settings), tmp_path / name) for name, settings in (('a', {}), ('b', change)))
    weights = [load_networks(folder / WEIGHTS)['standard'].weights for folder in (first, second)]
    same = all(torch.equal(w, weights[1][name]) for name, w in weights[0].items())
    assert same == ('mask_scores' in change)
    assert not read_table(first)['value'].equals(read_table(second)['value'])


def test_a_stack_is_its_networks(tmp_path):
    "Several sparsities and a slice of the seeds: each network is what it is in a run of its own, up to rounding"
    wide = make_run('extreme_sparsity', BOTH, [0.07, 0.5], seeds=2, first_seed=3)
    stack = run(wide, tmp_path / 'wide')
    alone = run(make_run('extreme_sparsity', BOTH, [0.5], seeds=1, first_seed=4), tmp_path / 'alone')
    for name in ('values', 'history'):
        whole, part = (read_table(folder, name) for folder in (stack, alone))
        assert set(zip(whole['n_connections'], whole['seed'])) == {(k, seed) for k in (7, 50) for seed in (3, 4)}
        same = whole[(whole['n_connections'] == 50) & (whole['seed'] == 4)].drop(columns='network')
        pd.testing.assert_frame_equal(same.reset_index(drop=True), part.drop(columns='network'), check_exact=False,
                                      rtol=1e-3, atol=1e-3)
    for name, networks in load_networks(alone / WEIGHTS).items():
        mine = load_networks(stack / WEIGHTS)[name][3].weights
        for key, w in networks.weights.items(): assert torch.allclose(mine[key], w, atol=1e-4)


@pytest.mark.parametrize('architecture', ['standard', 'bottleneck'])
def test_one_architecture_alone(finished, tmp_path, architecture):
    "is the same as in a run of both"
    config = replace(TWO, settings=replace(TWO.settings, architecture=architecture))
    alone = read_table(run(config, tmp_path / 'out')).drop(columns='network')
    both = read_table(finished)
    expected = both[both['architecture'] == architecture].drop(columns='network').reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, expected, check_exact=True)


def test_the_same_again_in_a_fresh_process(finished, tmp_path):
    "No result depends on the process: not on what ran before, nor on a global random state"
    torch.manual_seed(123)
    code = ('import json, sys; from modspec.engine.identity import recorded_run; from modspec.engine.run import run; '
            'run(recorded_run(json.loads(sys.argv[1])), sys.argv[2])')
    env = {k: v for k, v in os.environ.items() if k != 'MODSPEC_PROGRESS'} | {'PYTHONHASHSEED': '7'}
    subprocess.run([sys.executable, '-c', code, json.dumps(as_recorded(TWO)), tmp_path / 'again'], env=env, check=True,
                   capture_output=True)
    assert tables(tmp_path / 'again') == tables(finished)


def test_networks_of_layers(tmp_path):
    "A run of the other study: one sub-network, no interconnections, stored and read like the rest"
    config = make_run('upstream_downstream', dict(layers='16-12', epochs=1, n_pairs=200), seeds=2)
    folder = run(config, tmp_path / 'out')
    table, stack = read_table(folder), load_networks(folder / WEIGHTS)['feedforward']
    assert set(table['measure']) >= {'accuracy', 'decision_share'} and set(table['layers']) == {'16-12'}
    assert set(table['n_layers']) == {2} and len(stack) == 2
    accuracy = table.query('trained and measure == "accuracy"')['value'].tolist()
    assert accuracy == evaluate(stack, DIGITS.test, task='digit')[0].tolist()
    assert recorded_run(read_manifest(folder)['config']) == config


# training and measuring are two things

def test_finished_run_is_not_repeated(finished, monkeypatch):
    def forbidden(*_, **__): raise AssertionError('computed again')
    before = contents(finished)
    for name in ('train', 'measured', 'load_dataset'): monkeypatch.setattr(engine, name, forbidden)
    assert run(TWO, finished) == finished and run(recorded_run(as_recorded(TWO)), str(finished)) == finished
    assert contents(finished) == before


def test_the_rest_is_measured_later(tmp_path, monkeypatch):
    "to the tables of a run that was measured at once"
    run(CONFIG, tmp_path / 'out', only=[])
    assert read_manifest(tmp_path / 'out')['measured'] == [] and len(read_table(tmp_path / 'out', 'history')) == 1
    monkeypatch.setattr(engine, 'train', None)
    run(CONFIG, tmp_path / 'out', only=['correlation'])
    assert set(read_table(tmp_path / 'out')['measure']) == {'correlation', 'correlation_base', 'cka'}
    run(CONFIG, tmp_path / 'out')
    monkeypatch.undo()
    whole, late = tables(run(CONFIG, tmp_path / 'whole')), tables(tmp_path / 'out')
    for name in ('networks', 'history', WEIGHTS): assert late[name] == whole[name]
    by = ['network', 'epoch', 'measure', 'subnetwork', 'subtask']
    one, other = (read_table(tmp_path / name).sort_values(by, ignore_index=True) for name in ('out', 'whole'))
    pd.testing.assert_frame_equal(one, other)


def test_a_measure_of_ones_own_trains_nothing(altered, no_training, norm):
    before = tables(altered)
    config = recorded_run(read_manifest(altered)['config'])
    assert lacking(read_manifest(altered), config) == [('norm', {})]
    run(config, altered)
    after, table = tables(altered), read_table(altered).query('measure == "norm"')
    assert after[WEIGHTS] == before[WEIGHTS] and after['history'] == before['history']
    assert set(table['architecture']) == {'standard', 'bottleneck'} and set(table['power']) == {2.}
    for name, stack in load_networks(altered / WEIGHTS).items():
        rows = table[table['trained'] & (table['architecture'] == name)].sort_values(['seed', 'subnetwork'])
        assert np.allclose(rows['value'], stack.weights['W_hh'].norm(dim=(2, 3)).flatten())
    assert read_manifest(altered)['measures']['norm']['label'] == 'norm'


def test_a_setting_of_ones_own_measure(altered, no_training, norm):
    "is a way of measuring like any other"
    config = recorded_run(read_manifest(altered)['config'])
    run(replace(config, measuring=({}, {'power': 1.})), altered)
    table = read_table(altered).query('measure == "norm" and trained')
    sums = table.groupby('power')['value'].sum()
    assert [*sums.index] == [1., 2.] and sums[1.] > 2 * sums[2.] and len(table) == 2 * 2 * 2 * 2


def test_without_the_plugin_its_values_stay(altered, no_training, tmp_path):
    "or nothing is added: what only the plugin could rebuild must not be lost"
    with forgetting_plugins():
        (tmp_path / 'norm.py').write_text(NORM), add_plugin(tmp_path / 'norm.py')
        run(recorded_run(read_manifest(altered)['config']), altered)
    more = replace(TWO, measuring=({}, {'mask_fraction': 0.1}))
    run(more, altered)
    assert {'norm', 'weight_mask'} <= set(read_table(altered)['measure'])
    assert lacking(read_manifest(altered), more) == []
    with forgetting_plugins():
        add_plugin(tmp_path / 'norm.py')
        config = recorded_run(read_manifest(altered)['config'])
        run(replace(config, measuring=({'power': 3.}, {})), altered)
    before = read_table(altered)
    with pytest.raises(ResultError, match='norm, measured with a plugin that is not loaded; name it with --plugin'):
        run(replace(TWO, measuring=({'mask_fraction': 0.2},)), altered)
    pd.testing.assert_frame_equal(read_table(altered), before)


def test_another_way_of_measuring(altered, no_training):
    "only what reads its setting is measured again, and earlier ways stay"
    before, more = read_table(altered), replace(TWO, measuring=({}, {'mask_fraction': 0.2}))
    way = {'mask_fraction': 0.2, 'mask_loss': 'mixture'}  # what differs from how masks were first trained
    assert lacking(read_manifest(altered), more) == [('weight_mask', way)]
    run(more, altered)
    table = read_table(altered)
    assert set(table['mask_fraction']) == {0.05, 0.2} and len(table) == 2 * len(before)
    assert read_table(altered, 'networks')['network'].tolist() == [*range(8)]
    pd.testing.assert_frame_equal(table[table['mask_fraction'] == 0.05].reset_index(drop=True), before)
    values = {f: g['value'].tolist() for f, g in table.query('measure == "correlation"').groupby('mask_fraction')}
    assert values[0.05] == values[0.2]
    masks = {f: g['value'].tolist() for f, g in table.query('measure == "weight_mask"').groupby('mask_fraction')}
    assert masks[0.05] != masks[0.2]
    manifest = read_manifest(altered)
    run(replace(TWO, measuring=({'mask_fraction': 0.1},)), altered)  # an axis that now has another value
    for change in ({}, {'mask_fraction': 0.1}, {'mask_fraction': 0.2}):
        assert lacking(read_manifest(altered), replace(TWO, measuring=(change,))) == []
    assert set(read_table(altered)['mask_fraction']) == {0.05, 0.1, 0.2}
    assert read_manifest(altered)['training'] == manifest['training']


def test_the_same_way_said_otherwise(altered, no_training):
    "A setting may be common to all, or a way of measuring"
    run(replace(TWO, measuring=({'mask_fraction': 0.2},)), altered)
    common = replace(TWO, settings=replace(TWO.settings, mask_fraction=0.2))
    assert run_manifest(altered, common) and lacking(read_manifest(altered), common) == []
    before = contents(altered)
    run(common, altered)
    assert contents(altered) == before


def test_outdated_measures_are_taken_again(altered, no_training, monkeypatch):
    "those that other code has taken, and no other; the result says which code it was"
    before, real = read_manifest(altered), engine.code_hash
    older = {one['measure']: one['code'] for one in before['measured']}
    def now(*modules): return 'f' * 12 if 'modspec.measures.correlation' in modules else real(*modules)
    for module in ('run', 'store'): monkeypatch.setattr(f'modspec.engine.{module}.code_hash', now)
    taken, measured = [], engine.measured
    monkeypatch.setattr(engine, 'measured', lambda entry, *rest: taken.append(entry.name) or measured(entry, *rest))
    run(TWO, altered)
    assert taken == []
    run(TWO, altered, outdated=True)
    assert taken == ['correlation']
    after = {one['measure']: one['code'] for one in read_manifest(altered)['measured']}
    assert after == older | {'correlation': 'f' * 12}


# when something goes wrong

BAD = """
REGISTERED = [dict(kind='measure', name='bad', object='bad', values={'bad': dict(axes=['subnetwork'])})]

def bad(stack, dataset, parameters, *, bar):
    raise KeyError('a bug')
"""


def test_a_measure_that_fails_keeps_the_networks(tmp_path, monkeypatch):
    "and what was measured before it; when it is mended, only it is taken"
    with forgetting_plugins():
        (tmp_path / 'bad.py').write_text(BAD), add_plugin(tmp_path / 'bad.py')
        config = asked()
        with pytest.raises(KeyError, match='a bug'): run(config, tmp_path / 'out')
        manifest = read_manifest(tmp_path / 'out')
        assert lacking(manifest, config) == [('bad', {})]
        assert {one['measure'] for one in manifest['measured']} == {*asked_measures(config)} - {'bad'}
        monkeypatch.setattr(engine, 'train', None)
        monkeypatch.setattr(sys.modules['modspec_plugin_bad'], 'bad',
                            lambda stack, *_, bar: dict(bad=stack.weights['W_hh'].norm(dim=(2, 3))))
        run(config, tmp_path / 'out')
        assert 'bad' in set(read_table(tmp_path / 'out')['measure'])
        assert read_manifest(tmp_path / 'out')['files'][WEIGHTS] == manifest['files'][WEIGHTS]


@pytest.mark.provokes('divergence')
@pytest.mark.parametrize('returned, message', [
    ("torch.full((len(stack), 2), float('nan'))", r'bad is not finite for the networks \[0\]'),
    ('torch.zeros(len(stack))', r'bad must have the axes .*subnetwork.*got shape \(1,\)'),
    ('torch.zeros(len(stack) + 1, 2)', r'got shape \(2, 2\)')])
def test_a_measure_that_returns_nonsense(tmp_path, returned, message):
    "Nothing of it is published, and the networks stay"
    with forgetting_plugins():
        text = 'import torch\n' + BAD.replace("raise KeyError('a bug')", f'return dict(bad={returned})')
        (tmp_path / 'bad.py').write_text(text), add_plugin(tmp_path / 'bad.py')
        with pytest.raises(ValueError, match=message): run(asked(), tmp_path / 'out')
        assert 'bad' not in set(read_table(tmp_path / 'out')['measure'])


@pytest.mark.parametrize('name', ['write_table', 'vouch'])
@pytest.mark.parametrize('at', range(1, 6))
def test_killed_between_two_steps(tmp_path, monkeypatch, name, at):
    "Whatever was vouched for before stays, and the next attempt ends with the same tables"
    class Killed(BaseException): "as by a signal"
    real, calls = getattr(engine, name), []
    def killed(*args, **kwargs):
        calls.append(args)
        if len(calls) == at: raise Killed
        return real(*args, **kwargs)
    with monkeypatch.context() as patch:
        patch.setattr(engine, name, killed)
        with pytest.raises(Killed): run(CONFIG, tmp_path / 'out')
    trained = len(calls) > (3 if name == 'write_table' else 1)
    if trained: assert read_manifest(tmp_path / 'out')['files'].keys() >= {WEIGHTS}
    else: assert not (tmp_path / 'out' / 'manifest.json').exists()
    if trained: monkeypatch.setattr(engine, 'train', None)
    run(CONFIG, tmp_path / 'out')
    monkeypatch.undo()
    assert tables(tmp_path / 'out') == tables(run(CONFIG, tmp_path / 'whole'))
    assert not list((tmp_path / 'out').glob('*.tmp'))
    assert len([*(tmp_path / 'out').glob('*.parquet')]) == 3


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


# measures

def test_what_networks_have():
    several, = untrained_networks(asked(architecture='bottleneck'), DIGITS).values()
    single, = untrained_networks(make_run('extreme_sparsity', TINY | dict(n_subnetworks=1), [1.]), DIGITS).values()
    layers, = untrained_networks(make_run('upstream_downstream', {}), DIGITS).values()
    always = {'graph', 'few_images'}  # measured where a study asks for it
    assert has(several) == {'subnetworks', 'interconnections', 'bottleneck', 'pairs', *always}
    assert has(single) == always and has(layers) == {'layers', 'modules', *always}
    measures, study = entries('measure'), CONFIG.study
    assert applies(measures['bottleneck'], several, study) and not applies(measures['bottleneck'], single, study)
    assert not applies(measures['weight_mask'], several, study)  # the paper takes it on the other networks
    assert all(applies(measures['performance'], stack, study) for stack in (several, single, layers))


def test_rows_of_a_value():
    table = tidy({'a': torch.arange(12.).reshape(2, 3, 2)}, {'a': ['layer', 'subtask']}, [4, 7], epoch=3)
    assert table['network'].tolist() == [4] * 6 + [7] * 6 and table['layer'].tolist() == [0, 0, 1, 1, 2, 2] * 2
    assert table['subtask'].tolist() == [0, 1] * 6 and table['value'].tolist() == [*range(12)]
    assert set(table['epoch']) == {3} and table[['time', 'subnetwork', 'goal', 'against']].isna().all(axis=None)


def test_rows_of_a_value_against_several():
    "have names where other axes are numbers; what has no such axis beside it stays without"
    axes, names = {'a': ['layer', 'against'], 'b': ['layer']}, {'a': ['x', 'y', 'z'], 'b': []}
    values = {'a': torch.arange(12.).reshape(2, 2, 3), 'b': torch.ones(2, 2)}
    table = tidy(values, axes, [4, 7], epoch=3, against=names)
    a, b = (table[table['measure'] == name] for name in 'ab')
    assert a['against'].tolist() == ['x', 'y', 'z'] * 4 and a['layer'].tolist() == [0, 0, 0, 1, 1, 1] * 2
    assert a['value'].tolist() == [*range(12)] and a['network'].tolist() == [4] * 6 + [7] * 6
    assert b['against'].isna().all() and b['layer'].tolist() == [0, 1] * 2 and table['against'].dtype == 'string'


@pytest.mark.parametrize('names', [None, {}, {'a': []}, {'a': ['x']}, {'a': ['x', 'y', 'z']}, {'b': ['x', 'y']}])
def test_names_that_do_not_fit_are_refused(names):
    with pytest.raises(ValueError, match=r'^a must be against .*, got 2 values'):
        tidy({'a': torch.zeros(1, 2)}, {'a': ['against']}, [0], 0, names)


def test_values_against_several_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match=r'a is not finite for the networks \[7\]'):
        tidy({'a': torch.tensor([[0.], [torch.nan]])}, {'a': ['against']}, [4, 7], 0, {'a': ['x']})


@pytest.mark.parametrize('of_all', [False, True])
def test_a_measure_against_several(altered, no_training, tmp_path, of_all):
    "reaches the table of a run and the reader of it, whether the names are of a value or of all"
    names = "against=['own', 'other']"
    text = dedent(f"""
        def likeness(stack, dataset, parameters, *, bar=None):
            norms = stack.weights['W_hh'].norm(dim=(2, 3))
            return dict(likeness=norms[:, :, None] * norms.new_tensor([1, 10]), plain=norms[:, 0])
        REGISTERED = [dict(kind='measure', name='likeness', object='likeness', needs=[],
                           {names + ',' if of_all else ''}
                           values=dict(plain=dict(axes=[], label='x', null=None),
                                       likeness=dict(axes=['subnetwork', 'against'], label='y',
                                                     {'' if of_all else names + ','} null=None)))]
        """)
    with forgetting_plugins():
        (tmp_path / 'likeness.py').write_text(text), add_plugin(tmp_path / 'likeness.py')
        run(recorded_run(read_manifest(altered)['config']), altered)
        table = read_table(altered)
    rows = table[table['measure'] == 'likeness'].sort_values(['network', 'epoch', 'subnetwork'])
    own, other = (rows.loc[rows['against'] == name, 'value'].to_numpy() for name in ('own', 'other'))
    assert len(own) == len(other) == len(rows) / 2 and np.allclose(other, 10 * own) and (own > 0).all()
    assert table.loc[table['measure'] != 'likeness', 'against'].isna().all()


# weights

def test_networks_survive_being_saved(tmp_path):
    networks = untrained_networks(TWO, DIGITS)
    save_networks(networks, tmp_path / WEIGHTS)
    again = load_networks(tmp_path / WEIGHTS)
    assert [p.name for p in tmp_path.iterdir()] == [WEIGHTS] and list(again) == list(networks)
    for name, stack in networks.items():
        assert (again[name].architecture, again[name].seeds, again[name].n_connections) == (
            stack.architecture, stack.seeds, stack.n_connections)
        assert again[name].weights.keys() == stack.weights.keys()
        for key, w in stack.weights.items(): assert torch.equal(again[name].weights[key], w)


def test_saving_over_a_file_that_is_read(tmp_path):
    "Weights that were loaded lazily stay what they were when their file is replaced"
    networks, path = untrained_networks(CONFIG, DIGITS), tmp_path / WEIGHTS
    save_networks(networks, path)
    loaded = load_networks(path)
    save_networks(loaded, path)
    for key, w in networks['standard'].weights.items():
        assert torch.equal(loaded['standard'].weights[key], w)
        assert torch.equal(load_networks(path)['standard'].weights[key], w)


def test_weights_that_name_a_module_of_their_own(tmp_path, monkeypatch):
    "Nothing is imported because a file says so"
    networks = untrained_networks(CONFIG, DIGITS)
    monkeypatch.setattr(type(networks['standard'].architecture), '__module__', 'os')
    save_networks(networks, tmp_path / WEIGHTS)
    with pytest.raises(ResultError, match='os is no module of models'): load_networks(tmp_path / WEIGHTS)


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


@pytest.mark.parametrize('only', [None, ['correlation'], []])
def test_progress_ends_where_it_said(tmp_path, monkeypatch, only):
    "in the file that the environment names"
    path, seen = tmp_path / 'progress.json', []
    monkeypatch.setenv('MODSPEC_PROGRESS', str(path))
    monkeypatch.setattr(ProgressFile, '__exit__', lambda bar, *error: seen.append((bar.path, bar.n, bar.total)))
    run(TWO, tmp_path / 'out', only=only)
    run(TWO, tmp_path / 'out')
    assert len(seen) == (1 if only is None else 2)
    for where, n, total in seen: assert where == path and n == total
    assert 'training' in json.loads(path.read_text())['text']


def test_progress_goes_where_somebody_looks(monkeypatch):
    for seen, kind in (True, tqdm), (False, LogLines):
        monkeypatch.setattr(progress, 'watched', lambda seen=seen: seen)
        with progress_bar(3) as bar: assert bar.total == 3 and isinstance(bar, kind)


def test_progress_names_what_is_done(tmp_path, monkeypatch):
    texts = set()
    monkeypatch.setattr(LogLines, 'set_description', lambda bar, text, refresh=True: texts.add(text))
    run(make_run('extreme_sparsity', BOTH, [0.07, 0.5, 1.], seeds=1), tmp_path / 'out')
    assert {text.split(',')[0] for text in texts} == {'p=0.07…1 standard', 'p=0.07…1 bottleneck'}
    assert {'p=0.07…1 standard, training', 'p=0.07…1 bottleneck, bottleneck after training'} <= texts


def test_log_lines(capfd, monkeypatch):
    "A line a minute, and where one is asked for"
    clock = [0.]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: clock[0])
    with LogLines(200) as bar:
        bar.set_description('training', refresh=False)
        for _ in range(100):
            clock[0] += 1.5
            bar.update()
        assert capfd.readouterr().err == 'training, 20% after 1 min\ntraining, 40% after 2 min\n'
        bar.set_description('measuring')
    assert capfd.readouterr().err == 'measuring, 50% after 2 min\n'
    assert Path(NOTEBOOK).suffix == '.ipynb'
