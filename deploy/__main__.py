"""`python -m deploy …`."""

import sys

from deploy.commands import main

sys.exit(main())
