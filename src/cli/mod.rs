//! The `ampoule` command: one verb per file.
