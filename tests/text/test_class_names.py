"""A digit however people write it, and nothing else."""

import pytest

from expkit.errors import UserError
from expkit.text.class_names import null_only, parse_digit


@pytest.mark.parametrize(
    "said", ["3", 3, "three", "Three", " a handwritten 3 ", "the digit three", "a photo of a 3."]
)
def test_a_three(said):
    assert parse_digit(said) == "3"


def test_the_null_prompt():
    assert parse_digit("") == parse_digit("   ") == ""


@pytest.mark.parametrize(
    "said", ["cat", "12", "-", "3 4", "three cats", "a handwritten", "3.5", "¾", "twelve", "null"]
)
def test_anything_else_is_refused_with_the_vocabulary(said):
    with pytest.raises(UserError, match="0 to 9, zero to nine"):
        parse_digit(said)


def test_a_slip_gets_its_nearest_word():
    with pytest.raises(UserError, match="Did you mean seven"):
        parse_digit("sevn")


def test_a_model_without_prompts_names_every_model_with_prompts_that_ships():
    with pytest.raises(UserError, match=r"is not told.*digits and pictograms, which ship, deepfloyd"):
        null_only("a cat", "is not told what to show")
    assert null_only(" ", "") == ""
