"""`flaxcnn lr-range`."""

import json


def test_it_prints_a_table_and_what_it_comes_to(flaxcnn, home):
    done = flaxcnn("lr-range", f"{home / 'recipes.py'}:small", "--low", "0.001", "--high", "100",
                   "--steps", "20", "--output", "rates.svg")  # fmt: skip
    assert done.code == 0, done.err
    assert done.out.startswith("learning rate")
    assert "begin with learning_rate=" in done.out
    assert "<svg" in (home / "rates.svg").read_text()


def test_as_json(flaxcnn, home):
    done = flaxcnn("lr-range", f"{home / 'recipes.py'}:small", "--low", "0.001", "--steps", "20",
                   "--json")  # fmt: skip
    assert len(json.loads(done.out)["rates"]) == 20


def test_a_wrong_file_name_is_said_before_anything_is_loaded(flaxcnn):
    done = flaxcnn("lr-range", "-s", "dataset=npz:nowhere.npz", "--output", "rates.txt")
    assert done.code == 2
    assert (
        "--output writes .png, .svg or .pdf, by the name of the file (got 'rates.txt')" in done.err
    )
