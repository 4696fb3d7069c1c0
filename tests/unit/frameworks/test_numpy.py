from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from holdfast.domain import tree
from holdfast.domain.tensors import TensorRef, TensorSpec
from holdfast.domain.tree import Component
from holdfast.errors import DamagedError, MismatchError, UnsupportedError
from holdfast.frameworks import walk
from holdfast.frameworks.numpy import BUILDERS, FRAMEWORK

NAMES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
         "float16", "float32", "float64", "complex64", "complex128"]  # fmt: skip
dtypes = st.tuples(st.sampled_from("<>"), st.sampled_from(NAMES)).map(
    lambda pair: np.dtype(pair[1]).newbyteorder(pair[0])
)


@st.composite
def any_array(draw: st.DrawFn) -> np.ndarray:
    """Random bits in any dtype, shape and layout."""
    dtype = draw(dtypes)
    shape = draw(arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    size_bytes = dtype.itemsize * int(np.prod(shape))
    raw = bytearray(draw(st.binary(min_size=size_bytes, max_size=size_bytes)))
    array = np.frombuffer(raw, dtype=np.uint8 if dtype.kind == "b" else dtype)
    if dtype.kind == "b":
        array = (array & 1).astype(bool)
    array = array.reshape(shape)
    layout = draw(st.sampled_from(["as is", "transposed", "reversed", "strided"]))
    if layout == "transposed":
        return array.T
    if layout == "reversed" and array.ndim:
        return array[::-1]
    if layout == "strided" and array.ndim:
        wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), dtype)
        wide[..., ::2] = array
        return wide[..., ::2]
    return array


def little(array: np.ndarray) -> bytes:
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


def saved(state: dict[str, Any]) -> tuple[Any, dict[str, TensorSpec], dict[str, bytes]]:
    """What a manifest and its packs would hold of a state."""
    captured = walk.capture(state)
    node = msgspec.msgpack.decode(msgspec.msgpack.encode(tree.encode(captured.tree)))
    sources = captured.tensors
    return (
        tree.decode(node),
        {name: source.spec for name, source in sources.items()},
        {name: bytes(source.read()) for name, source in sources.items()},
    )


def load(state: dict[str, Any], taken: tuple[Any, dict[str, TensorSpec], dict[str, bytes]]) -> None:
    values, specs, data = taken
    plan = walk.plan(state, values, specs)
    plan.raise_differences("The checkpoint")
    for name, target in plan.reads:
        target.buffer()[:] = np.frombuffer(data[name], np.uint8)
        target.commit()
    plan.finish()


@given(any_array(), st.data())
def test_any_array_comes_back_bit_for_bit_into_any_layout(array: np.ndarray, data: st.DataObject) -> None:
    like = np.zeros_like(array, dtype=array.dtype.newbyteorder(data.draw(st.sampled_from("<>"))))
    if like.ndim and data.draw(st.booleans()):
        like = np.asfortranarray(like)
    before, state = like, {"x": like}
    load(state, saved({"x": array}))
    assert state["x"] is before
    assert little(like) == little(array)
    assert like.shape == array.shape


@given(any_array())
def test_any_array_comes_back_where_nothing_is_live(array: np.ndarray) -> None:
    state: dict[str, Any] = {"x": None}
    load(state, saved({"x": array}))
    assert (state["x"].shape, state["x"].dtype.name) == (array.shape, array.dtype.name)
    assert little(state["x"]) == little(array)


def test_dense_memory_is_neither_copied_to_save_nor_to_restore() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    source, device = FRAMEWORK.source(array, "x")
    assert device == "cpu"
    assert np.shares_memory(source.read(), array)
    assert np.shares_memory(FRAMEWORK.target(array).buffer(), array)


def test_nothing_is_touched_before_the_commit_of_a_strided_target() -> None:
    array = np.ones((4, 6))[:, ::2]
    target = FRAMEWORK.target(array)
    target.buffer()[:] = 0
    assert array.all()
    target.commit()
    assert not array.any()


def test_a_read_only_array_is_replaced_like_a_plain_value() -> None:
    live = np.zeros(2)
    live.flags.writeable = False
    state: dict[str, Any] = {"x": live}
    load(state, saved({"x": np.arange(3.0)}))
    assert state["x"].tolist() == [0, 1, 2]
    assert not live.any()


def test_a_memory_map_is_restored_in_place(tmp_path: Any) -> None:
    live = np.memmap(tmp_path / "x", dtype=np.int16, mode="w+", shape=(3,))
    load({"x": live}, saved({"x": np.array([1, 2, 3], np.int16)}))
    live.flush()
    assert (tmp_path / "x").read_bytes() == b"\1\0\2\0\3\0"


@pytest.mark.parametrize("like", [np.zeros(2, np.float32), np.zeros(3), np.zeros((1, 3), np.float32)])
def test_another_dtype_or_shape_is_a_mismatch_and_touches_nothing(like: np.ndarray) -> None:
    with pytest.raises(MismatchError, match="x"):
        load({"x": like}, saved({"x": np.ones(3, np.float32)}))
    assert not like.any()


class Tagged(np.ndarray):
    pass


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (np.ma.masked_array([1.0], mask=[True]), "MaskedArray"),
        (np.array([1.0]).view(Tagged), "Tagged"),
        (np.array([object()]), "dtype object"),
        (np.zeros(1, [("a", "f4")]), "dtype void32"),
        (np.array(["a"]), "dtype str"),
        (np.array(["2020-01-01"], "M8[D]"), "dtype datetime64"),
        (np.zeros(1, np.longdouble), "dtype (float128|float96|longdouble)"),
    ],
)
def test_what_is_no_plain_numeric_array_is_refused_by_name(bad: Any, why: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"model/x is .*{why}"):
        walk.capture({"model": {"x": bad}})


def test_a_dtype_that_numpy_lacks_names_the_way_out() -> None:
    with pytest.raises(UnsupportedError, match=r"float4_e2m1fn_x2.*ml_dtypes"):
        FRAMEWORK.new_tensor(TensorSpec("float4_e2m1fn_x2", (2,)), "cpu")


def bits(name: str) -> np.random.BitGenerator:
    return getattr(np.random, name)(7)


GENERATORS = ["MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"]
KINDS = {
    "generator": lambda name: np.random.Generator(bits(name)),
    "random_state": lambda name: np.random.RandomState(bits(name)),
    "bit_generator": bits,
}


def draws(value: Any) -> list[Any]:
    if isinstance(value, np.random.BitGenerator):
        return value.random_raw(700).tolist()
    uneven = [value.standard_normal(3).tolist(), value.bytes(3)]
    if isinstance(value, np.random.Generator):
        uneven.append(value.integers(0, 9, 5, dtype=np.uint32).tolist())
    return [*uneven, value.random(700).tolist()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("fresh", [True, False])
def test_every_generator_goes_on_where_it_was(kind: str, name: str, fresh: bool) -> None:
    value = KINDS[kind](name)
    draws(value)
    taken = saved({"rng": value})
    expected = [draws(value), draws(value)]
    live = KINDS[kind](name)
    state = {"rng": None if fresh else live}
    load(state, taken)
    assert fresh or state["rng"] is live
    assert type(state["rng"]) is type(value)
    assert [draws(state["rng"]), draws(state["rng"])] == expected


def test_the_second_gaussian_of_a_pair_is_not_lost() -> None:
    value = np.random.RandomState(3)
    value.randn()
    live, taken = np.random.RandomState(9), saved({"r": value})
    load({"r": live}, taken)
    assert live.randn() == value.randn()


def test_children_spawned_later_are_the_same_whatever_seed_the_new_process_drew() -> None:
    value = np.random.default_rng([1, 2])
    value.spawn(2)
    live, taken = np.random.default_rng(), saved({"rng": value})
    load({"rng": live}, taken)
    assert live.spawn(1)[0].random() == value.spawn(1)[0].random()


def test_another_algorithm_is_a_mismatch() -> None:
    with pytest.raises(MismatchError, match=r"checkpoint: PCG64, live: Philox"):
        load({"rng": np.random.Generator(np.random.Philox(1))}, saved({"rng": np.random.default_rng(1)}))


class Mine(np.random.PCG64):
    pass


def test_a_generator_of_the_users_own_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="sampler/rng draws from a Mine"):
        walk.capture({"sampler": {"rng": np.random.Generator(Mine(1))}})


junk = (
    st.none()
    | st.integers(-(2**130), 2**130)
    | st.floats()
    | st.text(max_size=4)
    | st.lists(st.integers(), max_size=5)
)


def places(state: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if not isinstance(state, dict):
        return [path]
    return [path, *(p for k, v in state.items() for p in places(v, (*path, k)))]


@given(st.sampled_from(GENERATORS), junk, st.data())
def test_a_forged_state_is_refused_or_works(name: str, value: Any, data: st.DataObject) -> None:
    values, specs, _ = saved({"rng": KINDS["generator"](name)})
    state = values["rng"].state
    *outer, last = data.draw(st.sampled_from(places(state)[1:]))
    part = state
    for key in outer:
        part = part[key]
    part[last] = value
    live = KINDS["generator"](name)
    try:
        load({"rng": live}, (values, specs, {}))
    except MismatchError:
        return
    draws(live)


@pytest.mark.parametrize("state", [None, 3, {}, {"state": {"bit_generator": "os"}, "seeds": None}])
def test_a_forged_state_builds_nothing(state: Any) -> None:
    with pytest.raises(DamagedError, match="x/rng"):
        BUILDERS["numpy.generator"](state, "x/rng", walk.LoadPlan({}, {}))


@pytest.mark.parametrize(("name", "field"), [("MT19937", "pos"), ("Philox", "buffer_pos")])
@pytest.mark.parametrize("position", [-1, 10**6, 1.5, None])
def test_a_position_beyond_the_generators_own_table_is_refused(name: str, field: str, position: Any) -> None:
    values, specs, _ = saved({"rng": bits(name)})
    state = values["rng"].state["state"]
    (state if field in state else state["state"])[field] = position
    with pytest.raises(MismatchError):
        load({"rng": bits(name)}, (values, specs, {}))


def test_the_global_generator_is_captured_without_a_draw_and_put_back() -> None:
    before = np.random.get_state(legacy=False)
    try:
        np.random.seed(5)
        np.random.standard_normal()
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(tree.encode(FRAMEWORK.rng_state())))
        expected = [np.random.standard_normal(), np.random.random_sample()]
        np.random.seed(6)
        FRAMEWORK.set_rng_state(tree.decode(state))
        assert [np.random.standard_normal(), np.random.random_sample()] == expected
        with pytest.raises(MismatchError, match="MT19937"):
            FRAMEWORK.set_rng_state({"state": {"bit_generator": "PCG64"}})
    finally:
        np.random.set_state(before)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (np.float32(0.5), 0.5),
        (np.array(3), 3.0),
        (np.bool_(True), 1.0),
        (np.ones(1), None),
        (np.array(1j), None),
        (1, None),
    ],
)
def test_scalar(value: object, number: float | None) -> None:
    assert FRAMEWORK.scalar(value) == number


def test_the_version_is_part_of_the_environment() -> None:
    assert FRAMEWORK.environment().versions == {"numpy": np.__version__}


def test_an_array_is_a_tensor_and_a_numpy_scalar_is_a_plain_value() -> None:
    captured = walk.capture({"array": np.zeros(()), "scalar": np.float32(1)})
    assert captured.tree == {"array": TensorRef("array", "numpy"), "scalar": np.float32(1)}
    assert isinstance(walk.capture({"r": np.random.default_rng()}).tree["r"], Component)
