"""Space savings: the published ones, and that their formula needs no MXNet."""

import pytest

from trnet.savings import space_savings


@pytest.mark.parametrize(
    "original, smaller, percent",
    [
        (123_633_664, 42_197_062, 65.87),
        (2_048_000, 649_614, 68.28),
        (2_048_000, 479_714, 76.58),
        (2_048_000, 314_814, 84.63),
        (2_048_000, 154_914, 92.44),
    ],
)
def test_published_savings(original, smaller, percent):
    assert round(100 * space_savings(smaller, original), 2) == percent


def test_savings_need_no_mxnet(run_python):
    run_python(
        """
        import sys
        from trnet.savings import space_savings
        assert space_savings(25, 100) == 0.75 and space_savings(2, 1) == -1
        assert "mxnet" not in sys.modules
        """
    )
