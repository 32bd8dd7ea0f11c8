"""The kernels in Triton, imported as `fastgan.triton_kernels`; fastgan/triton.py calls them. See docs/triton.md."""
