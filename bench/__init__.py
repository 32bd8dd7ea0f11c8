"""The benchmarks: `python -m bench SUITE`. README.md says what they measure."""
