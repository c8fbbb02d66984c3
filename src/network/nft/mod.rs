//! nf_tables, the kernel's packet filter, over netlink (`NETLINK_NETFILTER`).
//!
//! A [`Batch`] is one transaction: the kernel does all of it, or tells what it refuses and does nothing.
//!
//! Neither nft nor libnftnl is needed. Of crates for this, one is under the GPL, some run nft or link C, and
//! one that is generated from the kernel's own description lacks the expressions that the description
//! lacks, masquerading among them.
//!
//! * [`attributes`]: netlink's attributes, written and read; pure
//! * [`expression`]: what rules consist of; pure
//! * [`batch`]: tables, chains, sets, elements and rules, as messages; pure
//! * [`socket`]: the kernel's end
//! * [`events`]: tables that somebody removes
//! * [`netlink`]: what that has in common with other subsystems of netfilter

pub mod attributes;
pub mod batch;
mod error;
pub mod events;
pub mod expression;
pub mod netlink;
pub mod socket;
#[cfg(test)]
mod tests;

pub use batch::{Batch, Chain, Element, Family, Hook, Kind, Set, Table};
pub use error::{NftError, Refusal};
pub use events::{Events, Heard};
pub use expression::{Data, Expression, Register, Verdict};
pub use socket::Socket;
