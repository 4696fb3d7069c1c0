"""A training script that says when it gets where: python relaunch_trainee.py SIZE REPOSITORY SAVE-RULE"""

import time

BEGUN = time.monotonic()  # of a clock that all processes of a machine share

import os  # noqa: E402 - the clock comes first
import sys  # noqa: E402


def main() -> None:
    from sizes import SHAPES
    from training_model import Trainer

    from holdfast import Checkpointer
    from holdfast.domain.events import Event, Restored

    def listen(event: Event) -> None:
        if isinstance(event, Restored):
            _tell(f"place-{event.place or 'disk'}")
            _tell("read", event.seconds)

    size, repository, rule = sys.argv[1:4]
    trainer = Trainer(SHAPES[size])
    _tell("begun", BEGUN)
    _tell("pid", os.getpid())
    _tell("built")
    checkpointer = Checkpointer(repository, trainer.state, save=rule, background=True)
    checkpointer._listeners.append(listen)  # what it tells on standard error, unrounded
    with checkpointer:
        _tell("entered")
        for _ in checkpointer.steps(1_000_000):
            trainer.learn()
            trainer.step()
            _tell(str(checkpointer.step()))


def _tell(what: str, seconds: float | None = None) -> None:
    print(what, time.monotonic() if seconds is None else seconds, flush=True)


if __name__ == "__main__":
    main()
