"""Optimizers: the steps after a restore equal those of a run never interrupted, bit for bit."""

from __future__ import annotations

from typing import Any

import paddle
import pytest

from holdfast.errors import MismatchError, UnsupportedError
from holdfast.frameworks import walk
from holdfast.frameworks.rng import capture_rng, restore_rng

pytestmark = [
    pytest.mark.paddle,
    pytest.mark.filterwarnings("ignore:When training, we now always track global mean:UserWarning"),
    pytest.mark.filterwarnings("ignore:Accumulating with FP16:UserWarning"),
    pytest.mark.filterwarnings("ignore:Op `increment` is executed through:DeprecationWarning"),  # LookAhead
    pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning"),  # LBFGS
]
opt = paddle.optimizer
incubate = paddle.incubate.optimizer

OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: opt.SGD(0.1, parameters=p),
    "momentum": lambda p: opt.Momentum(0.1, parameters=p, use_nesterov=True, weight_decay=0.01),
    "momentum-multi": lambda p: opt.Momentum(0.1, parameters=p, use_multi_tensor=True),
    "adam": lambda p: opt.Adam(0.01, parameters=p),
    "adam-amsgrad": lambda p: opt.Adam(0.01, parameters=p, amsgrad=True),
    "adam-multi": lambda p: opt.Adam(0.01, parameters=p, use_multi_tensor=True),
    "adam-named": lambda p: opt.Adam(0.01, parameters=p, name="mine"),
    "adamw": lambda p: opt.AdamW(0.01, parameters=p, grad_clip=paddle.nn.ClipGradByGlobalNorm(0.5)),
    "adamax": lambda p: opt.Adamax(0.01, parameters=p),
    "adagrad": lambda p: opt.Adagrad(0.1, parameters=p, initial_accumulator_value=0.1),
    "adadelta": lambda p: opt.Adadelta(0.1, parameters=p),
    "rmsprop": lambda p: opt.RMSProp(0.01, parameters=p, momentum=0.5, centered=True),
    "lamb": lambda p: opt.Lamb(0.01, parameters=p),
    "nadam": lambda p: opt.NAdam(0.01, parameters=p),
    "radam": lambda p: opt.RAdam(0.01, parameters=p),
    "rprop": lambda p: opt.Rprop(0.01, parameters=p),
    "asgd": lambda p: opt.ASGD(0.01, batch_num=3, parameters=p),
    "lars": lambda p: incubate.LarsMomentumOptimizer(0.01, 0.9, parameter_list=p),
    "lookahead": lambda p: incubate.LookAhead(opt.Adam(0.01, parameters=p), alpha=0.5, k=3),
    "scheduled": lambda p: opt.AdamW(opt.lr.CosineAnnealingDecay(0.05, 5), parameters=p),
    "groups": lambda p: opt.AdamW(
        0.01,
        parameters=[
            {"params": p[:2], "learning_rate": 0.5, "weight_decay": 0.1, "beta1": 0.8},
            {"params": p[2:]},
        ],
    ),
    "momentum-groups": lambda p: opt.Momentum(
        0.01, parameters=[{"params": p[:2], "momentum": 0.5, "weight_decay": 0.1}, {"params": p[2:]}]
    ),
}


def bf16(shape: list[int]) -> paddle.Tensor:
    return paddle.create_parameter(
        shape, "bfloat16", default_initializer=paddle.nn.initializer.Constant(1.25)
    )


def build(net: Any, kind: str) -> dict[str, Any]:
    model = net()
    optimizer = OPTIMIZERS[kind](model.parameters())
    state = {"model": model, "optimizer": optimizer}
    if isinstance(optimizer._learning_rate, opt.lr.LRScheduler):
        state["scheduler"] = optimizer._learning_rate
    return state


def kept(optimizer: Any) -> list[Any]:
    """Accumulators and masters without their names: what they are and hold."""
    found = [
        (kind, str(value.dtype), list(value.shape), value.numpy().tobytes())
        for kind, values in optimizer._accumulators.items()
        for value in values.values()
    ]
    masters = [value.numpy().tobytes() for value in optimizer._master_weights.values()]
    inner = getattr(optimizer, "inner_optimizer", None)
    return [sorted(found), sorted(masters), kept(inner) if inner is not None else None]


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("stepped", [False, True], ids=["fresh", "stepped"])
def test_training_goes_on_bit_for_bit(kind, stepped, net, train, save, bits):
    state = build(net, kind)
    train(state, 4)
    rng, saved = capture_rng(), save(state)
    expected = train(state, 4, first=4)

    build(net, "adam")  # Paddle's names shift
    again = build(net, kind)
    if stepped:
        train(again, 2)
    saved.into(again)
    restore_rng(rng)
    assert kept(again["optimizer"]) != kept(state["optimizer"]) or kind == "sgd"
    assert train(again, 4, first=4) == expected
    assert bits(again["model"]) == bits(state["model"])
    assert kept(again["optimizer"]) == kept(state["optimizer"])


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_checkpoint_from_before_the_first_step_leaves_no_state(kind, net, train, save, bits):
    state = build(net, kind)
    rng, saved = capture_rng(), save(state)
    expected = train(state, 3)
    again = build(net, kind)
    train(again, 3)
    saved.into(again)
    restore_rng(rng)
    assert train(again, 3) == expected
    assert bits(again["model"]) == bits(state["model"])
    assert kept(again["optimizer"]) == kept(state["optimizer"])


def test_live_accumulators_are_filled_where_they_are(net, train, save):
    state, again = build(net, "adam"), build(net, "adam")
    train(state, 1)
    train(again, 2)
    moments = again["optimizer"]._accumulators["moment1"]
    before = {name: (value, value.data_ptr()) for name, value in moments.items()}
    save(state).into(again)
    after = again["optimizer"]._accumulators["moment1"]
    assert {name: (value, value.data_ptr()) for name, value in after.items()} == before


def test_values_waiting_for_the_first_step_are_kept(net, train, save, bits):
    first = build(net, "adam")
    train(first, 2)
    waiting = build(net, "adam")
    waiting["model"].set_state_dict(first["model"].state_dict())
    renamed = _renamed(first["optimizer"], first["model"], waiting["model"])
    waiting["optimizer"].set_state_dict(renamed)
    assert waiting["optimizer"]._accumulators_holder
    saved, rng = save(waiting), capture_rng()
    expected = train(waiting, 2)
    again = build(net, "adam")
    saved.into(again)
    restore_rng(rng)
    assert train(again, 2) == expected
    assert kept(again["optimizer"]) == kept(waiting["optimizer"])


def _renamed(optimizer: Any, old: Any, new: Any) -> dict[str, Any]:
    names = {o.name: n.name for o, n in zip(old.parameters(), new.parameters(), strict=True)}
    return {
        f"{names[owner]}_{kind}_0": value
        for kind, values in optimizer._accumulators.items()
        for owner, value in values.items()
    }


def test_values_that_wait_in_the_live_optimizer_do_not_win(net, train, save):
    state = build(net, "adam")
    train(state, 1)
    again = build(net, "adam")
    again["optimizer"].set_state_dict({"anything_moment1_0": paddle.ones([2])})
    save(state).into(again)
    assert kept(again["optimizer"]) == kept(state["optimizer"])
    assert not again["optimizer"]._accumulators_holder
    for parameter in again["model"].unused.parameters():
        parameter.grad = paddle.ones_like(parameter)
    train(again, 1)  # makes the accumulators of what was unused; Paddle would look for them in vain


@pytest.mark.parametrize("kind", ["Adam", "AdamW", "Momentum", "Lamb", "Adamax", "ASGD", "Rprop", "SGD"])
def test_master_weights_of_bf16_parameters(kind, save):
    def make() -> tuple[dict[str, Any], Any]:
        weight = bf16([3, 2])
        optimizer = getattr(opt, kind)(0.1, parameters=[weight])
        optimizer._multi_precision = True  # what amp.decorate sets for O2
        return {"optimizer": optimizer, "weight": weight}, weight

    state, weight = make()
    block = paddle.static.default_main_program().global_block()
    state["optimizer"]._create_accumulators(block, [weight])  # Adam's CPU kernel has no bf16
    for values in state["optimizer"]._accumulators.values():
        for value in values.values():
            value.set_value(paddle.full_like(value, 3))
    for value in state["optimizer"]._master_weights.values():
        value.set_value(paddle.rand(value.shape))
    again, target = make()
    save(state).into(again)
    assert kept(again["optimizer"]) == kept(state["optimizer"])
    assert len(again["optimizer"]._master_weights) == 1
    assert again["optimizer"]._already_create_accumulator == {target.name} - (
        set() if weight.name in state["optimizer"]._already_create_accumulator else {target.name}
    )
    assert target.numpy().tobytes() == weight.numpy().tobytes()
    for values in again["optimizer"]._accumulators.values():
        master = again["optimizer"]._master_weights[target.name]
        assert list(values) == [master.name]


def test_bf16_steps_go_on_bit_for_bit(save):
    def make() -> dict[str, Any]:
        weight = bf16([4])
        rprop = opt.Rprop(0.1, parameters=[weight], multi_precision=True)
        return {"weight": weight, "optimizer": rprop}

    def steps(state: dict[str, Any]) -> bytes:
        for _ in range(3):
            loss = (state["weight"] * state["weight"]).sum()
            loss.backward()
            state["optimizer"].step()
            state["optimizer"].clear_grad()
        return state["weight"].numpy().tobytes()

    state = make()
    steps(state)
    saved = save(state)
    expected = steps(state)
    again = make()
    saved.into(again)
    assert steps(again) == expected
    assert kept(again["optimizer"]) == kept(state["optimizer"])


def test_master_weights_that_the_checkpoint_lacks_go(save):
    weight = bf16([2])

    def make() -> dict[str, Any]:
        return {"o": opt.SGD(0.1, parameters=[weight], multi_precision=True)}

    saved, again = save(make()), make()
    weight.sum().backward()
    again["o"].step()
    assert again["o"]._master_weights
    saved.into(again)
    assert not again["o"]._master_weights


def test_parameters_are_matched_by_name_not_by_order(net, train, save):
    state = build(net, "adam")
    train(state, 2)
    model = net()
    reverse = opt.Adam(0.01, parameters=model.parameters()[::-1])
    save(state).into({"model": model, "optimizer": reverse})
    for old, new in zip(state["model"].parameters(), model.parameters(), strict=True):
        moments = state["optimizer"]._accumulators["moment1"], reverse._accumulators["moment1"]
        assert (old.name in moments[0]) == (new.name in moments[1])
        if old.name in moments[0]:
            assert moments[0][old.name].numpy().tobytes() == moments[1][new.name].numpy().tobytes()


def test_every_difference_is_reported(net, save):
    saved = save(build(net, "adam"))
    model = net()
    with pytest.raises(MismatchError) as caught:
        saved.into({"model": model, "optimizer": opt.Adam(0.01, parameters=model.first.parameters())})
    assert "optimizer/model/last.weight" in caught.value.unexpected
    with pytest.raises(MismatchError) as caught:
        saved.into({"model": model, "optimizer": opt.AdamW(0.01, parameters=model.parameters())})
    assert caught.value.mismatched == ("optimizer (checkpoint: Adam, live: AdamW)",)
    scheduled = opt.Adam(opt.lr.StepDecay(0.1, 3), parameters=model.parameters())
    with pytest.raises(MismatchError) as caught:
        saved.into({"model": model, "optimizer": scheduled})
    assert "optimizer/learning_rate" in str(caught.value)


def test_without_names_shapes_are_compared(save):
    def make(shape: list[int]) -> dict[str, Any]:
        return {"o": opt.Adam(0.1, parameters=[paddle.create_parameter(shape, "float32")])}

    with pytest.raises(MismatchError, match=r"o/0\.0"):
        save(make([2])).into(make([3]))
    two = opt.Adam(0.1, parameters=[paddle.create_parameter([2], "float32") for _ in range(2)])
    with pytest.raises(MismatchError, match="o parameters"):
        save(make([2])).into({"o": two})


def test_nothing_is_touched_before_everything_fits(net, train, save, bits):
    state = build(net, "adam")
    train(state, 2)
    again = build(net, "adam")
    saved = save(state | {"extra": paddle.ones([2])})
    before = bits(again["model"])
    with pytest.raises(MismatchError):
        saved.into(again)
    assert bits(again["model"]) == before
    assert not again["optimizer"]._accumulators


def test_a_float_learning_rate_reaches_the_kernels(net, train, save):
    state = build(net, "sgd")
    train(state, 1)
    state["optimizer"].set_lr(0.01)
    again = build(net, "sgd")
    train(again, 1)
    save(state).into(again)
    assert again["optimizer"].get_lr() == 0.01
    assert float(again["optimizer"]._global_learning_rate()) == pytest.approx(0.01)


@pytest.mark.parametrize("order", [("scheduler", "optimizer"), ("optimizer", "scheduler")])
def test_a_scheduler_in_the_optimizer_and_in_the_state(order, net, train, save):
    state = build(net, "scheduled")
    train(state, 3)
    again = build(net, "scheduled")
    save({name: state[name] for name in ("model", *order)}).into(again)
    assert again["optimizer"]._learning_rate is again["scheduler"]
    assert again["scheduler"].last_epoch == 3
    assert again["optimizer"].get_lr() == state["optimizer"].get_lr()


def test_given_values_and_their_way_back(save):
    def make(lr: float, beta: float, decay: float, clip: float) -> dict[str, Any]:
        weights = [paddle.create_parameter([2], "float32") for _ in range(2)]
        groups = [{"params": weights[:1], "learning_rate": lr * 2, "weight_decay": decay}]
        groups.append({"params": weights[1:]})
        clipped = paddle.nn.ClipGradByNorm(clip)
        return {"o": opt.Adam(lr, beta1=beta, parameters=groups, weight_decay=0.5, grad_clip=clipped)}

    old, new = make(0.1, 0.9, 0.01, 1.0), make(0.2, 0.8, 0.02, 2.0)
    was, want = walk.given(old), walk.given(new)
    changes = {name: value for name, value in want.items() if was[name] != value}
    assert {"o.learning_rate", "o.beta1", "o.groups.0.learning_rate", "o.groups.0.weight_decay"} < set(
        changes
    )
    assert was["o.grad_clip"]["values"]["clip_norm"] == 1.0
    save(old).into(new)
    assert walk.given(new) == was
    first = new["o"]._param_groups[0]["params"][0]
    assert first.optimize_attr["learning_rate"] == 0.2
    walk.apply_given(new, changes)
    assert walk.given(new) == want
    assert first.optimize_attr["learning_rate"] == 0.4
    assert first.regularizer._coeff == 0.02


def test_lbfgs_goes_on_bit_for_bit(save):
    def make() -> dict[str, Any]:
        weight = paddle.create_parameter(
            [3], "float32", default_initializer=paddle.nn.initializer.Constant(2.0)
        )
        optimizer = opt.LBFGS(0.5, max_iter=2, parameters=[weight], line_search_fn="strong_wolfe")
        return {"weight": weight, "optimizer": optimizer}

    def steps(state: dict[str, Any]) -> bytes:
        def closure() -> paddle.Tensor:
            state["optimizer"].clear_grad()
            loss = ((state["weight"] - paddle.to_tensor([1.0, -2.0, 0.5])) ** 4).sum()
            loss.backward()
            return loss

        for _ in range(2):
            state["optimizer"].step(closure)
        return state["weight"].numpy().tobytes()

    state = make()
    fresh = save(state)
    from_start = steps(state)
    saved = save(state)
    expected = steps(state)
    again = make()
    saved.into(again)
    assert steps(again) == expected
    fresh.into(again)
    assert steps(again) == from_start


def test_model_average_goes_on_bit_for_bit(net, train, save, bits):
    def make() -> dict[str, Any]:
        state = build(net, "sgd")
        average = paddle.incubate.ModelAverage(0.5, state["model"].parameters(), 2, 4)
        return state | {"average": average}

    def steps(state: dict[str, Any]) -> Any:
        for step in range(3):
            loss = state["model"](paddle.ones([4, 6]) * step).mean()
            loss.backward()
            state["optimizer"].step()
            state["average"].step()
            state["optimizer"].clear_grad()
        with state["average"].apply():
            return bits(state["model"])

    state = make()
    steps(state)
    rng, saved = capture_rng(), save(state)
    expected = steps(state)
    again = make()
    saved.into(again)
    restore_rng(rng)
    assert steps(again) == expected


@pytest.mark.parametrize("to_zero", [True, False])
def test_parameters_that_a_batch_does_not_reach(to_zero, save):
    def make() -> dict[str, Any]:
        model = paddle.nn.LayerList([paddle.nn.Linear(2, 2) for _ in range(2)])
        return {"model": model, "optimizer": opt.Adam(0.1, parameters=model.parameters())}

    def steps(state: dict[str, Any], branches: list[int]) -> None:
        for branch in branches:
            state["model"][branch](paddle.ones([1, 2])).sum().backward()
            state["optimizer"].step()
            state["optimizer"].clear_grad(to_zero)

    state = make()
    steps(state, [0, 1])
    saved = save(state)
    steps(state, [0, 0])
    again = make()
    steps(again, [1])
    again["model"][0](paddle.ones([1, 2])).sum().backward()  # a gradient from before the restore
    saved.into(again)
    steps(again, [0, 0])
    assert save(again).data == save(state).data
    fresh = make()
    saved.into(fresh)
    steps(fresh, [0, 0])
    assert save(fresh).data == save(state).data


def test_a_sparse_gradient_is_not_put_back_as_zeros(save):
    def make() -> dict[str, Any]:
        model = paddle.nn.Embedding(5, 2, sparse=True)
        adam = opt.Adam(0.1, parameters=model.parameters(), lazy_mode=True)
        return {"model": model, "optimizer": adam}

    def steps(state: dict[str, Any], words: list[int]) -> None:
        for word in words:
            state["optimizer"].clear_grad()
            state["model"](paddle.to_tensor([word])).sum().backward()
            state["optimizer"].step()

    state, again = make(), make()
    steps(state, [0, 1])
    saved = save(state)
    steps(state, [2, 1])
    saved.into(again)
    steps(again, [2, 1])
    assert save(again).data == save(state).data


def test_learning_rates_given_by_param_attr(save):
    def make(factor: float) -> dict[str, Any]:
        attr = paddle.ParamAttr(learning_rate=factor)
        model = paddle.nn.Linear(2, 2, weight_attr=attr)
        return {"m": model, "o": opt.SGD(0.1, parameters=model.parameters())}

    old, new = make(0.5), make(0.25)
    assert walk.given(old)["o.parameters.0.learning_rate"] == 0.5
    save(old).into(new)
    assert new["m"].weight.optimize_attr["learning_rate"] == 0.5
    walk.apply_given(new, {"o.parameters.0.learning_rate": 0.25})
    assert new["m"].weight.optimize_attr["learning_rate"] == 0.25
    assert new["m"].bias.optimize_attr["learning_rate"] == 1.0


class Counting(paddle.optimizer.SGD):
    """A user's own: counts its steps, keeps a tensor, holds what the test gives it."""

    def __init__(self, parameters: Any, held: Any = None) -> None:
        super().__init__(0.1, parameters=parameters)
        self.steps, self.seen, self.held = 0, [paddle.zeros([2])], held


def test_attributes_of_a_subclass(save):
    weight = paddle.create_parameter([2], "float32")
    old, new = Counting([weight]), Counting([weight])
    old.steps, old.seen = 7, [paddle.ones([2]), 3]
    save({"o": old}).into({"o": new})
    assert new.steps == 7
    assert new.seen[0].tolist() == [1, 1]
    assert new.seen[1] == 3
    with pytest.raises(UnsupportedError, match="held"):
        save({"o": Counting([weight], held=object())})


def test_optimizers_of_static_programs_are_refused():
    lamb = paddle.incubate.DistributedFusedLamb.__new__(paddle.incubate.DistributedFusedLamb)
    with pytest.raises(UnsupportedError, match="o is a DistributedFusedLamb"):
        walk.capture({"o": lamb})
