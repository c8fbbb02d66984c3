//! The manifests in `deploy` say what this program understands.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use serde_json::Value;

use crate::cli::{Cli, Verb};
use crate::system::PROGRAM;
use crate::system::containerd::config::HANDLER;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

/// The objects of a file.
fn objects(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let parts = text.split("\n---\n");
    parts
        .map(|part| {
            serde_saphyr::from_str(part)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        })
        .collect()
}

fn object(name: &str) -> Value {
    objects(&folder().join("kubernetes").join(name)).remove(0)
}

/// Containers of a DaemonSet.
fn containers(daemon_set: &Value) -> Vec<&Value> {
    let spec = &daemon_set["spec"]["template"]["spec"];
    let all = ["initContainers", "containers"];
    all.iter().flat_map(|name| spec[name].as_array().into_iter().flatten()).collect()
}

#[test]
fn every_manifest_is_an_object_and_the_kustomization_has_them() {
    let kustomization = object("kustomization.yaml");
    let named: Vec<&str> = kustomization["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    for entry in fs::read_dir(folder().join("kubernetes")).unwrap() {
        let path = entry.unwrap().path();
        for object in objects(&path) {
            assert!(object["apiVersion"].is_string() && object["kind"].is_string(), "{path:?}");
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let apart = ["kustomization.yaml", "uninstall-daemonset.yaml"].contains(&name);
        assert!(apart != named.contains(&name), "{name}");
    }
}

#[test]
fn the_runtime_class_names_the_runtime() {
    let class = object("runtimeclass.yaml");
    assert_eq!((&class["kind"], &class["handler"]), (&"RuntimeClass".into(), &HANDLER.into()));
    // What docs/kubernetes.md tells is what is reserved.
    let docs = fs::read_to_string(folder().join("../docs/kubernetes.md")).unwrap();
    for kind in ["memory", "cpu"] {
        let reserved = class["overhead"]["podFixed"][kind].as_str().unwrap();
        assert!(docs.contains(&format!("{kind}: {reserved}")), "{kind}: {reserved}");
    }
}

#[test]
fn the_daemon_sets_call_this_program_as_it_is() {
    for name in ["installer-daemonset.yaml", "uninstall-daemonset.yaml"] {
        let daemon_set = object(name);
        let labels = &daemon_set["spec"]["template"]["metadata"]["labels"];
        let selector = daemon_set["spec"]["selector"]["matchLabels"].as_object().unwrap();
        assert!(selector.iter().all(|(name, value)| labels[name] == *value), "{name}");
        for container in containers(&daemon_set) {
            let Some(args) = container["args"].as_array() else { continue };
            let args = args.iter().map(|arg| arg.as_str().unwrap());
            let cli = Cli::try_parse_from([PROGRAM].into_iter().chain(args));
            let cli = cli.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(matches!(cli.verb, Verb::System(_) | Verb::Metrics(_)), "{name}");
            let mount = &container["volumeMounts"][0];
            assert_eq!(mount["mountPath"], "/host", "{name}");
        }
    }
}

#[test]
fn the_image_has_what_is_installed() {
    let recipe = fs::read_to_string(folder().join("installer/Dockerfile")).unwrap();
    for name in
        [crate::sandbox::guest::KERNEL, crate::sandbox::guest::INITRAMFS, "/usr/local/lib/ampoule"]
    {
        assert!(recipe.contains(name), "{name}");
    }
}
