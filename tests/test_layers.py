"Which networks before training the layers of a sweep are compared with"
import pandas as pd
import pytest

from modspec.studies.upstream_downstream import effects


def invented(layers, dataset, seeds):
    "A table of networks before training, one layer each"
    return pd.DataFrame([dict(layers=layers, dataset=dataset, seed=seed, trained=False, layer=layer, against=None,
                              measure=measure, value=.1)
                         for seed in range(seeds) for measure, layer in (('accuracy', None), ('q_input_jacobian', 0.))])


@pytest.mark.parametrize('layers, dataset, n', [('64-64', 'mnist', 12), ('32-32', 'mnist', 3), ('64-64', 'digits', 3)])
def test_untrained_networks_from_beside_are_of_the_same_shape_and_data(tmp_path, monkeypatch, layers, dataset, n):
    (tmp_path / effects.UNTRAINED).mkdir()
    monkeypatch.setattr(effects, 'read_table', lambda folder: invented('64-64', 'mnist', 12))
    assert len(effects.untrained_layers(invented(layers, dataset, 3), tmp_path)) == n


def test_without_any_beside_they_are_the_sweeps_own(tmp_path):
    for beside in (None, tmp_path): assert len(effects.untrained_layers(invented('8', 'mnist', 4), beside)) == 4
