"""``python -m pipeline.cli``."""

from pipeline.cli import main

if __name__ == "__main__":  # the processes of a worker import this module, too
    main()
