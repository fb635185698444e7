//! The body that each attempt reads, and the memory of the replay buffer.

use std::collections::VecDeque;

use super::*;

/// A body of these chunks; `None` is a pause that never ends.
#[derive(Debug)]
struct Chunks {
    chunks: VecDeque<Option<Result<Frame<Bytes>, std::io::Error>>>,
    has_length: bool,
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match self.chunks.pop_front() {
            Some(Some(chunk)) => Poll::Ready(Some(chunk)),
            Some(None) => {
                self.chunks.push_front(None);
                Poll::Pending
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.is_empty() && self.has_length
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.chunks.iter().flatten().flatten().filter_map(|frame| frame.data_ref());
        let left = left.map(|data| data.len() as u64).sum();
        if self.has_length { SizeHint::with_exact(left) } else { SizeHint::default() }
    }
}

fn chunks(texts: &[&str]) -> Chunks {
    let chunks = texts.iter().map(|text| Some(Ok(Frame::data(Bytes::copy_from_slice(text.as_bytes())))));
    Chunks { chunks: chunks.collect(), has_length: false }
}

/// A body that pauses for ever after these chunks.
fn stalling(texts: &[&str]) -> Chunks {
    let mut body = chunks(texts);
    body.chunks.push_back(None);
    body
}

/// A body that fails after these chunks.
fn malformed(texts: &[&str]) -> Chunks {
    let mut body = chunks(texts);
    body.chunks.push_back(Some(Err(std::io::Error::other("bad chunk"))));
    body
}

fn with_length(texts: &[&str]) -> Chunks {
    Chunks { has_length: true, ..chunks(texts) }
}

fn limits(replay_body: usize, total: usize) -> BodyLimits {
    BodyLimits {
        body_bytes: None,
        replay_body,
        budget: Slots::new(total),
        body_timeout: Duration::from_secs(5),
        body_rate: 0,
    }
}

fn roomy() -> BodyLimits {
    limits(1000, 1000)
}

async fn next(attempt: &mut AttemptBody<Chunks>) -> Option<Result<Bytes, BodyError>> {
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *attempt).poll_frame(cx)).await?;
    Some(frame.map(|frame| frame.into_data().unwrap()))
}

async fn rest(attempt: &mut AttemptBody<Chunks>) -> Result<String, BodyError> {
    let mut text = String::new();
    while let Some(chunk) = next(attempt).await {
        text.push_str(std::str::from_utf8(&chunk?).unwrap());
    }
    Ok(text)
}

#[tokio::test]
async fn a_body_read_to_its_end_is_replayed_whole() {
    for (body, length) in
        [(chunks(&["one ", "two ", "three"]), None), (with_length(&["one ", "two ", "three"]), Some(13))]
    {
        let request_body = ReplayBody::new(body, &roomy());
        assert_eq!(rest(&mut request_body.first()).await.unwrap(), "one two three");

        let mut again = request_body.replay().unwrap();
        assert_eq!((again.size_hint().lower(), again.size_hint().exact()), (13, length));
        assert_eq!(rest(&mut again).await.unwrap(), "one two three");
    }
}

#[tokio::test]
async fn a_body_read_in_part_is_replayed_from_its_beginning_to_its_end() {
    let request_body = ReplayBody::new(chunks(&["one ", "two ", "three"]), &roomy());
    let mut first = request_body.first();
    assert_eq!(next(&mut first).await.unwrap().unwrap(), "one ");

    let mut again = request_body.replay().unwrap();
    assert_eq!(rest(&mut again).await.unwrap(), "one two three");
}

#[tokio::test]
async fn a_body_that_was_not_read_is_replayed() {
    let request_body = ReplayBody::new(chunks(&["all"]), &roomy());

    assert_eq!(rest(&mut request_body.replay().unwrap()).await.unwrap(), "all");
}

#[tokio::test]
async fn a_request_without_a_body_is_replayable() {
    let request_body = ReplayBody::new(with_length(&[]), &roomy());

    assert!(request_body.first().is_end_stream());
    assert!(request_body.is_replayable() && request_body.is_at_end());
    let mut again = request_body.replay().unwrap();
    assert_eq!((again.size_hint().exact(), rest(&mut again).await.unwrap().as_str()), (Some(0), ""));
}

#[tokio::test]
async fn a_superseded_attempt_reads_no_further() {
    let request_body = ReplayBody::new(chunks(&["one ", "two"]), &roomy());
    let mut first = request_body.first();
    next(&mut first).await.unwrap().unwrap();
    let mut again = request_body.replay().unwrap();

    assert_eq!(next(&mut first).await.unwrap().unwrap_err(), BodyError::Superseded);
    assert_eq!(rest(&mut again).await.unwrap(), "one two");
    assert_eq!(request_body.error(), None);
}

#[tokio::test]
async fn a_body_that_outgrows_the_buffer_streams_on_and_is_not_replayable() {
    let request_body = ReplayBody::new(chunks(&["12345", "67890", "x"]), &limits(10, 1000));

    assert_eq!(rest(&mut request_body.first()).await.unwrap(), "1234567890x");
    assert!(!request_body.is_replayable());
    assert!(request_body.replay().is_none());
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_replayable() {
    let request_body = ReplayBody::new(chunks(&["12345", "67890"]), &limits(10, 1000));

    assert_eq!(rest(&mut request_body.first()).await.unwrap(), "1234567890");
    assert!(request_body.replay().is_some());
}

#[tokio::test]
async fn a_body_with_a_length_over_the_limit_is_never_buffered() {
    let limits = limits(10, 1000);
    let request_body = ReplayBody::new(with_length(&["12345678901"]), &limits);

    assert!(!request_body.is_replayable());
    assert_eq!(rest(&mut request_body.first()).await.unwrap(), "12345678901");
    assert_eq!(limits.budget.taken(), 0);
}

#[tokio::test]
async fn all_buffers_together_stay_within_the_budget_and_release_it() {
    let limits = limits(10, 16);
    let used = || limits.budget.taken();
    let one = ReplayBody::new(chunks(&["1234567890"]), &limits);
    let two = ReplayBody::new(chunks(&["1234567890"]), &limits);
    rest(&mut one.first()).await.unwrap();
    assert_eq!(used(), 10);

    rest(&mut two.first()).await.unwrap();
    assert!(one.is_replayable() && !two.is_replayable());
    assert_eq!(used(), 10);

    let again = one.replay().unwrap();
    assert_eq!(used(), 10, "the second attempt still holds the bytes");
    drop((one, again));
    assert_eq!(used(), 0);
}

#[tokio::test]
async fn tiny_chunks_take_little_more_than_their_size() {
    let limits = limits(1 << 20, 1 << 20);
    let body = Chunks {
        chunks: (0..1000).map(|_| Some(Ok(Frame::data(Bytes::from_static(b"x"))))).collect(),
        has_length: false,
    };
    let request_body = ReplayBody::new(body, &limits);
    rest(&mut request_body.first()).await.unwrap();

    let used = limits.budget.taken();
    assert!((1000..=2048).contains(&used), "{used}");
}

#[tokio::test]
async fn a_body_is_not_buffered_after_forget() {
    let limits = roomy();
    let request_body = ReplayBody::new(chunks(&["one"]), &limits);
    request_body.free_buffer();
    rest(&mut request_body.first()).await.unwrap();

    assert!(request_body.replay().is_none());
    assert_eq!(limits.budget.taken(), 0);
}

#[tokio::test]
async fn a_body_is_not_buffered_once_settled() {
    let limits = roomy();
    let request_body = ReplayBody::new(chunks(&["one", "two"]), &limits);
    let mut first = request_body.first();
    next(&mut first).await.unwrap().unwrap();

    request_body.response_received();

    assert_eq!(limits.budget.taken(), 0);
    assert_eq!(rest(&mut first).await.unwrap(), "two");
    assert!(request_body.replay().is_none());
}

#[tokio::test]
async fn a_body_over_the_limit_is_a_fault_of_the_caller() {
    let request_body =
        ReplayBody::new(chunks(&["12345", "678901"]), &BodyLimits { body_bytes: Some(10), ..roomy() });

    assert_eq!(rest(&mut request_body.first()).await.unwrap_err(), BodyError::TooLarge);
    assert_eq!(request_body.error(), Some(BodyError::TooLarge));
}

#[tokio::test(start_paused = true)]
async fn a_pause_longer_than_the_timeout_is_a_stall() {
    let body = stalling(&["one"]);
    let request_body = ReplayBody::new(body, &roomy());
    let started = Instant::now();

    assert_eq!(rest(&mut request_body.first()).await.unwrap_err(), BodyError::Stalled);
    assert_eq!(started.elapsed().as_secs(), 5);
    assert_eq!(request_body.error(), Some(BodyError::Stalled));
}

#[tokio::test(start_paused = true)]
async fn stall_detection_ends_with_the_response() {
    let body = stalling(&["one"]);
    let request_body = ReplayBody::new(body, &roomy());
    let mut first = request_body.first();
    next(&mut first).await.unwrap().unwrap();
    request_body.response_received();

    let waited = tokio::time::timeout(Duration::from_hours(1), next(&mut first)).await;

    assert!(waited.is_err());
    assert!(request_body.waits_for_caller());
}

#[tokio::test]
async fn a_malformed_body_is_a_fault_of_the_caller_and_not_an_end() {
    let body = malformed(&["one"]);
    let request_body = ReplayBody::new(body, &roomy());

    assert_eq!(rest(&mut request_body.first()).await.unwrap_err(), BodyError::Incomplete);
    assert!(!request_body.is_at_end());
}

#[tokio::test]
async fn a_malformed_body_stays_malformed_and_is_not_replayable() {
    let body = malformed(&["one"]);
    let request_body = ReplayBody::new(body, &roomy());
    let mut first = request_body.first();
    assert_eq!(rest(&mut first).await.unwrap_err(), BodyError::Incomplete);

    // The underlying body reports its end when it is polled again.
    assert_eq!(next(&mut first).await.unwrap().unwrap_err(), BodyError::Incomplete);
    assert!(!request_body.is_replayable() && request_body.replay().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_second_attempt_that_is_not_read_does_not_wait_for_the_caller() {
    let body = stalling(&["one"]);
    let request_body = ReplayBody::new(body, &roomy());
    let mut first = request_body.first();
    next(&mut first).await.unwrap().unwrap();
    assert!(futures_util::FutureExt::now_or_never(next(&mut first)).is_none());
    assert!(request_body.waits_for_caller());

    let mut again = request_body.replay().unwrap();
    assert!(!request_body.waits_for_caller());
    assert_eq!(next(&mut again).await.unwrap().unwrap(), "one");
    assert!(!request_body.waits_for_caller());
}

#[tokio::test]
async fn a_body_that_fails_in_the_second_attempt_is_a_fault() {
    let body = malformed(&["one", "two"]);
    let request_body = ReplayBody::new(body, &roomy());
    next(&mut request_body.first()).await.unwrap().unwrap();

    let mut again = request_body.replay().unwrap();
    assert_eq!(rest(&mut again).await.unwrap_err(), BodyError::Incomplete);
    assert_eq!(next(&mut again).await.unwrap().unwrap_err(), BodyError::Incomplete);
}

#[tokio::test]
async fn a_declared_length_reserves_nothing() {
    let limits = limits(1000, 1000);
    let mut body = with_length(&["1234567890", &"x".repeat(900)]);
    let rest_of_it = body.chunks.pop_back();
    body.chunks.push_back(None);
    body.chunks.extend(rest_of_it);
    let request_body = ReplayBody::new(body, &limits);
    next(&mut request_body.first()).await.unwrap().unwrap();

    assert_eq!(limits.budget.taken(), 10);
    assert!(request_body.is_replayable());
}

#[tokio::test(start_paused = true)]
async fn draining_reads_a_body_over_the_limit_to_its_end() {
    let limits = BodyLimits { body_bytes: Some(5), ..roomy() };
    let request_body = ReplayBody::new(chunks(&["12345", "6", "7", "8"]), &limits);
    let shared = request_body.0.clone().unwrap();
    assert_eq!(rest(&mut request_body.first()).await.unwrap_err(), BodyError::TooLarge);

    request_body.drain(Duration::from_secs(5)).await;

    assert!(shared.source.borrow().body.chunks.is_empty());
}

#[tokio::test]
async fn request_trailers_are_dropped() {
    let mut body = chunks(&["one"]);
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-forwarded-for", "1.2.3.4".parse().unwrap());
    body.chunks.push_back(Some(Ok(Frame::trailers(trailers))));
    let request_body = ReplayBody::new(body, &roomy());

    assert_eq!(rest(&mut request_body.first()).await.unwrap(), "one");
}

#[tokio::test(start_paused = true)]
async fn draining_reads_to_the_end_or_until_its_timeout() {
    let request_body = ReplayBody::new(chunks(&["one", "two"]), &roomy());
    let mut first = request_body.first();
    request_body.drain(Duration::from_secs(5)).await;
    assert!(first.shared.as_ref().unwrap().source.borrow().body.chunks.is_empty());
    assert_eq!(next(&mut first).await.unwrap().unwrap_err(), BodyError::Superseded);

    let endless = stalling(&["one"]);
    let started = Instant::now();
    ReplayBody::new(endless, &roomy()).drain(Duration::from_secs(5)).await;
    assert_eq!(started.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn time_between_two_attempts_is_not_a_stall() {
    let body = stalling(&["some"]);
    let request_body = ReplayBody::new(body, &roomy());
    let mut first = request_body.first();
    assert_eq!(next(&mut first).await.unwrap().unwrap(), "some");
    assert!(tokio::time::timeout(Duration::from_secs(1), next(&mut first)).await.is_err());
    tokio::time::sleep(Duration::from_mins(1)).await;

    let mut second = request_body.replay().unwrap();
    assert_eq!(next(&mut second).await.unwrap().unwrap(), "some");
    assert!(tokio::time::timeout(Duration::from_secs(4), next(&mut second)).await.is_err());
    let stalled = tokio::time::timeout(Duration::from_secs(2), next(&mut second)).await;
    assert_eq!(stalled.unwrap().unwrap(), Err(BodyError::Stalled));
}

#[tokio::test(start_paused = true)]
async fn a_body_does_not_stall_while_unread_ones_fill_the_connections_window() {
    let unread_bodies = UnreadBodies::default();
    let mut others: Vec<_> = (0..crate::proxy::body::unread::STREAM_WINDOWS)
        .map(|_| {
            let request_body =
                ReplayBody::new(chunks(&["one", "two"]), &roomy()).on_connection(&unread_bodies);
            (request_body.first(), request_body)
        })
        .collect();
    for (attempt, _) in &mut others {
        next(attempt).await.unwrap().unwrap();
    }
    let body = stalling(&["some"]);
    let request_body = ReplayBody::new(body, &roomy()).on_connection(&unread_bodies);
    let mut attempt = request_body.first();
    next(&mut attempt).await.unwrap().unwrap();

    assert!(tokio::time::timeout(Duration::from_mins(1), next(&mut attempt)).await.is_err());

    // An upstream reads one of the others.
    let (attempt_of_other, _) = &mut others[0];
    assert_eq!(rest(attempt_of_other).await.unwrap(), "two");
    let stalled = tokio::time::timeout(Duration::from_secs(11), next(&mut attempt)).await;
    assert_eq!(stalled.unwrap().unwrap(), Err(BodyError::Stalled));
}

#[tokio::test]
async fn a_body_can_be_replayed_any_number_of_times() {
    let limits = roomy();
    let request_body = ReplayBody::new(chunks(&["one ", "two ", "three"]), &limits);
    next(&mut request_body.first()).await.unwrap().unwrap();
    let mut second = request_body.replay().unwrap();
    assert_eq!(next(&mut second).await.unwrap().unwrap(), "one ");
    assert_eq!(next(&mut second).await.unwrap().unwrap(), "two ");
    let mut third = request_body.replay().unwrap();
    assert_eq!(rest(&mut third).await.unwrap(), "one two three");
    let mut fourth = request_body.replay().unwrap();
    assert_eq!(fourth.size_hint().lower(), 13);
    assert_eq!(rest(&mut fourth).await.unwrap(), "one two three");
    assert_eq!(next(&mut second).await.unwrap().unwrap_err(), BodyError::Superseded);
}

#[tokio::test]
async fn attempts_share_the_buffer_which_counts_until_they_end() {
    let limits = limits(100, 100);
    let request_body =
        ReplayBody::new(with_length(&["twenty bytes of body", "twenty more of them."]), &limits);
    next(&mut request_body.first()).await.unwrap().unwrap();
    let second = request_body.replay().unwrap();
    let mut third = request_body.replay().unwrap();
    assert_eq!(rest(&mut third).await.unwrap().len(), 40);
    let fourth = request_body.replay().unwrap();
    assert!((40..=60).contains(&limits.budget.taken()), "{}", limits.budget.taken());

    request_body.free_buffer();
    assert!(limits.budget.taken() >= 40, "attempts still hold it");
    drop((second, third, fourth));
    assert_eq!(limits.budget.taken(), 0);
}

#[tokio::test]
async fn a_body_that_outgrows_the_buffer_in_a_later_attempt_is_not_replayable() {
    let request_body = ReplayBody::new(chunks(&["one ", "two ", "three"]), &limits(10, 1000));
    next(&mut request_body.first()).await.unwrap().unwrap();
    let mut second = request_body.replay().unwrap();

    assert_eq!(rest(&mut second).await.unwrap(), "one two three");
    assert!(request_body.replay().is_none() && !request_body.is_replayable());
}
