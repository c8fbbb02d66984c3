//! Threads with small stacks: every touched page is the sandbox's memory.

use std::io;
use std::thread::Builder;

/// Enough for a request's parsing (the JSON parser's recursion is bounded) and set-up.
const STACK: usize = 256 << 10;

/// Starts a detached thread.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    Builder::new().name(name.to_owned()).stack_size(STACK).spawn(body).map(drop)
}

/// Runs something on a thread that is thrown away after it, and waits for that.
///
/// # Errors
/// There is no thread to be had.
pub fn run<T: Send>(name: &str, body: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let builder = Builder::new().name(name.to_owned()).stack_size(STACK);
        let result = builder.spawn_scoped(scope, body)?.join();
        result.map_err(|_| io::Error::other("the thread failed"))
    })
}
