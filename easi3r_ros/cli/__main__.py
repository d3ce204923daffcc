"""`python -m easi3r_ros.cli` is `easi3r`."""

from easi3r_ros.cli import main

if __name__ == "__main__":
    main()
