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
