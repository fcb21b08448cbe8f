"""What is told of the built-in models without building them."""

import pytest

from trainables.models.architectures import ARCHITECTURES
from trainables.models.builtin import unweighted
from trainables.models.resolve import model_size


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parameters_are_counted_as_the_model_has_them(name: str) -> None:
    assert model_size(name) == unweighted(name)[0].num_parameters()
