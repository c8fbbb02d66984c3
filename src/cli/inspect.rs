//! `ampoule inspect`: all that is known of containers, in docker's JSON.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::format::Format;
use super::network::mac;
use super::{Failure, Global, port};
use crate::sandbox::mounts::{MountKind, MountPoint};
use crate::sandbox::network::{Host, OnNetwork};
use crate::sandbox::{Entry, Options, Places, Record, Registry, State, Status, health};

/// Print all that is known of containers, as a JSON array
///
/// The fields are docker's, as far as they mean something here; Ampoule has what is ampoule's own.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule inspect web | jq '.[0].State.ExitCode'\n  \
    ampoule inspect -f '{{.State.ExitCode}}' web\n  \
    ampoule inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}' web")]
pub struct Args {
    /// How to show them: json (an object a line), or a template such as {{.State.Status}}; an array where nothing is asked
    #[arg(short, long, value_name = "FORMAT", default_value = "", hide_default_value = true)]
    format: Format,
    /// Containers, by name or id
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let places = global.places();
    let registry = Registry::new(&places);
    let mut all = Vec::new();
    let mut failed: Option<Failure> = None;
    for container in &args.containers {
        match registry.find(container).and_then(|entry| Ok((entry.record()?, entry))) {
            Ok((record, entry)) => all.push(told(&places, &entry, &record)),
            Err(error) => {
                if let Some(before) = failed.replace(error.into()) {
                    super::tell(&before);
                }
            }
        }
    }
    // docker prints what it has found, also where something is missing.
    print!("{}", args.format.inspect(&all)?);
    failed.map_or(Ok(ExitCode::SUCCESS), Err)
}

fn told(places: &Places, entry: &Entry, record: &Record) -> Value {
    let (state, options) = (&entry.state, &record.options);
    let (path, args) = match state.command.split_first() {
        Some((path, args)) => (path.as_str(), args),
        None => ("", &[][..]),
    };
    json!({
        "Id": state.id,
        "Created": record.created,
        "Path": path,
        "Args": args,
        "State": state_of(entry),
        "Image": record.image,
        "LogPath": entry.folder.log(),
        "Name": format!("/{}", state.name),
        "RestartCount": state.restarts,
        "Platform": "linux",
        "Mounts": options.mounts.iter().map(|mount| mount_of(places, mount)).collect::<Vec<_>>(),
        "NetworkSettings": networks(state),
        "HostConfig": host_config(options),
        "Config": config(state, options),
        "Ampoule": {
            "Kernel": options.kernel,
            "Vcpus": state.guest.as_ref().map_or(options.shape().vcpus, |guest| guest.vcpus),
            "MemoryMiB":
                state.guest.as_ref().map_or(options.shape().memory_mib, |guest| guest.memory_mib),
            "Sandbox": state.guest.as_ref().map(|guest| &guest.sandbox),
            "Keeper": state.keeper.filter(|_| entry.folder.is_kept()),
            "LayerSize": options.layer_size,
            "Rates": options.rates,
            "Annotations": options.annotations,
            "Egress": options.network.egress.to_string(),
        },
    })
}

fn state_of(entry: &Entry) -> Value {
    let state = &entry.state;
    let running = state.status.is_running();
    let time = |time: Option<Timestamp>| {
        time.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |time| time.to_string())
    };
    json!({
        "Status": state.status.word(),
        "Running": running || state.status == Status::Restarting,
        "Paused": state.status == Status::Paused,
        "Restarting": state.status == Status::Restarting,
        "OOMKilled": state.oom_killed,
        "Dead": false,
        "Pid": state.monitor.filter(|_| running).unwrap_or(0),
        "ExitCode": state.exit_code.filter(|_| !running).unwrap_or(0),
        "Error": state.error.clone().unwrap_or_default(),
        "StartedAt": time(state.started),
        "FinishedAt": time(state.finished.filter(|_| !running)),
        // There, too, where there is none: who asks for it in a template is not told of an unknown field.
        "Health": health::read(entry.folder.container()),
    })
}

fn mount_of(places: &Places, mount: &MountPoint) -> Value {
    let (kind, name, source) = match &mount.kind {
        MountKind::Bind { source, .. } => ("bind", None, source.display().to_string()),
        MountKind::Volume { name, .. } => {
            let source = places.data.join("volumes").join(name).join("_data");
            ("volume", Some(name.clone()), source.display().to_string())
        }
        MountKind::Tmpfs { .. } => ("tmpfs", None, String::new()),
    };
    json!({
        "Type": kind,
        "Name": name.clone().unwrap_or_default(),
        "Driver": name.map_or("", |_| "local"),
        "Source": source,
        "Destination": mount.target,
        "RW": !mount.read_only,
    })
}

/// As docker has it: the ports that lead to it, and what it has of each network, while it runs.
fn networks(state: &State) -> Value {
    let mut ports: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for published in port::published(state) {
        let host = port::host(&published);
        let key = format!("{}/{}", published.container_port, published.protocol);
        ports.entry(key).or_default().push(json!({
            "HostIp": host.ip(), "HostPort": host.port().to_string(),
        }));
    }
    let told = |on: &OnNetwork| {
        let of = |four: bool| on.addresses.iter().find(|cidr| cidr.address().is_ipv4() == four);
        let gateway = |four: bool| {
            let gateway = on.gateways.iter().find(|gateway| gateway.is_ipv4() == four);
            gateway.map(ToString::to_string).unwrap_or_default()
        };
        let address = |four| of(four).map(|cidr| cidr.address().to_string()).unwrap_or_default();
        (
            on.network.clone(),
            json!({
                "NetworkID": on.id,
                "MacAddress": mac(on.mac),
                "Gateway": gateway(true),
                "IPAddress": address(true),
                "IPPrefixLen": of(true).map_or(0, |cidr| cidr.prefix()),
                "IPv6Gateway": gateway(false),
                "GlobalIPv6Address": address(false),
                "GlobalIPv6PrefixLen": of(false).map_or(0, |cidr| cidr.prefix()),
                // By the first it is known as it is called now.
                "DNSNames": on.names.iter().take(1).map(|_| &state.name)
                    .chain(on.names.iter().skip(1)).collect::<Vec<_>>(),
            }),
        )
    };
    let networks: Map<String, Value> = state.networks.iter().map(told).collect();
    let first = state.networks.first().and_then(|on| networks.get(&on.network));
    let mut settings = json!({ "Ports": ports, "Networks": networks });
    // Where older programs look.
    for key in ["IPAddress", "IPPrefixLen", "Gateway", "MacAddress", "GlobalIPv6Address"] {
        settings[key] = first.map_or(json!(""), |first| first[key].clone());
    }
    settings
}

fn bindings(options: &Options) -> Value {
    let mut bindings: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for publish in &options.network.publish {
        let port = match publish.host {
            Some((first, last)) if first == last => first.to_string(),
            Some((first, last)) => format!("{first}-{last}"),
            None => String::new(),
        };
        let address = publish.address.map(|address| address.to_string()).unwrap_or_default();
        let key = format!("{}/{}", publish.container, publish.protocol);
        bindings.entry(key).or_default().push(json!({ "HostIp": address, "HostPort": port }));
    }
    json!(bindings)
}

fn extra_host(host: &Host) -> String {
    let address = host.address.map_or_else(|| "host-gateway".to_owned(), |a| a.to_string());
    format!("{}:{address}", host.name)
}

fn host_config(options: &Options) -> Value {
    let limits = &options.limits;
    let maximum = match options.restart {
        crate::sandbox::RestartPolicy::OnFailure(Some(most)) => most,
        _ => 0,
    };
    let log = json!({
        "max-size": options.log.max_size.to_string(),
        "max-file": options.log.max_file.to_string(),
    });
    // More than nine thousand CPUs would be needed to leave the range.
    #[allow(clippy::cast_possible_truncation)]
    let nano_cpus = options.cpus.map_or(0, |cpus| (cpus * 1e9) as i64);
    json!({
        "NetworkMode": options.network.mode.word(),
        "PortBindings": bindings(options),
        "PublishAllPorts": options.network.publish_all,
        "Dns": options.network.dns,
        "DnsSearch": options.network.dns_search,
        "DnsOptions": options.network.dns_options,
        "ExtraHosts": options.network.hosts.iter().map(extra_host).collect::<Vec<_>>(),
        "AutoRemove": options.remove,
        "RestartPolicy": { "Name": options.restart.name(), "MaximumRetryCount": maximum },
        "LogConfig": { "Type": "json-file", "Config": log },
        "NanoCpus": nano_cpus,
        "Memory": options.memory.unwrap_or(0),
        "MemorySwap": limits.memory_swap.unwrap_or(0),
        "MemoryReservation": limits.memory_reservation.unwrap_or(0),
        "CpuShares": limits.cpu_shares.unwrap_or(0),
        "CpuPeriod": limits.cpu_period.unwrap_or(0),
        "CpuQuota": limits.cpu_quota.unwrap_or(0),
        "PidsLimit": limits.pids,
        "OomScoreAdj": limits.oom_score_adj.unwrap_or(0),
        "ShmSize": limits.shm_size.unwrap_or(64 << 20),
        "Sysctls": limits.sysctls,
        "CapAdd": options.security.add,
        "CapDrop": options.security.drop,
        "Privileged": options.security.privileged,
        "ReadonlyRootfs": options.read_only,
        "GroupAdd": options.groups,
        "CgroupParent": options.cgroup_parent.clone().unwrap_or_default(),
    })
}

fn config(state: &State, options: &Options) -> Value {
    let hostname = options.hostname.clone().unwrap_or_else(|| state.short_id().to_owned());
    json!({
        "Hostname": hostname,
        "Domainname": options.network.domainname.clone().unwrap_or_default(),
        "Image": options.image,
        "Cmd": options.command,
        "Entrypoint": options.entrypoint,
        "Env": options.env,
        "User": options.user.clone().unwrap_or_default(),
        "WorkingDir": options.workdir.clone().unwrap_or_default(),
        "Tty": options.terminal,
        "OpenStdin": options.interactive,
        "Labels": options.labels,
        "StopSignal": options.stop_signal,
        "StopTimeout": options.stop_timeout,
        "Healthcheck": options.health,
    })
}
