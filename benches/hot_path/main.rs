//! What a request costs, to be counted in instructions: `hot_path CASE REQUESTS` answers that many, and ends.
//!
//! The worker is the real one, with its service, route table, pool and refresher. Its callers and its upstream are at
//! the other ends of in-memory pipes, in the same thread, and do next to nothing: they write bytes that were made
//! before, and look for the last byte of what they wait for. So what is counted is bearerd's, and the same each time.
//! `benches/instructions` runs it twice and takes the difference, so that the start falls out.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a measurement that cannot be made ends by panicking"
)]

mod caller;
mod case;
mod pipe;
mod upstream;
mod world;

use tokio::runtime::{Builder, LocalOptions};

fn main() {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let [name, requests] = arguments.as_slice() else {
        panic!("hot_path CASE REQUESTS");
    };
    let case = case::named(name);
    let requests = requests.parse().unwrap();
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(case.run(requests));
}
