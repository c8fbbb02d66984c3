//! The methods of the task API, one per file.

mod close_io;
mod create;
mod delete;
mod exec;
mod kill;
mod pause;
mod pids;
mod resize_pty;
mod resume;
mod shutdown;
mod start;
mod state;
mod stats;
mod update;

pub use close_io::close_io;
pub use create::create;
pub use delete::delete;
pub use exec::exec;
pub use kill::kill;
pub use pause::pause;
pub use pids::pids;
pub use resize_pty::resize_pty;
pub use resume::resume;
pub use shutdown::shutdown;
pub use start::start;
pub use state::state;
pub use stats::stats;
pub use update::update;
