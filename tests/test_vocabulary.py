"""A digit however people write it, and nothing else."""

import pytest

from expkit.errors import Refusal
from expkit.vocabulary import digit


@pytest.mark.parametrize("said", ["3", 3, "three", "Three", " a handwritten 3 ", "the digit three", "a photo of a 3."])
def test_a_three(said):
    assert digit(said) == "3"


def test_the_null_prompt():
    assert digit("") == digit("   ") == ""


@pytest.mark.parametrize("said", ["cat", "12", "-", "3 4", "three cats", "a handwritten", "3.5", "¾", "twelve", "null"])
def test_anything_else_is_refused_with_the_vocabulary(said):
    with pytest.raises(Refusal, match="0 to 9, zero to nine"):
        digit(said)


def test_a_slip_gets_its_nearest_word():
    with pytest.raises(Refusal, match="Did you mean seven"):
        digit("sevn")
