//! What a user asks of a container's network.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::image::Image;
use crate::network::egress::Egress;
use crate::network::publish::{self, Publish};

/// Options of `ampoule run` that are the network's, in the words of `docker run`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkOptions {
    /// Which network it is on.
    pub mode: NetworkMode,
    /// Ports of the host that lead to it.
    pub publish: Vec<Publish>,
    /// All ports that its image declares are published.
    pub publish_all: bool,
    /// Who answers its questions for names; the host's own where there is none.
    pub dns: Vec<IpAddr>,
    /// Domains that names are looked for in.
    pub dns_search: Vec<String>,
    /// Options of its resolver.
    pub dns_options: Vec<String>,
    /// Lines of `/etc/hosts`.
    pub hosts: Vec<Host>,
    /// Its domain.
    pub domainname: Option<String>,
    /// Where it may send to.
    pub egress: Egress,
}

/// Which network a container is on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum NetworkMode {
    /// None: it has no device at all.
    #[default]
    None,
    /// Networks of ampoule's own, the first of which leads everywhere.
    Networks(Vec<Attachment>),
    /// A network namespace of the host, whose interfaces are the guest's.
    Namespace(PathBuf),
    /// That of another container, in whose sandbox it is: its id.
    Container(String),
    /// One that needs no privilege: passt speaks for the guest.
    User,
}

/// A network of ampoule's own that a container is on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Attachment {
    /// Its name.
    pub network: String,
    /// Names that others on it know the container by, beside its own.
    pub aliases: Vec<String>,
    /// Address that was asked for.
    pub ipv4: Option<IpAddr>,
    /// Address that was asked for.
    pub ipv6: Option<IpAddr>,
    /// Hardware address that was asked for.
    pub mac: Option<[u8; 6]>,
}

/// A line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its address; the host's own where there is none.
    pub address: Option<IpAddr>,
}

impl NetworkOptions {
    /// Publishes all ports that the image declares and that are not published yet, at any port of the host.
    pub fn publish_declared(&mut self, image: &Image) {
        let declared =
            image.config.config().as_ref().and_then(|config| config.exposed_ports().clone());
        let declared = declared.unwrap_or_default();
        // What makes no sense is the image's affair.
        for port in declared.iter().filter_map(|text| publish::exposed(text)).flatten() {
            let same = |other: &Publish| {
                (other.container, other.protocol) == (port.container, port.protocol)
            };
            if !self.publish.iter().any(same) {
                self.publish.push(port);
            }
        }
    }
}

impl NetworkMode {
    /// docker's word.
    pub fn word(&self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Networks(attachments) => {
                attachments.first().map_or("none", |first| first.network.as_str()).to_owned()
            }
            Self::Namespace(path) => format!("netns:{}", path.display()),
            Self::Container(id) => format!("container:{id}"),
            Self::User => "user".to_owned(),
        }
    }

    /// Id of the container whose network it is.
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Container(id) => Some(id),
            _ => None,
        }
    }

    /// Names of the networks, or docker's word.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Networks(all) => all.iter().map(|one| one.network.clone()).collect(),
            other => vec![other.word()],
        }
    }

    /// How many interfaces the guest has by it when it starts.
    pub fn interfaces(&self) -> usize {
        match self {
            Self::None | Self::Container(_) => 0,
            Self::Networks(attachments) => attachments.len(),
            Self::User => 1,
            // Who knows what is there by then.
            Self::Namespace(_) => ampoule_protocol::network::MAX_INTERFACES,
        }
    }
}
