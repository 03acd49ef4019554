"""`python -m flaxcnn`."""

from flaxcnn.cli.start import main

if __name__ == "__main__":
    main()
