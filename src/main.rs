//! The `bearerd` binary: a runtime for the main thread, and the command line.

use std::process::ExitCode;

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
