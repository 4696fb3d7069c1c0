"""JAX, trained step by step, and Orbax that saves it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"  # one core trains, as elsewhere

import jax
import numpy as np
import orbax.checkpoint as orbax
from jax import numpy as jnp
from measure import make_durable
from sizes import Shape
from training_figures import BASELINE
from training_steps import Driven
from training_text import VALUES, text
from training_way import KEPT, Blocking, Waited, Way

HEAD_WIDTH = 64
RATE, DECAY, FIRST, SECOND, TINY = 3e-4, 1e-2, 0.9, 0.999, 1e-8
Tree = dict[str, Any]


def initial(shape: Shape) -> Tree:
    """Parameters of a GPT, as many as the model of PyTorch has."""
    width = shape.width
    keys = iter(jax.random.split(jax.random.key(0), 1 + 4 * shape.layers))

    def dense(inward: int, outward: int) -> Tree:
        weight = jax.random.normal(next(keys), (inward, outward)) / np.sqrt(inward)
        return {"weight": weight, "bias": jnp.zeros(outward)}

    def norm() -> Tree:
        return {"weight": jnp.ones(width), "bias": jnp.zeros(width)}

    def block() -> Tree:
        return {
            "norm1": norm(),
            "inward": dense(width, 3 * width),
            "outward": dense(width, width),
            "norm2": norm(),
            "up": dense(width, 4 * width),
            "down": dense(4 * width, width),
        }

    return {
        "tokens": 0.02 * jax.random.normal(next(keys), (VALUES, width)),
        "positions": jnp.zeros((shape.context, width)),
        "blocks": {str(number): block() for number in range(shape.layers)},
        "norm": norm(),
    }


def _dense(of: Tree, x: jax.Array) -> jax.Array:
    return x @ of["weight"] + of["bias"]


def _norm(of: Tree, x: jax.Array) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * of["weight"] + of["bias"]


def _attention(of: Tree, x: jax.Array) -> jax.Array:
    batch, context, width = x.shape
    split = _dense(of["inward"], x).reshape(batch, context, 3, width // HEAD_WIDTH, HEAD_WIDTH)
    query, key, value = (split[:, :, part] for part in range(3))
    mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
    return _dense(of["outward"], mixed.reshape(batch, context, width))


def loss(parameters: Tree, tokens: jax.Array) -> jax.Array:
    x = parameters["tokens"][tokens[:, :-1]] + parameters["positions"]
    for block in parameters["blocks"].values():
        x = x + _attention(block, _norm(block["norm1"], x))
        x = x + _dense(block["down"], jax.nn.relu(_dense(block["up"], _norm(block["norm2"], x))))
    scores = jax.nn.log_softmax(_norm(parameters["norm"], x) @ parameters["tokens"].T)
    return -jnp.take_along_axis(scores, tokens[:, 1:, None], -1).mean()


@partial(jax.jit, donate_argnums=0)
def update(state: Tree, gradients: Tree) -> Tree:
    """One step of AdamW, in the memory of the state before."""
    count = state["count"] + 1
    first = jax.tree.map(lambda m, g: FIRST * m + (1 - FIRST) * g, state["first"], gradients)
    second = jax.tree.map(lambda v, g: SECOND * v + (1 - SECOND) * g * g, state["second"], gradients)

    def moved(p: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
        step = m / (1 - FIRST**count) / (jnp.sqrt(v / (1 - SECOND**count)) + TINY)
        return p - RATE * (step + DECAY * p)

    parameters = jax.tree.map(moved, state["parameters"], first, second)
    return {"parameters": parameters, "first": first, "second": second, "count": count}


class Trainer:
    """A model, its optimizer and its data."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._text = np.frombuffer(text(), np.uint8)
        self._random = np.random.default_rng(0)
        self._gradients: Callable[[Tree, jax.Array], Tree] = jax.jit(jax.grad(loss))
        parameters = initial(shape)
        zeros = partial(jax.tree.map, jnp.zeros_like)
        moments = {"first": zeros(parameters), "second": zeros(parameters)}
        self.state: Tree = {"parameters": parameters, **moments, "count": jnp.zeros((), jnp.int32)}

    def learn(self) -> None:
        self._found = jax.block_until_ready(self._gradients(self.state["parameters"], self._batch()))

    def step(self) -> None:
        self.state = jax.block_until_ready(update(self.state, self._found))

    def _batch(self) -> jax.Array:
        context = self._shape.context + 1
        starts = self._random.integers(len(self._text) - context, size=self._shape.batch)
        return jnp.asarray(np.stack([self._text[s : s + context] for s in starts]).astype(np.int32))

    def arrays(self) -> dict[str, np.ndarray]:
        return _arrays(self.state)


def _arrays(state: Tree) -> dict[str, np.ndarray]:
    return {jax.tree_util.keystr(path): np.asarray(a) for path, a in jax.tree.leaves_with_path(state)}


class _Managed(Way):
    """Saved by a CheckpointManager."""

    background: bool
    trainer: Trainer

    def __enter__(self) -> Self:
        super().__enter__()
        options = orbax.CheckpointManagerOptions(max_to_keep=KEPT, enable_async_checkpointing=self.background)
        self._manager = orbax.CheckpointManager(self.folder.resolve(), options=options)
        self._number = 0
        return self

    def __exit__(self, *what: object) -> None:
        self._manager.close()

    def _put(self) -> Path:
        self._number += 1
        self._manager.save(self._number, args=orbax.args.StandardSave(self.trainer.state))
        return self.folder / str(self._number)

    def saved(self) -> Mapping[str, np.ndarray]:
        like = jax.tree.map(orbax.utils.to_shape_dtype_struct, self.trainer.state)
        return _arrays(self._manager.restore(self._number, args=orbax.args.StandardRestore(like)))


class Orbax(_Managed, Blocking):
    """It fsyncs its arrays; what it wrote is fsynced again, for the sake of the folders that it renames."""

    background = False

    def _save(self, path: Path) -> None:
        make_durable(self._put())


class OrbaxAsync(_Managed, Waited):
    background = True

    def _begin(self, number: int) -> Path:
        return self._put()

    def _wait(self) -> None:
        self._manager.wait_until_finished()


WAYS: dict[str, type[Way]] = {
    BASELINE: Way,
    "Orbax, fsync": Orbax,
    "Orbax async, fsync": OrbaxAsync,
}


def subject(shape: Shape) -> Driven:
    return Driven(Trainer(shape), WAYS)
