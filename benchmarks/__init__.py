"""What measures flaxcnn, compares it with others and records the figures."""
