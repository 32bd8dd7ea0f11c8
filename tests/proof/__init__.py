"""What fastgan claims of itself, tried by commands: `python -m tests.proof` (make proof).

Each part is a module with claims (claims.py); a batch of a claim's work runs in a process of its own (worker.py), so
that a crash or a hang is a result too; the run (run.py) goes through them, keeps what is done in a file, and goes on
there when it is called again. docs/reliability.md has the table.
"""
