"""The user's network, and how it is differentiated."""
