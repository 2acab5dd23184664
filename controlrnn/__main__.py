"""``python -m controlrnn``: the console command."""

from controlrnn.command.app import main

if __name__ == "__main__":
    main()
