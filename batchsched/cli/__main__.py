"""`python -m batchsched.cli`: the command line without its script."""

from batchsched.cli.main import main

if __name__ == "__main__":
    main()
