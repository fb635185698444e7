//! Callers that all come at once to a daemon that was just started, for large answers: none fails, and none starves.

use std::path::Path;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::callers::{Connection, Version, new_id};
use crate::figures::{millis, quantile};
use crate::report::Report;
use crate::world::{PERSON, Setup, World};

const CALLERS: usize = 250;
const SIZE: usize = 1 << 20;
/// How many times as long as the answer in the middle the slowest one may take: 1 if all are served side by side, 2 if one
/// after the other in the order of their arrival, and half as much again for the variation of a loaded machine.
const SPREAD: f64 = 3.0;

pub(crate) async fn run(bearerd: &Path, report: &mut Report) {
    for (whose, api) in [("", "HTTP/1.1"), (PERSON, "HTTP/2")] {
        let world = World::start(bearerd, Setup::default()).await;
        let expected = Bytes::from(vec![b'x'; SIZE]);
        let began = Instant::now();
        let answers = join_all((0..CALLERS).map(async |_| {
            let id = new_id();
            let answer = match Connection::open(&world, Version::Http1).await {
                Ok(mut connection) => connection
                    .ask(&id, &format!("{whose}/big/{SIZE}"), None)
                    .await
                    .map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            world.api.settle(&id);
            (answer, began.elapsed())
        }))
        .await;

        let is_whole = |status, body: &Bytes| status == 200 && *body == expected;
        let failed: Vec<String> = answers
            .iter()
            .filter_map(|(answer, _)| match answer {
                Ok(answer) if is_whole(answer.status, &answer.body) => None,
                Ok(answer) => {
                    Some(format!("{} {:?}, {} bytes", answer.status, answer.code, answer.body.len()))
                }
                Err(error) => Some(error.clone()),
            })
            .collect();
        report.none(&format!("{CALLERS} callers from cold, 1 MiB each over {api}: none fails"), &failed);
        let took: Vec<_> = answers.iter().map(|(_, took)| *took).collect();
        let [first, middle, last] = [0.0, 0.5, 1.0].map(|part| quantile(&took, part));
        report.check(
            "no caller waits much longer than the others",
            last.as_secs_f64() < SPREAD * middle.as_secs_f64(),
            &format!("{}, in the middle {}, at the most {}", millis(first), millis(middle), millis(last)),
        );
        world.finish(report).await;
    }
}
