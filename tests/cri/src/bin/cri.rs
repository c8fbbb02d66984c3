//! Pods by hand, as `crictl` has them: `cri VERB ...` at the socket that `CONTAINERD_ADDRESS` names.

use std::error::Error;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use ampoule_cri::{Client, Streams, container, pod};

const USAGE: &str = "usage: cri VERB ...
  runp HANDLER NAME [HOST-PORT:PORT]...  run a pod: its id
  create POD NAME IMAGE WORD...          create a container (POD: id and name, as ID/NAME): its id
  start CONTAINER
  exec CONTAINER WORD...                 with standard input, and the exit code of the command
  execsync CONTAINER WORD...
  logs FILE                              of a container: the text alone
  port-forward POD PORT                  standard input and output are a connection to it
  status CONTAINER | inspectp POD | stats CONTAINER | statsp POD
  stop CONTAINER [SECONDS] | rm CONTAINER | stopp POD | rmp POD
  ps | pods | images";

/// Where containers' logs are, and a pod's control groups.
const LOGS: &str = "/tmp/cri-logs";
const CGROUP: &str = "/cri";

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let socket = std::env::var_os("CONTAINERD_ADDRESS")
        .map_or_else(|| PathBuf::from("/run/containerd/containerd.sock"), PathBuf::from);
    let client = Client::connect(&socket)?;
    match words[..] {
        ["runp", handler, name, ref ports @ ..] => {
            let mut config = pod(name, Path::new(LOGS), CGROUP);
            std::fs::create_dir_all(&config.log_directory)?;
            for port in ports {
                let (host, inside) = port.split_once(':').ok_or(USAGE)?;
                config.port_mappings.push(ampoule_cri::v1::PortMapping {
                    host_port: host.parse()?,
                    container_port: inside.parse()?,
                    ..Default::default()
                });
            }
            println!("{}/{name}", client.run_pod(&config, handler)?);
        }
        ["create", pod_name, name, image, ref command @ ..] => {
            let (id, pod_name) = pod_name.split_once('/').ok_or(USAGE)?;
            let pod_config = pod(pod_name, Path::new(LOGS), CGROUP);
            println!("{}", client.create(id, &container(name, image, command), &pod_config)?);
        }
        ["start", id] => client.start(id)?,
        ["exec", id, ref command @ ..] => exec(&client, id, command)?,
        ["execsync", id, ref command @ ..] => {
            let done = client.exec_sync(id, command, 0)?;
            std::io::stdout().write_all(&done.stdout)?;
            std::io::stderr().write_all(&done.stderr)?;
            std::process::exit(done.exit_code);
        }
        ["logs", file] => {
            for line in std::fs::read_to_string(file)?.lines() {
                println!("{}", line.splitn(4, ' ').nth(3).unwrap_or_default());
            }
        }
        ["port-forward", id, port] => forward(&client, bare(id), port.parse()?)?,
        ["status", id] => println!("{:#?}", client.status(id)?),
        ["inspectp", id] => println!("{:#?}", client.pod_status(bare(id))?),
        ["stats", id] => println!("{:#?}", client.stats(id)?),
        ["statsp", id] => println!("{:#?}", client.pod_stats(bare(id))?),
        ["stop", id] => client.stop(id, 10)?,
        ["stop", id, seconds] => client.stop(id, seconds.parse()?)?,
        ["rm", id] => client.remove(id)?,
        ["stopp", id] => client.stop_pod(bare(id))?,
        ["rmp", id] => client.remove_pod(bare(id))?,
        ["ps"] => list(client.containers()?.into_iter().map(|container| {
            let name = container.metadata.as_ref().map(|data| data.name.clone());
            (container.id.clone(), container.state().as_str_name(), name)
        })),
        ["pods"] => list(client.pods()?.into_iter().map(|pod| {
            let name = pod.metadata.as_ref().map(|data| data.name.clone());
            (pod.id.clone(), pod.state().as_str_name(), name)
        })),
        ["images"] => client.image_names()?.iter().for_each(|name| println!("{name}")),
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

/// A pod's id without its name.
fn bare(pod: &str) -> &str {
    pod.split('/').next().unwrap_or(pod)
}

fn list(items: impl Iterator<Item = (String, &'static str, Option<String>)>) {
    for (id, state, name) in items {
        println!("{id}  {state:<20} {}", name.unwrap_or_default());
    }
}

/// Hands over all of standard input first: this is no terminal.
fn exec(client: &Client, id: &str, command: &[&str]) -> Result<(), Box<dyn Error>> {
    let mut streams = Streams::open(&client.exec(id, command, false)?)?;
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input)?;
    streams.input(&input)?;
    let ended = streams.end()?;
    std::io::stdout().write_all(&ended.stdout)?;
    std::io::stderr().write_all(&ended.stderr)?;
    std::process::exit(ended.code?);
}

fn forward(client: &Client, pod: &str, port: u16) -> Result<(), Box<dyn Error>> {
    let mut streams = Streams::open(&client.port_forward(pod, port)?)?;
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input)?;
    streams.send(0, &input)?;
    // The first message of each channel is the port's number.
    let mut begun = [false; 2];
    while let Some((channel, bytes)) = streams.receive()? {
        let Some(begun) = begun.get_mut(usize::from(channel)) else { continue };
        if !std::mem::replace(begun, true) {
            continue;
        }
        if channel == 1 {
            return Err(String::from_utf8_lossy(&bytes).into_owned().into());
        }
        std::io::stdout().write_all(&bytes)?;
    }
    Ok(())
}
