//! The `worker` binary: the command line, and nothing else.

fn main() -> std::process::ExitCode {
    service::exit::finish(worker::cli::main())
}
