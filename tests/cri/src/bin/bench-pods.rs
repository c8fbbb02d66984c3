//! Times the start of pods with two runtimes by turns, on a containerd of its own, and weighs an idle one.
//! `tools/bench pods` runs it where it can run.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use ampoule_cri::node::{Node, Setting, pids};
use ampoule_cri::v1::PodSandboxConfig;
use ampoule_cri::{Client, container, pod};
use clap::Parser;
use serde_json::json;

/// What containers are made of.
const IMAGE: &str = "docker.io/library/busybox:latest";
/// What is timed, in the order of its time; the first three make a pod.
const STEPS: [&str; 6] = [
    "RunPodSandbox",
    "CreateContainer",
    "StartContainer",
    "ExecSync true",
    "StopPodSandbox",
    "RemovePodSandbox",
];
/// How many of them are the start.
const START: usize = 3;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// RunPodSandbox, CreateContainer and StartContainer with two runtimes by turns.
#[derive(Debug, Parser)]
struct Args {
    /// Counted rounds; one before them is not
    #[arg(long, default_value_t = 10)]
    runs: usize,
    /// Runtime handlers; the second is divided by the first
    #[arg(long, num_args = 2, default_values = ["runc", "ampoule"])]
    handlers: Vec<String>,
    /// Folder of the images' archives
    #[arg(long)]
    images: PathBuf,
    /// Folder of ampoule's shim
    #[arg(long)]
    shims: PathBuf,
    /// Folder of the guest's kernel and initramfs
    #[arg(long)]
    guest: PathBuf,
    /// Seconds that a pod is left alone before it is weighed
    #[arg(long, default_value_t = 10)]
    idle: u64,
    /// Write all figures to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Pods that are weighed together.
const IDLE_PODS: u64 = 10;

/// Milliseconds of each step, a row for each round.
type Times = Vec<[f64; STEPS.len()]>;
/// Kilobytes (PSS) of each program that a pod adds to the host.
type Weights = BTreeMap<String, u64>;

fn main() -> Result<()> {
    let args = Args::parse();
    let setting = Setting {
        images: args.images.clone(),
        shims: args.shims.clone(),
        environment: vec![("AMPOULE_GUEST", args.guest.clone())],
        traced: false,
    };
    let node = Node::start(setting)?;
    let outcome = measure(&node, &args);
    if outcome.is_err() {
        eprintln!("{}", node.told());
    }
    outcome
}

fn measure(node: &Node, args: &Args) -> Result<()> {
    let mut times: [Times; 2] = [vec![], vec![]];
    for round in 0..=args.runs {
        for (handler, times) in args.handlers.iter().zip(&mut times) {
            let took = once(node, handler, round).map_err(|error| format!("{handler}: {error}"))?;
            // The first fills caches, and makes a template.
            if round > 0 {
                times.push(took);
            }
        }
    }
    let mut weights = Vec::new();
    for handler in &args.handlers {
        weights.push(weigh(node, handler, Duration::from_secs(args.idle))?);
    }
    report(args, &times, &weights);
    if let Some(file) = &args.json {
        let all: BTreeMap<_, _> = args.handlers.iter().zip(times.iter().zip(&weights)).collect();
        let all: BTreeMap<_, _> = all
            .into_iter()
            .map(|(handler, (times, weights))| {
                (handler, json!({"steps": STEPS, "ms": times, "idle_kb": weights}))
            })
            .collect();
        fs::write(file, serde_json::to_string_pretty(&all)?)?;
    }
    Ok(())
}

fn config(node: &Node, name: &str) -> Result<PodSandboxConfig> {
    let config = pod(name, &node.folder().join("logs"), &node.cgroup());
    fs::create_dir_all(&config.log_directory)?;
    Ok(config)
}

/// One pod from its start to its end: how long each step took.
fn once(node: &Node, handler: &str, round: usize) -> Result<[f64; STEPS.len()]> {
    let client = node.client()?;
    let config = config(node, &format!("{handler}-{round}"))?;
    let sleeps = container("main", IMAGE, &["sleep", "1000"]);
    let mut took = [0.0; STEPS.len()];
    let mut steps = took.iter_mut();
    let id = timed(&mut steps, || client.run_pod(&config, handler))?;
    let ends = || -> Result<()> {
        let made = timed(&mut steps, || client.create(&id, &sleeps, &config))?;
        timed(&mut steps, || client.start(&made))?;
        let done = timed(&mut steps, || client.exec_sync(&made, &["true"], 0))?;
        if done.exit_code != 0 {
            return Err(format!("true gave {}", done.exit_code).into());
        }
        timed(&mut steps, || client.stop_pod(&id))?;
        timed(&mut steps, || client.remove_pod(&id))?;
        Ok(())
    };
    let outcome = { ends }();
    if outcome.is_err() {
        let _ = client.stop_pod(&id);
        let _ = client.remove_pod(&id);
    }
    outcome.map(|()| took)
}

fn timed<'a, T>(
    steps: &mut impl Iterator<Item = &'a mut f64>,
    step: impl FnOnce() -> ampoule_cri::Answer<T>,
) -> Result<T> {
    let start = Instant::now();
    let given = step()?;
    if let Some(took) = steps.next() {
        *took = start.elapsed().as_secs_f64() * 1e3;
    }
    Ok(given)
}

/// What the processes that a pod brings take of the host's memory when nothing happens: the mean of several,
/// which share what they can.
fn weigh(node: &Node, handler: &str, idle: Duration) -> Result<Weights> {
    let client: &Client = node.client()?;
    let before: BTreeSet<i32> = pids().into_iter().collect();
    let mut ids = Vec::new();
    for number in 0..IDLE_PODS {
        let config = config(node, &format!("{handler}-idle-{number}"))?;
        let id = client.run_pod(&config, handler)?;
        let made = client.create(&id, &container("main", IMAGE, &["sleep", "1000"]), &config)?;
        client.start(&made)?;
        ids.push(id);
    }
    thread::sleep(idle);
    let mut weights = Weights::new();
    for (pid, program) in family(&before) {
        *weights.entry(program).or_default() += proportional_share(pid);
    }
    for id in ids {
        client.stop_pod(&id)?;
        client.remove_pod(&id)?;
    }
    weights.values_mut().for_each(|share| *share /= IDLE_PODS);
    Ok(weights)
}

/// Shims that were not there before, and whatever they or their children have started; with their programs.
fn family(before: &BTreeSet<i32>) -> BTreeMap<i32, String> {
    let program = |pid: &i32| {
        let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let program = exe.file_name()?.to_string_lossy().into_owned();
        // The shim's own program too.
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Some((*pid, if name.trim() == "ampoule" { "monitor".to_owned() } else { program }))
    };
    let mut rest: BTreeMap<i32, String> =
        pids().iter().filter(|pid| !before.contains(pid)).filter_map(program).collect();
    let mut family = BTreeMap::new();
    loop {
        let joins = |pid: &i32, program: &String| {
            program.starts_with("containerd-shim") || family.contains_key(&parent_of(*pid))
        };
        let next = rest.iter().find(|(pid, program)| joins(pid, program)).map(|(pid, _)| *pid);
        let Some((pid, program)) = next.and_then(|pid| rest.remove_entry(&pid)) else {
            return family;
        };
        family.insert(pid, program);
    }
}

fn parent_of(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    parent.and_then(|parent| parent.trim().parse().ok()).unwrap_or(0)
}

fn proportional_share(pid: i32) -> u64 {
    let rollup = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("smaps_rollup"));
    let rollup = rollup.unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match (values.get(values.len() / 2), values.get(values.len().saturating_sub(1) / 2)) {
        (Some(upper), Some(lower)) => f64::midpoint(*upper, *lower),
        _ => f64::NAN,
    }
}

fn report(args: &Args, times: &[Times; 2], weights: &[Weights]) {
    let [first, second] = times;
    let (one, other) = (&args.handlers[0], &args.handlers[1]);
    println!("{} rounds by turns, medians in ms; ratios are of neighbours in time", first.len());
    println!("{:<18}{one:>12}{other:>12}{:>9}   (least to most)", "", "ratio");
    let row = |name: &str, of: &dyn Fn(&[f64; STEPS.len()]) -> f64| {
        let (a, b): (Vec<f64>, Vec<f64>) =
            (first.iter().map(of).collect(), second.iter().map(of).collect());
        let ratios: Vec<f64> = a.iter().zip(&b).map(|(a, b)| b / a).collect();
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        let (a, b, ratio) = (median(a), median(b), median(ratios));
        println!("{name:<18}{a:>12.1}{b:>12.1}{ratio:>9.2}   ({least:.2} to {most:.2})");
    };
    row("start of a pod", &|took| took[..START].iter().sum());
    for (place, name) in STEPS.iter().enumerate() {
        row(name, &|took| took[place]);
    }
    println!(
        "\nmemory of an idle pod with one container that sleeps, one of {IDLE_PODS}, PSS in KiB:"
    );
    for (handler, weights) in args.handlers.iter().zip(weights) {
        let parts: Vec<String> =
            weights.iter().map(|(program, share)| format!("{program} {share}")).collect();
        println!("{handler:<12}{:>8}   ({})", weights.values().sum::<u64>(), parts.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(vec![]).is_nan());
    }
}
