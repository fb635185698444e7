//! The capacity at the end: as many requests at once as the API may have connections.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::callers::{Connection, Version, new_id};
use crate::report::Report;
use crate::world::{PERSON, World};

/// The default of `connections`.
const CONNECTIONS: usize = 256;
/// How long the API takes for each answer, more than all handshakes together on a loaded machine. A request that finds no
/// free connection takes twice as long.
const PAUSE: Duration = Duration::from_secs(15);

/// Checks that as many requests are under way at once as there may be connections: none is lost to an earlier request.
pub(crate) async fn all_free(world: &World, report: &mut Report) {
    world.api.reset(0);
    for (whose, api) in [("", "HTTP/1.1"), (PERSON, "HTTP/2")] {
        let opened = join_all((0..CONNECTIONS).map(|_| Connection::open(world, Version::Http1))).await;
        let path = format!("{whose}/slow/{}/id", PAUSE.as_millis());
        let began = Instant::now();
        let asked = opened.into_iter().map(async |connection| {
            let id = new_id();
            let answer = match connection {
                Ok(mut connection) => {
                    connection.ask(&id, &path, None).await.map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            world.api.settle(&id);
            match answer {
                Ok(answer) if answer.status == 200 && answer.body == id => None,
                other => Some(format!("{id}: {other:?}")),
            }
        });
        let failed: Vec<String> = join_all(asked).await.into_iter().flatten().collect();
        let took = began.elapsed();
        let what = format!("{CONNECTIONS} requests at once are under way with the API over {api}");
        report.check(&what, took < 2 * PAUSE, &format!("{:.1} s", took.as_secs_f64()));
        report.none("and all of them are answered", &failed);
    }
}
