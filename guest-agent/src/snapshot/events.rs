//! `Events`: another connection takes the place of the ready connection.

use crate::Agent;
use crate::error::Result;
use crate::transport::Connection;

/// Tells events on this connection from now on; its end is the guest's.
pub fn events(agent: &Agent, connection: Connection) -> Result<()> {
    agent.host.adopt(connection, &agent.watcher)
}
