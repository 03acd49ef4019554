"""`python -m flaxcnn`."""

from flaxcnn.cli.main import main

if __name__ == "__main__":
    main()
