//! The `usher` binary: see [`usher::cli`].

fn main() -> std::process::ExitCode {
    usher::cli::run()
}
