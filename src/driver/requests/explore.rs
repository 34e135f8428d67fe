//! The table by itself.

use super::*;

fn body(number: u8) -> Body {
    Body::Encoded(vec![number].into())
}

fn number(body: &Body) -> u8 {
    match body {
        Body::Encoded(bytes) => bytes[0],
        Body::Value(_) => 0,
    }
}

const ID: Uuid = Uuid::from_u128(1);

fn table(now: Instant) -> Requests<&'static str> {
    let mut requests = Requests::default();
    requests.add(ID, Subject::Task("q".into()), "first", Timeout::After(Duration::from_secs(1)), None, now);
    requests
}

#[test]
fn more_replies_than_are_kept_do_not_push_the_outcome_out() {
    let now = Instant::now();
    let mut requests = table(now);
    for n in 0..200 {
        requests.reply(ID, body(n), now);
    }
    let mut last = None;
    while let Next::Kept(_, kept) = requests.next(ID, "next") {
        last = Some(number(&kept));
    }
    assert_eq!(last, Some(199), "the last that came is the outcome");
}

#[test]
fn large_replies_that_nobody_reads_take_two_of_them_and_a_mebibyte() {
    let now = Instant::now();
    let mut requests = table(now);
    let large = |n: u8| Body::Encoded(vec![n; 10 << 20].into());
    let pushed: usize = (0..40)
        .map(|n| match requests.reply(ID, large(n), now) {
            Arrived::Kept { pushed_out } => pushed_out,
            _ => 0,
        })
        .sum();
    // The first was for the caller.
    let kept: Vec<u8> = std::iter::from_fn(|| match requests.next(ID, "next") {
        Next::Kept(_, kept) => Some(number(&kept)),
        _ => None,
    })
    .collect();
    assert_eq!((kept.len() + pushed, kept.first(), kept.last()), (39, Some(&1), Some(&39)));
    assert!(kept.len() <= 3, "{kept:?}");
}

#[test]
fn each_reply_renews_the_time_and_the_end_leaves_nothing() {
    let now = Instant::now();
    let at = |millis| after(now, Duration::from_millis(millis));
    let mut requests = table(now);
    assert!(matches!(requests.reply(ID, body(1), at(900)), Arrived::For("first", _)));
    assert!(requests.due(at(1100)).expired.is_empty());
    assert!(matches!(requests.next(ID, "second"), Next::Waits));
    let due = requests.due(at(2000));
    assert_eq!(due.expired.len(), 1);
    assert_eq!(due.expired[0].0.reply, Some("second"));
    assert!(requests.waiting.is_empty() && requests.deadlines.is_empty());
    assert!(matches!(requests.reply(ID, body(2), at(2001)), Arrived::NotWanted));
}

#[test]
fn the_longest_time_is_no_panic() {
    let now = Instant::now();
    let mut requests = Requests::default();
    requests.add(ID, Subject::Task("q".into()), (), Timeout::After(Duration::MAX), None, now);
    requests.reply(ID, body(1), now);
    assert!(requests.due(now).expired.is_empty());
}
