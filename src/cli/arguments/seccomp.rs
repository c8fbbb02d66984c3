//! docker's seccomp profiles, as `--security-opt seccomp=FILE` names them.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSyscall};
use serde::Deserialize;
use serde_json::Value;

/// Largest profile that is read, in bytes.
const LIMIT: u64 = 4 << 20;

/// Names of this architecture in profiles.
const HERE: [&str; 2] = ["amd64", "x86_64"];

/// A profile: the specification's filter, and conditions on who gets which rule.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<Architectures>>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Architectures {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
    /// As the specification has it.
    #[serde(flatten)]
    rule: serde_json::Map<String, Value>,
}

/// A guest's kernel is newer than any `minKernel` of a profile that is in use.
#[derive(Debug, Default, Deserialize)]
struct Condition {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
}

/// Reads a profile; what belongs to it depends on the container's capabilities.
pub fn read(path: &Path, has: impl Fn(&str) -> bool) -> Result<LinuxSeccomp, String> {
    let told = |error: String| format!("seccomp profile {}: {error}", path.display());
    let mut json = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LIMIT + 1).read_to_end(&mut json))
        .map_err(|error| told(error.to_string()))?;
    if json.len() as u64 > LIMIT {
        return Err(told(format!("it is larger than {LIMIT} bytes")));
    }
    parse(&json, has).map_err(|error| told(error.to_string()))
}

fn parse(json: &[u8], has: impl Fn(&str) -> bool) -> serde_json::Result<LinuxSeccomp> {
    let profile: Profile = serde_json::from_slice(json)?;
    let mut filter = LinuxSeccomp::default();
    filter.set_default_action(profile.default_action);
    filter.set_default_errno_ret(profile.default_errno_ret);
    let mapped = profile.arch_map.into_iter().flatten();
    let here = mapped.filter(|map| map.architecture == Arch::ScmpArchX86_64);
    let mut architectures: Vec<Arch> = profile.architectures.unwrap_or_default();
    for map in here {
        architectures.push(map.architecture);
        architectures.extend(map.sub_architectures.into_iter().flatten());
    }
    filter.set_architectures((!architectures.is_empty()).then_some(architectures));
    let all = |names: &[String]| names.iter().all(|name| has(name));
    let any = |names: &[String]| names.iter().any(|name| has(name));
    let is_here = |names: &[String]| names.iter().any(|name| HERE.contains(&name.as_str()));
    let mut rules = Vec::new();
    for Rule { includes, excludes, mut rule } in profile.syscalls {
        let included =
            all(&includes.caps) && (includes.arches.is_empty() || is_here(&includes.arches));
        if !included || any(&excludes.caps) || is_here(&excludes.arches) {
            continue;
        }
        // The profile's remarks; and one name in the place of several.
        rule.remove("comment");
        if let Some(name) = rule.remove("name") {
            rule.insert("names".into(), Value::Array(vec![name]));
        }
        if rule.get("args").is_some_and(Value::is_null) {
            rule.remove("args");
        }
        rules.push(serde_json::from_value::<LinuxSyscall>(Value::Object(rule))?);
    }
    filter.set_syscalls((!rules.is_empty()).then_some(rules));
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_profile_has_the_rules_of_this_machine_and_these_capabilities() {
        let profile = json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
            "archMap": [
                {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
            ],
            "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
                {"name": "mount", "action": "SCMP_ACT_ALLOW", "args": null, "comment": "x",
                 "includes": {"caps": ["CAP_SYS_ADMIN"]}, "excludes": {}},
                {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
                 "excludes": {"caps": ["CAP_SYS_ADMIN"]}, "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
                {"names": ["arm"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm"]}},
                {"names": ["modify_ldt"], "action": "SCMP_ACT_ALLOW",
                 "includes": {"arches": ["amd64"], "minKernel": "4.8"}},
            ],
        });
        let bytes = serde_json::to_vec(&profile).unwrap();
        let names = |admin: bool| {
            let filter = parse(&bytes, |name| admin && name == "CAP_SYS_ADMIN").unwrap();
            assert_eq!(filter.architectures().as_ref().unwrap().len(), 2);
            let rules = filter.syscalls().clone().unwrap();
            rules.iter().flat_map(|rule| rule.names().clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(true), ["read", "write", "mount", "modify_ldt"]);
        assert_eq!(names(false), ["read", "write", "clone", "modify_ldt"]);
        assert!(parse(b"{}", |_| true).is_err() && parse(b"[", |_| true).is_err());
    }
}
