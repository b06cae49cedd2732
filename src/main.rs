//! The `usher` binary: see [`usher::cli`].

/// A request makes some two hundred allocations. Counted by callgrind, the difference between 500
/// and 1,500 requests, jemalloc saves a tenth of a request's instructions against the system's
/// allocator; `benches/load/RESULTS.md` has the memory of an open stream beside bare Pingora's.
/// Threads of its own give memory back that no request needs any more: without them that happens
/// only where something else is allocated, and half of what five thousand streams had taken was
/// still there a quarter of a minute after their end.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    usher::cli::run()
}
