"""What registers itself, and files of users that must be refused before any work"""
import ast
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modspec.core import registry
from modspec.core.checks import check_choice, known
from modspec.core.registry import KINDS, add_plugin, builtin, entries, literal, registered_in

MINE = ("REGISTERED = [dict(kind='measure', name='mine', object='f', values={'mine': dict(axes=[])})]\n"
        "def f(): return 7\n")


@pytest.fixture(autouse=True)
def as_before():
    "Whatever a test registers is gone after it"
    plugins = dict(registry.PLUGINS)
    yield
    registry.PLUGINS.clear()
    registry.PLUGINS.update(plugins)
    for name in [name for name in sys.modules if name.startswith('modspec_plugin_')]: del sys.modules[name]


@pytest.fixture
def file(tmp_path):
    "Writes a plugin"
    def write(text, name='mine.py'):
        (tmp_path / name).write_text(text)
        return tmp_path / name
    return write


# the package's own

def test_names_are_unique_in_their_kind():
    names = [(entry.kind, entry.name) for entry in builtin()]
    assert len(names) == len({*names}) and {kind for kind, _ in names} <= {*KINDS}


@pytest.mark.parametrize('entry', builtin(), ids=lambda entry: f'{entry.kind} {entry.name}')
def test_what_is_registered_exists(entry):
    "The object, and whatever else a description names of its module"
    if entry.kind in ('measure', 'cause', 'task', 'dataset'):
        for what in {'object', 'steps'} & {*entry.about}: entry.load(what)


@pytest.mark.parametrize('name', entries('measure'))
def test_a_measure_describes_each_of_its_values(name):
    about = entries('measure')[name].about
    assert about['values'] and isinstance(about['needs'], list)
    for value, how in about['values'].items():
        assert {*how['axes']} <= {'layer', 'time', 'subnetwork', 'subtask', 'against'}, value
        assert 'against' not in how['axes'] or (about | how)['against'], value
        assert how['label'] and len(how.get('range', [0, 1])) == 2 and 'null' in how, value


def test_values_are_unique():
    values = [value for entry in entries('measure').values() for value in entry.about['values']]
    assert len(values) == len({*values})


def test_reading_descriptions_loads_no_torch():
    code = "import sys; from modspec.core import registry; registry.builtin(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, '-c', code], check=True)


# plugins

def test_a_plugin_is_like_the_rest(file):
    entry, = add_plugin(file(MINE))
    assert entries('measure')['mine'] is entry and entry.load()() == 7
    assert [*entries('measure')][-1] == 'mine'  # after the package's own
    assert add_plugin(file(MINE)) == (entry,)  # twice is once


REFUSED = {  # text of a plugin: what the message says
    'fails to import': (MINE + '1 / 0\n', 'cannot be imported: ZeroDivisionError: division by zero'),
    'is no Python': ('REGISTERED = [', 'cannot be imported: SyntaxError'),
    'imports what is not there': ('import nothing_of_the_kind\n' + MINE, "No module named 'nothing_of_the_kind'"),
    'is computed': ("REGISTERED = [dict(kind='task', name=n) for n in 'ab']", 'cannot be imported: Val'),
    'has a computed part': ("REGISTERED = [dict(kind='task', name='t' + 'u', object='f')]", 'cannot be imported: Val'),
    'registers nothing': ('def f(): pass\n', 'registers nothing; it needs a list named REGISTERED'),
    'registers an empty list': ('REGISTERED = []\n', 'registers nothing'),
    'has no such kind': (MINE.replace('measure', 'metric'), "kind must be one of ['dataset', 'task', 'cause'"),
    'has no name': (MINE.replace("'mine'", "''"), 'a measure is registered without a name'),
    'takes a name': (MINE.replace('mine', 'correlation'), "'correlation', which modspec.measures.correlation has"),
    'has no object': (MINE.replace("object='f'", "object='g'"), 'without an "object" that it defines'),
}


@pytest.mark.parametrize('why', REFUSED)
def test_refused(file, why):
    "One line that names the file, and nothing is left of it"
    text, message = REFUSED[why]
    before = {kind: [*entries(kind)] for kind in KINDS}
    path = file(text)
    with pytest.raises(ValueError) as error: add_plugin(path)
    assert message in str(error.value) and str(error.value).startswith(f'plugin {path} ')
    assert before == {kind: [*entries(kind)] for kind in KINDS} and path not in registry.PLUGINS


def test_two_plugins_of_one_name(file, tmp_path):
    add_plugin(file(MINE))
    with pytest.raises(ValueError, match="registers the measure 'mine', which modspec_plugin_mine has"):
        add_plugin(file(MINE, 'other.py'))



def test_two_plugins_of_one_file_name(file, tmp_path):
    "Their modules would be one"
    add_plugin(file(MINE))
    (tmp_path / 'elsewhere').mkdir()
    with pytest.raises(ValueError, match='has the file name of another plugin; rename one of them'):
        add_plugin(file(MINE.replace('mine', 'yours'), 'elsewhere/mine.py'))
    assert 'yours' not in entries('measure')


def test_missing_plugin(tmp_path):
    with pytest.raises(ValueError, match='is missing; give the path of a Python file'): add_plugin(tmp_path / 'no.py')


# literals and names

values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner:
                      st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.dictionaries(st.sampled_from(['label', 'values', 'needs']), values), max_size=3))
def test_a_literal_is_read_as_python_reads_it(descriptions):
    descriptions = [about | {'kind': 'task', 'name': 'some'} for about in descriptions]
    assert registered_in(f'REGISTERED = {descriptions!r}\n') == descriptions


@pytest.mark.parametrize('text', ['f()', 'dict(a=f)', 'dict([1])', '[x for x in y]', 'a.b', '{**a}', 'dict(**a)'])
def test_what_would_have_to_be_computed(text):
    with pytest.raises(ValueError): literal(ast.parse(text, mode='eval').body)


@pytest.mark.parametrize(('name', 'closest'), [('sparsty', 'sparsity'), ('seed', 'seeds'), ('Sparsity', 'sparsity')])
def test_closest_name(name, closest):
    with pytest.raises(ValueError, match=f"unknown setting {name!r}; did you mean {closest!r}"):
        known({name: 1}, ['sparsity', 'seeds', 'device'], 'setting')


def test_no_name_is_close():
    with pytest.raises(ValueError, match="unknown setting 'xyz'; known are sparsity, seeds"):
        known({'xyz': 1}, ['sparsity', 'seeds'], 'setting')
    with pytest.raises(ValueError, match=r"task must be one of \['parity'"):
        check_choice('task', 'sum', entries('task'))
