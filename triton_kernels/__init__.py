"""The kernels in Triton, imported as `fastgan.triton_kernels`; fastgan/backends/triton/__init__.py calls them.

See docs/triton.md.
"""
