//! buildah with ampoule-oci as its runtime.

use std::fs;

use crate::engine::{Engine, IMAGE, argument, folder, missing};
use crate::needs_sandboxes;
use crate::support::{Finished, skip};

macro_rules! engine {
    () => {{
        needs_sandboxes!();
        if let Some(reason) = missing("buildah").or_else(|| missing("podman")) {
            return skip(&reason);
        }
        Engine::shared()
    }};
}

/// Builds what the Dockerfile says, each RUN in a microVM.
fn build(engine: &Engine, name: &str, dockerfile: &str) -> Finished {
    let context = folder(engine, name.rsplit('/').next().unwrap());
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    fs::write(context.join("given"), "given\n").unwrap();
    let runtime = engine.text("ampoule-oci");
    let args = [
        "build",
        "--runtime",
        &runtime,
        "--isolation",
        "oci",
        "--network",
        "none",
        "--pull-never",
        "--no-cache",
        "--tag",
        name,
        argument(&context),
    ];
    Finished::of(engine.command_of("buildah", args).output().unwrap())
}

#[test]
fn an_image_is_built_in_stages() {
    let engine = engine!();
    let dockerfile = format!(
        "FROM {IMAGE} AS first\n\
         COPY given /work/given\n\
         WORKDIR /work\n\
         ENV WORD=built\n\
         RUN cat given > made && echo $WORD $(id -u) >> made && mkdir /home/u && chown 1000:1000 /home/u\n\
         USER 1000:1000\n\
         RUN id -u > /home/u/mine && ln -s mine /home/u/link\n\
         FROM {IMAGE}\n\
         COPY --from=first /work/made /made\n\
         COPY --from=first /home/u /home/u\n\
         RUN cat /proc/sys/kernel/osrelease > /kernel\n\
         CMD [\"cat\", \"/made\", \"/home/u/mine\", \"/kernel\"]\n"
    );
    let built = build(&engine, "localhost/staged", &dockerfile);
    assert_eq!(built.code, 0, "{built:?}");
    let done = engine.output(&["run", "--rm", "--network", "none", "localhost/staged"]);
    assert!(done.stdout.starts_with("given\nbuilt 0\n1000\n"), "{done:?}");
    // The steps ran on a kernel of their own.
    let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_ne!(done.stdout.lines().last(), Some(host.trim()));
}

#[test]
fn a_step_that_fails_fails_the_build_with_its_code() {
    let engine = engine!();
    let built =
        build(&engine, "localhost/failed", &format!("FROM {IMAGE}\nRUN echo why >&2; exit 9\n"));
    assert_ne!(built.code, 0);
    assert!(built.stderr.contains("why") && built.stderr.contains("exit status 9"), "{built:?}");
}
