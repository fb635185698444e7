//! The instructions of a request: `hot_path CASE REQUESTS` answers so many requests to warm up, and then as many in
//! [`counted`].
//!
//! The worker is the real one, with its service, route table, pool and refresher. Its callers and its upstream are at
//! the other ends of in-memory pipes, in the same thread. They write prepared bytes and search for the last byte of the
//! answer, so that the count is bearerd's own and the same in every run.
//! `benches/instructions` lets valgrind count in that function alone: the start of the program takes a different number of
//! instructions in every run.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends by panicking")]

mod caller;
mod case;
mod pipe;
mod upstream;
mod world;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

/// The daemon's allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let [name, requests] = arguments.as_slice() else {
        panic!("hot_path CASE REQUESTS");
    };
    let requests = requests.parse().unwrap();
    let config = world::configuration(case::routes(name), name == "quota");
    // As in the daemon, the worker has a thread, whose memory the start has not fragmented.
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

/// The function that valgrind counts, by its name. The worker's tasks run in it too.
#[inline(never)]
fn counted(runtime: &LocalRuntime, requests: impl Future<Output = ()>) {
    runtime.block_on(requests);
}
