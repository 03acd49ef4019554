"""The functions of `flaxcnn` that train: what the commands do, from Python and in one call."""
