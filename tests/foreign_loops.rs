//! Loops of other people's as homes, as their programs would have them: an `epoll` loop that is woken by an eventfd, and a
//! GUI's loop that lives on a channel. Both serve and call at the same time.

#[path = "support/watch.rs"]
mod watch;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use homing::home::ForeignLoop;
use homing::{Answer, Communicator, Identifier, RpcRequest, RpcSubscriber};

use watch::watched;

/// Long enough on any machine.
const LONG: Duration = Duration::from_secs(60);

/// How many calls each loop makes and serves.
const CALLS: u64 = 200;

fn communicator(name: &str) -> homing::blocking::Communicator {
    homing::blocking::Communicator::connect(&format!("memory:{name}")).unwrap()
}

/// Adds a subscriber on the loop that doubles, with a promise that another thread keeps, and has so many calls made to it,
/// whose outcomes land on the loop too. They are sent to `done`.
fn serve_and_call(home: &ForeignLoop, communicator: &Communicator, done: mpsc::Sender<u64>) {
    let looped = thread::current().id();
    let double = RpcSubscriber::closure(move |request: RpcRequest| {
        assert_eq!(thread::current().id(), looped, "a subscriber runs on its home");
        let (promise, answer) = Answer::promise()?;
        thread::spawn(move || promise.answer(request.body().as_i64().unwrap_or(0) * 2));
        homing::HandlerResult::Ok(answer)
    });
    let communicator = communicator.clone();
    let at = home.home();
    home.local()
        .spawn(async move {
            let name = Identifier::new("double").unwrap();
            communicator.bound_to(&at).add_rpc_subscriber(name, double).await.unwrap();
            for n in 0..CALLS {
                let answer = communicator.rpc_send("double", n).await.unwrap();
                assert_eq!(thread::current().id(), looped, "an outcome lands on its home");
                done.send(answer.as_i64().unwrap().try_into().unwrap()).unwrap();
            }
        })
        .unwrap();
}

#[test]
fn a_loop_that_lives_on_a_channel_is_a_home() {
    let _watched = watched();
    enum Event {
        Homing,
        Click(u64),
    }
    impl Clone for Event {
        fn clone(&self) -> Self {
            Event::Homing
        }
    }

    let communicator = communicator("gui");
    let (post, events) = mpsc::channel();
    let home = ForeignLoop::sending(post.clone(), Event::Homing);
    let (done, outcomes) = mpsc::channel();
    serve_and_call(&home, &communicator.to_async(), done);
    // The user goes on clicking meanwhile.
    let user = thread::spawn(move || {
        for click in 0..CALLS {
            post.send(Event::Click(click)).unwrap();
            thread::sleep(Duration::from_micros(50));
        }
    });

    let (mut clicks, mut rings, mut answers) = (0, 0, Vec::new());
    while (answers.len() as u64) < CALLS || clicks < CALLS {
        match events.recv_timeout(LONG).expect("the loop is woken while something is to be done") {
            Event::Click(click) => {
                assert_eq!(click, clicks);
                clicks += 1;
            }
            Event::Homing => {
                rings += 1;
                // Few at a time, so that the clicks get their turn; what is left rings again.
                home.run_pending(4);
            }
        }
        answers.extend(outcomes.try_iter());
    }
    user.join().unwrap();
    assert_eq!(answers, (0..CALLS).map(|n| 2 * n).collect::<Vec<_>>());
    assert!(rings >= CALLS, "each answer comes to an empty inbox: {rings} rings");
    communicator.close().unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn an_epoll_loop_that_an_eventfd_wakes_is_a_home() {
    let _watched = watched();
    use rustix::buffer::spare_capacity;
    use rustix::event::{EventfdFlags, epoll, eventfd};

    let communicator = communicator("epoll");
    let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap();
    let home = ForeignLoop::writing_to(bell.try_clone().unwrap());
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    epoll::add(&poll, &bell, epoll::EventData::new_u64(1), epoll::EventFlags::IN).unwrap();
    let (done, outcomes) = mpsc::channel();
    serve_and_call(&home, &communicator.to_async(), done);
    // A timer of the home's is the loop's own time-out.
    let (fire, fired) = mpsc::channel();
    home.local().after(Duration::from_millis(20), move || fire.send(Instant::now()).unwrap()).unwrap();
    let set = Instant::now();

    let (mut answers, mut rung) = (Vec::new(), 0);
    let mut events = Vec::with_capacity(8);
    let until = Instant::now() + LONG;
    let mut timer = None;
    while (answers.len() as u64) < CALLS || timer.is_none() {
        let sleep = home.next_timer().unwrap_or(until).saturating_duration_since(Instant::now());
        let timeout = rustix::event::Timespec::try_from(sleep).unwrap();
        events.clear();
        epoll::wait(&poll, spare_capacity(&mut events), Some(&timeout)).unwrap();
        if !events.is_empty() {
            let mut count = [0; 8];
            assert_eq!(rustix::io::read(&bell, &mut count).unwrap(), 8);
            rung += u64::from_ne_bytes(count);
        }
        home.run_pending(16);
        answers.extend(outcomes.try_iter());
        timer = timer.or_else(|| fired.try_recv().ok());
        assert!(Instant::now() < until, "{} answers after {LONG:?}", answers.len());
    }
    assert_eq!(answers, (0..CALLS).map(|n| 2 * n).collect::<Vec<_>>());
    assert!(rung >= CALLS, "each answer comes to an empty inbox: {rung} rings");
    assert!(timer.unwrap() >= set + Duration::from_millis(20));
    communicator.close().unwrap();
}

#[cfg(unix)]
#[test]
fn a_full_pipe_as_a_bell_stops_nobody() {
    let _watched = watched();
    use std::os::unix::net::UnixStream;

    let (bell, ear) = UnixStream::pair().unwrap();
    bell.set_nonblocking(true).unwrap();
    let home = ForeignLoop::writing_to(bell);
    // Nobody reads; each completion comes to an empty inbox and rings, long after the socket is full.
    for n in 0..100_000_u32 {
        let (completer, future) = home.future::<u32>().unwrap();
        completer.complete(n).unwrap();
        assert_eq!(home.run_pending(8), 1);
        assert_eq!(future.wait(), Ok(n));
    }
    drop(ear);
}
