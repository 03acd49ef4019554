"""The `flaxcnn` command, one short module per family of commands."""
