"""Recipes of cloud/ are well-formed and say only what the command knows."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from flaxcnn.cli.main import app
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config

ROOT = Path(__file__).resolve().parents[1]
CLOUD = ROOT / "cloud"
SHELL = sorted([*CLOUD.glob("*.sh"), *CLOUD.glob("*.sbatch")])
MANIFESTS = sorted(CLOUD.glob("*.yaml"))
PROSE = [CLOUD / "README.md", ROOT / "docs" / "scaling.md"]
FATAL = {1, 2, 3, 4, 5, 6, 130}  # exit codes that would come again
RESUMABLE = {75, 134, 137, 139}


NAMES = "(?:train|study|launch|data|bench|compare)"


def name(path):
    return path.name


@pytest.mark.parametrize("path", SHELL, ids=name)
def test_scripts_parse_and_stop_at_errors(path):
    subprocess.run(["bash", "-n", path], check=True)
    # The entry point must live to hand on an exit code, so -e is not for it.
    flags = "-uo" if path.name == "entrypoint.sh" else "-euo"
    assert f"set {flags} pipefail" in path.read_text()
    assert path.suffix != ".sh" or os.access(path, os.X_OK)


def jobs(path):
    for document in yaml.safe_load_all(path.read_text()):
        assert (document["apiVersion"], document["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
        yield document["spec"], document["spec"]["replicatedJobs"][0]["template"]["spec"]


@pytest.mark.parametrize("path", MANIFESTS, ids=name)
def test_manifests_restart_what_can_go_on(path):
    for jobset, job in jobs(path):
        (rule,) = job["podFailurePolicy"]["rules"]
        assert (rule["action"], set(rule["onExitCodes"]["values"])) == ("FailJob", FATAL)
        (policy,) = jobset["failurePolicy"]["rules"]
        assert policy["action"] == "FailJobSet"
        assert policy["onJobFailureReasons"] == ["PodFailurePolicy"]
        assert job["parallelism"] == job["completions"]
        assert job["backoffLimit"] == 0
        assert job["template"]["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize("path", MANIFESTS, ids=name)
def test_processes_are_as_many_as_pods(path):
    for _, job in jobs(path):
        (train,) = job["template"]["spec"]["containers"]
        said = re.search(r"--processes (\d+)", train["command"][-1])
        assert said is None or int(said[1]) == job["parallelism"]


@pytest.mark.parametrize("path", SHELL, ids=name)
def test_scripts_go_on_after_the_resumable_codes(path):
    if path.name != "entrypoint.sh":
        (cases,) = re.findall(r"^ *(\d+ \| [\d |]+)(?: \| gone)?\)", path.read_text(), re.M)
        assert set(map(int, cases.split("|"))) - {0, 143} == RESUMABLE


def command_lines(path):
    """Words of every `flaxcnn ...` in code; lines ending in a backslash are one."""
    text = path.read_text().replace("\\\n", " ")
    if path in PROSE:
        code = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.S | re.M))
        inline = re.findall(r"`(flaxcnn [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
        text = "\n".join([code, *inline])
    text = text.replace("exec entrypoint.sh ", "flaxcnn ")
    text = re.sub(r'"\$\{settings\[@\]\}"', settings(path), text)
    for line in text.splitlines():
        line = re.sub(r"(?:^| )# .*", "", line)
        if found := re.search(
            r"(?:^|[ /])flaxcnn ((?:train|study|launch|data|bench|compare)\b.*)", line
        ):
            command = re.split(r" (?:\|\||&&|;|> |\.\.\.)", found[1])[0].rstrip(' "')
            yield shlex.split(command + ('"' if command.count('"') % 2 else ""))


def settings(path):
    found = re.search(r"^settings=\((.*?)\)", path.read_text(), re.S | re.M)
    return found[1].replace("\n", " ").replace("\\", "\\\\") if found else ""


def options(words):
    """Names of the options that the command of `words` has, and the words after its name."""
    command = get_command(app)
    while hasattr(command, "commands"):
        assert words[0] in command.commands, f"no such command: {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    return {one for p in command.params for one in (*p.opts, *p.secondary_opts)}, words


LINES = [(path, words) for path in (*SHELL, *MANIFESTS, *PROSE) for words in command_lines(path)]


def test_command_lines_are_found():
    for path in (*SHELL, *MANIFESTS):
        assert path.name == "entrypoint.sh" or path in {found for found, _ in LINES}, path.name


@pytest.mark.parametrize(("path", "words"), LINES,
                         ids=[f"{path.name}-{words[0]}" for path, words in LINES])  # fmt: skip
def test_command_lines_use_known_options_and_settings(path, words):
    if "--" in words:  # flaxcnn launch ... -- train ...
        inner = words[words.index("--") + 1 :]
        words = words[: words.index("--")]
        if inner and inner != ["train"]:
            test_command_lines_use_known_options_and_settings(path, inner)
    known, rest = options(words)
    for place, word in enumerate(rest):
        if word.startswith("-"):
            assert word in known, f"{path.name}: {words[0]} has no {word}"
        if word in ("-s", "--set"):
            check_setting(rest[place + 1])


@pytest.mark.parametrize("path", [*SHELL, *MANIFESTS, *PROSE], ids=name)
def test_settings_exist(path):
    for assignment in re.findall(r"-s \"?(\w[\w.]*=[\w.]+)", path.read_text()):
        check_setting(assignment)


def check_setting(assignment):
    key = assignment.partition("=")[0].partition(".")[0]
    assert key in Config.__dataclass_fields__, f"no setting {key}"


@pytest.mark.parametrize("path", [*SHELL, *MANIFESTS, *PROSE], ids=name)
def test_experiments_exist(path):
    for found in re.findall(
        r"(?<![/\w])(?:digits|mnist|fashion|cifar)-\w+/[\w-]+", path.read_text()
    ):
        assert found in catalog.experiments()


@pytest.mark.parametrize("path", PROSE, ids=name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^):]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target


def entry_point(folder, script, **environment):
    """The image's entry point with a flaxcnn that is `script`."""
    command = folder / "flaxcnn"
    command.write_text(f"#!/usr/bin/env bash\n{script}\n")
    command.chmod(0o700)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, **environment}
    return subprocess.Popen([CLOUD / "entrypoint.sh", "train"], env=environment)


def test_the_entry_point_hands_on_the_exit_code(tmp_path):
    assert entry_point(tmp_path, "exit 4").wait(10) == 4


def test_the_entry_point_hands_on_sigterm(tmp_path):
    script = f"trap 'sleep 0.2; exit 75' TERM; touch {tmp_path}/up; while true; do sleep 0.05; done"
    process = entry_point(tmp_path, script)
    deadline = time.monotonic() + 10
    while not (tmp_path / "up").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 75


def test_the_entry_point_copies_the_records(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text("{}")
    places = {"RUN_DIR": f"{tmp_path}/run", "RECORDS": f"file://{tmp_path}/kept", "PROCESS": "0"}
    assert entry_point(tmp_path, "exit 0", **places).wait(30) == 0
    assert (tmp_path / "kept" / "summary.json").read_text() == "{}"
