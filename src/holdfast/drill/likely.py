"""What is likely to be the matter, from what differs first: a pure function."""

from __future__ import annotations

from holdfast.drill.comparing import Difference

NOT_SEEDED = (
    "The script differs from itself although nobody interrupts it, from its first step on: seed every "
    "random generator that builds the model or draws data (torch.manual_seed, paddle.seed, "
    "numpy.random.seed, random.seed)."
)
NOT_DETERMINISTIC = (
    "The script differs from itself although nobody interrupts it: a nondeterministic kernel, or "
    "something that depends on time. Try torch.use_deterministic_algorithms(True), "
    "FLAGS_cudnn_deterministic=1 of Paddle, or one thread."
)
RNG = (
    "A random generator does not stand where it stood: the script draws from it after a resume what it "
    "does not draw otherwise, or seeds it again inside the loop."
)
POSITION = (
    "The position in the data differs: the loader changes from launch to launch, or the passes over it do."
)
DATA_OR_RNG = (
    "The first step after a resume had another loss although the state was the same: it saw other data "
    "or other random numbers. Pass the loader through batches(), and put every generator of your own "
    "into the state."
)
UPDATE = (
    "The first step after a resume had the same loss, but its update came out differently: something "
    "that the update depends on (an optimizer, a scheduler, a scaler, averaged weights) is not in the "
    "state."
)
FORGOTTEN = (
    "The first step after a resume came out differently: something that it depends on is not in the "
    "state, such as an optimizer, a scheduler, or a generator of your own."
)
LATER = (
    "The steps right after the resume were equal: what differs acts only now and then (a schedule by "
    "epochs, averaged weights, a counter, a cache) and is not in the state."
)
VALUES = (
    "Only plain values differ: a time, a duration or a counter of this process, which a restart begins anew."
)


def likely(found: Difference, alone: Difference | None, first_step: int) -> str:
    """Say what is probably the cause.

    Parameters
    ----------
    found : Difference
        Between the training that was killed and the one that was not.
    alone : Difference or None
        Between two that were not.
    first_step : int
        The first one that was compared.
    """
    if alone is not None:
        return NOT_SEEDED if alone.step == first_step else NOT_DETERMINISTIC
    if not (found.tensors or found.rng or found.position or found.metrics):
        return VALUES
    if found.resumed is not None and found.step > found.resumed + 1:
        return LATER
    return _of_first_step(found)


def _of_first_step(found: Difference) -> str:
    if found.position:
        return POSITION
    if found.rng:
        return RNG
    if "loss" in found.metrics:
        return DATA_OR_RNG
    return UPDATE if found.told_loss else FORGOTTEN
