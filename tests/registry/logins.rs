//! `login` and `logout`, and what registries with a password let in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::lab::{Lab, run};
use crate::real::Real;
use crate::support::{Finished, feed};

impl Lab {
    /// Runs a command line with the lab's own folder of logins.
    fn known(&self, args: &[&str], input: &str) -> Finished {
        let mut command = self.ampoule.command(args);
        command.env("DOCKER_CONFIG", self.path("docker")).env_remove("REGISTRY_AUTH_FILE");
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output: Output = feed(pipes.spawn().unwrap(), input.as_bytes().to_vec());
        Finished::of(output)
    }

    fn logins(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("docker/config.json")).unwrap()).unwrap()
    }
}

/// A registry that lets `me` in by the password `pass:word`.
fn closed(lab: &Lab) -> Real {
    let mut htpasswd = Command::new("htpasswd");
    let users = run(htpasswd.args(["-nbB", "me", "pass:word"]));
    let file = lab.file("users", users.as_bytes());
    Real::new(
        &lab.path("registry"),
        "",
        &format!("auth:\n  htpasswd: {{realm: test, path: {file}}}\n"),
    )
}

#[test]
fn a_registry_with_a_password_lets_in_who_has_it() {
    let lab = Lab::new();
    let registry = closed(&lab);
    let name = registry.name("box:1");
    lab.load(&lab.small(&name)).gives(0, &format!("Loaded image: {name}\n"));
    let login = format!("ampoule login {}", registry.host);
    lab.known(&["push", &name], "").fails(125, &["denies access", &login]);
    lab.known(&["pull", &name], "").fails(125, &["denies access", &login]);

    let with_stdin = ["login", "-u", "me", "--password-stdin", &registry.host];
    lab.known(&with_stdin, "wrong\n").fails(125, &["denies access to the user \"me\""]);
    assert!(!lab.path("docker/config.json").exists());
    lab.known(&with_stdin, "pass:word\n").gives(0, "Login Succeeded\n");
    let mode = fs::metadata(lab.path("docker/config.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(lab.logins(), json!({"auths": {&registry.host: {"auth": "bWU6cGFzczp3b3Jk"}}}));

    assert_eq!(lab.known(&["push", &name], "").code, 0);
    assert_eq!(lab.known(&["pull", &name], "").code, 0);
    let gone = format!("Removing login credentials for {}\n", registry.host);
    lab.known(&["logout", &registry.host], "").gives(0, &gone);
    assert_eq!(lab.logins(), json!({"auths": {}}));
    lab.known(&["logout", &registry.host], "")
        .gives(0, &format!("Not logged in to {}\n", registry.host));
    lab.known(&["pull", &name], "").fails(125, &["denies access"]);
}

#[test]
fn a_program_may_keep_the_secrets() {
    let lab = Lab::new();
    let registry = closed(&lab);
    fs::create_dir(lab.path("docker")).unwrap();
    let config = json!({"credsStore": "test", "detachKeys": "ctrl-q"});
    lab.file("docker/config.json", config.to_string().as_bytes());
    fs::create_dir(lab.path("bin")).unwrap();
    let kept = lab.text("secret");
    let helper = lab.file(
        "bin/docker-credential-test",
        format!(
            "#!/bin/sh\ncase $1 in\nstore) cat > {kept} ;;\nerase) read key; rm {kept} ;;\n\
             get) read key; if [ -e {kept} ]; then cat {kept}; else\n\
             echo credentials not found in native keychain; exit 1; fi ;;\nesac\n"
        )
        .as_bytes(),
    );
    fs::set_permissions(helper, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", lab.text("bin"), std::env::var("PATH").unwrap());
    let with_path = |args: &[&str]| {
        let mut command = lab.ampoule.command(args);
        command.env("DOCKER_CONFIG", lab.path("docker")).env("PATH", &path);
        Finished::of(command.output().unwrap())
    };
    let name = registry.name("box:1");
    lab.load(&lab.small(&name)).gives(0, &format!("Loaded image: {name}\n"));
    with_path(&["push", &name]).fails(125, &["denies access"]);
    with_path(&["login", "-u", "me", "-p", "pass:word", &registry.host])
        .gives(0, "Login Succeeded\n");
    // The file knows that there is one, and nothing of it.
    let mut expected = config;
    expected["auths"] = json!({&registry.host: {}});
    assert_eq!(lab.logins(), expected);
    assert_eq!(with_path(&["push", &name]).code, 0);
    assert_eq!(with_path(&["logout", &registry.host]).code, 0);
    assert!(!lab.path("secret").exists());
}

#[test]
fn the_files_of_podman_and_a_damaged_one_are_named() {
    let lab = Lab::new();
    let registry = closed(&lab);
    let name = registry.name("box:1");
    lab.load(&lab.small(&name)).gives(0, &format!("Loaded image: {name}\n"));
    let auth = json!({"auths": {&registry.host: {"auth": "bWU6cGFzczp3b3Jk"}}});
    let file = lab.file("auth.json", auth.to_string().as_bytes());
    let mut push = lab.ampoule.command(["push", &name]);
    let done = Finished::of(push.env("REGISTRY_AUTH_FILE", &file).output().unwrap());
    assert_eq!(done.code, 0, "{done:?}");
    fs::write(&file, "{").unwrap();
    let mut push = lab.ampoule.command(["push", &name]);
    Finished::of(push.env("REGISTRY_AUTH_FILE", &file).output().unwrap())
        .fails(125, &["cannot use the logins in", &file]);
}
