"""Modules and what else holds tensors: restored in place, exactly, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from holdfast.domain.tensors import ITEM_BYTES
from holdfast.errors import MismatchError, UnsupportedError


class Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(5, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight
        self.empty = nn.Parameter(torch.empty(0, 3))
        self.scale = nn.Parameter(torch.randn(()))
        self.register_parameter("absent", None)
        self.register_buffer("none", None)
        self.register_buffer("table", torch.rand(3), persistent=False)
        self.seen = 0

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.embed(index))) * self.scale

    def get_extra_state(self) -> Any:
        return {"seen": self.seen, "history": torch.tensor([1.5, self.seen])}

    def set_extra_state(self, state: Any) -> None:
        self.seen = state["seen"]
        self.history = state["history"]


def test_everything_of_a_module_comes_back(save, differences):
    model = Net()
    model(torch.tensor([0, 1, 2]))
    model.seen = 7
    model.norm.eval()
    model.scale.requires_grad_(False)
    again = Net(1)
    addresses = [p.data_ptr() for p in again.parameters()]
    save({"model": model}).into({"model": again})
    assert differences(model.state_dict(), again.state_dict()) == []
    assert torch.equal(model.table, again.table)
    assert again.seen == 7
    assert again.history.tolist() == [1.5, 7.0]
    assert [m.training for m in again.modules()] == [m.training for m in model.modules()]
    assert again.norm.training is False
    assert again.scale.requires_grad is False
    assert [p.data_ptr() for p in again.parameters()] == addresses
    assert again.head.weight is again.embed.weight


def test_tied_parameters_are_stored_once(save):
    saved = save({"model": Net()})
    assert [n for n in saved.specs if n.endswith("weight")] == ["model/embed.weight", "model/norm.weight"]


def test_a_lost_tie_is_refused(save):
    loose = Net()
    loose.head.weight = nn.Parameter(torch.zeros(5, 4))
    with pytest.raises(
        MismatchError, match=r"head.weight \(checkpoint: tied to embed.weight, live: on its own"
    ):
        save({"model": Net()}).into({"model": loose})
    with pytest.raises(
        MismatchError, match=r"head.weight \(checkpoint: on its own, live: tied to embed.weight"
    ):
        save({"model": loose}).into({"model": Net()})


def test_all_differences_in_one_error_and_nothing_touched(save):
    saved = save({"m": nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(2, 2)})})
    live = nn.ModuleDict({"a": nn.Linear(2, 4, bias=False), "c": nn.Linear(1, 1).double()})
    before = {k: v.clone() for k, v in live.state_dict().items()}
    with pytest.raises(MismatchError) as caught:
        saved.into({"m": live})
    assert caught.value.missing == ("m/c.weight", "m/c.bias")
    assert caught.value.unexpected == ("m/a.bias", "m/b.weight", "m/b.bias")
    assert caught.value.mismatched == ("m/a.weight (checkpoint: float32[3, 2], live: float32[4, 2])",)
    assert all(torch.equal(v, before[k]) for k, v in live.state_dict().items())
    lines = saved.into({"m": live}, strict=False)
    assert len(lines) == 6


def test_wrappers_do_not_change_names(save, differences):
    model = Net()
    plain = save({"model": model})
    for wrap in (nn.DataParallel, lambda m: torch.compile(m, backend="eager")):
        wrapped = save({"model": wrap(model)})
        assert wrapped.specs.keys() == plain.specs.keys()
        again = Net(1)
        wrapped.into({"model": again})
        assert differences(model.state_dict(), again.state_dict()) == []
        again = Net(2)
        plain.into({"model": wrap(again)})
        assert differences(model.state_dict(), again.state_dict()) == []


def test_a_module_of_the_users_named_module_keeps_its_name(save):
    saved = save({"model": nn.ModuleDict({"module": nn.Linear(1, 1)})})
    assert list(saved.specs) == ["model/module.weight", "model/module.bias"]


class Growing(nn.Module):
    """Builds a buffer on first use and makes it larger when it must."""

    def __init__(self, length: int | None) -> None:
        super().__init__()
        if length is not None:
            self.register_buffer("mask", torch.arange(length), persistent=False)
        self.register_buffer("mean", None)


def test_transient_buffers_need_not_fit(save):
    grown = Growing(6)
    grown.mean = torch.tensor([2.5])
    for live in (Growing(2), Growing(None), Growing(6)):
        save({"m": grown}).into({"m": live})
        assert live.mask.tolist() == [0, 1, 2, 3, 4, 5]
        assert live.mean.tolist() == [2.5]
        assert "mask" not in live.state_dict()
    save({"m": Growing(6)}).into({"m": grown})
    assert grown.mean is None
    save({"m": Growing(None)}).into({"m": grown})
    assert grown.mask.tolist() == [0, 1, 2, 3, 4, 5]


def test_statistics_that_the_script_switched_off_are_refused(save):
    with pytest.raises(MismatchError, match="running_mean"):
        save({"m": nn.BatchNorm1d(2)}).into({"m": nn.BatchNorm1d(2, track_running_stats=False)})
    with pytest.raises(MismatchError, match="bias"):
        save({"m": nn.LayerNorm(2, bias=False)}).into({"m": nn.LayerNorm(2)})


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_lazy_modules(save):
    lazy = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    with pytest.raises(UnsupportedError, match=r"model/0\.weight is not initialised yet"):
        save({"model": lazy})
    data = torch.rand(4, 2)
    lazy(data)
    saved = save({"model": lazy})
    again = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    optimizer = torch.optim.SGD(again.parameters(), lr=0.1)
    saved.into({"model": again})
    assert torch.equal(again(data), lazy(data))
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in again.parameters()}


def test_averaged_models_go_on_exactly(save, differences):
    def build() -> tuple[nn.Module, AveragedModel]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        return model, AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)

    def train(model: nn.Module, average: AveragedModel) -> None:
        for _ in range(3):
            model(torch.rand(4, 2, generator=torch.Generator().manual_seed(int(average.n_averaged))))
            with torch.no_grad():
                model[0].weight.mul_(0.9)
            average.update_parameters(model)

    first = build()
    train(*first)
    saved = save(dict(zip(("model", "average"), first, strict=True)))
    train(*first)
    second = build()
    saved.into(dict(zip(("model", "average"), second, strict=True)))
    train(*second)
    assert differences(first[1].state_dict(), second[1].state_dict()) == []


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_every_dtype_in_every_form(save, differences):
    raw = torch.arange(2 * 3 * 16, dtype=torch.uint8)
    checked = 0
    for name in ITEM_BYTES:
        dtype = getattr(torch, name, None)
        if dtype is None:
            continue
        whole = (raw % 2 if dtype is torch.bool else raw).view(dtype).reshape(2, 3, -1)
        forms = {
            "dense": whole.clone(),
            "offset": whole[1],
            "transposed": whole.transpose(0, 2),
            "strided": whole[:, ::2],
            "scalar": whole[0, 0, 0],
            "empty": whole[:0],
        }
        live = {key: _laid_out_otherwise(form) for key, form in forms.items()}
        fresh: dict[str, Any] = {"forms": dict.fromkeys(forms)}
        saved = save({"forms": forms})
        saved.into({"forms": live})
        saved.into(fresh)
        assert differences(forms, live) == [], name
        assert differences(forms, fresh["forms"]) == [], name
        checked += 1
    assert checked >= 21


def _laid_out_otherwise(tensor: torch.Tensor) -> torch.Tensor:
    """Zeros of the same dtype and shape: every other row of a larger tensor, starting late."""
    if tensor.dim() < 2:
        return torch.zeros_like(tensor)
    rows, *rest = tensor.shape
    return torch.zeros(2 * rows + 1, *rest, dtype=tensor.dtype)[1::2]


def test_values_that_only_bits_tell_apart(save):
    odd = torch.tensor([0x7FC00001, 0x7F800001, -0x80000000], dtype=torch.int32).view(torch.float32)
    live = {"a": torch.zeros(3), "b": torch.zeros(3, 2)[:, 0]}
    save({"a": odd, "b": odd}).into(live)
    assert live["a"].view(torch.int32).tolist() == odd.view(torch.int32).tolist()
    assert live["b"].contiguous().view(torch.int32).tolist() == odd.view(torch.int32).tolist()


def test_lazy_conjugates_and_negatives(save):
    values = torch.tensor([1 + 2j, 3 - 4j])
    state = {"conj": values.conj(), "neg": values.conj().imag}
    live = {"conj": torch.zeros(2, dtype=torch.complex64).conj(), "neg": torch.zeros(2)}
    save(state).into(live)
    assert live["conj"].resolve_conj().tolist() == [1 - 2j, 3 + 4j]
    assert live["neg"].tolist() == [-2.0, 4.0]


def test_layout_of_the_live_tensor_is_kept(save):
    image = torch.rand(2, 3, 4, 5)
    live = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    whole = torch.zeros(4, 6)
    expanded = torch.zeros(1, 3).expand(2, 3)
    parts = {"image": live, "left": whole[:, :2], "right": whole[:, 2:], "expanded": expanded}
    state = {"image": image, "left": torch.rand(4, 2), "right": torch.rand(4, 4)}
    state["expanded"] = torch.tensor([[1.0, 2.0, 3.0]]).expand(2, 3)
    save(state).into(parts)
    assert torch.equal(live, image)
    assert live.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(whole, torch.cat([state["left"], state["right"]], 1))
    assert torch.equal(expanded, state["expanded"])


@pytest.mark.filterwarnings("ignore:Sparse", "ignore:.*beta", "ignore:.*prototype stage")
def test_sparse_tensors(save):
    dense = torch.tensor([[0.0, 1.0, 0.0, 0.0], [2.0, 0.0, 0.0, 3.0], [0.0] * 4, [0.0, 0.0, 4.0, 0.0]])
    twice = torch.sparse_coo_tensor([[0, 0], [1, 1]], [1.0, 2.0], (4, 4))
    forms = {
        "coo": dense.to_sparse(),
        "uncoalesced": twice,
        "hybrid": dense.reshape(2, 2, 4).to_sparse(1).bfloat16(),
        "empty": torch.zeros(4, 4).to_sparse(),
        "csr": dense.to_sparse_csr(),
        "csc": dense.to_sparse_csc(),
        "bsr": dense.to_sparse_bsr((2, 2)),
        "bsc": dense.to_sparse_bsc((2, 2)),
    }
    saved = save({"forms": forms})
    live = {k: _other_content(v) for k, v in forms.items()}
    objects = dict(live)
    fresh: dict[str, Any] = {"forms": None}
    saved.into({"forms": live})
    saved.into(fresh)
    for restored in (live, fresh["forms"]):
        for name, tensor in forms.items():
            assert restored[name].layout is tensor.layout, name
            assert str(restored[name]) == str(tensor), name
            if tensor.layout is torch.sparse_coo:
                assert restored[name].is_coalesced() == tensor.is_coalesced(), name
    assert all(live[name] is objects[name] for name in forms)


def _other_content(tensor: torch.Tensor) -> torch.Tensor:
    other = torch.ones(tensor.shape, dtype=tensor.dtype)
    if tensor.layout is torch.sparse_coo:
        return other.to_sparse(tensor.sparse_dim())
    block = tuple(tensor.values().shape[1:]) or None
    return other.to_sparse(layout=tensor.layout, blocksize=block)


def test_dense_where_sparse_was_is_refused(save):
    with pytest.raises(MismatchError, match=r"torch\.sparse"):
        save({"x": torch.eye(2).to_sparse()}).into({"x": torch.eye(2)})
    with pytest.raises(MismatchError, match=r"torch\.sparse"):
        save({"x": torch.eye(2)}).into({"x": torch.eye(2).to_sparse()})
    with pytest.raises(MismatchError, match=r"coo float32\[2, 2\], live: coo float64\[2, 2\]"):
        save({"x": torch.eye(2).to_sparse()}).into({"x": torch.eye(2).double().to_sparse()})


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_kept_is_refused_by_name(save):
    from torch._subclasses.fake_tensor import FakeTensorMode

    refused = {
        "torch.qint8": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "meta device": torch.ones(2, device="meta"),
        "FakeTensor": FakeTensorMode().from_tensor(torch.ones(2)),
        "torch.bits8": torch.empty(2, dtype=torch.bits8),
    }
    for what, tensor in refused.items():
        with pytest.raises(UnsupportedError, match=rf"data/deep/0 is .*{what}"):
            save({"data": {"deep": [tensor]}})


def test_generators(save):
    generator = torch.Generator().manual_seed(3)
    torch.randn(5, generator=generator)
    live = torch.Generator()
    fresh: dict[str, Any] = {"g": None}
    saved = save({"g": generator})
    saved.into({"g": live})
    saved.into(fresh)
    expected = torch.randn(9, generator=generator)
    assert torch.equal(torch.randn(9, generator=live), expected)
    assert torch.equal(torch.randn(9, generator=fresh["g"]), expected)
    assert live.initial_seed() == 3


def _scaled_steps(scaler: torch.amp.GradScaler, model: nn.Linear, steps: range) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    scales = []
    for step in steps:
        optimizer.zero_grad()
        loss = model(torch.ones(1, 2)).sum() * (float("inf") if step == 4 else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return scales


@pytest.mark.parametrize("kill_at", [0, 2, 5])
def test_loss_scaler_goes_on_exactly(kill_at, save):
    def build() -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)

    scaler, model = build(), nn.Linear(2, 1)
    _scaled_steps(scaler, model, range(kill_at))
    saved = save({"scaler": scaler})
    expected = _scaled_steps(scaler, model, range(kill_at, 12))
    fresh = build()
    for _ in range(2):
        saved.into({"scaler": fresh})
        assert _scaled_steps(fresh, model, range(kill_at, 12)) == expected
    assert len(set(expected)) > 2


def test_loss_scaler_switched_off_or_caught_in_between(save):
    off = torch.amp.GradScaler("cpu", enabled=False)
    save({"s": off}).into({"s": torch.amp.GradScaler("cpu", enabled=False)})
    with pytest.raises(MismatchError, match="checkpoint: disabled, live: enabled"):
        save({"s": off}).into({"s": torch.amp.GradScaler("cpu")})
    scaler, model = torch.amp.GradScaler("cpu"), nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters())
    scaler.scale(model(torch.ones(2)).sum()).backward()
    scaler.step(optimizer)
    with pytest.raises(UnsupportedError, match=r"s is between .* update\(\)"):
        save({"s": scaler})


def test_parameters_in_containers_and_on_their_own(save, differences):
    def build(value: float) -> dict[str, Any]:
        return {
            "list": nn.ParameterList([torch.full((2,), value), torch.full((1,), value)]),
            "dict": nn.ParameterDict({"a": torch.full((2,), value)}),
            "raw": nn.Parameter(torch.full((2, 2), value)),
            "plain": {"inner": [torch.full((2,), value, dtype=torch.float16)]},
        }

    live = build(0.0)
    raw = live["raw"]
    save(build(3.0)).into(live)
    assert live["raw"] is raw
    assert raw.requires_grad
    assert raw.tolist() == [[3.0, 3.0], [3.0, 3.0]]
    assert live["plain"]["inner"][0].tolist() == [3.0, 3.0]
    assert differences(live["list"].state_dict(), build(3.0)["list"].state_dict()) == []
    assert live["dict"]["a"].tolist() == [3.0, 3.0]


def test_autograd_notices_a_restore(save):
    weight = nn.Parameter(torch.ones(2))
    saved = save({"weight": weight})
    loss = (weight * weight).sum()
    saved.into({"weight": weight})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
