"""What is said and shown of platforms: the files are valid, their flags exist, and the table is that of the rules."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer.main
import yaml

from holdfast.cli.app import app
from holdfast.supervisor.rules import MEANINGS, RULES

ROOT = Path(__file__).parent.parent.parent
PLATFORMS = ROOT / "examples/platforms"
PAGE = (ROOT / "docs/guides/platforms.md").read_text()
RUN = typer.main.get_command(app).commands["run"]
UNIT = "holdfast-training.service"


def documents(name):
    return list(yaml.safe_load_all((PLATFORMS / name).read_text()))


@pytest.mark.parametrize("name", ["job.yaml", "trainjob.yaml"])
def test_manifests_are_what_their_schemas_say(name):
    from kubeflow_trainer_api import models

    schemas = {
        "Job": models.IoK8sApiBatchV1Job,
        "TrainingRuntime": models.TrainerV1alpha1TrainingRuntime,
        "TrainJob": models.TrainerV1alpha1TrainJob,
    }
    for document in documents(name):
        known = schemas[document["kind"]].from_dict(document).to_dict()
        assert unknown(document, known) == []


def unknown(given, known, path=""):
    """Paths of what a schema did not keep."""
    if isinstance(given, dict) and isinstance(known, dict):
        return [found for key in given for found in unknown(given[key], known.get(key), f"{path}/{key}")]
    if isinstance(given, list) and isinstance(known, list) and len(given) == len(known):
        return [found for n, pair in enumerate(zip(given, known)) for found in unknown(*pair, f"{path}/{n}")]
    return [] if given == known else [path]


def test_a_field_that_no_schema_knows_would_be_noticed():
    assert unknown({"a": [{"b": 1}], "c": 2}, {"a": [{}], "c": 2}) == ["/a/0/b"]


@pytest.mark.parametrize("name", ["job.yaml", "trainjob.yaml"])
def test_exit_codes_are_those_of_the_table(name):
    text = (PLATFORMS / name).read_text()
    assert re.findall(r"values: \[(\d+)\]", text) == ["143", "137"]
    assert text.index("DisruptionTarget") < text.index("143") < text.index("FailJob")


def test_the_unit_is_one(tmp_path):
    text = (PLATFORMS / UNIT).read_text()
    program = re.search(r"^ExecStart=(\S+)", text, re.MULTILINE)[1]
    (tmp_path / UNIT).write_text(text.replace(program, shutil.which("true")).replace("User=trainer\n", ""))
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / UNIT], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["train.sbatch", "spot.sh"])
def test_scripts_are_well_formed(name):
    subprocess.run(["bash", "-n", PLATFORMS / name], check=True)


def commands():
    """Each place where `holdfast run` is started, and the words behind it."""
    for name in ("train.sbatch", UNIT):
        for line in re.findall(r"\bholdfast run (.*)", (PLATFORMS / name).read_text()):
            if " -- " in line:
                yield name, shlex.split(line)
    docker = (PLATFORMS / "Dockerfile").read_text()
    entry, rest = (yaml.safe_load(re.search(rf"^{w} (.*)", docker, re.MULTILINE)[1]) for w in ("ENTRYPOINT", "CMD"))
    yield "Dockerfile", [*entry[2:], *rest]
    job, (_, train) = documents("job.yaml")[0], documents("trainjob.yaml")
    for name, container in (
        ("job.yaml", job["spec"]["template"]["spec"]["containers"][0]),
        ("trainjob.yaml", train["spec"]["trainer"]),
    ):
        assert container["command"] == ["holdfast", "run"]
        yield name, container["args"]
    for line in re.findall(r"`(--notice-\S+ .*?)` \|$", PAGE, re.MULTILINE):
        yield "platforms.md", [*shlex.split(line.replace("\\|", "|")), "--", "python", "train.py"]


COMMANDS = list(commands())


@pytest.mark.parametrize(("where", "words"), COMMANDS, ids=[where for where, _ in COMMANDS])
def test_flags_exist_and_the_training_is_what_is_behind_them(where, words):
    parsed = RUN.make_context("run", list(words)).params
    assert tuple(parsed["what"]) == ("python", "train.py")


def test_every_kind_of_platform_has_its_command():
    assert {where for where, _ in COMMANDS} >= {p.name for p in PLATFORMS.iterdir()} - {"spot.sh"}


def test_the_failure_table_is_that_of_the_rules():
    rows = re.findall(r"^\| `([a-z-]+)` \| (.*?) \| (.*?) \| .*? \| .*? \|$", PAGE, re.MULTILINE)
    assert rows == [(str(cause), MEANINGS[cause], str(rule)) for cause, rule in RULES.items()]
