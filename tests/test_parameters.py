"""Settings: whatever is no legal value is refused, and what is legal is kept; the class that they make, and identity"""
import math
from dataclasses import FrozenInstanceError, fields, make_dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from modspec.core.registry import entries
from modspec.training.parameters import (
    SPARSE,
    Parameters,
    SparseTraining,
    Training,
    applying,
    identity,
    make_parameters,
    measure_settings,
    setting,
    settings_class,
    settings_of,
)

FIELDS = {field.name: field for field in fields(Parameters())}
NUMBERS = [field for field in FIELDS.values() if field.metadata['least'] is not None]
WHOLE = [field.name for field in NUMBERS if type(field.default) is int]
OPTIONAL = [field.name for field in NUMBERS if field.default is None]
CHOICES = {name: entries(legal) if isinstance(legal, str) else legal
           for name, legal in ((name, field.metadata['choices']) for name, field in FIELDS.items()) if legal}
GATED = dict(decision=dict(loss='winner'))  # what else has to be said for every choice of a setting to be legal


def test_every_number_has_a_range():
    either = {name for name, field in FIELDS.items() if isinstance(field.default, bool)}
    assert {*FIELDS} == {*(field.name for field in NUMBERS), *CHOICES, *either} and 'rewire' in either
    assert 'lr' not in WHOLE and 'epochs' in WHOLE and OPTIONAL == ['connection_lr']
    with pytest.raises(FrozenInstanceError): Parameters().lr = 1.


odd = st.one_of(st.text(max_size=3), st.booleans(), st.none(), st.floats().map(str), st.integers().map(str),
                st.sampled_from([math.nan, math.inf, -math.inf, 1j, (), [1], {}, np.True_, b'1', torch.ones(2)]))


@pytest.mark.provokes('illegal values', rounds=100)
@given(st.sampled_from(NUMBERS), odd)
@example(FIELDS['connection_lr'], '0.1')
@example(FIELDS['connection_lr'], math.nan)
@example(FIELDS['connection_lr'], math.inf)
def test_what_is_no_number_is_refused(field, value):
    "but for none at all where a number need not be there"
    if value is None and field.name in OPTIONAL: return
    with pytest.raises(ValueError) as error: Parameters(**{field.name: value})
    kind = 'a whole number' if field.name in WHOLE else 'a number'
    assert str(error.value).startswith(f'{field.name} must be {kind} in ')
    assert str(error.value).endswith(f'got {value!r}')


@pytest.mark.provokes('illegal values', rounds=100)
@given(st.sampled_from(WHOLE), st.floats(allow_nan=True))
def test_fractions_of_whole_numbers_are_refused(name, value):
    "Also 5.0: it comes from a mistake"
    with pytest.raises(ValueError, match=f'{name} must be a whole number'): Parameters(**{name: value})


@pytest.mark.provokes('illegal values', rounds=100)
@given(st.sampled_from(NUMBERS), st.data())
def test_range_of_every_number(field, choice):
    least, most, closed = (field.metadata[name] for name in ('least', 'most', 'closed'))
    whole = st.integers(least, math.floor(most))
    value = choice.draw(whole if field.name in WHOLE else whole | st.floats(least, most))
    if value == least and not closed:
        with pytest.raises(ValueError, match=field.name): Parameters(**{field.name: value})
    else: assert getattr(Parameters(**{field.name: value}), field.name) == value
    for bad in (least - 1, -1 - abs(value), most * 1.01 if field.name not in WHOLE else most + 1):
        with pytest.raises(ValueError, match=rf'{field.name} must be .* got {bad!r}'.replace('+', r'\+')):
            Parameters(**{field.name: bad})


@pytest.mark.provokes('illegal values')
@pytest.mark.parametrize('name', CHOICES)
@pytest.mark.parametrize('value', ['', 'Parity', 'sum', None, 3, ['parity'], True])
def test_unknown_choice(name, value):
    for legal in CHOICES[name]: Parameters(**{name: legal} | GATED.get(name, {}))
    with pytest.raises(ValueError) as error: Parameters(**{name: value})
    assert str(error.value) == f'{name} must be one of {[*CHOICES[name]]}, got {value!r}'


@pytest.mark.provokes('illegal values')
@pytest.mark.parametrize('value', ['true', 'no', '', None, 0, 1, 1., [True], np.True_])
def test_rewire_is_a_boolean(value):
    with pytest.raises(ValueError, match='rewire must be true or false, got ') as error: Parameters(rewire=value)
    assert str(error.value).endswith(repr(value))


def test_numbers_of_other_libraries():
    "numpy's floats are numbers"
    assert Parameters(lr=np.float32(.5)).lr == Parameters(lr=np.float64(.5)).lr == .5


# a rate in place of two

BOUNDS = 'connection_lr_sparse', 'connection_lr_dense'


def test_one_rate_replaces_its_bounds():
    "Either is given or the other, also with the value of the default; without a number nothing is replaced"
    assert Parameters(connection_lr=0).connection_lr == 0. and Parameters(connection_lr=None) == Parameters()
    assert getattr(Parameters(connection_lr=None, connection_lr_sparse=.2), BOUNDS[0]) == .2
    for bound, other in ((BOUNDS[0], .2), (BOUNDS[1], .2), (BOUNDS[0], .1)):
        with pytest.raises(ValueError) as error: Parameters(connection_lr=.1, **{bound: other})
        assert str(error.value) == f'connection_lr 0.1 replaces {bound}; give one or the other'
    with pytest.raises(ValueError, match=f'connection_lr 0 replaces {" and ".join(BOUNDS)};'):
        Parameters(connection_lr=0, connection_lr_sparse=1., connection_lr_dense=1.)
    with pytest.raises(ValueError, match='connection_lr 0.5 replaces connection_lr_dense'):
        replace(Parameters(connection_lr_dense=.02), connection_lr=.5)


# the class, and identity

def test_one_class_for_the_same_settings():
    "Equal parameters are equal, however they came about"
    assert type(Parameters()) is type(make_parameters({})) and Parameters(lr=1) == make_parameters({'lr': 1.})
    assert replace(Parameters(), lr=.25) == Parameters(lr=.25) != Parameters()
    assert len({Parameters(), Parameters(), Parameters(lr=1)}) == 2


def test_what_networks_do_not_have_brings_no_settings():
    names = {offers: {field.name for field in fields(settings_class(Training, offers))}
             for offers in ((), ('subnetworks', 'interconnections'), SPARSE)}
    general = {name for entry in applying('cause', ()).values() for name in settings_of(entry)}
    assert names[()] == {field.name for field in fields(Training)} | general and 'dropout' in general
    assert names[SPARSE] - names['subnetworks', 'interconnections'] == {*measure_settings()['bottleneck']}
    assert 'walk' in names['subnetworks', 'interconnections']


@pytest.mark.parametrize('base', [Training, SparseTraining])
def test_defaults_are_legal(base): base()


def test_closest_name():
    with pytest.raises(ValueError, match="unknown parameter 'mask_fractoin'; did you mean 'mask_fraction'"):
        Parameters(mask_fractoin=.1)
    for values in (None, [], 'lr'):
        with pytest.raises(ValueError, match='must be a mapping'): make_parameters(values)


@given(st.dictionaries(st.sampled_from(['lr', 'walk', 'mask_fraction', 'rho']), st.sampled_from([.25, .5, .75])))
def test_identity_is_what_was_changed(changes):
    "since the settings were introduced"
    before = {name: field.metadata['introduced'] for name, field in FIELDS.items()}
    now = {name: field.default for name, field in FIELDS.items()} | changes
    assert identity(Parameters(**changes)) == {name: value for name, value in now.items() if value != before[name]}
    assert identity(Parameters(loss='winner', mask_loss='winner')) == {}


def test_a_new_default_does_not_change_what_an_old_result_is():
    "`introduced` is the behavior before the setting existed"
    before = make_dataclass('Settings', [('n', int, setting(1, 0, 9))], frozen=True)
    added = [('n', int, setting(1, 0, 9)),
             ('loss', str, setting('all', choices=('all', 'winner'), introduced='winner'))]
    after = make_dataclass('Settings', added, frozen=True)
    assert identity(before(2)) == identity(after(2, loss='winner')) == {'n': 2}
    assert identity(after(2)) == {'n': 2, 'loss': 'all'}
