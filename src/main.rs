//! The `saddle` program.

fn main() -> std::process::ExitCode {
    saddle::cli::main(std::env::args_os())
}
