//! The `bearerd` binary: runs the command line on a single-threaded runtime.

use std::process::ExitCode;

/// hyper allocates and frees large buffers for each request; glibc caches small allocations only.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // The threads that read and write files, and look up names of token endpoints.
    let runtime = tokio::runtime::Builder::new_current_thread().thread_name("blocking").enable_all().build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(bearerd::cli::main());
            // A DNS lookup that hangs on a blocking thread must not delay the exit.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            bearerd::cli::output::error_line(format_args!("bearerd: {error}"));
            ExitCode::FAILURE
        }
    }
}
