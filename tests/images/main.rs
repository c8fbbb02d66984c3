//! `ampoule load` and `ampoule image`, from archives to the files that a container will see. No
//! sandbox is booted.

#[path = "../support/mod.rs"]
mod support;

mod archives;
mod bad_input;
mod contents;
mod interrupted;
mod lab;
mod names;
