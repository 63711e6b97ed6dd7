"""``python -m criticalmass``: the command line."""

from criticalmass.cli.main import main

if __name__ == "__main__":
    main()
