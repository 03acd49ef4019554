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
