"""Print the newest Python that constraints-newest.txt is for; say so and fail where there is none.

It is looked for on the path and where version managers put it: pyenv, uv, asdf, mise, conda,
Homebrew and python.org. NEWEST_PYTHON names one instead.
"""

import glob
import os
import subprocess
import sys

VERSIONS = ("3.13", "3.12")  # that jax of the second leg has wheels for, the newest first
PLACES = (
    "{path}/python{version}",
    "{PYENV_ROOT:~/.pyenv}/versions/{version}*/bin/python",
    "{UV_PYTHON_INSTALL_DIR:~/.local/share/uv/python}/cpython-{version}*/bin/python",
    "{ASDF_DATA_DIR:~/.asdf}/installs/python/{version}*/bin/python",
    "{MISE_DATA_DIR:~/.local/share/mise}/installs/python/{version}*/bin/python",
    "{CONDA_PREFIX:~/miniconda3}/bin/python{version}",
    "{CONDA_PREFIX:~/miniconda3}/envs/*/bin/python{version}",
    "~/miniforge3/bin/python{version}",
    "~/miniforge3/envs/*/bin/python{version}",
    "/opt/homebrew/bin/python{version}",
    "/Library/Frameworks/Python.framework/Versions/{version}/bin/python{version}",
)
# Run by the candidate: pyenv leaves a python3.13 on the path that starts only where one is chosen.
ASK = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"


def candidates(version):
    """Every file where a Python of `version` may be, the first on the path first."""
    for place in PLACES:
        if place.startswith("{path}"):
            folders = os.environ.get("PATH", "").split(os.pathsep)
            patterns = [place.replace("{path}", glob.escape(folder)) for folder in folders]
        else:
            patterns = [place]
        for pattern in patterns:
            pattern = pattern.replace("{version}", version)
            if pattern.startswith("{"):
                variable, _, default = pattern[1 : pattern.index("}")].partition(":")
                root = os.environ.get(variable) or default
                pattern = glob.escape(os.path.expanduser(root)) + pattern[pattern.index("}") + 1 :]
            yield from sorted(glob.glob(os.path.expanduser(pattern)), reverse=True)


def runs_as(python, version):
    """Whether `python` starts, is of `version` and can make a virtual environment."""
    try:
        said = subprocess.run([python, "-c", ASK], capture_output=True, text=True)
    except OSError:
        return False
    return said.returncode == 0 and said.stdout.strip() == version


def find():
    """The path of the newest Python, or None."""
    if os.environ.get("NEWEST_PYTHON"):
        return os.environ["NEWEST_PYTHON"]
    for version in VERSIONS:
        for python in candidates(version):
            if runs_as(python, version):
                return python
    return None


if __name__ == "__main__":
    found = find()
    if found is None:
        wanted = " or ".join(VERSIONS)
        sys.exit(f"no Python {wanted} found: install one, or set NEWEST_PYTHON to its path")
    print(found)
