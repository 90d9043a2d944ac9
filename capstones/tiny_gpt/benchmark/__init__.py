"""Everything that is measured beside a rival, and the tables made of it."""
