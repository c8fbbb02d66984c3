//! A sandbox: one microVM and everything the host keeps for it.
