"""`make soak`: every parser of stored bytes is given damaged and forged ones, for as long as you like.

``PYTHONPATH=tests python -m crash.fuzz [SECONDS]``; memory is limited, so that a bomb goes off.
"""

from __future__ import annotations

import random
import resource
import sys
import time

from hypothesis import HealthCheck, given, seed, settings

from parsers import Parser, all_parsers, mutated

SECONDS = 600.0
MOST_BYTES = 4 << 30
EXAMPLES = 500


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    until = time.monotonic() + (float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS)
    parsers = all_parsers()
    rounds = 0
    while rounds == 0 or time.monotonic() < until:
        for name, parser in parsers.items():
            fuzz(parser, random.randrange(1 << 32), EXAMPLES)
            if time.monotonic() > until and rounds:
                break
            del name
        rounds += 1
        print(f"{rounds * len(parsers) * EXAMPLES:9} examples so far", flush=True)


def fuzz(parser: Parser, number: int, examples: int) -> None:
    """Raise what a parser does not take in its stride, with the bytes that do it."""

    @seed(number)
    @settings(max_examples=examples, deadline=5000, database=None, suppress_health_check=list(HealthCheck))
    @given(mutated(parser.samples))
    def tried(data: bytes) -> None:
        try:
            parser.parse(data)
        except parser.refusals:
            return

    tried()


if __name__ == "__main__":
    main()
