"""`python -m trueline.cli …` is `trueline …`, for where no script is installed."""

from trueline.cli import main

if __name__ == "__main__":
    main()
