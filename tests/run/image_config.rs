//! What an image says of how it is run, and the options over it.

use crate::needs_sandboxes;
use crate::support::Ampoule;

#[test]
fn an_images_user_environment_and_working_directory_are_its_programs() {
    needs_sandboxes!();
    // The recipe: User app (1234, group 2345, also in 3456), WORKDIR /srv/app, ENV GREETING,
    // ENTRYPOINT ["/bin/sh", "-c"], CMD ["id -u; …"].
    let ampoule = Ampoule::new();
    let expected = "1234\n2345\n2345 3456\n/srv/app\nhello\n/home/app\n";
    ampoule.output(&["run", "--rm", "nonroot"]).gives(0, expected);
    ampoule.output(&["run", "--rm", "nonroot", "echo $GREETING"]).gives(0, "hello\n");
    let id = ["run", "--rm", "-u", "0", "-w", "/tmp", "-e", "GREETING=bye", "nonroot"];
    let script = "id -u; pwd; echo $GREETING; touch /etc/x && echo writable";
    ampoule.output(&[&id[..], &[script]].concat()).gives(0, "0\n/tmp\nbye\nwritable\n");
}

#[test]
fn users_go_by_name_and_by_id() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let id = |user| ampoule.output(&["run", "--rm", "--entrypoint", "id", "-u", user, "nonroot"]);
    assert!(id("app").stdout.starts_with("uid=1234(app) gid=2345(app)"), "{:?}", id("app"));
    assert!(id("app:extra").stdout.contains("gid=3456(extra)"));
    assert!(id("4321:8765").stdout.starts_with("uid=4321 gid=8765"));
    id("nobody-here").fails(125, &["nobody-here"]);
}

#[test]
fn entrypoint_hostname_environment_and_a_new_working_directory() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let script = "hostname; echo $A-$B; pwd";
    let options = ["--hostname", "box", "-e", "A=1", "-e", "B=x y", "-w", "/new/dir"];
    ampoule.shell(&options, "busybox", script).gives(0, "box\n1-x y\n/new/dir\n");
    let args = ["run", "--rm", "--entrypoint", "/bin/echo", "busybox", "-n", "a"];
    ampoule.output(&args).gives(0, "a");
}

#[test]
fn an_image_that_a_program_accepts_runs() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let accepts = ["run", "--rm", "--verify-with", "/bin/true", "nonroot", "echo accepted"];
    ampoule.output(&accepts).gives(0, "accepted\n");
    let refuses = ["run", "--rm", "--verify-with", "/bin/false", "nonroot", "echo accepted"];
    let refused = ampoule.output(&refuses);
    refused.fails(125, &["nonroot", "is refused by /bin/false"]);
    refused.gives(125, "");
}
