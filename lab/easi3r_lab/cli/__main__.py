"""`python -m easi3r_lab.cli` is `easi3r-lab`."""

from easi3r_lab.cli import main

if __name__ == "__main__":
    main()
