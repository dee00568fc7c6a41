"""The entry point of ``python -m chainsweep``."""

from chainsweep.cli import main

if __name__ == "__main__":
    main()
