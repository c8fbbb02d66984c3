//! What the shim tells of its sandbox: a file for `ampoule metrics`, metrics at a socket of its own, and a
//! trace of its start.

use std::os::unix::net::UnixListener;
use std::sync::{Arc, OnceLock};
use std::thread;

use crate::clock::now_us;
use crate::metrics::serve::{Listener, serve};
use crate::metrics::{look, text};
use crate::report::chain;
use crate::sandbox::about::{About, Moments, Told};
use crate::sandbox::{Folder, trace};

/// Environment variable with the moment at which containerd has called for the shim.
pub const CALLED: &str = "AMPOULE_SHIM_CALLED_US";

/// Stack of the thread that lets clients in.
const STACK: usize = 128 << 10;

/// When the shim was called for, and when it could be asked for something.
static SERVED: OnceLock<(u64, u64)> = OnceLock::new();

/// The shim can be asked for something, from now on.
pub fn served() {
    let called = std::env::var(CALLED).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let _ = SERVED.set((called, now_us()));
}

/// The first moments of a start that was asked for now.
pub fn moments() -> Moments {
    let (called_us, served_us) = SERVED.get().copied().unwrap_or_default();
    Moments { called_us, served_us, create_us: now_us(), ..Moments::default() }
}

/// Tells of a sandbox from now on. What cannot be told is logged, and nothing else fails for it.
pub fn tell(folder: Folder, about: About) -> Arc<Told> {
    let told = Arc::new(Told::new(folder, about));
    let path = told.socket();
    match UnixListener::bind(&path) {
        Ok(listener) => {
            let theirs = Arc::clone(&told);
            let life = move || answer(&Listener::Unix(listener), &theirs);
            let thread = thread::Builder::new().name("metrics".into()).stack_size(STACK);
            if let Err(error) = thread.spawn(life) {
                log::warn!("no metrics: cannot start a thread: {}", chain(&error));
            }
        }
        Err(error) => log::warn!("no metrics at {}: {}", path.display(), chain(&error)),
    }
    told
}

fn answer(listener: &Listener, told: &Arc<Told>) {
    if trace::is_wanted() {
        let about = told.about();
        let moments = look::moments(told.folder(), about.moments);
        let pod = about.pod.as_ref();
        let name = pod.map(|pod| format!("pod {}/{}", pod.namespace, pod.name));
        trace::moments(&name.unwrap_or_else(|| "container".into()), &about.id, &moments);
    }
    let theirs = Arc::clone(told);
    let tell = move || {
        let look = look::look(look::Subject::of(theirs.about()), theirs.folder());
        Ok(text::text(&[look]))
    };
    if let Err(error) = serve(listener, tell) {
        log::warn!("no metrics any more: {}", chain(&error));
    }
}
