from __future__ import annotations

import pytest
import torch

from holdfast.domain.tensors import TensorRef, TensorSpec
from holdfast.frameworks.torch.optimizers import _Home

FAR = "meta"  # stands for an accelerator


@pytest.mark.parametrize(
    ("saved_parameter", "saved_state", "shape", "beside", "home"),
    [
        (FAR, FAR, (2,), False, FAR),  # moments, where they were
        (FAR, "cpu", (), False, "cpu"),  # a step counter kept on the host on purpose
        (FAR, FAR, (), True, FAR),  # fused or capturable: the counter too
        ("cpu", "cpu", (2,), False, FAR),  # the model moved to an accelerator
        ("cpu", "cpu", (), False, "cpu"),
        ("cpu", "cpu", (), True, FAR),
        ("cuda", "cuda", (2,), False, FAR),  # the model moved to another kind
        ("cuda", "cuda", (), False, FAR),
    ],
)
def test_state_lives_by_its_parameter_unless_kept_apart(saved_parameter, saved_state, shape, beside, home):
    parameter = torch.empty(2, device=FAR)
    made = _Home(parameter, saved_parameter, beside).make(
        TensorRef("x", "torch", saved_state), TensorSpec("float32", shape)
    )
    assert made.device.type == home
    assert tuple(made.shape) == shape


def test_state_takes_the_form_of_its_parameter_but_its_own_dtype():
    parameter = torch.empty(2, 3, 4, 5, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    made = _Home(parameter, "cpu", False).make(TensorRef("x", "torch"), TensorSpec("float32", (2, 3, 4, 5)))
    assert made.dtype is torch.float32
    assert made.stride() == parameter.stride()
