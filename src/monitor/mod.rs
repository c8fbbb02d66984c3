//! The monitor: the process that is the VMM of one sandbox.
