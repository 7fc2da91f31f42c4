"""`python -m rebatch`, for `torchrun -m rebatch`."""

from rebatch.cli import main

if __name__ == "__main__":
    main()
