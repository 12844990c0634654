"""`python -m mobilenets`: the command line where the script is not on the path."""

from mobilenets.cli import main

main()
