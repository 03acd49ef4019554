"""Recipes of cloud/ are well-formed and say only what the command knows."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from flaxcnn.cli.main import app
from flaxcnn.engine.hosts import HEARTBEAT_SECONDS
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config

ROOT = Path(__file__).resolve().parents[1]
CLOUD = ROOT / "cloud"
SHELL = sorted([*CLOUD.glob("*.sh"), *CLOUD.glob("*.sbatch")])
MANIFESTS = sorted(CLOUD.glob("*.yaml"))
FIRST_HOUR = ROOT / "benchmarks" / "first_hour.sh"
SCRIPTS = [*SHELL, FIRST_HOUR]
PROSE = [CLOUD / "README.md", ROOT / "docs" / "scaling.md"]
FATAL = {1, 2, 3, 4, 5, 6, 130}  # exit codes that would come again
RESUMABLE = {75, 134, 137, 139}


NAMES = "(?:train|study|launch|data|bench|compare|doctor)"


def name(path):
    return path.name


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
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
        if found := re.search(rf"(?:^|[ /])flaxcnn ({NAMES}\b.*)", line):
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


LINES = [(path, words) for path in (*SCRIPTS, *MANIFESTS, *PROSE) for words in command_lines(path)]


def test_command_lines_are_found():
    for path in (*SCRIPTS, *MANIFESTS):
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


@pytest.mark.parametrize("path", [*SCRIPTS, *MANIFESTS, *PROSE], ids=name)
def test_settings_exist(path):
    for assignment in re.findall(r"-s \"?(\w[\w.]*=[\w.]+)", path.read_text()):
        check_setting(assignment)


def check_setting(assignment):
    key = assignment.partition("=")[0].partition(".")[0]
    assert key in Config.__dataclass_fields__, f"no setting {key}"


@pytest.mark.parametrize("path", [*SCRIPTS, *MANIFESTS, *PROSE], ids=name)
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


# -- aborts before the first epoch ---------------------------------------------------------------

EPOCH = 'mkdir -p "$RUN_DIR"; echo "{}" >> "$RUN_DIR/metrics.jsonl"'


@pytest.fixture
def recipe(tmp_path):
    """A recipe of cloud/ with a flaxcnn, srun, scontrol, gcloud and sleep that only tell."""
    (tmp_path / "run").mkdir()
    (tmp_path / "log").write_text("")

    def run(script, *words, train, **environment):
        fakes = {
            "flaxcnn": f'echo "$1" >> {tmp_path}/log\n[ "$1" != train ] || {{ {train}; }}',
            "srun": 'while [ "$1" != flaxcnn ]; do shift; done; "$@"',
            "scontrol": f'echo "$1" >> {tmp_path}/log', "sleep": "", "gcloud": GCLOUD,
        }  # fmt: skip
        for command, text in fakes.items():
            (tmp_path / command).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (tmp_path / command).chmod(0o700)
        path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
        done = subprocess.run(
            [CLOUD / script, *words] if script.endswith(".sh") else ["bash", CLOUD / script],
            env={**os.environ, "PATH": path, "FAKES": str(tmp_path), **environment},
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done, (tmp_path / "log").read_text().split()

    return run


# What tpu-vm.sh asks Google's command: a slice that is there, whose exit code and checkpoints are
# what flaxcnn left.
GCLOUD = r"""
case "$*" in
  *describe*) echo ACTIVE ;;
  *"storage ls"*) ls "$FAKES/saved" ;;
  *cat*exit-code*) cat "$FAKES/code" ;;
  *"flaxcnn train"*) flaxcnn train; echo $? > "$FAKES/code" ;;
esac
"""
TPU = {"PROJECT": "p", "BUCKET": "b", "WHEEL": "w.whl", "MAX_RESTARTS": "2"}
SLURM = {"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "8"}


def test_a_node_does_not_start_again_what_aborts_before_an_epoch(recipe, tmp_path):
    done, log = recipe("node-8gpu.sh", "one", train="exit 134", RUN=f"{tmp_path}/run")
    assert (done.returncode, log.count("train")) == (1, 1)
    assert done.stderr.splitlines() == [
        "flaxcnn: exit code 134 before an epoch was recorded: it would come again"
    ]


def test_a_node_starts_again_what_aborts_after_an_epoch(recipe, tmp_path):
    run = f"{tmp_path}/run"
    train = f"RUN_DIR={run}; {EPOCH}; [ $(wc -l < {run}/metrics.jsonl) -ge 3 ] || exit 134"
    done, log = recipe("node-8gpu.sh", "one", train=train, RUN=run)
    assert (done.returncode, log.count("train")) == (0, 3)


@pytest.mark.parametrize(("epoch", "code"), [("true", 1), (EPOCH, 0)])
def test_slurm_requeues_an_abort_only_after_an_epoch(recipe, tmp_path, epoch, code):
    train = f"RUN_DIR={tmp_path}/runs/r; {epoch}; exit 134"
    done, log = recipe("slurm.sbatch", train=train, SHARED=str(tmp_path), RUN="r", **SLURM)
    assert done.returncode == code, done.stderr
    assert log == ["data", "train", *(["requeue"] if code == 0 else [])]
    assert ("before an epoch was recorded" in done.stderr) == (code == 1)


@pytest.mark.parametrize(("saves", "starts"), [("true", 1), ("touch $FAKES/saved/3", 3)])
def test_a_slice_is_not_kept_for_what_aborts_before_an_epoch(recipe, tmp_path, saves, starts):
    (tmp_path / "saved").mkdir()
    done, log = recipe("tpu-vm.sh", "train", train=f"{saves}; exit 134", **TPU)
    assert (done.returncode, log.count("train")) == (1, starts)
    assert ("before an epoch was saved" in done.stderr) == (starts == 1)


@pytest.mark.parametrize(
    ("saved", "code", "ended"),
    [((), 134, 1), (("5.orbax-checkpoint-tmp-1",), 134, 1), (("5",), 134, 134), ((), 137, 137),
     (None, 134, 1)],
)  # fmt: skip
def test_a_pod_that_aborts_before_a_checkpoint_fails(tmp_path, saved, code, ended):
    for folder in saved or ():
        (tmp_path / "saved" / folder).mkdir(parents=True)
    if saved == ():
        (tmp_path / "saved").mkdir()
    process = entry_point(tmp_path, f"exit {code}", CHECKPOINTS=f"file://{tmp_path}/saved")
    assert process.wait(30) == ended


def test_a_pod_that_cannot_look_keeps_its_code(tmp_path):
    process = entry_point(tmp_path, "exit 134", CHECKPOINTS="nosuchstore://bucket/saved")
    assert process.wait(30) == 134


@pytest.mark.parametrize("path", MANIFESTS, ids=name)
def test_pods_know_where_their_checkpoints_are(path):
    for _, job in jobs(path):
        (train,) = job["template"]["spec"]["containers"]
        script = train["command"][-1]
        assert "export CHECKPOINTS=gs://" in script
        assert '--checkpoint-dir "$CHECKPOINTS"' in script


# -- installation and figures --------------------------------------------------------------------


def test_recipes_install_what_the_tests_run_with():
    found = 0
    pages = [ROOT / "README.md", ROOT / "docs" / "howto" / "accelerators.md"]
    for path in [*CLOUD.iterdir(), *pages]:
        text = path.read_text().replace("\\\n", " ")
        assert not re.search(r"[\"' ]jax\[(cuda|tpu|\$)", text), f"{path.name}: not by our extra"
        for line in re.findall(r"pip install .*", text):
            if re.search(r"cuda1[23]|tpu|DEVICE", line):
                found += 1
                assert re.search(r"-c \S*(constraints\.txt|CONSTRAINTS)", line), line
    assert found >= 4


def test_extras_are_those_of_jax():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert {extra: extras[extra] for extra in ("cuda12", "cuda13", "tpu")} == {
        "cuda12": ["jax[cuda12]"], "cuda13": ["jax[cuda13]"], "tpu": ["jax[tpu]"],
    }  # fmt: skip


@pytest.mark.parametrize("path", PROSE, ids=name)
def test_the_heartbeat_is_that_of_the_code(path):
    text = " ".join(path.read_text().split())
    said = re.findall(r"heartbeat timeout[^.]*?(\d+) s\b|(\d+) s heartbeat", text)
    assert said
    assert {int(a or b) for a, b in said} == {HEARTBEAT_SECONDS}


# -- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Dockerfile", "demo.Dockerfile"])
def test_what_an_image_copies_is_there(name):
    text = (CLOUD / name).read_text()
    for line in re.findall(r"^COPY (.+)$", text, re.M):
        *sources, _ = line.split()
        for source in sources:
            assert "*" in source or (ROOT / source).exists(), source
    assert re.search(r"^ENTRYPOINT \[", text, re.M)  # not through a shell, which keeps signals
    assert not re.search(r"^(ADD|MAINTAINER) ", text, re.M)


def test_the_demo_runs_as_nobody_in_particular_and_what_it_says_exists():
    text = (CLOUD / "demo.Dockerfile").read_text()
    assert re.search(r"^USER \d+$", text, re.M)
    known = set(get_command(app).commands)
    said = re.findall(r"flaxcnn-demo ([a-z]+)", text) + re.findall(r'^CMD \["([a-z]+)"', text, re.M)
    assert said
    assert set(said) <= known
    assert "-f cloud/demo.Dockerfile" in (CLOUD / "README.md").read_text()
