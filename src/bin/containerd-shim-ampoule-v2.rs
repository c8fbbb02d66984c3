//! The containerd shim.

fn main() -> std::process::ExitCode {
    ampoule::main()
}
