"""``python -m medrd``: the command line, for when the script is not on the path."""

from medrd.cli import main

if __name__ == "__main__":
    main()
