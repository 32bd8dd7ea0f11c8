"""Triton kernels; imported as `fastgan.triton_kernels`. This version has none: see docs/architecture.md."""
