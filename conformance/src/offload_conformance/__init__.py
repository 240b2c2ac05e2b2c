"""The conformance kit of Offload: in the making; see the README."""
