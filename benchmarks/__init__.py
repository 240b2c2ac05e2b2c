"""How fast Offload is, beside its peers: `python -m benchmarks --help`."""
