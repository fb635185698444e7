//! One behaviour a test: what an attempt sees of a body, and what the next one sees.

use std::collections::VecDeque;

use super::*;

/// A body of given pieces; `None` stands for a pause that never ends.
#[derive(Debug)]
struct Pieces {
    pieces: VecDeque<Option<Result<Frame<Bytes>, std::io::Error>>>,
    has_length: bool,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match self.pieces.pop_front() {
            Some(Some(piece)) => Poll::Ready(Some(piece)),
            Some(None) => {
                self.pieces.push_front(None);
                Poll::Pending
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && self.has_length
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.pieces.iter().flatten().flatten().filter_map(|frame| frame.data_ref());
        let left = left.map(|data| data.len() as u64).sum();
        if self.has_length { SizeHint::with_exact(left) } else { SizeHint::default() }
    }
}

fn pieces(texts: &[&str]) -> Pieces {
    let pieces = texts.iter().map(|text| Some(Ok(Frame::data(Bytes::copy_from_slice(text.as_bytes())))));
    Pieces { pieces: pieces.collect(), has_length: false }
}

fn with_length(texts: &[&str]) -> Pieces {
    Pieces { has_length: true, ..pieces(texts) }
}

fn allowance(replay_body: usize, total: usize) -> Allowance {
    Allowance {
        body_bytes: None,
        replay_body,
        budget: Slots::new(total),
        body_timeout: Some(Duration::from_secs(5)),
        body_rate: 0,
    }
}

fn roomy() -> Allowance {
    allowance(1000, 1000)
}

async fn next(attempt: &mut Attempt<Pieces>) -> Option<Result<Bytes, Fault>> {
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *attempt).poll_frame(cx)).await?;
    Some(frame.map(|frame| frame.into_data().unwrap()))
}

async fn rest(attempt: &mut Attempt<Pieces>) -> Result<String, Fault> {
    let mut text = String::new();
    while let Some(piece) = next(attempt).await {
        text.push_str(std::str::from_utf8(&piece?).unwrap());
    }
    Ok(text)
}

#[tokio::test]
async fn a_body_that_was_read_to_its_end_is_sent_again_as_a_whole() {
    for (body, length) in
        [(pieces(&["one ", "two ", "three"]), None), (with_length(&["one ", "two ", "three"]), Some(13))]
    {
        let payload = Payload::new(body, &roomy());
        assert_eq!(rest(&mut payload.first()).await.unwrap(), "one two three");

        let mut again = payload.again().unwrap();
        assert_eq!((again.size_hint().lower(), again.size_hint().exact()), (13, length));
        assert_eq!(rest(&mut again).await.unwrap(), "one two three");
    }
}

#[tokio::test]
async fn a_body_that_was_read_in_part_is_sent_from_its_beginning_and_then_the_rest() {
    let payload = Payload::new(pieces(&["one ", "two ", "three"]), &roomy());
    let mut first = payload.first();
    assert_eq!(next(&mut first).await.unwrap().unwrap(), "one ");

    let mut again = payload.again().unwrap();
    assert_eq!(rest(&mut again).await.unwrap(), "one two three");
}

#[tokio::test]
async fn a_body_that_was_not_read_at_all_is_sent_again() {
    let payload = Payload::new(pieces(&["all"]), &roomy());

    assert_eq!(rest(&mut payload.again().unwrap()).await.unwrap(), "all");
}

#[tokio::test]
async fn a_request_without_a_body_is_sent_again() {
    let payload = Payload::new(with_length(&[]), &roomy());

    assert!(payload.first().is_end_stream());
    assert!(payload.is_replayable() && payload.is_at_end());
    let mut again = payload.again().unwrap();
    assert_eq!((again.size_hint().exact(), rest(&mut again).await.unwrap().as_str()), (Some(0), ""));
}

#[tokio::test]
async fn the_attempt_before_reads_no_further() {
    let payload = Payload::new(pieces(&["one ", "two"]), &roomy());
    let mut first = payload.first();
    next(&mut first).await.unwrap().unwrap();
    let mut again = payload.again().unwrap();

    assert_eq!(next(&mut first).await.unwrap().unwrap_err(), Fault::Superseded);
    assert_eq!(rest(&mut again).await.unwrap(), "one two");
    assert_eq!(payload.fault(), None);
}

#[tokio::test]
async fn a_body_that_grows_too_large_streams_on_and_is_not_sent_again() {
    let payload = Payload::new(pieces(&["12345", "67890", "x"]), &allowance(10, 1000));

    assert_eq!(rest(&mut payload.first()).await.unwrap(), "1234567890x");
    assert!(!payload.is_replayable());
    assert!(payload.again().is_none());
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_kept() {
    let payload = Payload::new(pieces(&["12345", "67890"]), &allowance(10, 1000));

    assert_eq!(rest(&mut payload.first()).await.unwrap(), "1234567890");
    assert!(payload.again().is_some());
}

#[tokio::test]
async fn a_body_that_is_known_to_be_too_large_is_not_kept_from_the_start() {
    let allowance = allowance(10, 1000);
    let payload = Payload::new(with_length(&["12345678901"]), &allowance);

    assert!(!payload.is_replayable());
    assert_eq!(rest(&mut payload.first()).await.unwrap(), "12345678901");
    assert_eq!(allowance.budget.taken(), 0);
}

#[tokio::test]
async fn all_bodies_together_stay_within_the_budget_and_give_it_back() {
    let allowance = allowance(10, 16);
    let used = || allowance.budget.taken();
    let one = Payload::new(pieces(&["1234567890"]), &allowance);
    let two = Payload::new(pieces(&["1234567890"]), &allowance);
    rest(&mut one.first()).await.unwrap();
    assert_eq!(used(), 10);

    rest(&mut two.first()).await.unwrap();
    assert!(one.is_replayable() && !two.is_replayable());
    assert_eq!(used(), 10);

    let again = one.again().unwrap();
    assert_eq!(used(), 10, "the bytes are still there, in the second attempt");
    drop((one, again));
    assert_eq!(used(), 0);
}

#[tokio::test]
async fn tiny_pieces_are_counted_by_what_they_take() {
    let allowance = allowance(1 << 20, 1 << 20);
    let body = Pieces {
        pieces: (0..1000).map(|_| Some(Ok(Frame::data(Bytes::from_static(b"x"))))).collect(),
        has_length: false,
    };
    let payload = Payload::new(body, &allowance);
    rest(&mut payload.first()).await.unwrap();

    let used = allowance.budget.taken();
    assert!((1000..=2048).contains(&used), "{used}");
}

#[tokio::test]
async fn what_need_not_be_kept_is_not() {
    let allowance = roomy();
    let payload = Payload::new(pieces(&["one"]), &allowance);
    payload.forget();
    rest(&mut payload.first()).await.unwrap();

    assert!(payload.again().is_none());
    assert_eq!(allowance.budget.taken(), 0);
}

#[tokio::test]
async fn once_settled_nothing_is_kept() {
    let allowance = roomy();
    let payload = Payload::new(pieces(&["one", "two"]), &allowance);
    let mut first = payload.first();
    next(&mut first).await.unwrap().unwrap();

    payload.settle();

    assert_eq!(allowance.budget.taken(), 0);
    assert_eq!(rest(&mut first).await.unwrap(), "two");
    assert!(payload.again().is_none());
}

#[tokio::test]
async fn a_body_over_the_limit_is_a_fault_of_the_caller() {
    let payload = Payload::new(pieces(&["12345", "678901"]), &Allowance { body_bytes: Some(10), ..roomy() });

    assert_eq!(rest(&mut payload.first()).await.unwrap_err(), Fault::TooLarge);
    assert_eq!(payload.fault(), Some(Fault::TooLarge));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_stops_sending_is_not_waited_for() {
    let mut body = pieces(&["one"]);
    body.pieces.push_back(None);
    let payload = Payload::new(body, &roomy());
    let started = Instant::now();

    assert_eq!(rest(&mut payload.first()).await.unwrap_err(), Fault::Stalled);
    assert_eq!(started.elapsed().as_secs(), 5);
    assert_eq!(payload.fault(), Some(Fault::Stalled));
}

#[tokio::test(start_paused = true)]
async fn once_the_answer_is_there_a_slow_caller_is_not_hurried() {
    let mut body = pieces(&["one"]);
    body.pieces.push_back(None);
    let payload = Payload::new(body, &roomy());
    let mut first = payload.first();
    next(&mut first).await.unwrap().unwrap();
    payload.settle();

    let waited = tokio::time::timeout(Duration::from_hours(1), next(&mut first)).await;

    assert!(waited.is_err());
    assert!(payload.waits_for_caller());
}

#[tokio::test]
async fn a_broken_body_is_a_fault_of_the_caller_and_not_an_end() {
    let mut body = pieces(&["one"]);
    body.pieces.push_back(Some(Err(std::io::Error::other("bad chunk"))));
    let payload = Payload::new(body, &roomy());

    assert_eq!(rest(&mut payload.first()).await.unwrap_err(), Fault::Caller);
    assert!(!payload.is_at_end());
}

#[tokio::test]
async fn a_broken_body_stays_broken_and_is_never_completed_by_a_second_attempt() {
    let mut body = pieces(&["one"]);
    body.pieces.push_back(Some(Err(std::io::Error::other("bad chunk"))));
    let payload = Payload::new(body, &roomy());
    let mut first = payload.first();
    assert_eq!(rest(&mut first).await.unwrap_err(), Fault::Caller);

    // The source itself says that it is at its end when it is asked again.
    assert_eq!(next(&mut first).await.unwrap().unwrap_err(), Fault::Caller);
    assert!(!payload.is_replayable() && payload.again().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_second_attempt_that_is_not_read_does_not_wait_for_the_caller() {
    let mut body = pieces(&["one"]);
    body.pieces.push_back(None);
    let payload = Payload::new(body, &roomy());
    let mut first = payload.first();
    next(&mut first).await.unwrap().unwrap();
    assert!(futures_util::FutureExt::now_or_never(next(&mut first)).is_none());
    assert!(payload.waits_for_caller());

    let mut again = payload.again().unwrap();
    assert!(!payload.waits_for_caller());
    assert_eq!(next(&mut again).await.unwrap().unwrap(), "one");
    assert!(!payload.waits_for_caller());
}

#[tokio::test]
async fn a_body_that_breaks_off_during_the_second_attempt_is_a_fault_there_too() {
    let mut body = pieces(&["one", "two"]);
    body.pieces.push_back(Some(Err(std::io::Error::other("bad chunk"))));
    let payload = Payload::new(body, &roomy());
    next(&mut payload.first()).await.unwrap().unwrap();

    let mut again = payload.again().unwrap();
    assert_eq!(rest(&mut again).await.unwrap_err(), Fault::Caller);
    assert_eq!(next(&mut again).await.unwrap().unwrap_err(), Fault::Caller);
}

#[tokio::test]
async fn a_length_that_was_only_declared_takes_nothing_of_the_budget() {
    let allowance = allowance(1000, 1000);
    let mut body = with_length(&["1234567890", &"x".repeat(900)]);
    let rest_of_it = body.pieces.pop_back();
    body.pieces.push_back(None);
    body.pieces.extend(rest_of_it);
    let payload = Payload::new(body, &allowance);
    next(&mut payload.first()).await.unwrap().unwrap();

    assert_eq!(allowance.budget.taken(), 10);
    assert!(payload.is_replayable());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_too_large_is_read_to_its_end_all_the_same() {
    let allowance = Allowance { body_bytes: Some(5), ..roomy() };
    let payload = Payload::new(pieces(&["12345", "6", "7", "8"]), &allowance);
    let shared = payload.0.clone().unwrap();
    assert_eq!(rest(&mut payload.first()).await.unwrap_err(), Fault::TooLarge);

    payload.drain(Duration::from_secs(5)).await;

    assert!(shared.source.borrow().body.pieces.is_empty());
}

#[tokio::test]
async fn trailers_nobody_has_vetted_go_nowhere() {
    let mut body = pieces(&["one"]);
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-forwarded-for", "1.2.3.4".parse().unwrap());
    body.pieces.push_back(Some(Ok(Frame::trailers(trailers))));
    let payload = Payload::new(body, &roomy());

    assert_eq!(rest(&mut payload.first()).await.unwrap(), "one");
}

#[tokio::test(start_paused = true)]
async fn what_nobody_wants_is_read_to_its_end_and_not_for_ever() {
    let payload = Payload::new(pieces(&["one", "two"]), &roomy());
    let mut first = payload.first();
    payload.drain(Duration::from_secs(5)).await;
    assert!(first.shared.as_ref().unwrap().source.borrow().body.pieces.is_empty());
    assert_eq!(next(&mut first).await.unwrap().unwrap_err(), Fault::Superseded);

    let mut endless = pieces(&["one"]);
    endless.pieces.push_back(None);
    let started = Instant::now();
    Payload::new(endless, &roomy()).drain(Duration::from_secs(5)).await;
    assert_eq!(started.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn the_time_between_two_attempts_is_no_pause_of_the_callers() {
    let mut body = pieces(&["some"]);
    body.pieces.push_back(None);
    let payload = Payload::new(body, &roomy());
    let mut first = payload.first();
    assert_eq!(next(&mut first).await.unwrap().unwrap(), "some");
    assert!(tokio::time::timeout(Duration::from_secs(1), next(&mut first)).await.is_err());
    tokio::time::sleep(Duration::from_mins(1)).await;

    let mut second = payload.again().unwrap();
    assert_eq!(next(&mut second).await.unwrap().unwrap(), "some");
    assert!(tokio::time::timeout(Duration::from_secs(4), next(&mut second)).await.is_err());
    let stalled = tokio::time::timeout(Duration::from_secs(2), next(&mut second)).await;
    assert_eq!(stalled.unwrap().unwrap(), Err(Fault::Stalled));
}

#[tokio::test(start_paused = true)]
async fn a_caller_whose_connection_is_full_of_what_nobody_reads_is_not_hurried() {
    let backlog = Backlog::default();
    let others: Vec<_> = (0..crate::proxy::body::unread::FULL)
        .map(|_| {
            let payload = Payload::new(pieces(&["one", "two"]), &roomy()).beside(&backlog);
            (payload.first(), payload)
        })
        .collect();
    let mut others = others;
    for (attempt, _) in &mut others {
        next(attempt).await.unwrap().unwrap();
    }
    let mut body = pieces(&["some"]);
    body.pieces.push_back(None);
    let payload = Payload::new(body, &roomy()).beside(&backlog);
    let mut attempt = payload.first();
    next(&mut attempt).await.unwrap().unwrap();

    assert!(tokio::time::timeout(Duration::from_mins(1), next(&mut attempt)).await.is_err());

    // One of them is read on.
    let (attempt_of_other, _) = &mut others[0];
    assert_eq!(rest(attempt_of_other).await.unwrap(), "two");
    let stalled = tokio::time::timeout(Duration::from_secs(11), next(&mut attempt)).await;
    assert_eq!(stalled.unwrap().unwrap(), Err(Fault::Stalled));
}

#[tokio::test]
async fn a_body_can_be_sent_as_often_as_needed_whatever_was_read_before() {
    let allowance = roomy();
    let payload = Payload::new(pieces(&["one ", "two ", "three"]), &allowance);
    next(&mut payload.first()).await.unwrap().unwrap();
    let mut second = payload.again().unwrap();
    assert_eq!(next(&mut second).await.unwrap().unwrap(), "one ");
    assert_eq!(next(&mut second).await.unwrap().unwrap(), "two ");
    let mut third = payload.again().unwrap();
    assert_eq!(rest(&mut third).await.unwrap(), "one two three");
    let mut fourth = payload.again().unwrap();
    assert_eq!(fourth.size_hint().lower(), 13);
    assert_eq!(rest(&mut fourth).await.unwrap(), "one two three");
    assert_eq!(next(&mut second).await.unwrap().unwrap_err(), Fault::Superseded);
}

#[tokio::test]
async fn attempts_share_what_is_kept_and_all_of_it_counts_until_it_is_gone() {
    let allowance = allowance(100, 100);
    let payload = Payload::new(with_length(&["twenty bytes of body", "twenty more of them."]), &allowance);
    next(&mut payload.first()).await.unwrap().unwrap();
    let second = payload.again().unwrap();
    let mut third = payload.again().unwrap();
    assert_eq!(rest(&mut third).await.unwrap().len(), 40);
    let fourth = payload.again().unwrap();
    assert!((40..=60).contains(&allowance.budget.taken()), "{}", allowance.budget.taken());

    payload.forget();
    assert!(allowance.budget.taken() >= 40, "attempts still have it");
    drop((second, third, fourth));
    assert_eq!(allowance.budget.taken(), 0);
}

#[tokio::test]
async fn a_body_that_grows_too_large_in_a_later_attempt_is_not_sent_another_time() {
    let payload = Payload::new(pieces(&["one ", "two ", "three"]), &allowance(10, 1000));
    next(&mut payload.first()).await.unwrap().unwrap();
    let mut second = payload.again().unwrap();

    assert_eq!(rest(&mut second).await.unwrap(), "one two three");
    assert!(payload.again().is_none() && !payload.is_replayable());
}
