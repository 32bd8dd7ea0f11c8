"""Lists that C++, Python and Triton share: the same names, in the same order."""

import pytest

from fastgan import norms
from fastgan.backends import base, native, specs
from fastgan.functional import LossStats
from tests.helpers import ulp

needs_extension = pytest.mark.skipif(native.native is None, reason="the extension is not there")


@needs_extension
def test_the_extension():
    assert native.native.phis == specs.PHIS
    assert native.native.psis == specs.PSIS


def test_triton():
    pytest.importorskip("triton")
    from fastgan.triton_kernels import groups, phi

    assert phi.PHIS == specs.PHIS
    assert groups.PSIS == specs.PSIS
    assert [getattr(phi, name.upper()).value for name in phi.PHIS] == list(range(len(specs.PHIS)))


def test_every_phi_has_an_exact_formula_to_compare_with():
    assert tuple(ulp.EXACT) == specs.PHIS


@needs_extension
def test_statistics():
    """How many numbers there are; tests of the backends compare them one by one."""
    assert native.native.stat_count == base.LOSS_STATISTICS == len(LossStats._fields)
    numbers = set(norms.PenaltyStats._fields) - {"norms", "engine"}
    assert native.native.norm_stat_count == base.NORM_STATISTICS == len(numbers)
