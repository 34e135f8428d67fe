//! The instrumented build can fail: each kind of thing that happens off home, put in on purpose, is counted.

#[path = "../../../tests/support/watch.rs"]
mod watch;

use std::thread;

use homing_home::{EventLoop, Home, OffHome, audit, seed_off_home, thread_future};

use watch::watched;

/// One test, since the counts are the process's.
#[test]
fn what_happens_off_home_is_counted() {
    let _watched = watched();
    let event_loop = EventLoop::start("audited").unwrap();
    let home = event_loop.handle().home();

    // Nothing is off home in an honest run, and everything was looked at.
    for n in 0..1000_u32 {
        let (completer, future) = thread_future::<u32>().unwrap();
        event_loop.run(move |_| completer.complete(n).unwrap()).unwrap();
        assert_eq!(future.wait(), Ok(n));
    }
    let honest = audit();
    assert!(honest.checked >= 2000, "{honest:?}: a write and a call for each at least");
    let off = |audit: homing_home::Audit| {
        [audit.writes_off_home, audit.wakes_off_home, audit.callbacks_off_home, audit.drops_off_home]
    };
    assert_eq!(off(honest), [0, 0, 0, 0]);

    seed_off_home(OffHome::Write, &home);
    assert_eq!(off(audit()), [1, 0, 0, 0]);
    seed_off_home(OffHome::Wake, &home);
    assert_eq!(off(audit()), [2, 1, 0, 0], "what is woken was written");
    seed_off_home(OffHome::Callback, &home);
    assert_eq!(off(audit()), [2, 1, 1, 0]);
    seed_off_home(OffHome::Drop, &home);
    assert_eq!(off(audit()), [2, 1, 1, 1]);

    // The same, at home, is nothing to count.
    let at_home = thread::spawn(|| {
        let home = Home::current();
        for kind in [OffHome::Write, OffHome::Wake, OffHome::Callback, OffHome::Drop] {
            seed_off_home(kind, &home);
        }
    });
    at_home.join().unwrap();
    assert_eq!(off(audit()), [2, 1, 1, 1]);
    event_loop.stop();
}
