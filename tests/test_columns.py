"""The data dictionary: complete for all committed tables, without blanks, and read from where settings are defined"""
import re
from dataclasses import dataclass

import pandas as pd
import pytest
from conftest import COMMITTED, ROOT
from test_docs import NBS, prose

from modspec.core.registry import entries
from modspec.engine.columns import (
    GIVEN_COLUMNS,
    as_markdown_table,
    data_dictionary,
    measure_dictionary,
    said_of_entry,
    said_of_fields,
    said_of_names,
)
from modspec.engine.plan import study_named
from modspec.engine.store import COLUMNS
from modspec.training.parameters import Training, setting, settings_of

PAGE = NBS / 'engine' / 'columns.ipynb'


@pytest.fixture(scope='module')
def dictionary(): return data_dictionary()


def listed(dictionary, table): return {*dictionary.loc[dictionary['table'] == table, 'column']}


@pytest.mark.parametrize('results', COMMITTED)
@pytest.mark.parametrize('table', COLUMNS)
def test_every_column_of_every_committed_table(dictionary, results, table):
    columns = pd.read_parquet(ROOT / 'results' / results / f'{table}.parquet').columns
    assert {*columns} <= listed(dictionary, table)


@pytest.mark.parametrize('results', COMMITTED)
def test_every_measure_of_every_committed_table(results):
    found = pd.read_parquet(ROOT / 'results' / results / 'values.parquet', columns=['measure'])['measure'].unique()
    assert {*found} <= {*measure_dictionary()['measure']}


def test_every_setting_and_every_column_that_is_checked(dictionary):
    "of all studies; and none twice"
    for table, columns in COLUMNS.items(): assert {*columns} <= listed(dictionary, table)
    for name in entries('study'):
        study = study_named(name)
        assert {*study.settings.__dataclass_fields__} <= listed(dictionary, 'networks')
    assert not dictionary.duplicated(['table', 'column']).any()


def test_types_of_committed_tables(dictionary):
    "are what the dictionary says"
    kinds = {'O': 'text', 'i': 'whole number', 'f': 'number', 'b': 'true or false'}
    said = {(row.table, row.column): row.type for row in dictionary.itertuples()}
    for results in ('paper', 'causes_digits_adapting', 'layers_base'):
        for table in COLUMNS:
            types = pd.read_parquet(ROOT / 'results' / results / f'{table}.parquet').dtypes
            for name, kind in types.items(): assert kinds[kind.kind] == said[table, name], (results, table, name)


def test_nothing_is_left_blank(dictionary):
    assert (dictionary['meaning'] != '').all(), dictionary[dictionary['meaning'] == '']
    given = {(table, name) for table, columns in GIVEN_COLUMNS.items() for name in columns}
    settings = dictionary[[pair not in given for pair in zip(dictionary['table'], dictionary['column'])]]
    assert (settings['of'] != '').all()
    assert not (measure_dictionary()[['measure', 'meaning', 'module']] == '').any(axis=None)


@pytest.mark.parametrize('kind', ['cause', 'measure'])
def test_every_declared_setting_is_explained_where_it_is_declared(kind):
    for name, entry in entries(kind).items():
        said = said_of_entry(entry)
        assert [*said] == [*settings_of(entry)] and all(said.values()), (name, said)


def test_chance_of_a_measure_is_a_measure():
    "A null that has a word has three values beside"
    table = measure_dictionary().set_index('measure')
    for name, chance in table['chance'].items():
        if chance in ('', 'untrained') or f'_{chance}_' in name: continue
        for end in ('mean', 'sd', 'p'): assert f'{name}_{chance}_{end}' in table.index


def test_comments():
    "Behind a setting or above it; a comment above holds until the next one, or until a setting with its own"
    text = '# of a\na = 1\nb = (2,\n     3) # of b\nc = 4\n\n# of d\n# and e\nd = 5\ne = 6\n'
    places = dict(a=(2, 2), b=(3, 4), c=(5, 5), d=(9, 9), e=(10, 10))
    assert said_of_names(text, places) == dict(a='of a', b='of b', c='', d='of d and e', e='of d and e')


def test_comments_of_a_class():
    @dataclass(frozen=True)
    class Own(Training):
        mine:int = setting(1, 0, 2) # What it is
        yours:float = setting(
            0.5, 0, 1) # Another

    assert said_of_fields(Own) == dict(mine='What it is', yours='Another')
    assert said_of_fields(Training)['epochs'] == 'Epochs (Table 1)'


def test_a_cell_may_hold_a_bar():
    assert as_markdown_table(pd.DataFrame(dict(a=['|x|']))) == '| a |\n|---|\n| \\|x\\| |'


def test_the_page_is_up_to_date(dictionary):
    "It is executed again when a column or a measure is added"
    lines = {line for text in prose(PAGE) for line in text.splitlines()}

    def told(*words) -> bool:
        "Has a table a row that begins with the first word, and has all others?"
        wanted = [str(word).replace('|', '\\|') for word in words if word]
        return any(line.startswith(f'| {wanted[0]} |') and all(f' {word} |' in line for word in wanted[1:])
                   for line in lines)

    for row in dictionary.itertuples(): assert told(row.column, row.type, row.meaning, row.legal, row.default), row
    for row in measure_dictionary().itertuples():
        assert told(row.measure, row.meaning, row.axes, row.range, row.chance), row


@pytest.mark.parametrize('results', COMMITTED)
def test_the_lines_of_the_page_open_every_table(results):
    (block,) = re.findall(r'```python\n(import pandas.*?)```', '\n'.join(prose(PAGE)), re.S)
    found = {}
    exec(block.replace("'results/paper/", f"'{ROOT}/results/{results}/"), found)
    assert len(found['table']) == len(found['values']) and {'measure', 'value', 'seed'} <= {*found['table']}
