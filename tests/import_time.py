"""`import offload` must stay cheap: a web process pays for it at every start.

Run by a fresh interpreter in an environment of nothing but the wheels. The
best of several tries counts, in the processor's time: the machine's other work only ever adds.
"""

import subprocess
import sys

LIMIT_MS = 100
CODE = "import time; a = time.process_time(); import offload; print(time.process_time() - a)"

times = [1000 * float(subprocess.check_output([sys.executable, "-c", CODE])) for _ in range(15)]
print(f"import offload: {min(times):.0f} ms at best (limit {LIMIT_MS} ms)")
sys.exit(min(times) > LIMIT_MS)
