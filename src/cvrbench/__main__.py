"""`python -m cvrbench`."""

import sys

from cvrbench.cli.app import main

sys.exit(main())
