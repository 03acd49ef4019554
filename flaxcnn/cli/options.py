"""Options that several commands have."""

import typer

from flaxcnn.recipe import catalog

EXPERIMENT = typer.Argument(
    catalog.DEFAULT_EXPERIMENT, help="A name from `flaxcnn experiments list`, or FILE.py:NAME."
)
ASSIGNMENTS = typer.Option(
    [], "-s", "--set", metavar="KEY=VALUE", help="Change a setting, dotted where nested."
)
CONFIG_FILE = typer.Option(None, "--config", help="TOML or JSON file with settings.")
PROTOCOL = typer.Option(None, "--protocol", help="honest (default) or document.")
JSON = typer.Option(False, "--json", help="Print one JSON document on stdout.")
NO_CACHE = typer.Option(False, "--no-cache", help="Compile anew, and keep no compiled program.")

# -- of many runs
GRID = typer.Option(
    [], "--grid", metavar="KEY=A,B", help="Values of a setting; all combinations are run."
)
HOW = typer.Option("auto", "--how", help="auto, vmap (side by side) or map (in turn).")
MAX_MEMORY = typer.Option(
    None, "--max-memory", metavar="SIZE", help="For the arrays of runs, such as 2G."
)

# -- of searches
FOLDS = typer.Option(5, "--folds", help="Parts of the training rows, each scored once.")
REPEATS = typer.Option(1, "--repeats", help="How often rows are dealt into folds anew.")
MAX_PARAMS = typer.Option(None, "--max-params", help="Leave out candidates with more parameters.")
SAMPLER = typer.Option(None, "--sampler", help="Draw candidates with Optuna: tpe or random.")
TRIALS = typer.Option(None, "--trials", help="How many are drawn; 50 by default.")
SPACE = typer.Option(
    None, "--space", metavar="FILE", help="TOML: choices or ranges of settings, to draw from."
)
PRUNER = typer.Option(
    None, "--pruner", help="Give drawn ones up early: median (default), hyperband or none."
)
NO_REFIT = typer.Option(False, "--no-refit", help="Choose only: do not train and test the winner.")

# -- of training, on several devices and processes
RESUME_IF_ANY = typer.Option(
    False, "--resume-if-any", help="Go on if there is something to go on with."
)
CHECKPOINT_DIR = typer.Option(
    None, "--checkpoint-dir", metavar="PATH|URL",
    help="Where checkpoints go, also gs://...; default RUN/checkpoints.",
)  # fmt: skip
PARALLEL = typer.Option(
    None, "--parallel", help="auto, jit, pmap or shard_map: how devices share a batch."
)
DISTRIBUTED = typer.Option(
    False, "--distributed", help="One process of a cluster: TPU, GKE, Slurm or MPI."
)
COORDINATOR = typer.Option(
    None, "--coordinator", metavar="HOST:PORT", help="Of process 0, where there is no cluster."
)
PROCESSES = typer.Option(None, "--processes", help="How many there are.")
PROCESS = typer.Option(None, "--process", help="Which one this is, from 0.")
