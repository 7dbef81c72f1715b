"""`python -m hydralign.report RUN_DIR`: how a run draws its report."""

import sys
from pathlib import Path

from hydralign.errors import UserError
from hydralign.report.write import write_report

try:
    write_report(Path(sys.argv[1]), stages_anew=False)
except UserError as error:
    sys.exit(str(error))
