"""`flaxcnn bench --compile-for`: what it refuses, prints and writes, with the compiler faked."""

import json

import pytest

from flaxcnn.accelerators import cases
from flaxcnn.cli import compiled
from flaxcnn.errors import ConfigError, FlaxcnnError
from flaxcnn.recipe import catalog

ROW = {
    "experiment": "digits/quickstart", "target": "h200", "chips": 1, "devices": 1,
    "run_devices": 1, "program": "train_epoch", "implementation": "flaxcnn",
    "precision": "float32", "kernels": 54, "launches": 0, "call_launches": 1,
    "convolutions": {"forward": 8}, "transposes": 3, "collectives": {}, "bytes_accessed": 5.7e7,
    "cycles": None, "temporary_bytes": 2**20, "argument_bytes": 5, "output_bytes": 0, "fits": True,
    "bounds": {"bandwidth": 1e-5, "launches": 6e-5},
}  # fmt: skip


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """Compilers that are there and give what `answer` says; the cases they were asked for."""
    for name in ("libtpu", "jax_cuda13_plugin", "jax_plugins/xla_cuda13"):
        (tmp_path / "wheels" / name).mkdir(parents=True)
    monkeypatch.setenv(cases.FOLDER, str(tmp_path / "wheels"))
    asked = []

    def answer(case):
        asked.append(case)
        return {**ROW, "program": case.program, "implementation": case.implementation, **extra}

    extra: dict = {}
    monkeypatch.setattr(compiled, "compile_case", answer)
    answer.extra, answer.asked = extra, asked
    return answer


def run(text="h200", names=("digits/quickstart",), modes=("train",), sizes=(), precisions=(),
        width=None, implementation="both", output=None, keep=None):  # fmt: skip
    configs = {name: catalog.find(name).config for name in names}
    compiled.run(text, configs, modes, sizes, precisions, width, implementation, output, keep,
                 as_json=False)  # fmt: skip


def test_every_combination_beside_plain_flax(compiler, capsys, monkeypatch, tmp_path):
    run(modes=("train", "eval"), sizes=(32, 64), precisions=("float32", "bfloat16"),
        output=tmp_path / "out.json", keep=tmp_path)  # fmt: skip
    asked = [(c.program, c.config.batch_size, c.config.precision, c.implementation)
             for c in compiler.asked]  # fmt: skip
    assert len(asked) == len(set(asked)) == 2 * 2 * 2 + 2 * 2
    assert len({c.keep for c in compiler.asked}) == len(asked)
    document = json.loads((tmp_path / "out.json").read_text())
    assert len(document["results"]) == len(asked)
    out = capsys.readouterr().out.splitlines()
    assert out[1].split()[:3] == ["program", "by", "precision"]
    assert "54      0+1    8      3         0    57.0" in out[2]
    assert "60.0 us by launches" in out[2]
    monkeypatch.setattr(compiled, "columns", lambda: 80)
    row = document["results"][0]
    assert compiled.line(row).split()[-4:] == ["60.0", "us", "by", "launches"]
    most = row | {"cycles": 10**7, "bytes_accessed": 9 * 10**9, "bounds": {"launches": 1e-3}}
    assert len(compiled.line(most)) <= 80


def test_plain_flax_is_for_one_chip_and_one_run(compiler):
    run("v5e:8")
    run("v5e", width=8)
    assert [c.implementation for c in compiler.asked] == ["flaxcnn", "flaxcnn"]
    assert compiler.asked[1].width == 8


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"text": "v5"}, "did you mean"),
        ({"text": "v5e:6"}, "topologies of"),
        (
            {"implementation": "flx"},
            "--implementation must be .*\\(got 'flx'\\); did you mean 'flax'",
        ),
        ({"width": 1}, "--width must be at least 2 \\(got 1\\)"),
        ({"width": 8, "text": "v5e:8"}, "use --compile-for v5e"),
        ({"text": "v5e:8", "implementation": "flax"}, "use flaxcnn for several"),
    ],
)
def test_options_that_are_wrong(compiler, options, said):
    with pytest.raises(ConfigError, match=said):
        run(**options)
    assert not compiler.asked


def test_a_recipe_that_does_not_fit_is_said_after_all_rows(compiler, capsys):
    compiler.extra |= {"fits": False, "temporary_bytes": 10**12}
    says = r"train_epoch needs 1,000,000,000,005 bytes; one h200 has"
    with pytest.raises(ConfigError, match=says):
        run()
    assert len(compiler.asked) == 2
    assert "does not fit" in capsys.readouterr().out


def test_a_recipe_that_the_compiler_finds_too_large(compiler):
    compiler.extra |= {"fits": False, "error": "RESOURCE_EXHAUSTED: 20G of 16G",
                       "kind": "out of memory"}  # fmt: skip
    for name in ("temporary_bytes", "argument_bytes", "output_bytes"):
        compiler.extra.pop(name, None)
    with pytest.raises(ConfigError, match="digits/quickstart: train_epoch"):
        run()


def test_a_compiler_that_fails_takes_no_other_case_with_it(compiler):
    compiler.extra |= {"error": "the compiler ended by SIGABRT: F ...", "kind": "compiler",
                       "fits": None}  # fmt: skip
    with pytest.raises(FlaxcnnError, match="SIGABRT") as error:
        run()
    assert error.value.exit_code == 1
    assert len(compiler.asked) == 2


def test_a_batch_too_small_for_the_chips(compiler, capsys):
    run("h200:8")
    assert "`flaxcnn train` would use 1 of the 8 chips" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--compile-for", "v7e"), "did you mean 'v6e'?"),
        (("--compile-for", "h200", "--plot", "x.png"), "measures nothing"),
        (("--width", "8"), "need --compile-for"),
        (("-s", "batch_size=0"), "batch_size"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(process, options, said):
    done = process("bench", *options)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert said in done.err
