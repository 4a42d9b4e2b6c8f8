"""``python -m milpq``."""

from milpq.cli import main

if __name__ == "__main__":
    main()
