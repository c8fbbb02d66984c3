//! Host side of the agent protocol. Everything it reads is hostile.
