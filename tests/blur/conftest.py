"""What tests of blurs share."""

import pytest
import torch


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    """The number of torch's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
