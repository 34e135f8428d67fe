//! A process that is forked from one that has connected: an error at once, where there was a wait without an end.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use homing::home::{ByProcess, EventLoop};
use homing::{BroadcastFilter, Communicator, ErrorKind, RpcRequest, RpcSubscriber};

const LIMIT: Duration = Duration::from_secs(20);

/// What the child finds; 0 if it is as it should be. Nothing here may panic: the harness belongs to the parent.
fn child(runtime: &tokio::runtime::Runtime, communicator: &Communicator, event_loop: Option<EventLoop>) -> i32 {
    // Its thread is the parent's.
    drop(event_loop);
    let outcomes = runtime.block_on(async {
        let call = async { communicator.rpc_send("echo", 1).timeout(LIMIT).await.map(drop) };
        let task = async { communicator.task_send(1).no_reply().await };
        let broadcasts = async { communicator.broadcasts(BroadcastFilter::new()).await.map(drop) };
        let queue = async { communicator.default_task_queue()?.next_task(LIMIT).await.map(drop) };
        [call.await, task.await, broadcasts.await, queue.await, communicator.close().await.map(drop)]
    });
    let is_refused = |outcome: &homing::Result<()>| {
        let refused = outcome.as_ref().err().filter(|error| error.kind() == ErrorKind::InvalidState);
        refused.is_some_and(|error| error.to_string().contains("forked"))
    };
    outcomes.iter().position(|outcome| !is_refused(outcome)).map_or(0, |first| i32::try_from(first + 1).unwrap_or(99))
}

/// With what a child has ended; `None` where a signal ended it.
#[allow(unsafe_code, reason = "there is no fork without it")]
fn exit_code(pid: libc::pid_t) -> Option<i32> {
    let (until, mut status) = (Instant::now() + LIMIT, 0);
    // SAFETY: `status` is where it is written to, and the pid is our own child's.
    while unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } == 0 {
        if Instant::now() > until {
            // SAFETY: the pid is our own child's, which has not been waited for.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            panic!("the child hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status))
}

#[test]
#[allow(unsafe_code, reason = "there is no fork without it")]
fn a_lock_of_a_process_is_another_one_in_its_child() {
    static COUNT: ByProcess<Mutex<u32>> = ByProcess::new();

    let mut held = COUNT.here().lock().unwrap();
    *held = 7;
    // SAFETY: the child has this thread alone; it takes a lock that is its own, and ends without running anybody's destructors.
    let pid = unsafe { libc::fork() };
    assert_ne!(pid, -1, "no fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        let is_new = COUNT.here().try_lock().is_ok_and(|count| *count == 0);
        let is_kept = std::ptr::eq(COUNT.here(), COUNT.here());
        // SAFETY: it ends the process, and touches nothing of it.
        unsafe { libc::_exit(i32::from(!is_new) + 2 * i32::from(!is_kept)) };
    }
    assert_eq!(exit_code(pid), Some(0), "1: it is the parent's; 2: it is another one each time");
    drop(held);
    assert_eq!(*COUNT.here().lock().unwrap(), 7);
}

#[test]
#[allow(unsafe_code, reason = "there is no fork without it")]
fn a_fork_gets_an_error_and_its_parent_goes_on() {
    let mut brokers = vec!["memory:".to_owned()];
    brokers.extend(std::env::var("HOMING_TEST_AMQP"));
    for broker in brokers {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let name = format!("fork-{}", std::process::id());
        let communicator = runtime.block_on(Communicator::builder(&broker).prefix(name).connect()).unwrap();
        let echo = RpcSubscriber::closure(|request: RpcRequest| request.into_body());
        runtime.block_on(communicator.add_rpc_subscriber("echo", echo)).unwrap();

        let mut event_loop = Some(EventLoop::start("of-the-parent").unwrap());
        // SAFETY: the child has this thread alone. It runs `child`, which takes no lock that another thread may have held
        // at the fork but the allocator's, and glibc hands that over; then it ends without running anybody's destructors.
        let pid = unsafe { libc::fork() };
        assert_ne!(pid, -1, "no fork: {}", std::io::Error::last_os_error());
        if pid == 0 {
            // SAFETY: as below. A panic, on any thread, is a fault.
            std::panic::set_hook(Box::new(|_| unsafe { libc::_exit(97) }));
            let code = child(&runtime, &communicator, event_loop.take());
            // SAFETY: it ends the process, and touches nothing of it.
            unsafe { libc::_exit(code) };
        }
        assert_eq!(exit_code(pid), Some(0), "{broker}: which one is not refused");

        let answer = runtime.block_on(async { communicator.rpc_send("echo", 7).timeout(LIMIT).await }).unwrap();
        assert_eq!(answer.as_i64(), Some(7), "{broker}");
        runtime.block_on(communicator.close()).unwrap();
    }
}
