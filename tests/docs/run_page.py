"""Runs the examples of one page, in order, in the current folder: python run_page.py PAGE

A ``python`` block is executed, all of them in one namespace; one that begins with ``# NAME.py`` is
written to that file instead. Of a ``console`` block every line after ``$`` is run; it must end with
0, or as its comment ``# exits 4`` says, and print what the block shows (digits may differ, ``...``
stands for anything; a command shown without output may print what it likes). HTML comments
``<!-- python`` and ``<!-- console`` are preparations that readers do not see.
"""

import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

BLOCK = re.compile(r"^(?:```|<!-- )(python|console)\n(.*?)^(?:```|-->)$", re.MULTILINE | re.DOTALL)
EXITS = re.compile(r"#.*\bexits (\d+)")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(text: str) -> Iterator[tuple[str, int, str]]:
    """Language, line number and code of every block."""
    for found in BLOCK.finditer(text):
        yield found[1], text.count("\n", 0, found.start(2)) + 1, found[2]


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Command and the output shown, of every ``$``."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


def run_python(code: str, line: int, page: Path, namespace: dict[str, object]) -> None:
    name = re.match(r"# (\w+\.py)\n", code)
    if name is not None:
        Path(name[1]).write_text(code)
        return
    exec(compile("\n" * (line - 1) + code, page, "exec"), namespace)


def run_command(command: str, shown: str, where: str) -> None:
    tools = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "COLUMNS": "300"},
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    exits = EXITS.search(command)
    if done.returncode != int(exits[1] if exits else 0):
        sys.exit(f"{where}: '{command}' ended with {done.returncode}:\n{done.stdout}")
    if shown.strip() and not doctest.OutputChecker().check_output(plain(shown), plain(done.stdout), FLAGS):
        sys.exit(f"{where}: '{command}' printed\n{done.stdout}\nbut the page shows\n{shown}")


def plain(output: str) -> str:
    """Output without what differs from run to run."""
    text = re.sub(r"\b[0-9a-f]{8,}\b", "0", output)
    text = re.sub(r"\d+(\.\d+)?(e[-+]\d+)?", "0", text)
    text = re.sub(r"\b0 (B|KiB|MiB|GiB|KB|MB|s|min)\b", "0", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"


def main() -> None:
    page = Path(sys.argv[1])
    namespace: dict[str, object] = {"__name__": "__main__"}
    for language, line, code in blocks(page.read_text()):
        if language == "python":
            run_python(code, line, page, namespace)
            continue
        for command, shown in commands(code):
            run_command(command, shown, f"{page.name}:{line}")


if __name__ == "__main__":
    main()
