//! The `ampoule` command.

fn main() -> std::process::ExitCode {
    ampoule::main()
}
