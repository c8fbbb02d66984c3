//! `ampoule-oci update`: the limits of a container are changed.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;

use ampoule_protocol::message::{Reply, Request};
use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};

use super::error::{file, host};
use super::record::{Record, Status};
use super::translate::{self, TranslateError};
use super::{Global, OciError, guest, processors};
use crate::agent::EXCHANGE_TIME;
use crate::sandbox::{CONTAINER, Shape};

/// Largest file of resources that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// Change the limits of a container
///
/// Limits that are not named stay as they are. Its machine stays as large as it was made: limits
/// beyond it are refused.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File with linux.resources as JSON, - for the standard input; all other options are ignored then
    #[arg(short, long, value_name = "FILE")]
    resources: Option<String>,
    /// Weight of input and output, 10 to 1000
    #[arg(long, value_name = "N")]
    blkio_weight: Option<u16>,
    /// Period of the CPU quota in microseconds, 0 for the kernel's own
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    cpu_period: Option<String>,
    /// CPU time in a period in microseconds, -1 for no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    cpu_quota: Option<String>,
    /// CPU time that may be saved up, in microseconds
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    cpu_burst: Option<String>,
    /// Weight of CPU time
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    cpu_share: Option<String>,
    /// Period of real-time tasks in microseconds
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    cpu_rt_period: Option<String>,
    /// CPU time of real-time tasks in a period, in microseconds
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<String>,
    /// Processors of the host to run on, such as 0-2,5
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes of the host; the machine has one of its own
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Ignored, as runc does
    #[arg(long, value_name = "BYTES", hide = true, allow_hyphen_values = true)]
    kernel_memory: Option<String>,
    /// Ignored, as runc does
    #[arg(long, value_name = "BYTES", hide = true, allow_hyphen_values = true)]
    kernel_memory_tcp: Option<String>,
    /// Memory in bytes, or with k, m, g; -1 for no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Memory that is left to it when memory is short, in the same form
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// Memory and swap together, in the same form
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Most processes, -1 for no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// 1: run only where no other runs; 0: as others do
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    cpu_idle: Option<String>,
    /// Refused: a guest has no such thing
    #[arg(long, value_name = "SCHEMA", hide = true)]
    l3_cache_schema: Option<String>,
    /// Refused: a guest has no such thing
    #[arg(long, value_name = "SCHEMA", hide = true)]
    mem_bw_schema: Option<String>,
    /// Id of the container
    id: String,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, OciError> {
    for (option, value) in
        [("l3-cache-schema", &args.l3_cache_schema), ("mem-bw-schema", &args.mem_bw_schema)]
    {
        if value.as_ref().is_some_and(|value| !value.is_empty()) {
            let message = format!("--{option}: a guest has no Intel RDT");
            return Err(OciError::Usage(message));
        }
    }
    let asked = match args.resources.as_deref().filter(|path| !path.is_empty()) {
        Some(path) => read(path)?,
        None => named(args).map_err(OciError::Usage)?,
    };
    // Held from here on: standard input may be long in coming.
    let (held, record) = global.store().hold(&args.id)?;
    if record.status == Status::Stopped {
        return Err(OciError::NotRunning);
    }
    let spec = held.folder.read_config()?;
    let (shape, processors) = translate::size(&spec)?;
    let before = match held.folder.read_limits()? {
        Some(limits) => limits,
        None => {
            spec.linux().as_ref().and_then(|linux| linux.resources().clone()).unwrap_or_default()
        }
    };
    let change = Change::new(&before, asked, &shape, args)?;
    for warning in &change.warnings {
        global.log().warn(warning);
    }
    change.check_usage(&record)?;
    let pinned = match &change.processors {
        Some(list) => {
            let then = translate::processors(&before)?.unwrap_or(processors);
            processors::pin(&record, list)?;
            Some(then)
        }
        None => None,
    };
    let resources = Box::new(change.guest);
    let request = Request::Update { container: CONTAINER.to_owned(), resources };
    if let Err(error) = guest::call(&record, &request, EXCHANGE_TIME) {
        // As it was, as far as that can be had: the first failure is the one to tell.
        let _ = pinned.map(|then| processors::pin(&record, &then));
        return Err(error);
    }
    held.write_limits(&change.whole)?;
    Ok(ExitCode::SUCCESS)
}

/// What the limits of `file` would change of those of a container.
#[cfg(fuzzing)]
pub fn fuzzing(file: &str, spec: &oci_spec::runtime::Spec) -> Result<(), OciError> {
    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }
    let command: Command = clap::Parser::parse_from(["update", "--resources", file, "id"]);
    let (shape, _) = translate::size(spec)?;
    let before = spec.linux().as_ref().and_then(|linux| linux.resources().clone());
    Change::new(&before.unwrap_or_default(), read(file)?, &shape, &command.args).map(drop)
}

fn read(path: &str) -> Result<Value, OciError> {
    let from = if path == "-" { Path::new("/dev/stdin") } else { Path::new(path) };
    let mut bytes = Vec::new();
    let read = if path == "-" {
        io::stdin().lock().take(LIMIT + 1).read_to_end(&mut bytes)
    } else {
        File::open(from).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes))
    };
    read.map_err(file("read", from))?;
    if bytes.len() as u64 > LIMIT {
        return Err(OciError::Usage(format!("{} is larger than {LIMIT} bytes", from.display())));
    }
    let wrong = |error: serde_json::Error| {
        OciError::Usage(format!("{} is not linux.resources: {error}", from.display()))
    };
    let value: Value = serde_json::from_slice(&bytes).map_err(wrong)?;
    // Told here, where it is known whose fault it is.
    serde_json::from_value::<LinuxResources>(value.clone()).map_err(wrong)?;
    Ok(value)
}

/// The limits that options name.
fn named(args: &Args) -> Result<Value, String> {
    let mut resources = json!({});
    let mut set = |group: &str, field: &str, value: Value| resources[group][field] = value;
    let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    let invalid = |option: &str, value: &str| format!("invalid value for {option}: {value:?}");
    for (option, field, value) in [
        ("cpu-period", "period", &args.cpu_period),
        ("cpu-burst", "burst", &args.cpu_burst),
        ("cpu-share", "shares", &args.cpu_share),
        ("cpu-rt-period", "realtimePeriod", &args.cpu_rt_period),
    ] {
        if let Some(text) = given(value) {
            let number: u64 = text.parse().map_err(|_| invalid(option, &text))?;
            set("cpu", field, json!(number));
        }
    }
    for (option, field, value) in [
        ("cpu-quota", "quota", &args.cpu_quota),
        ("cpu-rt-runtime", "realtimeRuntime", &args.cpu_rt_runtime),
        ("cpu-idle", "idle", &args.cpu_idle),
    ] {
        if let Some(text) = given(value) {
            let number: i64 = text.parse().map_err(|_| invalid(option, &text))?;
            set("cpu", field, json!(number));
        }
    }
    for (field, value) in [("cpus", &args.cpuset_cpus), ("mems", &args.cpuset_mems)] {
        if let Some(list) = given(value) {
            set("cpu", field, json!(list));
        }
    }
    for (option, field, value) in [
        ("memory", "limit", &args.memory),
        ("memory-reservation", "reservation", &args.memory_reservation),
        ("memory-swap", "swap", &args.memory_swap),
    ] {
        if let Some(text) = given(value) {
            let bytes = if text == "-1" { Some(-1) } else { bytes(&text) };
            set("memory", field, json!(bytes.ok_or_else(|| invalid(option, &text))?));
        }
    }
    for (field, value) in [("kernel", &args.kernel_memory), ("kernelTCP", &args.kernel_memory_tcp)]
    {
        if given(value).is_some() {
            set("memory", field, json!(0));
        }
    }
    if let Some(weight) = args.blkio_weight {
        set("blockIO", "weight", json!(weight));
    }
    if let Some(limit) = args.pids_limit {
        set("pids", "limit", json!(limit));
    }
    Ok(resources)
}

/// A size with b, k, m, g, t or p, in powers of 1024.
fn bytes(text: &str) -> Option<i64> {
    let size = parse_size::Config::new().with_binary().parse_size(text).ok()?;
    i64::try_from(size).ok()
}

/// A change of a container's limits.
#[derive(Debug)]
struct Change {
    /// What the agent is asked for.
    guest: LinuxResources,
    /// All limits after it, as they are for the host.
    whole: LinuxResources,
    /// Processors of the host that the machine is to run on, where that changes.
    processors: Option<Vec<usize>>,
    /// What is not as it was asked for.
    warnings: Vec<String>,
}

impl Change {
    /// What `asked` (`linux.resources`) changes of limits.
    ///
    /// # Errors
    /// Limits that a machine of this size cannot keep.
    fn new(
        before: &LinuxResources,
        mut asked: Value,
        shape: &Shape,
        args: &Args,
    ) -> Result<Self, OciError> {
        let mut warnings = Vec::new();
        drop_unset(&mut asked);
        for (option, value) in
            [("kernel-memory", &args.kernel_memory), ("kernel-memory-tcp", &args.kernel_memory_tcp)]
        {
            if value.as_ref().is_some_and(|value| !value.is_empty()) && args.resources.is_none() {
                warnings.push(format!("Setting --{option} is ignored and will be removed"));
            }
        }
        if let Some(memory) = asked.get_mut("memory").and_then(Value::as_object_mut) {
            for field in ["kernel", "kernelTCP"] {
                let ignored = memory.remove(field);
                if ignored.as_ref().and_then(Value::as_i64).is_some_and(|limit| limit > 0) {
                    warnings.push(format!("memory.{field} is ignored: it is obsolete"));
                }
            }
            // Without a limit of memory there is none of both.
            if memory.get("limit") == Some(&json!(-1)) && !memory.contains_key("swap") {
                memory.insert("swap".into(), json!(-1));
            }
        }
        // Device rules stay as they are, here as with runc.
        asked.as_object_mut().map(|asked| asked.remove("devices"));
        let mut whole = serde_json::to_value(before).map_err(json_failed)?;
        merge(&mut whole, &asked);
        let mut guest = asked.clone();
        complete(&mut guest, &whole);
        let whole: LinuxResources = serde_json::from_value(whole).map_err(json_failed)?;
        check_size(&whole, &asked, shape)?;
        let processors = match asked.pointer("/cpu/cpus") {
            Some(_) => translate::processors(&whole)?,
            None => None,
        };
        if let Some(processors) = &processors {
            guest["cpu"]["cpus"] = json!(format!("0-{}", processors.len().saturating_sub(1)));
        }
        let cpu = guest.get_mut("cpu").and_then(Value::as_object_mut);
        if cpu.is_some_and(|cpu| cpu.remove("mems").is_some()) {
            let message =
                "cpu.mems is ignored: it is for the host's memory, the machine has one node";
            warnings.push(message.into());
        }
        let guest = serde_json::from_value(guest).map_err(json_failed)?;
        Ok(Self { guest, whole, processors, warnings })
    }

    /// Refuses a limit below what is used, where that is asked for (`memory.checkBeforeUpdate`).
    fn check_usage(&self, record: &Record) -> Result<(), OciError> {
        let Some(memory) =
            self.guest.memory().as_ref().filter(|m| m.check_before_update() == Some(true))
        else {
            return Ok(());
        };
        let request = Request::Stats { container: CONTAINER.to_owned() };
        let Reply::Stats(stats) = guest::ask(record, &request, EXCHANGE_TIME)? else {
            return Err(crate::agent::ClientError::UnexpectedReply.into());
        };
        let usage = stats.memory.usage.current;
        for (name, limit) in [("memory+swap", memory.swap()), ("memory", memory.limit())] {
            let limit =
                limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0);
            if let Some(limit) = limit.filter(|limit| *limit <= usage) {
                let message = format!("rejecting {name} limit {limit} <= usage {usage}");
                return Err(OciError::Usage(message));
            }
        }
        Ok(())
    }
}

fn json_failed(error: serde_json::Error) -> OciError {
    host("understand linux.resources")(error)
}

/// Leaves out what means nothing in a change, so that it does not change anything: null, empty lists
/// and names, and a pids.limit of 0.
fn drop_unset(value: &mut Value) {
    let Some(groups) = value.as_object_mut() else { return };
    let is_unset = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    for (name, group) in groups.iter_mut() {
        let Some(fields) = group.as_object_mut() else { continue };
        fields.retain(|_, value| !is_unset(value));
        if name == "pids" && fields.get("limit") == Some(&json!(0)) {
            fields.remove("limit");
        }
    }
    groups.retain(|_, group| !is_unset(group) && group.as_object().is_none_or(|g| !g.is_empty()));
}

/// Puts what a change names in the place of what was.
fn merge(whole: &mut Value, change: &Value) {
    match (whole, change) {
        (Value::Object(whole), Value::Object(change)) => {
            for (name, value) in change {
                merge(whole.entry(name).or_insert(Value::Null), value);
            }
        }
        (whole, change) => *whole = change.clone(),
    }
}

/// Adds what the kernel knows as one limit with something that is named: quota and period, memory and
/// swap.
fn complete(change: &mut Value, whole: &Value) {
    for (group, pair) in [("cpu", ["quota", "period"]), ("memory", ["limit", "swap"])] {
        let Some(fields) = change.get_mut(group).and_then(Value::as_object_mut) else { continue };
        if !pair.iter().any(|field| fields.contains_key(*field)) {
            continue;
        }
        let before = whole.get(group).and_then(Value::as_object);
        for field in pair {
            if let Some(value) = before.and_then(|before: &Map<String, Value>| before.get(field)) {
                fields.insert(field.to_owned(), value.clone());
            }
        }
    }
}

/// Refuses limits that the machine cannot keep: it is as large as it was made.
fn check_size(whole: &LinuxResources, asked: &Value, shape: &Shape) -> Result<(), OciError> {
    let refuse = |field: &str, reason: String| {
        Err(TranslateError::Beyond { field: format!("linux.resources.{field}"), reason }.into())
    };
    let limit = asked.pointer("/memory/limit").and_then(Value::as_u64).unwrap_or(0);
    let memory = u64::from(shape.memory_mib) << 20;
    if limit > memory {
        let (wanted, there) = (limit >> 20, shape.memory_mib);
        return refuse(
            "memory.limit",
            format!(
                "{wanted} MiB are more than the {there} MiB of the sandbox's machine: create the container with this limit, or with the annotation {}",
                translate::MEMORY_ANNOTATION
            ),
        );
    }
    let hint = format!(
        "the sandbox's machine has {} vCPUs: create the container with this limit, or with the annotation {}",
        shape.vcpus,
        translate::CPUS_ANNOTATION
    );
    let cpu = whole.cpu().as_ref();
    let names = |field: &str| asked.pointer(&format!("/cpu/{field}")).is_some();
    if names("quota") || names("period") {
        let quota = cpu.and_then(|cpu| cpu.quota()).and_then(|quota| u64::try_from(quota).ok());
        let period = cpu.and_then(|cpu| cpu.period()).filter(|period| *period > 0);
        let vcpus = quota.unwrap_or(0).div_ceil(period.unwrap_or(translate::DEFAULT_PERIOD));
        if vcpus > u64::from(shape.vcpus) {
            return refuse("cpu.quota", format!("it is the time of {vcpus} processors, {hint}"));
        }
    }
    if names("cpus")
        && let Some(listed) = translate::processors(whole)?
        && listed.len() > usize::from(shape.vcpus)
    {
        return refuse("cpu.cpus", format!("it lists {} processors, {hint}", listed.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use proptest::prelude::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(options: &[&str]) -> Args {
        Line::parse_from(["update"].iter().chain(options).chain(&["c"])).args
    }

    fn shape() -> Shape {
        Shape { vcpus: 2, memory_mib: 512, kernel: None, slots: crate::sandbox::Slots::CONTAINER }
    }

    fn changed(before: Value, asked: Value) -> Result<(Value, Value, Option<Vec<usize>>), String> {
        let before = serde_json::from_value(before).unwrap();
        let change =
            Change::new(&before, asked, &shape(), &args(&[])).map_err(|e| e.to_string())?;
        let value = |resources: &LinuxResources| serde_json::to_value(resources).unwrap();
        Ok((value(&change.guest), value(&change.whole), change.processors))
    }

    #[test]
    fn options_are_resources() {
        let all = args(&[
            "--memory",
            "64m",
            "--memory-swap",
            "-1",
            "--memory-reservation=1g",
            "--cpu-quota",
            "-1",
            "--cpu-period",
            "50000",
            "--cpu-share",
            "512",
            "--cpuset-cpus",
            "0-1",
            "--pids-limit",
            "-1",
            "--blkio-weight",
            "10",
            "--cpu-idle",
            "1",
            "--cpu-burst",
            "7",
        ]);
        let expected = json!({
            "memory": {"limit": 64 << 20, "swap": -1, "reservation": 1 << 30},
            "cpu": {"quota": -1, "period": 50000, "shares": 512, "cpus": "0-1", "idle": 1, "burst": 7},
            "pids": {"limit": -1},
            "blockIO": {"weight": 10},
        });
        assert_eq!(named(&all).unwrap(), expected);
        assert_eq!(named(&args(&[])).unwrap(), json!({}));
        assert_eq!(named(&args(&["--memory", ""])).unwrap(), json!({}));
        for (option, value) in [("--cpu-period", "-1"), ("--memory", "x"), ("--cpu-quota", "1.5")] {
            let text = named(&args(&[option, value])).unwrap_err();
            assert_eq!(text, format!("invalid value for {}: {value:?}", &option[2..]));
        }
    }

    #[test]
    fn kernel_memory_is_ignored_and_said_so() {
        let args = args(&["--kernel-memory", "64m"]);
        let asked = named(&args).unwrap();
        let change = Change::new(&LinuxResources::default(), asked, &shape(), &args).unwrap();
        assert_eq!(change.warnings, ["Setting --kernel-memory is ignored and will be removed"]);
        assert_eq!(serde_json::to_value(change.guest).unwrap(), json!({"memory": {}}));
    }

    #[test]
    fn what_is_one_limit_to_the_kernel_is_changed_as_one() {
        let before = json!({
            "cpu": {"quota": 50_000, "period": 100_000, "shares": 7},
            "memory": {"limit": 64 << 20, "swap": 256 << 20, "reservation": 1 << 20},
        });
        let (guest, whole, _) =
            changed(before.clone(), json!({"cpu": {"period": 50_000}})).unwrap();
        assert_eq!(guest, json!({"cpu": {"quota": 50_000, "period": 50_000}}));
        assert_eq!(whole["cpu"], json!({"quota": 50_000, "period": 50_000, "shares": 7}));
        assert_eq!(whole["memory"], before["memory"]);
        let (guest, ..) = changed(before.clone(), json!({"memory": {"limit": 128 << 20}})).unwrap();
        assert_eq!(guest, json!({"memory": {"limit": 128 << 20, "swap": 256 << 20}}));
        let (guest, ..) = changed(before.clone(), json!({"memory": {"limit": -1}})).unwrap();
        assert_eq!(guest, json!({"memory": {"limit": -1, "swap": -1}}));
        let (guest, ..) =
            changed(before, json!({"cpu": {"shares": 9}, "memory": {"reservation": 5}})).unwrap();
        assert_eq!(guest, json!({"cpu": {"shares": 9}, "memory": {"reservation": 5}}));
    }

    #[test]
    fn what_means_nothing_changes_nothing() {
        let nothing = json!({
            "devices": [{"allow": false, "access": "rwm"}], "pids": {"limit": 0}, "memory": {},
            "cpu": {"cpus": "", "mems": ""}, "unified": null, "hugepageLimits": [],
        });
        let before = json!({"pids": {"limit": 5}, "cpu": {"cpus": "1"}});
        let (guest, whole, processors) = changed(before.clone(), nothing).unwrap();
        assert_eq!((guest, whole, processors), (json!({}), before, None));
    }

    #[test]
    fn processors_of_the_host_are_the_machines() {
        let (guest, whole, processors) =
            changed(json!({}), json!({"cpu": {"cpus": "3,7"}})).unwrap();
        assert_eq!(guest, json!({"cpu": {"cpus": "0-1"}}));
        assert_eq!(whole, json!({"cpu": {"cpus": "3,7"}}));
        assert_eq!(processors, Some(vec![3, 7]));
    }

    #[test]
    fn what_the_machine_has_not_is_refused_by_name() {
        for (asked, word) in [
            (json!({"memory": {"limit": 513 << 20}}), "memory.limit: 513 MiB"),
            (
                json!({"cpu": {"quota": 200_001, "period": 100_000}}),
                "cpu.quota: it is the time of 3",
            ),
            (json!({"cpu": {"quota": 250_000}}), "io.ampoule.vcpus"),
            (json!({"cpu": {"cpus": "0-2"}}), "cpu.cpus: it lists 3"),
            (json!({"cpu": {"cpus": "2-0"}}), "cpu.cpus"),
        ] {
            let text = changed(json!({}), asked).unwrap_err();
            assert!(text.contains(word), "{text}");
        }
        let most =
            json!({"memory": {"limit": 512 << 20}, "cpu": {"quota": 200_000, "cpus": "0-1"}});
        changed(json!({}), most).unwrap();
        // What was there is not this change's to refuse.
        changed(json!({"cpu": {"cpus": "0-7"}}), json!({"cpu": {"shares": 2}})).unwrap();
    }

    proptest! {
        #[test]
        fn any_numbers_are_taken_without_panic(limit: i64, quota: i64, period: u64, text in ".{0,20}") {
            let asked = json!({"memory": {"limit": limit}, "cpu": {"quota": quota, "period": period, "cpus": text}});
            let _ = changed(json!({}), asked);
            let _ = bytes(&text);
        }
    }
}
