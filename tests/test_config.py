"""Configurations: what a file or a call asks for, what is refused before any work, and what makes two runs the same"""
import json
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sweeps import CONFIG, NORM, TINY, forgetting_plugins, write_config

from modspec.core.registry import entries
from modspec.core.sparsity import connection_count
from modspec.engine.config import FILE, find_run, load_config, make_sweep
from modspec.engine.identity import (
    as_recorded,
    measuring_identity,
    recorded_run,
    recorded_sweep,
    training_identity,
    with_ways,
)
from modspec.engine.notebook import repository
from modspec.engine.plan import RunConfig, make_run, study_named
from modspec.engine.status import meaning
from modspec.engine.store import another
from modspec.studies.extreme_sparsity.config import sparsity_run
from modspec.training.parameters import joined_class

STUDY = study_named('extreme_sparsity')
NAN, INF = float('nan'), float('inf')


# a run

@pytest.mark.parametrize('value', [0, 0., -0.1, 9.9e-5, 1.0001, 2, NAN, INF, -INF, '0.1', '1e-3', None, True, {},
                                   {0.1}])
def test_sparsity_is_refused(value):
    "alone and as one of several"
    for sparsity in (value, [value], (0.1, value)):
        with pytest.raises(ValueError) as error: sparsity_run(sparsity)
        assert str(error.value) == f'sparsity must be a number in [1/N^2, 1] = [0.0001, 1], got {value!r}'


@given(st.one_of(st.floats(max_value=1e-2, exclude_max=True), st.floats(min_value=1, exclude_min=True), st.text()))
def test_any_other_sparsity_is_refused(value):
    "The range follows the size of the network; a relative error of rounding is forgiven"
    if isinstance(value, float) and np.isclose(value, 1e-2, rtol=2e-9, atol=0): return
    with pytest.raises(ValueError, match=r'sparsity must be .* = \[0\.01, 1\]'): sparsity_run(value, n_hidden=10)


@pytest.mark.parametrize('value, count', [(1e-4, 1), (1e-4 * (1 - 1e-12), 1), (0.00016, 2), (0.5, 5000), (1, 10_000)])
def test_legal_sparsities(value, count):
    assert sparsity_run(value).settings.n_connections == count and sparsity_run([value]) == sparsity_run(value)


def test_several_sparsities():
    "are a stack of every seed of every sparsity; equal runs are equal however they were spelled"
    config = sparsity_run([0.5, 1], seeds=2, first_seed=3)
    assert config == sparsity_run((0.5, 1.0), seeds=2, first_seed=3) and config.stacked == (0.5, 1.)
    found = [(seed, point.sparsity, point.n_connections) for seed, point in config.networks]
    assert found == [(3, 0.5, 5000), (4, 0.5, 5000), (3, 1., 10_000), (4, 1., 10_000)]
    assert config.title == 'p=0.5…1' and sparsity_run(1e-4).title == 'p=0.0001'
    assert type(sparsity_run(1).settings.sparsity) is float
    with pytest.raises(ValueError, match='empty list'): sparsity_run([])
    for same in ([0.01, 0.010001], [0.01, 0.5, 0.01], [1, 1.]):
        with pytest.raises(ValueError, match=r'sparsity must have distinct values, got \['): sparsity_run(same)


@pytest.mark.parametrize('name, values, legal', [
    ('seeds', [0, -1, 10_001, True, False, 2., '2', None, NAN], 'a whole number in [1, 10000]'),
    ('first_seed', [-1, 1_000_001, True, 2., '2', None, NAN], 'a whole number in [0, 1000000]'),
    ('dataset', ['', 'Digits', 'cifar', None, 3, ['digits'], {}], "one of ['digits', 'mnist', 'mnist_2000', 'retina']"),
    ('architecture', ['', 'Both', 'dense', None, 0, ['standard'], {}], "one of ['standard', 'bottleneck', 'both']")])
def test_settings_are_refused(name, values, legal):
    for value in values:
        with pytest.raises(ValueError) as error: sparsity_run(0.1, **{name: value})
        assert str(error.value) == f'{name} must be {legal}, got {value!r}'


@pytest.mark.parametrize('study, settings, several, message', [
    ('extreme_sparsity', {'batchsize': 3}, [0.1], "unknown parameter 'batchsize'; did you mean 'batch_size'"),
    ('extreme_sparsity', {'zzz': 3}, [0.1], "unknown parameter 'zzz'; known are "),
    ('extreme_sparsity', {}, [], 'give sparsity, which has no default'),
    ('extreme_sparsity', [1], [0.1], r'must be a mapping.*\[1\]'),
    ('extreme_sparsty', {}, [0.1], "study must be one of .*'extreme_sparsity'.*got 'extreme_sparsty'"),
    ('upstream_downstream', {'n_hidden': 3}, [], "unknown parameter 'n_hidden'"),
    ('upstream_downstream', {}, [0.1], r'upstream_downstream .*got \[0.1\]')])
def test_unknown_names_are_refused(study, settings, several, message):
    with pytest.raises(ValueError, match=message): make_run(study, settings, several)


@given(st.one_of(st.floats(1e-4, 1), st.just([0.01, 0.1])), st.sampled_from(['digits', 'mnist']),
       st.integers(1, 10_000), st.sampled_from(['standard', 'bottleneck', 'both']), st.floats(1e-9, 1e9),
       st.integers(0, 1_000_000))
def test_config_survives_json(sparsity, dataset, seeds, architecture, lr, first):
    "A manifest's config is compared with the one asked for: nothing may be lost on the way"
    config = sparsity_run(sparsity, seeds=seeds, first_seed=first, dataset=dataset, architecture=architecture, lr=lr)
    assert recorded_run(json.loads(json.dumps(as_recorded(config)))) == config


# a sweep

def test_load_config(tmp_path):
    path = write_config(tmp_path / 'sweep.yaml', [1e-2, 0.5, 1], settings={'dataset': 'mnist'}, seeds=7)
    found = load_config(path)
    assert found == load_config(str(path)) and found.axes == {'sparsity': (0.01, 0.5, 1.)}
    packs = [(5, 0, '0-4'), (2, 5, '5-6')]
    assert found.runs() == {
        f'p{p!r}_seeds{words}': sparsity_run(p, seeds=n, first_seed=first, dataset='mnist', **TINY)
        for p in (0.01, 0.5, 1.) for n, first, words in packs}


def names(path, *sparsities, **more):
    "Names of a sweep's runs, in order"
    return list(load_config(write_config(path, sparsities, **more)).runs())


def test_packs_of_seeds(tmp_path):
    "begin at multiples of their size, so that a pack that is whole stays when there are more seeds"
    path = tmp_path / 'sweep.yaml'
    five, eight, ten = (names(path, 0.01, seeds=n) for n in (5, 8, 10))
    assert five == ['p0.01_seeds0-4'] and eight == [*five, 'p0.01_seeds5-7'] and ten == [*five, 'p0.01_seeds5-9']
    assert names(path, 0.01, seeds=5, seeds_per_run=2) == [f'p0.01_seeds{s}' for s in ('0-1', '2-3', '4-4')]
    assert names(path, 0.01, seeds=3, seeds_per_run=100) == ['p0.01_seeds0-2']


def test_packs_of_sparsities(tmp_path):
    "stand side by side in the list; every network is in one run"
    path = tmp_path / 'sweep.yaml'
    assert names(path, 0.01, 0.1, 1, values_per_run=2) == ['p0.01-0.1_seeds0-0', 'p1.0_seeds0-0']
    found = load_config(write_config(path, [0.01, 0.1, 0.3, 1], seeds=3, values_per_run=3, seeds_per_run=2))
    networks = [(seed, point.sparsity) for run in found.runs().values() for seed, point in run.networks]
    assert sorted(networks) == sorted((seed, p) for seed in range(3) for p in (0.01, 0.1, 0.3, 1.))


def test_variations(tmp_path):
    "change the settings of the sweep; the baseline comes first, under the names of a sweep without variations"
    changes = {'still': {'walk': 0}, 'big_4': {'n_hidden': 40, 'epochs': 3}}
    found = load_config(write_config(tmp_path / 'sweep.yaml', [0.01, 1], variations=changes)).runs()
    plain = names(tmp_path / 'plain.yaml', 0.01, 1)
    assert list(found) == plain + [f'{name}_still' for name in plain] + [f'{name}_big_4' for name in plain]
    assert found['p1.0_seeds0-0'] == sparsity_run(1., seeds=1, **TINY)
    assert found['p1.0_seeds0-0_still'] == sparsity_run(1., seeds=1, **TINY, walk=0)
    assert found['p1.0_seeds0-0_big_4'] == sparsity_run(1., seeds=1, **TINY | dict(n_hidden=40, epochs=3))


@pytest.mark.parametrize('name, values', [
    ('lr', [0.5, 1]), ('rewire', [True, False]), ('n_hidden', [10, 12]), ('architecture', ['standard', 'bottleneck']),
    ('connection_start', ['uniform', 'normal']), ('n_subnetworks', [2, 3]), ('precision', ['fp32', 'bf16'])])
def test_any_setting_is_an_axis(tmp_path, name, values):
    "a run for every combination, each with the settings that its name says"
    settings = {key: value for key, value in TINY.items() if key != name}
    said = {'axes': {'sparsity': [0.1, 1], name: values}, 'settings': settings, 'seeds': 1}
    (tmp_path / 'sweep.yaml').write_text(yaml.safe_dump(said))
    runs = load_config(tmp_path / 'sweep.yaml').runs()
    found = [(getattr(run.settings, name), run.settings.sparsity) for run in runs.values()]
    assert found == [(value, p) for value in values for p in (0.1, 1.)] and len(runs) == 4
    for run_name, run in runs.items():
        said = getattr(run.settings, name)
        assert (str(said).lower() if isinstance(said, bool) else str(said)) in run_name


def test_points_that_differ_in_measuring_share_a_run(tmp_path):
    "an axis of it, and a variation of it: the networks are the same"
    axes = {'mask_fraction': [0.05, 0.1], 'mask_epochs': [1, 2]}
    runs = load_config(write_config(tmp_path / 'sweep.yaml', axes=axes)).runs()
    assert list(runs) == names(tmp_path / 'plain.yaml', 0.01, 1.)
    ways = [(change['mask_fraction'], change['mask_epochs']) for change in runs['p1.0_seeds0-0'].measuring]
    assert ways == [(0.05, 1), (0.05, 2), (0.1, 1), (0.1, 2)]
    changes = {'small': {'mask_fraction': 0.01}, 'fast': {'lr': 0.9, 'mask_fraction': 0.2}}
    runs = load_config(write_config(tmp_path / 'sweep.yaml', [1], variations=changes)).runs()
    assert [run.measuring for run in runs.values()] == [({}, {'mask_fraction': 0.01}), ({'mask_fraction': 0.2},)]
    assert list(runs) == ['p1.0_seeds0-0', 'p1.0_seeds0-0_fast']


@pytest.mark.parametrize('path', sorted((repository() / 'config').rglob('*.yaml')),
                         ids=lambda path: '/'.join(path.parts[-2:]))
def test_names_of_runs_can_be_typed_anywhere(path):
    "Slurm cuts them at a comma, a shell at a blank, and = means something to Snakemake"
    for name in load_config(path).runs(): assert re.fullmatch('[A-Za-z0-9._-]+', name)


def test_values_with_strange_characters(tmp_path):
    "are written with a dash in names; if two names then agree, the sweep is refused"
    with forgetting_plugins():
        (tmp_path / 'odd.py').write_text("REGISTERED = ["
            "dict(kind='measure', name='odd', object='odd', values={'odd': dict(axes=[])}),\n"
            "    dict(kind='cause', name='why', object='odd', strength='why', settings={"
            "'why': dict(default=0.0, least=0, most=1), 'kind': dict(default='a', choices=['a', 'a b', "
            "'a,b', '/ü', '../x'])})]\nodd = None")
        def sweep(*kinds):
            return make_sweep({'axes': {'sparsity': [1.], 'kind': [*kinds]}, 'plugins': ['odd.py']}, tmp_path)
        for name in sweep('a', 'a b', '/ü').runs(): assert re.fullmatch('[A-Za-z0-9._-]+', name)
        assert all('/' not in name for name in sweep('../x').runs())
        with pytest.raises(ValueError, match='two runs would be named .*a-b.*change a value or the name'):
            sweep('a b', 'a,b')


@pytest.mark.parametrize('name', ['smoke', 'quick', 'mnist'])
def test_committed_configurations(name):
    "The quick one has at least 6 sparsities from 1/N^2 to 1, 5 seeds, both architectures, and the paper's parameters"
    found = load_config(repository() / 'config' / 'extreme_sparsity' / f'{name}.yaml')
    sparsities, dataset = found.axes['sparsity'], 'mnist' if name == 'mnist' else 'digits'
    assert min(sparsities) == 1e-4 and max(sparsities) == 1 and found.settings.architecture == 'both'
    assert found.settings.dataset == dataset
    if name == 'smoke': return
    assert len(sparsities) >= 6 and found.seeds == 5
    first = found.settings.sparsity
    assert replace(found.settings, precision='fp32') == STUDY.settings(dataset=dataset, sparsity=first)


def test_the_papers_configuration():
    found = load_config(repository() / 'config' / 'extreme_sparsity' / 'paper.yaml')
    counts = [connection_count(p, 100) for p in found.axes['sparsity']]
    assert (min(counts), max(counts)) == (1, 10_000) and len(counts) >= 20 and found.seeds >= 10
    steps = np.diff(np.log(counts[10:]))  # below, whole numbers of connections leave no choice
    assert steps.max() / steps.min() < 1.05
    assert found.settings == STUDY.settings(dataset='mnist', precision='auto', loss='winner', mask_loss='winner',
                                            sparsity=found.settings.sparsity)


@pytest.mark.parametrize('rest', ['', 'settings:', 'settings: {}', 'study: extreme_sparsity', 'variations:',
                                  'plugins: []'])
def test_defaults_are_the_papers(tmp_path, rest):
    (tmp_path / 'sweep.yaml').write_text(f'axes: {{sparsity: [0.1]}}\n{rest}')
    found = load_config(tmp_path / 'sweep.yaml')
    assert found.settings == STUDY.settings(sparsity=0.1) and list(found.runs()) == ['p0.1_seeds0-4']


def test_settings_may_hold_what_is_needed(tmp_path):
    (tmp_path / 'sweep.yaml').write_text('settings: {sparsity: 0.1}\naxes: {lr: [0.5, 1]}\nseeds: 1\n')
    assert list(load_config(tmp_path / 'sweep.yaml').runs()) == ['lr0.5_p0.1_seeds0-0', 'lr1.0_p0.1_seeds0-0']


P = 'axes: {sparsity: [0.1]}\n'
REFUSED = {  # text of the file: what the message says
    # not YAML
    'axes: [0.1\nseeds: }': 'is no YAML file', '\tseeds: 1': 'is no YAML file', 'a: b: c': 'is no YAML file',
    P + 'seeds: !!python/object/apply:os.system ["touch pwned"]': 'is no YAML file.*python/object',
    'axes: {sparsity: !!python/tuple [0.1]}': 'is no YAML file.*python/tuple',
    # not a mapping
    '- 0.1\n- 0.2': r'must be a mapping.*\[0.1, 0.2\]', '[]': r'must be a mapping.*\[\]',
    'axes': "must be a mapping.*'axes'", '5': 'must be a mapping.*5',
    P + 'settings: [1]': r'must be a mapping.*\[1\]', P + 'settings: 5': 'must be a mapping.*5',
    'axes: [0.1]': r'axes must be a mapping.*\[0.1\]', 'axes: 0.1': r'axes must be a mapping.*0.1',
    # names
    P + 'seed: 3': "unknown setting 'seed'; did you mean 'seeds'\\?$",
    'sparsities: [0.1]': r'sparsities.*axes: \{sparsity', P + 'parameters: {lr: 1}': 'parameters.*settings: ',
    P + 'dataset: mnist': 'dataset.*settings: ', P + 'architecture: both': 'architecture.*settings: ',
    P + 'sparsities_per_run: 2': 'sparsities_per_run.*values_per_run',
    P + '1: 2': 'unknown setting 1; known are ', P + 'settings: {epoch: 3}': "'epoch'; did you mean 'epochs'\\?$",
    P + 'study: extreme': "study must be one of .*got 'extreme'$", P + 'study: [a]': r"study must be .*got \['a'\]$",
    P + 'study: upstream_downstream': "unknown axis 'sparsity'",
    # axes
    'axes: {sparsty: [0.1]}': "unknown axis 'sparsty'; did you mean 'sparsity'\\?$",
    'axes: {sparsity: [0.1], mask_fractoin: [0.1]}': "unknown axis 'mask_fractoin'; did you mean 'mask_fraction'\\?$",
    'axes: {sparsity: [0.1], seeds: [1, 2]}': "unknown axis 'seeds'",
    'axes: {sparsity: [0.1], lr: []}': r'lr must be a list of values, got \[\]$',
    'axes: {sparsity: [0.1], lr: 3}': 'lr must be a list of values, got 3$',
    'axes: {sparsity: [0.1], lr: }': 'lr is empty; it must be a list of values$',
    'axes: {sparsity: [0.1], lr: [1.0, 0.5, 1.0]}': r'lr has a value twice: \[1.0, 0.5, 1.0\]$',
    'axes: {sparsity: [0.1], lr: [1, 1.0]}': r'lr has a value twice: \[1.0, 1.0\]$',
    'axes: {sparsity: [0.1], lr: [0.5, -1]}': 'lr must be a number in .*, got -1$',
    'axes: {sparsity: [0.1], lr: [2020-01-01]}': 'lr must be a number in .*got datetime.date',
    'axes: {sparsity: [0.1], lr: [{a: 1}]}': "lr must be a number in .*got {'a': 1}$",
    'axes: {sparsity: [0.1], rewire: [1]}': 'rewire must be true or false, got 1$',
    'axes: {sparsity: [0.1], lr: [1], lr: [2]}': 'lr is given twice, in line 1$',
    'axes: {sparsity: [0.1], lr: [1]}\nsettings: {lr: 1}': 'lr is an axis and stands in settings as well',
    'axes: {sparsity: [0.1], loss: [winner, mixture]}\nsettings: {decision: absolute}': "loss 'mixture' has no gate",
    # one rate in place of two
    P + 'settings: {connection_lr: -1}': r'connection_lr must be a number in \[0, 1e\+09\], got -1$',
    P + 'settings: {connection_lr: .nan}': 'connection_lr must be a number in .*, got nan$',
    'axes: {sparsity: [0.1], connection_lr: [0, .inf]}': 'connection_lr must be a number in .*, got inf$',
    'axes: {sparsity: [0.1], connection_lr: [fast]}': "connection_lr must be a number in .*, got 'fast'$",
    P + 'variations: {fast: {connection_lr: -1}}': 'variation fast: connection_lr must be .*, got -1$',
    P + 'settings: {connection_lr: 0.1, connection_lr_dense: 0.01}': 'connection_lr 0.1 replaces connection_lr_dense;',
    'axes: {sparsity: [0.1], connection_lr: [0, 1]}\nsettings: {connection_lr_dense: 0.2}':
        'connection_lr 0 replaces connection_lr_dense;',
    'axes: {sparsity: [0.1], connection_lr: [0.1]}\nsettings: {connection_lr_sparse: 0.1}':
        'connection_lr 0.1 replaces connection_lr_sparse;',
    'axes: {sparsity: [0.1], connection_lr: [0, 1], connection_lr_sparse: [0.1, 1]}': 'replaces connection_lr_sparse;',
    P + 'settings: {connection_lr_dense: 0.2}\nvariations: {fast: {connection_lr: 0}}':
        'variation fast: connection_lr 0.0 replaces connection_lr_dense;',
    P + 'variations: {fast: {connection_lr: 0.5, connection_lr_dense: 0.01}}':
        'variation fast: connection_lr 0.5 replaces connection_lr_dense;',
    'axes: {sparsity: [0.1], connection_lr: [0.1]}\nvariations: {fast: {connection_lr_dense: 0.2}}':
        'connection_lr 0.1 replaces connection_lr_dense;',
    # sparsities
    'seeds: 3': 'sparsity is missing; give axes', 'axes: {lr: [1]}': 'sparsity is missing; give axes',
    'axes: {}': 'sparsity is missing', 'axes:\nseeds: 3': 'sparsity is missing', 'settings: {lr: 1}': 'is missing',
    'axes: {sparsity: []}': r'must be a list of values, got \[\]',
    'axes: {sparsity: 0.1}': 'must be a list of values, got 0.1',
    'axes: {sparsity: [0]}': r'sparsity must be a number in \[1/N\^2, 1\] = \[0.0001, 1\], got 0$',
    'axes: {sparsity: [0.1, 1.5]}': r'\[0.0001, 1\], got 1.5$', 'axes: {sparsity: [.nan]}': r'\[0.0001, 1\], got nan$',
    'axes: {sparsity: [.inf]}': 'got inf$', 'axes: {sparsity: [true]}': 'got True$',
    'axes: {sparsity: [[0.1]]}': r'got \[0.1\]$',
    'axes: {sparsity: [null]}': 'sparsity is empty; it must be a number in .*0.0001, 1]$',
    'axes: {sparsity: [1e-4]}': "got '1e-4'; in YAML write 1.0e-4, not 1e-4$",
    'axes: {sparsity: [a lot]}': "got 'a lot'$",
    # packs and variations
    P + 'seeds_per_run: 0': r'seeds_per_run must be a whole number in \[1, 10000\], got 0$',
    P + 'seeds_per_run: 2.0': 'seeds_per_run must be .* got 2.0$',
    P + 'values_per_run: x': "values_per_run must be .* got 'x'$",
    'axes: {sparsity: [0.01, 0.010001]}': r'distinct values, got \[0.01, 0.010001\]$',
    'axes: {sparsity: [0.1, 0.101]}\nvariations: {small: {n_hidden: 10}}': r'distinct values, got \[0.1, 0.101\]$',
    'axes: {sparsity: [0.01, 0.010001]}\nvalues_per_run: 2': r'distinct values, got \[0.01, 0.010001\]$',
    P + 'variations: [a]': r"variations must be a mapping from names to changes, got \['a'\]$",
    P + 'variations: {baseline: {walk: 0}}': "letters, digits and _, and not baseline, got 'baseline'$",
    P + 'variations: {a/b: {walk: 0}}': "a variation must be named by letters.* got 'a/b'$",
    P + "variations: {'': {walk: 0}}": "a variation must be named by letters.* got ''$",
    P + 'variations: {1: {walk: 0}}': 'a variation must be named by letters.* got 1$',
    P + 'variations: {still: }': 'variation still: parameters is empty; it must be a mapping',
    P + 'variations: {still: {wlk: 0}}': "variation still: unknown parameter 'wlk'; did you mean 'walk'",
    P + 'variations: {still: {walk: -1}}': r'variation still: walk must be a number in .*, got -1$',
    'axes: {sparsity: [1.0e-4]}\nvariations: {small: {n_hidden: 10}}': r'sparsity must be .*\[0.01, 1\], got 0.0001$',
    # plugins
    P + 'plugins: mine.py': "plugins must be a list of Python files, got 'mine.py'$",
    P + 'plugins: [mine.py]': 'plugin mine.py is missing',
    # the rest
    P + 'seeds: 0': r'seeds must be a whole number in \[1, 10000\], got 0$',
    P + 'seeds: -2': 'seeds must be .* got -2$', P + 'seeds: true': 'seeds must be .* got True$',
    P + 'seeds: 2.0': 'seeds must be .* got 2.0$', P + 'seeds:': 'seeds is empty; it must be a whole number',
    P + 'settings: {dataset: cifar}': r"dataset must be one of \['digits', 'mnist', .*'retina'\], got 'cifar'$",
    P + 'settings: {dataset: [digits]}': r"dataset must be one of .*got \['digits'\]$",
    P + 'settings: {architecture: dense}': "architecture must be one of .*'both'\\], got 'dense'$",
    P + 'settings: {architecture: {}}': 'architecture must be one of .*got {}$',
    P + 'settings: {task: []}': r'task must be one of .*got \[\]$',
    P + 'settings: {epochs: 0}': r'epochs must be a whole number in \[1, 10000\], got 0$',
    P + 'settings: {batch_size: true}': 'batch_size must be a whole number in .*got True$',
    P + 'settings: {lr: 1e-2}': "lr must be a number .*got '1e-2'; in YAML write 1.0e-2, not 1e-2$",
    P + 'settings: {lr: .nan}': 'lr must be a number in .*got nan$',
    # two meanings
    'axes: {sparsity: [1]}\nseeds: 1\nseeds: 2\n': 'sweep.yaml: seeds is given twice, in lines 2 and 3$',
    'axes: {sparsity: [1]}\nsettings:\n  epochs: 1\n  epochs: 2\n': ': epochs is given twice, in lines 3 and 4$',
    'axes: {sparsity: [1]}\nvariations: {a: {lr: 1}, a: {lr: 2}}\n': ': a is given twice, in line 2$',
    '# one\n\nseeds: 1\naxes: {sparsity: [1]}\n\n# two\nseeds: 2\n': ': seeds is given twice, in lines 3 and 7$',
    P + '1: 2\n1: 3\n': ': 1 is given twice, in lines 2 and 3$',
    P + 'variations:\n  a: {lr: 1,\n    lr: 2}\n': ': lr is given twice, in lines 3 and 4$',
    'axes: {sparsity: [2020-13-45]}\n': 'month must be in 1..12',
}


@pytest.mark.provokes('illegal values')
@pytest.mark.parametrize('text', REFUSED)
def test_configuration_is_refused(tmp_path, monkeypatch, text):
    "in one line that begins with the file's name, says what it holds and what is legal"
    monkeypatch.chdir(tmp_path)
    Path('sweep.yaml').write_text(text)
    with pytest.raises(ValueError, match=REFUSED[text]) as error: load_config('sweep.yaml')
    assert str(error.value).startswith('sweep.yaml') and len(str(error.value).splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ['sweep.yaml']


@pytest.mark.provokes('illegal values')
@pytest.mark.parametrize('text', ['', ' \n\n', '# nothing yet', '---', '~', 'null', '--- # nothing\n...\n'])
def test_empty_file(tmp_path, text):
    (path := tmp_path / 'sweep.yaml').write_text(text)
    with pytest.raises(ValueError, match='sweep.yaml is empty; it may have .*axes'): load_config(path)


@pytest.mark.provokes('illegal values')
@pytest.mark.parametrize('name', [*FILE, *(f.name for f in fields(STUDY.settings))])
def test_a_name_with_nothing_behind_it(tmp_path, name):
    "is empty, and never None or {}; mappings may be empty, unless they have to say something"
    path = tmp_path / 'sweep.yaml'
    path.write_text({'axes': 'axes: \n'}.get(name, P + (f'{name}: ' if name in FILE else f'settings: {{{name}: }}')))
    unset = STUDY.settings(sparsity=1.).__dict__.get(name, '') is None  # a setting that may be left unset
    if name in ('settings', 'variations') or unset:
        load_config(path)
        return
    with pytest.raises(ValueError) as error: load_config(path)
    assert re.search('None|{}', str(error.value)) is None
    assert re.search(f'{name} is empty; it must be |sparsity is missing|sparsity is an axis', str(error.value))


def test_find_run(tmp_path):
    path = write_config(tmp_path / 'sweep.yaml', seeds=7, variations={'still': {'walk': 0}})
    assert find_run(path, 'p0.01_seeds5-6_still') == sparsity_run(0.01, seeds=2, first_seed=5, walk=0, **TINY)
    with pytest.raises(ValueError, match="sweep.yaml: 'p0.01_seeds5-7'; did you mean 'p0.01_seeds5-6'"):
        find_run(path, 'p0.01_seeds5-7')


def test_configuration_that_cannot_be_read(tmp_path):
    (tmp_path / 'folder.yaml').mkdir()
    (tmp_path / 'bytes.yaml').write_bytes(b'\xff\xfe\x00')
    messages = {'none.yaml': 'No such file', 'folder.yaml': 'Is a directory', 'bytes.yaml': 'is no YAML file'}
    for name, message in messages.items():
        with pytest.raises(ValueError, match=f'{name}.*{message}'): load_config(tmp_path / name)


# what makes two runs the same

@pytest.fixture
def declared(monkeypatch):
    "The settings of a cause and of a measure, to be changed as a later version might"
    def change(kind, name, setting, **about):
        monkeypatch.setitem(entries(kind)[name].about['settings'], setting, about)
        joined_class.cache_clear()
    yield change
    monkeypatch.undo(), joined_class.cache_clear()


def manifest_of(config):
    "As much of a manifest as says which run it is"
    return dict(config=as_recorded(config), training={})


def test_a_new_setting_changes_nothing(declared):
    "Results from before it are those of its introduction value, whatever the default is"
    before = json.loads(json.dumps(manifest_of(CONFIG)))
    declared('cause', 'sparse_links', 'fresh', default=0.7, introduced=0.5, least=0, most=1)
    assert 'fresh' not in before['config']['settings']
    def asked(**settings): return sparsity_run(0.07, seeds=1, **TINY, **settings)
    assert another(before, asked(fresh=0.5)) == '' and 'fresh' not in str(training_identity(asked(fresh=0.5)))
    assert 'fresh' in another(before, asked()) and '0.7' in another(before, asked())
    assert recorded_run(before['config']).settings.fresh == 0.5


def test_a_new_default_changes_nothing(declared):
    "of what earlier results are; only a run that does not say otherwise is another one now"
    before = manifest_of(CONFIG)
    declared('cause', 'sparse_links', 'walk', default=0.2, introduced=0.1, least=0, most=1e9)
    assert recorded_run(before['config']).settings.walk == 0.1
    assert another(before, sparsity_run(0.07, seeds=1, **TINY, walk=0.1)) == ''
    assert "walk: ['as always'], asked [0.2]" in another(before, sparsity_run(0.07, seeds=1, **TINY))


def test_a_setting_of_a_measure_is_no_part_of_the_networks(declared):
    for name, values in (('mask_fraction', [0.05, 0.2]), ('readout_epochs', [1, 5])):
        first, second = (sparsity_run(0.07, seeds=1, **TINY, **{name: value}) for value in values)
        assert first != second and training_identity(first) == training_identity(second)
    always = sparsity_run(0.07, seeds=1, **TINY, mask_loss='winner')
    way = measuring_identity(always, 'weight_mask', {'mask_fraction': 0.2, 'readout_epochs': 1})
    assert way == {'mask_fraction': 0.2} and measuring_identity(always, 'weight_mask', {}) == {}
    assert measuring_identity(CONFIG, 'weight_mask', {}) == {'mask_loss': 'mixture'}
    declared('measure', 'weight_mask', 'mask_fraction', default=0.2, introduced=0.05, least=0, most=1)
    later = sparsity_run(0.07, seeds=1, **TINY, mask_loss='winner')
    assert measuring_identity(later, 'weight_mask', {}) == {'mask_fraction': 0.2}


@pytest.mark.parametrize('change, said', [
    ({'sparsity': 0.5}, 'sparsity'), ({'lr': 0.4}, 'lr'), ({'dataset': 'mnist'}, 'dataset'),
    ({'n_hidden': 12}, 'n_hidden'), ({'walk': 0.}, 'walk'), ({'architecture': 'both'}, 'architecture')])
def test_another_run(change, said):
    assert said in another(manifest_of(CONFIG), replace(CONFIG, settings=replace(CONFIG.settings, **change)))


def test_a_plugin_that_is_missing(tmp_path):
    "A cause that only a plugin has does not turn into none; the setting of a measure may be unknown"
    with forgetting_plugins():
        (tmp_path / 'norm.py').write_text(NORM)
        (tmp_path / 'why.py').write_text("REGISTERED = [dict(kind='cause', name='why', object='why', "
                                         "strength='force', settings="
                                         "{'force': dict(default=0.0, least=0, most=9)})]\nwhy = None")
        values = dict(axes={'sparsity': [0.07], 'power': [1., 2.]}, settings=TINY | {'force': 1.}, seeds=1,
                      plugins=['norm.py', 'why.py'])
        run, = make_sweep(values, tmp_path).runs().values()
        manifest = dict(config=as_recorded(run), training=dict(identity=training_identity(run)))
    joined_class.cache_clear()
    read = recorded_run(manifest['config'])
    assert 'power' not in {f.name for f in fields(read.settings)} and len(read.measuring) == 2
    assert 'force' in another(manifest, CONFIG)


def test_ways_of_measuring_are_added():
    "whatever the settings they are changes of"
    before = replace(CONFIG, measuring=({}, {'mask_fraction': 0.1}))
    def ways(run): return [replace(run.settings, **change).mask_fraction for change in run.measuring]
    assert ways(with_ways(CONFIG, before)) == [0.05, 0.1] and with_ways(before, CONFIG) == before
    other = sparsity_run(0.07, seeds=1, **TINY, mask_fraction=0.3)
    assert ways(with_ways(other, before)) == [0.3, 0.05, 0.1]


def test_a_sweep_from_its_manifest(tmp_path):
    "as its file says it, but for how it is cut into runs; settings that did not exist have their introduction values"
    path = write_config(tmp_path / 'sweep.yaml', axes={'lr': [0.5, 1]}, seeds_per_run=1,
                        variations={'still': {'walk': 0}})
    sweep = load_config(path)
    about = meaning(sweep)
    del about['settings']['rewire']
    assert recorded_sweep(about) == replace(sweep, seeds_per_run=5)
    assert isinstance(next(iter(recorded_sweep(about).runs().values())), RunConfig)
