//! Whoever takes part in a benchmark.

use std::fmt::Debug;

use serde::Serialize;

use super::attempt::AttemptError;
use super::interrupt::Interrupt;
use crate::sandbox::timings::Phase;

/// What can be started and timed.
pub trait Subject: Debug + Sync {
    /// Starts one, waits until it has done what the benchmark is about, clears it away, and tells
    /// how long it took. `label` is like no other start's, and fit for the name of a container or a
    /// file. Called from several threads at once.
    fn start(&self, label: &str, interrupt: &Interrupt) -> Result<Start, AttemptError>;
}

/// One start, timed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Start {
    /// The whole, in microseconds: from before its process was made to its end.
    pub total_us: u64,
    /// What it says of its phases, in order; empty where it says nothing.
    pub phases: Vec<Phase>,
}

/// What is timed; only times of the same are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Span {
    /// A container from nothing to its end.
    Whole,
    /// A container from nothing until its program runs, as an OCI runtime makes it.
    Create,
    /// A further process in a container, to its end.
    Exec,
}

/// A subject, and what people call it.
#[derive(Debug)]
pub struct Entrant {
    /// Like no other's.
    pub name: String,
    /// What one start of it does.
    pub does: &'static str,
    /// What it says of its version.
    pub version: String,
    /// How much of a container's life one start of it is.
    pub span: Span,
    /// Whether it is this program, which the others are compared with.
    pub ours: bool,
    /// What is started.
    pub subject: Box<dyn Subject>,
}
