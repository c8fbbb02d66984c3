//! The `ampoule-oci` command: the OCI runtime.

fn main() -> std::process::ExitCode {
    ampoule::main()
}
