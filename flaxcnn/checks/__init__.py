"""What `flaxcnn check` tries out: the promises of this package, on one's own model and machine."""
