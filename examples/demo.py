"""Kill real training runs at random moments and compare them, bit for bit, with undisturbed ones."""

from __future__ import annotations

import argparse
import os
import random
import secrets
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comparing import Comparison, compare
from launching import Launch, Position
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

import holdfast

FRAMEWORKS = {"torch": "PyTorch", "paddle": "PaddlePaddle"}
STEPS_PER_EPOCH = 47  # 1500 digits in batches of 32
STEPS_PER_SAVE = 10
LOOK_SECONDS = 0.05
PATIENCE_SECONDS = 120  # without any progress
MARK = ".holdfast-demo"
HERE = Path(__file__).resolve().parent


class DemoError(Exception):
    """The demo cannot go on."""


@dataclass
class Tally:
    """What was done to a run, and what was seen of it."""

    kills: int = 0
    in_save: list[str] = field(default_factory=list)
    resumed: list[Position] = field(default_factory=list)

    def __str__(self) -> str:
        parts = ", ".join(f"{self.in_save.count(p)} writing a {p}" for p in sorted(set(self.in_save)))
        inside = sum(b.batch > 0 for b in self.resumed)
        return (
            f"SIGKILL {self.kills} times, {len(self.in_save)} of them in the middle of a save"
            f"{f' ({parts})' if parts else ''}; {len(self.resumed)} resumes, {inside} of them inside an epoch"
        )


class Follower:
    """Starts launches of one run, follows them through the repository, and shows where they are."""

    def __init__(self, demo: Demo, framework: str, run: str) -> None:
        self.run = f"{framework}/{run}"
        self.tally = Tally()
        self.launch: Launch | None = None
        self.saves = 0
        self.safe = Position()
        self._demo = demo
        self._script = HERE / f"digits_{framework}.py"
        self._log = demo.out / f"{framework}-{run}.log"
        self._began = False
        self._moved_at = time.monotonic()
        self._task = demo.progress.add_task(self.run, total=demo.steps, note="starting", epoch=0, kills=0)

    def start(self) -> Launch:
        demo = self._demo
        self._began, self.saves, self._moved_at = False, 0, time.monotonic()
        self.launch = Launch(self._script, demo.repository, self.run, demo.epochs, self._log)
        return self.launch

    def look(self) -> int | None:
        """See how far it is; return the exit code once it has ended.

        Raises
        ------
        DemoError
            It failed, or made no progress for very long.
        """
        assert self.launch is not None
        code = self.launch.exit_code()
        self._see_beginning(self.launch)
        self._see_saves()
        if code is not None and code not in (0, -signal.SIGKILL):
            raise DemoError(f"{self.run} failed; the end of {self._log}:\n{self.launch.said[-3000:]}")
        if code is None and time.monotonic() - self._moved_at > PATIENCE_SECONDS:
            raise DemoError(f"{self.run} is stuck; the end of {self._log}:\n{self.launch.said[-3000:]}")
        return code

    def began(self) -> bool:
        """Whether the present launch has restored its state and trains."""
        self.look()
        return self._began

    def _see_beginning(self, launch: Launch) -> None:
        if self._began or (beginning := launch.beginning) is None:
            return
        self._began, self._moved_at = True, time.monotonic()
        if self.tally.kills:
            self.tally.resumed.append(beginning)
            if beginning.step < self.safe.step:
                raise DemoError(f"{self.run} lost step {self.safe.step}: it went on from {beginning.step}")
        note = f"resumed at step {beginning.step}" if beginning.step else "started"
        self._show(beginning, note=note)

    def _see_saves(self) -> None:
        try:
            latest = holdfast.open(self._demo.repository)[self.run].latest
            if latest.step <= self.safe.step:
                return
            at = latest.summary.progress
        except holdfast.HoldfastError:
            return  # nothing there yet, or replaced by a newer one as we looked
        self.saves, self._moved_at = self.saves + 1, time.monotonic()
        self.safe = Position(at.step, at.epoch, at.batch)
        self._show(self.safe)

    def _show(self, at: Position, **fields: Any) -> None:
        kills = self.tally.kills
        self._demo.progress.update(self._task, completed=at.step, epoch=at.epoch, kills=kills, **fields)

    def killed(self, part: str | None) -> None:
        """Note a kill and say so."""
        self._see_saves()
        self.tally.kills += 1
        self.tally.in_save += [part] if part is not None else []
        where = f"while it wrote a {part}" if part is not None else "at a random moment"
        at = f"step {self.safe.step} was safe (epoch {self.safe.epoch}, batch {self.safe.batch})"
        self._demo.say(f"  [red]kill {self.tally.kills}[/] {self.run}: SIGKILL {where}; {at}")
        self._show(self.safe, note="[red]killed[/]")

    def finished(self) -> None:
        self._show(self.safe, note="[green]finished[/]")


class Demo:
    """The repository, the display and the dice of one demonstration."""

    def __init__(self, args: argparse.Namespace, console: Console) -> None:
        self.out: Path = args.out
        self.repository = self.out / "checkpoints"
        self.epochs: int = args.epochs
        self.steps = args.epochs * STEPS_PER_EPOCH
        self.kills: int = args.kills
        self.dice = random.Random(args.seed)
        self.say: Callable[[str], None] = lambda text: console.print(text, highlight=False, soft_wrap=True)
        self._console = console
        self.progress = Progress()

    def _display(self) -> Progress:
        columns = [
            TextColumn("{task.description:<16}"),
            BarColumn(24),
            TextColumn("step {task.completed:>3.0f}/{task.total:.0f}  epoch {task.fields[epoch]}"),
            TextColumn("kills {task.fields[kills]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
        ]
        return Progress(*columns, console=self._console, refresh_per_second=8)

    def train(self, framework: str) -> Tally:
        """Train the reference undisturbed and, beside it, a run that is killed again and again."""
        self.progress = self._display()
        with self.progress, self._pair(framework) as (reference, victim):
            reference.start()
            for done, part in enumerate(self._plan()):
                self._kill_one(victim, part, self.kills - done, reference)
            victim.start()
            for follower in (victim, reference):
                while follower.look() is None:
                    self._wait(victim, reference)
                follower.finished()
        return victim.tally

    @contextmanager
    def _pair(self, framework: str) -> Iterator[tuple[Follower, Follower]]:
        pair = Follower(self, framework, "reference"), Follower(self, framework, "killed")
        try:
            yield pair
        finally:
            for follower in pair:
                if follower.launch is not None:
                    follower.launch.end()

    def _plan(self) -> list[str | None]:
        """For each kill the part of a checkpoint to die in, or None for any moment."""
        plan: list[str | None] = [("pack", None, "manifest", None)[i % 4] for i in range(self.kills)]
        self.dice.shuffle(plan)
        return plan

    def _kill_one(self, victim: Follower, part: str | None, kills_left: int, reference: Follower) -> None:
        launch = victim.start()
        saves_left = max((self.steps - victim.safe.step) // STEPS_PER_SAVE - 4, 0)
        saves = self.dice.randint(0, 2 * saves_left // (kills_left + 1))
        delay_seconds = self.dice.random() * 0.2  # about the time between two saves
        while not victim.began() or victim.saves < saves:
            self._wait(victim, reference)
            if victim.look() is not None:
                raise DemoError(f"{victim.run} finished before it could be killed; use more --epochs")
        if part is None or not Path("/proc/self/fd").exists():
            time.sleep(delay_seconds)
            killed_in = launch.kill()
        else:
            killed_in = launch.kill_in_save(part)
        if launch.exit_code() != -signal.SIGKILL:
            raise DemoError(f"{victim.run} ended before it could be killed; use more --epochs")
        victim.killed(killed_in)

    def _wait(self, *followers: Follower) -> None:
        time.sleep(LOOK_SECONDS)
        for follower in followers:
            if follower.launch is not None:
                follower.look()

    def judge(self, framework: str, tally: Tally) -> bool:
        """Compare both runs and say what came out."""
        repository = holdfast.open(self.repository)
        found = compare(repository[f"{framework}/reference"].latest, repository[f"{framework}/killed"].latest)
        self.say(f"  {tally}")
        self.say("\n".join(f"  {line}" for line in verdict(FRAMEWORKS[framework], found)))
        return found.equal


def verdict(name: str, found: Comparison) -> list[str]:
    """What a comparison says, in lines for people."""
    if found.equal:
        return [
            f"compared: {found.tensors} tensors ({found.size_bytes:,} bytes), {found.steps} losses, "
            f"{found.samples:,} samples in order, random generators, data position, metrics",
            f"[bold green]{name}: bit for bit equal to the run that was never interrupted[/]",
        ]
    lines = [f"first difference in {what}: {difference}" for what, difference in found.differences.items()]
    return [*lines, f"[bold red]{name}: NOT equal to the run that was never interrupted[/]"]


def fresh_folder(out: Path) -> None:
    """Make the demo's folder anew; only one that a demo made is replaced.

    Raises
    ------
    DemoError
    """
    if (out / MARK).is_file():
        shutil.rmtree(out)
    elif out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise DemoError(f"{out} was not made by this demo; choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).write_text("made by examples/demo.py, which replaces it at its next run\n")


def next_commands(repository: Path, framework: str) -> list[str]:
    """Three commands to try on what the demo left."""
    beside = Path(sys.executable).parent / "holdfast"
    command = "holdfast" if shutil.which("holdfast") else os.path.relpath(beside)
    return [
        f"{command} ls -R {repository}",
        f"{command} diff -R {repository} {framework}/reference {framework}/killed",
        f"{command} verify -R {repository}",
    ]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder to leave behind")
    parser.add_argument("--only", choices=FRAMEWORKS, help="one framework instead of both")
    parser.add_argument("--kills", type=int, default=6, help="per framework (default: 6)")
    parser.add_argument("--epochs", type=int, default=6, help="per run (default: 6)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of the kills' moments")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    warnings.filterwarnings("ignore", "No ccache found")  # Paddle's, when imported
    console = Console()
    demo = Demo(args, console)
    started = time.monotonic()
    frameworks = [args.only] if args.only else list(FRAMEWORKS)
    try:
        fresh_folder(args.out)
        demo.say(f"Killing training runs at random moments (--seed {args.seed}); output in {args.out}/*.log")
        equal = True
        for framework in frameworks:
            demo.say(f"\n[bold]{FRAMEWORKS[framework]}[/]: examples/digits_{framework}.py")
            equal = demo.judge(framework, demo.train(framework)) and equal
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except DemoError as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return 1
    demo.say(f"\nDone in {time.monotonic() - started:.0f} s. Try next:")
    demo.say("\n".join(f"  {command}" for command in next_commands(demo.repository, frameworks[0])))
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
