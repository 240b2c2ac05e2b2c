"""The fresh process: makes one call and prints what it returned, as JSON."""

import faulthandler
import importlib
import json
import logging
import sys


def main() -> None:
    """Call `module:function` with the given options."""
    name, options, seconds = sys.argv[1:]
    faulthandler.dump_traceback_later(float(seconds), exit=True)
    # A worker that is stopped with jobs left warns of each: no matter here, and thousands of lines.
    logging.getLogger("offload").setLevel(logging.ERROR)
    module, function = name.split(":")
    values = getattr(importlib.import_module(module), function)(**json.loads(options))
    print(json.dumps(values))


if __name__ == "__main__":
    main()
