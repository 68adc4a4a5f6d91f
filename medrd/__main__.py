"""``python -m medrd``: the command line, where no script is on the path."""

from medrd.cli import main

if __name__ == "__main__":
    main()
