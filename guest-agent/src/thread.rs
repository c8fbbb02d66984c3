//! Threads with small stacks: every touched page is the sandbox's memory.

use std::io;
use std::thread::Builder;

/// Enough for a request's parsing (the JSON parser's recursion is bounded) and set-up.
pub const STACK: usize = 256 << 10;

/// Starts a detached thread.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // There is one such machinery for all, whatever they do: it is much code.
    let body: Box<dyn FnOnce() + Send> = Box::new(body);
    Builder::new().name(name.to_owned()).stack_size(STACK).spawn(body).map(drop)
}

/// Runs something on a thread that is thrown away after it, and waits for that.
///
/// # Errors
/// There is no thread to be had.
pub fn run<T: Send>(name: &str, body: impl FnOnce() -> T + Send) -> io::Result<T> {
    let (mut body, mut result) = (Some(body), None);
    run_once(name, &mut || result = body.take().map(|body| body()))?;
    result.ok_or_else(|| io::Error::other("the thread failed"))
}

/// The same for all results: see [`spawn`].
fn run_once(name: &str, body: &mut (dyn FnMut() + Send)) -> io::Result<()> {
    std::thread::scope(|scope| {
        let builder = Builder::new().name(name.to_owned()).stack_size(STACK);
        let result = builder.spawn_scoped(scope, body)?.join();
        result.map_err(|_| io::Error::other("the thread failed"))
    })
}
