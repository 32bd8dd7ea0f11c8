"""What is measured: a module for each suite, with its cases, contenders and tables as data for bench/harness.py."""
