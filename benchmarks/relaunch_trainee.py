"""A training script that says when it gets where: python relaunch_trainee.py SIZE REPOSITORY"""

import time

BEGUN = time.monotonic()  # of a clock that all processes of a machine share

import sys  # noqa: E402 - the clock comes first

EVERY = 2


def main() -> None:
    from sizes import SHAPES
    from training_model import Trainer

    from holdfast import Checkpointer, every

    trainer = Trainer(SHAPES[sys.argv[1]])
    _tell("begun", BEGUN)
    _tell("built")
    with Checkpointer(sys.argv[2], trainer.state, save=every(steps=EVERY), background=True) as checkpointer:
        _tell("restored")
        for _ in checkpointer.steps(1_000_000):
            trainer.learn()
            trainer.step()
            _tell(str(checkpointer.step()))


def _tell(what: str, seconds: float | None = None) -> None:
    print(what, time.monotonic() if seconds is None else seconds, flush=True)


if __name__ == "__main__":
    main()
