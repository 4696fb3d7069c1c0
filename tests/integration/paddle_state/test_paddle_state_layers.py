"""Layers, tensors of every kind, and what is refused by name."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import paddle
import pytest

from holdfast.domain.tensors import ITEM_BYTES, TensorSpec
from holdfast.errors import DamagedError, MismatchError, UnsupportedError
from holdfast.frameworks.paddle import FRAMEWORK, tensors
from holdfast.frameworks.walk import capture

pytestmark = [
    pytest.mark.paddle,
    pytest.mark.filterwarnings("ignore:When training, we now always track global mean:UserWarning"),
]


def test_everything_of_a_layer_comes_back(net, train, save, bits):
    model = net()
    optimizer = paddle.optimizer.SGD(0.1, parameters=model.parameters())
    train({"model": model, "optimizer": optimizer}, 2)
    model.norm.eval()
    model.last.bias.stop_gradient = True
    again = net()
    addresses = [p.data_ptr() for p in again.parameters()]
    save({"model": model}).into({"model": again})
    assert bits(again) == bits(model)
    assert again.cache.numpy().tobytes() == model.cache.numpy().tobytes()
    assert int(again.seen) == 2
    assert [m.training for m in again.sublayers(True)] == [m.training for m in model.sublayers(True)]
    assert again.norm.training is False
    assert again.last.bias.stop_gradient
    assert not again.last.bias.trainable
    assert [p.data_ptr() for p in again.parameters()] == addresses
    assert again.again.weight is again.first.weight


@pytest.mark.filterwarnings("ignore:The program will return to single-card operation:UserWarning")
def test_names_do_not_depend_on_wrappers(net, save, bits):
    model, again = net(), net()
    wrapped = paddle.DataParallel(again)
    save({"model": model}).into({"model": wrapped})
    assert bits(again) == bits(model)
    plain = net()
    save({"model": wrapped}).into({"model": plain})
    assert bits(plain) == bits(model)


def test_every_difference_of_layers_is_reported(save):
    def make(**layers: Any) -> dict[str, Any]:
        model = paddle.nn.Layer()
        for name, layer in layers.items():
            model.add_sublayer(name, layer)
        return {"model": model}

    linear = paddle.nn.Linear
    saved = save(make(a=linear(2, 3), b=linear(2, 2), c=linear(2, 2)))
    other = make(a=linear(2, 4), b=linear(2, 2, bias_attr=False), d=linear(1, 1, bias_attr=False))
    before = other["model"].a.weight.numpy().tobytes()
    with pytest.raises(MismatchError) as caught:
        saved.into(other)
    assert caught.value.missing == ("model/d.weight",)
    assert set(caught.value.unexpected) == {"model/b.bias", "model/c.weight", "model/c.bias"}
    assert {line.split()[0] for line in caught.value.mismatched} == {"model/a.weight", "model/a.bias"}
    assert other["model"].a.weight.numpy().tobytes() == before


def test_ties_must_agree(net, save):
    loose = net()
    loose.again = paddle.nn.Linear(6, 8, bias_attr=False)
    with pytest.raises(MismatchError, match=r"tied to again\.weight"):
        save({"model": net()}).into({"model": loose})
    with pytest.raises(MismatchError, match="on its own"):
        save({"model": loose}).into({"model": net()})


def test_non_persistable_buffers_may_grow(save):
    def make(size: int | None) -> paddle.nn.Layer:
        layer = paddle.nn.Layer()
        if size is not None:
            layer.register_buffer("mask", paddle.rand([size]), persistable=False)
        return layer

    for was, now in [(3, 3), (3, 5), (3, None), (None, 3)]:
        old, new = make(was), make(now)
        save({"m": old}).into({"m": new})
        if was is not None:
            assert new.mask.numpy().tobytes() == old.mask.numpy().tobytes()
            assert list(new.state_dict()) == []


def test_a_buffer_may_come_and_go(save):
    old, new = paddle.nn.Layer(), paddle.nn.Layer()
    old.register_buffer("best", paddle.ones([2]))
    new.register_buffer("best", None)
    save({"m": old}).into({"m": new})
    assert new.best.tolist() == [1, 1]
    old.best = None
    save({"m": old}).into({"m": new})
    assert new.best is None


@pytest.mark.parametrize("dtype", sorted(tensors.DTYPES))
@pytest.mark.parametrize("shape", [(), (0, 3), (4,), (3, 5)])
def test_every_dtype_and_shape(dtype, shape, save):
    def make(seed: int) -> paddle.Tensor:
        tensor, _ = tensors.new_tensor(TensorSpec(dtype, shape), "cpu")
        raw = np.random.default_rng(seed).integers(
            0, 2 if dtype == "bool" else 256, size=tensor.size * tensor.element_size()
        )
        target = FRAMEWORK.target(tensor)
        target.buffer()[:] = raw
        target.commit()
        return tensor

    live, again = make(1), make(2)
    assert FRAMEWORK.source(live, "x")[0].spec.size_bytes == live.size * ITEM_BYTES[dtype]
    state: dict[str, Any] = {"new": None, "same": again}
    saved = save({"new": live, "same": live})
    saved.into(state)
    assert state["same"] is again
    for tensor in state.values():
        assert (tensor.dtype, list(tensor.shape)) == (live.dtype, list(shape))
        assert FRAMEWORK.source(tensor, "x")[0].read().tobytes() == saved.data["new"]


def test_all_dtypes_of_paddle_are_known():
    known = {tensors.DTYPES[name] for name in tensors.DTYPES}
    kinds = {d for d in vars(paddle.dtype).values() if isinstance(d, paddle.dtype)}
    assert {d.name for d in kinds - known} == {"PSTRING", "UINT16", "UNDEFINED"}


def test_uint16_would_be_bfloat16():
    assert paddle.zeros([1], dtype="uint16").dtype == paddle.bfloat16
    with pytest.raises(UnsupportedError, match="no dtype uint16"):
        tensors.new_tensor(TensorSpec("uint16", (1,)), "cpu")


def test_bytes_are_those_of_the_live_tensor():
    live = paddle.arange(6, dtype="float32")
    view = FRAMEWORK.source(live, "x")[0].read()
    live.add_(paddle.ones([6]))
    assert view.view("float32").tolist() == [1, 2, 3, 4, 5, 6]
    del live
    gc.collect()
    _ = [paddle.zeros([6]) for _ in range(50)]
    assert view.view("float32").tolist() == [1, 2, 3, 4, 5, 6]


def test_a_filled_tensor_is_seen_by_kernels_and_by_autograd():
    weight = paddle.create_parameter([2], "float32")
    loss = (weight * weight).sum()
    target = FRAMEWORK.target(weight)
    target.buffer().view("float32")[:] = [3, 4]
    target.commit()
    assert float((weight * 2).sum()) == 14
    with pytest.raises(RuntimeError, match="inplace"):
        loss.backward()
    (weight * weight).sum().backward()
    assert weight.grad.tolist() == [6, 8]


@pytest.mark.parametrize("cut", ["transposed", "columns", "every other", "middle", "empty"])
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_views_in_strides_of_their_own(cut, dtype, save):
    def make(base: paddle.Tensor) -> paddle.Tensor:
        return {
            "transposed": base.T,
            "columns": base[:, 1:3],
            "every other": base[::2, ::2],
            "middle": base[1:2],
            "empty": base[:, 2:2],
        }[cut]

    base = paddle.arange(20, dtype=dtype).reshape([4, 5])
    view, other = make(base), paddle.zeros([4, 5], dtype=dtype)
    target = make(other)
    expected = view.numpy()
    save({"v": view}).into({"v": target})
    assert (target.numpy() == expected).all()
    if other.data_ptr() <= target.data_ptr() < other.data_ptr() + 20 * other.element_size():
        assert int(other.sum()) == int(expected.sum()), "the rest of the base stays"


def test_a_buffer_is_the_same_memory_each_time():
    for tensor in (paddle.zeros([2, 3]), paddle.zeros([2, 3]).T):
        target = FRAMEWORK.target(tensor)
        target.buffer()[:] = 0
        target.buffer()[0] = 1
        assert target.buffer()[0] == 1
        target.commit()
        assert tensor.numpy().any()


def test_strided_views_are_really_views():
    base = paddle.arange(20, dtype="float32").reshape([4, 5])
    assert not base.T.is_contiguous()
    assert base.T.data_ptr() == base.data_ptr()


def coo(values: list[float], columns: list[int], dtype: str = "float32") -> paddle.Tensor:
    indices = [list(range(len(columns))), columns]
    return paddle.sparse.sparse_coo_tensor(indices, paddle.to_tensor(values, dtype=dtype), [3, 3])


def csr(values: list[float], columns: list[int], dtype: str = "float32") -> paddle.Tensor:
    crows = [min(i, len(columns)) for i in range(4)]
    return paddle.sparse.sparse_csr_tensor(crows, columns, paddle.to_tensor(values, dtype=dtype), [3, 3])


@pytest.mark.parametrize("make", [coo, csr])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sparse_tensors(make, dtype, save):
    saved = save({"s": make([1.5, -2.5], [1, 0], dtype)})
    live = make([7.0, 8.0, 9.0], [0, 1, 2], dtype)
    state: dict[str, Any] = {"s": live}
    saved.into(state)
    assert state["s"] is live
    fresh: dict[str, Any] = {"s": None}
    saved.into(fresh)
    for tensor in (live, fresh["s"]):
        assert tensor.nnz() == 2
        assert tensor.values().tolist() == [1.5, -2.5]
        assert tensor.to_dense().tolist() == make([1.5, -2.5], [1, 0], dtype).to_dense().tolist()
        assert save({"s": tensor}) == saved


def test_coalesced_is_kept(save):
    once = coo([1.0, 2.0], [1, 0]).coalesce()
    state: dict[str, Any] = {"s": None}
    save({"s": once}).into(state)
    assert state["s"].is_coalesced()
    assert not coo([1.0], [1]).is_coalesced()


def test_sparse_tensors_must_agree(save):
    saved = save({"s": coo([1.0], [1])})
    for live in (csr([1.0], [1]), coo([1.0], [1], "float64"), paddle.ones([3, 3])):
        with pytest.raises(MismatchError):
            saved.into({"s": live})
    with pytest.raises(MismatchError):
        save({"s": paddle.ones([3, 3])}).into({"s": coo([1.0], [1])})


@pytest.mark.parametrize("make", [coo, csr])
def test_sparse_indices_out_of_bounds_are_damage(make, save):
    saved = save({"s": make([1.0, 2.0], [1, 0])})
    name = "s/indices" if make is coo else "s/cols"
    saved.data[name] = np.full(len(saved.data[name]) // 8, 99, np.int64).tobytes()
    with pytest.raises(DamagedError, match="indices that do not fit"):
        saved.into({"s": make([1.0, 2.0], [1, 0])})


def test_what_cannot_be_kept_is_refused_by_name():
    with paddle.LazyGuard():
        lazy = paddle.nn.Linear(2, 2)
    with pytest.raises(UnsupportedError, match=r"model/weight is not initialised yet"):
        capture({"model": lazy})
    average = paddle.static.ExponentialMovingAverage.__new__(paddle.static.ExponentialMovingAverage)
    with pytest.raises(UnsupportedError, match="static program"):
        capture({"ema": average})


def test_scalars():
    assert FRAMEWORK.scalar(paddle.to_tensor(2.5)) == 2.5
    assert FRAMEWORK.scalar(paddle.to_tensor([3])) == 3.0
    assert FRAMEWORK.scalar(paddle.to_tensor(1.5).astype("bfloat16")) == 1.5
    assert FRAMEWORK.scalar(paddle.ones([2])) is None
    assert FRAMEWORK.scalar(2.5) is None
