//! The `bearerd` binary: a runtime for the main thread, and the command line.

use std::process::ExitCode;

/// What hyper takes for a request and gives back again is large; glibc has a short way for small pieces only.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(bearerd::cli::main());
            // Not waiting for a name that is still being looked up.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            bearerd::cli::output::error_line(format_args!("bearerd: {error}"));
            ExitCode::FAILURE
        }
    }
}
