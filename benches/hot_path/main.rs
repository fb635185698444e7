//! What a request costs, to be counted in instructions: `hot_path CASE REQUESTS` answers that many, to warm up, and
//! then as many in [`counted`].
//!
//! The worker is the real one, with its service, route table, pool and refresher. Its callers and its upstream are at
//! the other ends of in-memory pipes, in the same thread, and do next to nothing: they write bytes that were made
//! before, and look for the last byte of what they wait for. So what is counted is bearerd's, and the same each time.
//! `benches/instructions` has valgrind look at that function alone, so that the start does not count, which is never as
//! long as before.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends by panicking")]

mod caller;
mod case;
mod pipe;
mod upstream;
mod world;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

/// The daemon's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let [name, requests] = arguments.as_slice() else {
        panic!("hot_path CASE REQUESTS");
    };
    let requests = requests.parse().unwrap();
    let config = world::configuration(case::routes(name));
    // As in the daemon: a worker's memory is its thread's own, and what the start left behind is not in its way.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let options = LocalOptions::default();
            let runtime = Builder::new_current_thread().enable_all().build_local(options).unwrap();
            let mut case = runtime.block_on(async { case::named(name, &config) });
            runtime.block_on(case.run(requests));
            counted(&runtime, case.run(requests));
        });
    });
}

/// What valgrind counts, found by its name. The workers' tasks run in here too.
#[inline(never)]
fn counted(runtime: &LocalRuntime, requests: impl Future<Output = ()>) {
    runtime.block_on(requests);
}
