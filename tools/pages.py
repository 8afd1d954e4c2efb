"""Pages that are put together when the website is built.

Named in settings.ini among `procs`. What such a page shows is in other files already, so no copy of it is stored.
"""

from contextlib import chdir
from pathlib import Path

from execnb.shell import CaptureShell
from nbdev.process import Processor


class built(Processor):
    "A cell that begins with `#| built` is executed, after those before it, in the folder of its chapter"
    def _built_(self, cell):
        shell = CaptureShell()
        with chdir(Path(self.nb.path_).parent):
            for one in self.nb.cells[:cell.idx_ + 1]:
                if one.cell_type == 'code': shell.cell(one)
                if shell.exc: raise RuntimeError(f'{self.nb.path_}, cell {one.idx_}') from shell.exc
