"""Acme's sampler and selector keep nbcore's contracts."""

from acme_nbcore.barker import Barker
from acme_nbcore.saliency import Saliency

from nbcore.testing import parametrize_with_checks


@parametrize_with_checks([Barker(), Saliency()])
def test_the_contract(subject, check):
    check(subject)
