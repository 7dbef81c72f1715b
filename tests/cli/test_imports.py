"""What surrounds the imports of torch and all that comes with it."""

import gc

import pytest

from hydralign import cli


def test_garbage_is_looked_for_again_afterwards():
    with cli.garbage_kept():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_and_where_an_import_fails():
    with pytest.raises(ImportError), cli.garbage_kept():
        raise ImportError
    assert gc.isenabled()
