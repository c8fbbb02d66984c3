//! What a further process takes from its container's first one, where it names nothing itself.

use ampoule_protocol::message::{Create, Exec, UserName};
use oci_spec::runtime::{Process, User};

/// The process and its user.
pub fn process(exec: Exec, container: Create) -> (Process, Option<UserName>) {
    let mut spec = *exec.spec;
    let first = match container.spec.process() {
        Some(first) if exec.inherit => first,
        _ => return (spec, exec.user),
    };
    if spec.capabilities().is_none() {
        spec.set_capabilities(first.capabilities().clone());
    }
    if spec.rlimits().is_none() {
        spec.set_rlimits(first.rlimits().clone());
    }
    if spec.no_new_privileges().is_none() {
        spec.set_no_new_privileges(first.no_new_privileges());
    }
    if spec.oom_score_adj().is_none() {
        spec.set_oom_score_adj(first.oom_score_adj());
    }
    if spec.cwd().as_os_str().is_empty() {
        spec.set_cwd(first.cwd().clone());
    }
    let own = spec.env().clone().unwrap_or_default();
    spec.set_env(Some(environment(first.env().as_deref().unwrap_or_default(), own)));
    if exec.user.is_none() && *spec.user() == User::default() {
        spec.set_user(first.user().clone());
        return (spec, container.user);
    }
    (spec, exec.user)
}

/// The first process's variables, but for those that are set anew.
fn environment(first: &[String], own: Vec<String>) -> Vec<String> {
    let is_replaced = |variable: &String| own.iter().any(|o| name(o) == name(variable));
    let mut merged: Vec<String> = first.iter().filter(|v| !is_replaced(v)).cloned().collect();
    merged.extend(own);
    merged
}

fn name(variable: &str) -> &str {
    variable.split('=').next().unwrap_or(variable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn container(user: Option<&str>) -> Create {
        serde_json::from_value(json!({
            "container": "c",
            "spec": {"ociVersion": "1.2.0", "process": {
                "user": {"uid": 5, "gid": 6}, "cwd": "/srv", "env": ["A=1", "B=2"],
                "noNewPrivileges": true,
            }},
            "rootfs": {"source": {"type": "directory", "path": "/"}, "writable": {"type": "none"}},
            "user": user.map(|user| json!({"user": user})),
        }))
        .unwrap()
    }

    fn exec(spec: Value) -> Exec {
        serde_json::from_value(
            json!({"container": "c", "process": "p", "spec": spec, "inherit": true}),
        )
        .unwrap()
    }

    #[test]
    fn what_is_not_named_is_the_first_processs() {
        let spec = json!({"user": {}, "cwd": "", "env": ["B=3", "C=4"]});
        let (process, user) = process(exec(spec), container(Some("web")));
        assert_eq!((process.user().uid(), process.user().gid()), (5, 6));
        assert_eq!(user.unwrap().user, "web");
        assert_eq!(process.cwd().to_str(), Some("/srv"));
        assert_eq!(process.env().as_deref().unwrap(), ["A=1", "B=3", "C=4"]);
        assert_eq!(process.no_new_privileges(), Some(true));
    }

    #[test]
    fn what_is_named_stays() {
        let spec = json!({"user": {"uid": 9, "gid": 9}, "cwd": "/", "noNewPrivileges": false});
        let (process, user) = process(exec(spec), container(Some("web")));
        assert_eq!((process.user().uid(), user), (9, None));
        assert_eq!(process.cwd().to_str(), Some("/"));
        assert_eq!(process.no_new_privileges(), Some(false));
    }

    #[test]
    fn nothing_is_taken_unasked() {
        let mut exec = exec(json!({"user": {}, "cwd": "/"}));
        exec.inherit = false;
        let (process, user) = process(exec, container(Some("web")));
        assert_eq!((process.user().uid(), user), (0, None));
        assert!(process.env().is_none());
    }
}
