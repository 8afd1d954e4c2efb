"""One contract for every cause, the package's and one of a user's: strength 0 is no cause, alone as stacked, a strength a network"""
import sys
from dataclasses import replace

import pytest
import torch
from tqdm import tqdm

from modspec.core import registry
from modspec.core.data import load_dataset
from modspec.networks.feedforward import FeedForward, init_feedforward
from modspec.networks.recurrent import Recurrent, init_stack
from modspec.training.loop import acting, train
from modspec.training.parameters import SPARSE, Training, applying, make_parameters, setting

DIGITS, RETINA = load_dataset('digits'), load_dataset('retina')
SHORT = dict(epochs=2, n_pairs=320, batch_size=32)
RIDGE = '''"An L2 penalty on the recurrent weights"
from modspec.causes.cause import Cause

REGISTERED = [dict(
    kind='cause', name='ridge', object='Ridge', label='L2', strength='ridge_strength', needs=['subnetworks'],
    settings={'ridge_strength': dict(default=0.0, least=0, most=1e9)},
)]

class Ridge(Cause):
    def penalty(self, weights): return self.strength * weights['W_hh'].square().sum((1, 2, 3))
'''


class Retina(Training):
    "What a layered network on the retina needs to know"


Retina.__annotations__ = {'task': str}
Retina.task = setting('retina', choices='task')
Retina = __import__('dataclasses').dataclass(frozen=True)(Retina)


@pytest.fixture(scope='module', autouse=True)
def ridge(tmp_path_factory):
    "A cause from a file of a user's own; what there was before is left"
    path = tmp_path_factory.mktemp('plugin') / 'ridge.py'
    path.write_text(RIDGE)
    before = dict(registry.PLUGINS)
    entry, = registry.add_plugin(path)
    yield entry
    registry.PLUGINS.clear()
    registry.PLUGINS.update(before)
    del sys.modules[entry.module]
