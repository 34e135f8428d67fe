//! The controller against processes and workers of a few lines, inside this process.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::{
    Answer, Broadcast, BroadcastFilter, BroadcastSubscriber, Communicator, ErrorKind, Failure, HandlerResult, Promise,
    RpcRequest, RpcSubscriber, TaskRequest, TaskSubscriber, Value,
};

/// A bound against hanging.
const LONG: Duration = Duration::from_secs(20);

/// Short, for what is waited for in vain.
const SHORT: Duration = Duration::from_millis(150);

async fn connected() -> (Communicator, ProcessController) {
    let communicator = Communicator::builder("memory:").call_timeout(LONG).task_timeout(LONG).connect().await.unwrap();
    let controller = ProcessController::new(&communicator);
    (communicator, controller)
}

type Log<T> = Arc<Mutex<Vec<T>>>;

fn taken<T>(log: &Log<T>) -> Vec<T> {
    std::mem::take(&mut *log.lock().unwrap())
}

/// A process that answers by a function, and what it was sent.
async fn process(
    communicator: &Communicator,
    pid: impl Into<Pid>,
    answer: impl Fn(&ControlMessage) -> HandlerResult + Send + Sync + 'static,
) -> Log<ControlMessage> {
    let log: Log<ControlMessage> = Arc::default();
    let kept = Arc::clone(&log);
    let subscriber = RpcSubscriber::closure(move |request: RpcRequest| {
        let message = ControlMessage::try_from(request.body())?;
        kept.lock().unwrap().push(message.clone());
        answer(&message)
    });
    communicator.add_rpc_subscriber(pid.into(), subscriber).await.unwrap();
    log
}

fn waiting(paused: bool) -> Value {
    Value::from_iter([("state", Value::from("ProcessState.WAITING")), ("paused", Value::from(paused))])
}

#[tokio::test]
async fn each_request_is_plumpys_and_its_answer_has_a_type() {
    let (communicator, controller) = connected().await;
    let log = process(&communicator, 7, |message| match message {
        ControlMessage::Status(_) => HandlerResult::Ok(waiting(true).into()),
        ControlMessage::Kill(kill) if !kill.is_forced() => HandlerResult::Ok(false.into()),
        _ => HandlerResult::Ok(true.into()),
    })
    .await;
    let status = controller.status(7).await.unwrap();
    assert_eq!((status.state(), status.is_paused()), (ProcessState::Waiting, true));
    assert_eq!(controller.pause(7).message("why").await.unwrap(), ControlOutcome::Done);
    assert_eq!(controller.play(7).await.unwrap(), ControlOutcome::Done);
    assert_eq!(controller.kill(7).await.unwrap(), ControlOutcome::Refused, "it had ended otherwise");
    assert!(controller.kill(7).message("now").force().await.unwrap().is_done());
    assert_eq!(
        taken(&log),
        [
            ControlMessage::Status(AskStatus),
            ControlMessage::Pause(Pause::new().with_message("why")),
            ControlMessage::Play(Play),
            ControlMessage::Kill(Kill::new()),
            ControlMessage::Kill(Kill::new().with_message("now").forced()),
        ]
    );
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn any_number_of_pending_replies_is_one_stage() {
    let (communicator, controller) = connected().await;
    process(&communicator, 7, |_| {
        HandlerResult::Ok(Answer::later(async { Answer::later(async { Answer::later(async { true }) }) }))
    })
    .await;
    let mut reply = controller.pause(7).send().await.unwrap();
    assert_eq!(reply.pid(), Some(&Pid::from(7)));
    assert_eq!(reply.stage().await.unwrap(), ControlStage::Received);
    assert_eq!(reply.stage().await.unwrap(), ControlStage::Done(ControlOutcome::Done));
    assert_eq!(reply.stage().await.unwrap_err().kind(), ErrorKind::InvalidState);
    assert_eq!(controller.pause(7).await.unwrap(), ControlOutcome::Done);
    communicator.close().await.unwrap();
}

/// What a process answers in the end.
fn due(message: &ControlMessage) -> Value {
    match message {
        ControlMessage::Status(_) => waiting(false),
        _ => true.into(),
    }
}

/// An idle process of plumpy: the answer to a request goes out when the next one comes.
async fn idle_process(communicator: &Communicator) -> Log<ControlMessage> {
    let kept: Mutex<Option<(Promise, Value)>> = Mutex::default();
    process(communicator, 7, move |message| {
        let mut kept = kept.lock().unwrap();
        if let Some((promise, answer)) = kept.take() {
            promise.answer(answer);
            return HandlerResult::Ok(due(message).into());
        }
        let (promise, answer) = Answer::promise()?;
        *kept = Some((promise, due(message)));
        HandlerResult::Ok(answer)
    })
    .await
}

#[tokio::test]
async fn a_process_that_keeps_its_answer_is_woken_by_a_status_request() {
    let (communicator, controller) = connected().await;
    let log = idle_process(&communicator).await;
    let wake_up = Duration::from_millis(20);
    assert_eq!(controller.pause(7).wake_up_after(wake_up).await.unwrap(), ControlOutcome::Done);
    assert_eq!(taken(&log), [ControlMessage::Pause(Pause::new()), ControlMessage::Status(AskStatus)]);
    let status = controller.status(7).wake_up_after(wake_up).await.unwrap();
    assert_eq!(status.state(), ProcessState::Waiting);
    assert_eq!(taken(&log).len(), 2);
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn the_second_answer_to_a_status_request_is_as_good_as_the_first() {
    let (communicator, controller) = connected().await;
    let kept: Mutex<Vec<Promise>> = Mutex::default();
    process(&communicator, 7, move |message| {
        let (promise, answer) = Answer::promise()?;
        kept.lock().unwrap().push(promise);
        match kept.lock().unwrap().len() {
            1 => HandlerResult::Ok(answer),
            _ => HandlerResult::Ok(due(message).into()),
        }
    })
    .await;
    let status = controller.status(7).wake_up_after(Duration::from_millis(20)).await.unwrap();
    assert_eq!(status.state(), ProcessState::Waiting);
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn the_answer_to_the_status_request_is_no_answer_to_another_request() {
    let (communicator, controller) = connected().await;
    let log = process(&communicator, 7, |message| match message {
        ControlMessage::Status(_) => HandlerResult::Ok(waiting(false).into()),
        _ => HandlerResult::Ok(Answer::later(async {
            tokio::time::sleep(SHORT).await;
            true
        })),
    })
    .await;
    assert_eq!(controller.pause(7).wake_up_after(Duration::ZERO).await.unwrap(), ControlOutcome::Done);
    assert_eq!(taken(&log), [ControlMessage::Pause(Pause::new()), ControlMessage::Status(AskStatus)]);
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn a_process_is_woken_once_and_a_failure_of_that_is_no_error() {
    let (communicator, controller) = connected().await;
    let log = process(&communicator, 7, |message| match message {
        ControlMessage::Status(_) => HandlerResult::Err(Failure::Exception("no status".into()).into()),
        _ => HandlerResult::Ok(Answer::later(std::future::pending::<Value>())),
    })
    .await;
    let begun = std::time::Instant::now();
    let error = controller.pause(7).wake_up_after(Duration::from_millis(5)).timeout(SHORT).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("the request to pause process 7 was received"), "{error}");
    assert!(begun.elapsed() >= SHORT);
    assert_eq!(taken(&log), [ControlMessage::Pause(Pause::new()), ControlMessage::Status(AskStatus)]);
    let error = controller.kill(7).no_wake_up().timeout(SHORT).await.unwrap_err();
    assert!(error.to_string().contains("the request to kill process 7"), "{error}");
    assert_eq!(taken(&log), [ControlMessage::Kill(Kill::new())]);
    communicator.close().await.unwrap();
}

/// Guards: a request that meets the end of its process, whose subscriber goes with the request in hand.
#[tokio::test]
async fn a_process_that_goes_with_a_request_in_hand_is_one_that_cannot_be_reached() {
    let (communicator, controller) = connected().await;
    let (takes, mut taken) = tokio::sync::mpsc::unbounded_channel();
    let (end, ends) = tokio::sync::oneshot::channel::<()>();
    let at_another_home = communicator.clone();
    let home = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let process = RpcSubscriber::future(move |_: RpcRequest| {
                takes.send(()).unwrap();
                std::future::pending::<HandlerResult<bool>>()
            });
            at_another_home.add_rpc_subscriber(7, process).await.unwrap();
            let _ = ends.await;
        });
    });
    let asked = loop {
        match controller.pause(7).no_wake_up().send().await {
            Err(error) if error.kind() == ErrorKind::Unroutable => tokio::task::yield_now().await,
            asked => break asked.unwrap(),
        }
    };
    taken.recv().await.unwrap();
    drop(end);
    let error = asked.outcome().await.unwrap_err();
    home.join().unwrap();
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Unroutable, "{text}");
    assert!(text.contains("process 7 has ended meanwhile") && text.contains("to pause process 7 was sent"), "{text}");
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn a_process_that_is_not_there_is_named_with_what_to_try() {
    let (communicator, controller) = connected().await;
    for error in [
        controller.status(1234).await.unwrap_err(),
        controller.kill(1234).await.unwrap_err(),
        controller.pause(1234).send().await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unroutable);
        let text = error.to_string();
        assert!(text.contains("process 1234 cannot be reached") && text.contains("worker"), "{text}");
    }
    communicator.close().await.unwrap();
    let error = controller.status(1234).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommunicatorClosed, "{error}");
}

#[tokio::test]
async fn an_answer_of_the_wrong_shape_is_an_error_of_the_right_kind() {
    let (communicator, controller) = connected().await;
    process(&communicator, 7, |message| match message {
        ControlMessage::Status(_) => HandlerResult::Ok("fine".into()),
        ControlMessage::Play(_) => HandlerResult::Ok(Value::Null.into()),
        _ => HandlerResult::Err(Failure::Exception("its own words".into()).into()),
    })
    .await;
    assert_eq!(controller.status(7).await.unwrap_err().kind(), ErrorKind::Decode);
    let error = controller.play(7).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Decode && error.to_string().contains("process 7"), "{error}");
    let error = controller.pause(7).await.unwrap_err();
    assert_eq!((error.kind(), error.remote_text()), (ErrorKind::RemoteException, Some("its own words")));
    assert!(error.to_string().contains("pause process 7"), "{error}");
    communicator.close().await.unwrap();
}

/// A worker that answers by a function, and what it was sent.
async fn worker(
    communicator: &Communicator,
    answer: impl Fn(&ProcessTask) -> HandlerResult + Send + Sync + 'static,
) -> Log<ProcessTask> {
    let log: Log<ProcessTask> = Arc::default();
    let kept = Arc::clone(&log);
    let subscriber = TaskSubscriber::closure(move |request: TaskRequest| {
        let task = ProcessTask::try_from(request.body())?;
        kept.lock().unwrap().push(task.clone());
        answer(&task)
    });
    communicator.add_task_subscriber(subscriber).await.unwrap();
    log
}

#[tokio::test]
async fn tasks_are_plumpys_and_their_outcomes_have_types() {
    let (communicator, controller) = connected().await;
    let outputs = Value::from_iter([("o", 7)]);
    let answered = outputs.clone();
    let log = worker(&communicator, move |task| match task {
        ProcessTask::Launch(launch) if launch.is_nowait() => HandlerResult::Ok(Value::from(Pid::from(5)).into()),
        // As AiiDA's workers answer.
        ProcessTask::Continue(request) if request.is_nowait() => HandlerResult::Ok("8\n...\n".into()),
        ProcessTask::Create(_) => HandlerResult::Ok(6.into()),
        _ => HandlerResult::Ok(answered.clone().into()),
    })
    .await;
    let launch = || controller.launch("m:C").arg(1).kwarg("pid", 4).persistent();
    assert_eq!(launch().await.unwrap(), outputs);
    assert_eq!(launch().nowait().await.unwrap(), Pid::from(5));
    assert_eq!(controller.continue_process(8).tag("t").await.unwrap(), outputs);
    assert_eq!(controller.continue_process(8).nowait().await.unwrap(), Pid::from(8));
    assert_eq!(controller.create("m:C").await.unwrap(), Pid::from(6));
    let sent = Launch::new("m:C").arg(1).kwarg("pid", 4).persistent();
    assert_eq!(
        taken(&log),
        [
            ProcessTask::Launch(sent.clone()),
            ProcessTask::Launch(sent.nowait()),
            ProcessTask::Continue(Continue::new(8).with_tag("t")),
            ProcessTask::Continue(Continue::new(8).nowait()),
            ProcessTask::Create(Create::new("m:C")),
        ]
    );
    let reply = controller.execute("m:C").arg("x").send().await.unwrap();
    assert_eq!(reply.pid(), Some(&Pid::from(6)));
    assert_eq!(reply.await.unwrap(), outputs);
    assert_eq!(controller.execute("m:C").kwarg("k", 1).nowait().await.unwrap(), Pid::from(8));
    assert_eq!(
        taken(&log),
        [
            ProcessTask::Create(Create::new("m:C").arg("x")),
            ProcessTask::Continue(Continue::new(6)),
            ProcessTask::Create(Create::new("m:C").kwarg("k", 1)),
            ProcessTask::Continue(Continue::new(6).nowait()),
        ]
    );
    controller.launch("m:D").no_reply().unwrap().await.unwrap();
    controller.continue_process(9).no_reply().unwrap().await.unwrap();
    let until = std::time::Instant::now() + LONG;
    while log.lock().unwrap().len() < 2 && std::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(taken(&log), [ProcessTask::Launch(Launch::new("m:D")), ProcessTask::Continue(Continue::new(9))]);
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn what_a_worker_answers_when_it_cannot_continue_a_process_is_an_error() {
    let (communicator, controller) = connected().await;
    worker(&communicator, |task| match task {
        // AiiDA's, about a process that is not there.
        ProcessTask::Continue(request) if request.pid() == &Pid::from(1) => HandlerResult::Ok(false.into()),
        // And about one that was killed.
        _ => HandlerResult::Err(Failure::Exception(String::new()).into()),
    })
    .await;
    for error in
        [controller.continue_process(1).await.unwrap_err(), controller.continue_process(1).nowait().await.unwrap_err()]
    {
        assert_eq!(error.kind(), ErrorKind::RemoteException);
        assert!(
            error.to_string().contains("no process of this id") && error.to_string().contains("process 1"),
            "{error}"
        );
    }
    let error = controller.continue_process(2).await.unwrap_err();
    assert_eq!((error.kind(), error.remote_text()), (ErrorKind::RemoteException, Some("")));
    assert!(error.to_string().contains("gave no reason"), "{error}");
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn a_process_that_was_created_and_does_not_run_is_named() {
    let (communicator, controller) = connected().await;
    worker(&communicator, |task| match task {
        ProcessTask::Create(_) => HandlerResult::Ok(6.into()),
        _ => HandlerResult::Err(Failure::Exception("no such checkpoint".into()).into()),
    })
    .await;
    let error = controller.execute("m:C").await.unwrap_err();
    assert_eq!(error.remote_text(), Some("no such checkpoint"));
    assert!(error.to_string().contains("process 6"), "{error}");
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn requests_to_all_are_plumpys_broadcasts() {
    let (communicator, controller) = connected().await;
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    let subscriber = BroadcastSubscriber::closure(move |broadcast: Broadcast| {
        sender.send((ControlBroadcast::from_broadcast(&broadcast), broadcast.sender().clone())).ok();
    });
    communicator.add_broadcast_subscriber(BroadcastFilter::new(), subscriber).await.unwrap();
    controller.pause_all().message("all stop").await.unwrap();
    controller.play_all().timeout(LONG).await.unwrap();
    controller.kill_all().await.unwrap();
    for expected in [
        ControlBroadcast::Pause(Pause::new().with_message("all stop")),
        ControlBroadcast::Play(Play),
        ControlBroadcast::Kill(Kill::new()),
    ] {
        assert_eq!(received.recv().await.unwrap(), (Some(expected), Value::Null));
    }
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn changes_of_state_are_those_of_the_processes_that_are_watched() {
    let (communicator, controller) = connected().await;
    let mut all = controller.events(Vec::<Pid>::new()).await.unwrap();
    let mut some = controller.events(["4".parse::<Pid>().unwrap(), Pid::new("p").unwrap()]).await.unwrap();
    let change = |pid: &Pid| StateChange::new(pid, Some(ProcessState::Running), ProcessState::Finished);
    // None of these is a change of state of anybody.
    communicator.broadcast_send(()).subject("state_changed.running.gone").sender(4).await.unwrap();
    communicator.broadcast_send(()).subject("state_changed.running.finished").await.unwrap();
    communicator.broadcast_send(()).subject("kill").sender(4).await.unwrap();
    let pids = [Pid::from(5), Pid::new("4").unwrap(), Pid::from(4), Pid::new("p").unwrap()];
    for pid in &pids {
        controller.announce(&change(pid)).await.unwrap();
    }
    for pid in &pids {
        assert_eq!(all.next().await, Some(Ok(change(pid))));
    }
    assert_eq!(some.next().await, Some(Ok(change(&pids[2]))), "the number, not the string that looks like it");
    assert_eq!(some.next().await, Some(Ok(change(&pids[3]))));
    communicator.close().await.unwrap();
    assert_eq!((all.next().await, some.next().await), (None, None));
}

#[tokio::test]
async fn a_receiver_that_lags_gets_the_number_of_changes_that_it_lost() {
    let (communicator, controller) = connected().await;
    let mut changes = controller.events([4]).await.unwrap();
    let sent = 3000_u64;
    for _ in 0..sent {
        controller.announce(&StateChange::new(4, None, ProcessState::Created)).await.unwrap();
    }
    controller.announce(&StateChange::new(4, None, ProcessState::Killed)).await.unwrap();
    let (mut seen, mut missed) = (0, 0);
    while let Some(next) = changes.next().await {
        match next {
            Ok(change) if change.to() == ProcessState::Killed => break,
            Ok(_) => seen += 1,
            Err(lagged) => missed += lagged.missed,
        }
    }
    assert!(missed > 0 && seen + missed == sent, "{seen} seen, {missed} missed");
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn nothing_is_sent_before_it_is_polled_and_nothing_twice() {
    let (communicator, controller) = connected().await;
    let log = process(&communicator, 7, |_| HandlerResult::Ok(true.into())).await;
    drop(controller.kill(7));
    drop(controller.kill_all());
    let mut kill = controller.kill(7);
    assert!((&mut kill).await.is_ok());
    assert_eq!(kill.send().await.unwrap_err().kind(), ErrorKind::InvalidState);
    let mut all = controller.play_all();
    assert!((&mut all).await.is_ok());
    assert_eq!(all.await.unwrap_err().kind(), ErrorKind::InvalidState);
    assert_eq!(taken(&log).len(), 1);
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn a_reply_that_is_waited_for_in_pieces_loses_nothing() {
    let (communicator, controller) = connected().await;
    let log = idle_process(&communicator).await;
    let mut reply = controller.pause(7).wake_up_after(Duration::from_millis(60)).send().await.unwrap();
    let until = std::time::Instant::now() + LONG;
    let outcome = loop {
        assert!(std::time::Instant::now() < until);
        if let Ok(stage) = tokio::time::timeout(Duration::from_millis(1), reply.stage()).await
            && let ControlStage::Done(outcome) = stage.unwrap()
        {
            break outcome;
        }
    };
    assert_eq!(outcome, ControlOutcome::Done);
    assert_eq!(taken(&log).len(), 2, "woken once");
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn requests_leave_nothing_behind() {
    let (communicator, controller) = connected().await;
    process(&communicator, 7, |_| HandlerResult::Ok(true.into())).await;
    process(&communicator, 8, |_| HandlerResult::Ok(Answer::later(std::future::pending::<Value>()))).await;
    for _ in 0..200 {
        assert!(controller.pause(7).wake_up_after(Duration::MAX).await.is_ok());
        // Given up before it is woken, and after.
        let reply = controller.pause(8).wake_up_after(Duration::from_micros(10)).send().await.unwrap();
        let _ = tokio::time::timeout(Duration::from_millis(1), reply.outcome()).await;
    }
    assert!(controller.status(9).await.is_err());
    // The driver notes what it holds when it has done something.
    let held = || {
        let of = ["messages", "requests", "timers", "permits"];
        communicator.leftovers().into_iter().filter(|(name, count)| of.contains(name) && *count > 0).collect::<Vec<_>>()
    };
    let until = std::time::Instant::now() + LONG;
    while !held().is_empty() {
        assert!(std::time::Instant::now() < until, "left behind: {:?}", held());
        tokio::time::sleep(Duration::from_millis(5)).await;
        communicator.sleep(Duration::ZERO).await.unwrap();
    }
    communicator.close().await.unwrap();
}

#[test]
fn plain_threads_wait_and_are_woken_by_the_communicators_clock() {
    let communicator = crate::blocking::Communicator::connect("memory:").unwrap();
    let controller = blocking::ProcessController::new(&communicator);
    let kept: Arc<Mutex<Option<Promise>>> = Arc::default();
    let subscriber = RpcSubscriber::closure(move |_: RpcRequest| {
        let (promise, answer) = Answer::promise()?;
        if let Some(before) = kept.lock().unwrap().replace(promise) {
            before.answer(true);
        }
        HandlerResult::Ok(answer)
    });
    communicator.add_rpc_subscriber(7, subscriber).unwrap();
    let mut reply = controller.pause(7).wake_up_after(Duration::from_millis(20)).send_blocking().unwrap();
    assert_eq!(reply.stage_blocking().unwrap(), ControlStage::Received);
    assert_eq!(reply.wait().unwrap(), ControlOutcome::Done);
    let mut changes = controller.events([7]).unwrap();
    controller.announce(&StateChange::new(7, None, ProcessState::Created)).wait().unwrap();
    assert_eq!(changes.next_blocking().unwrap().unwrap().unwrap().to(), ProcessState::Created);
    controller.kill_all().timeout(LONG).wait().unwrap();
    assert_eq!(controller.status(8).wait().unwrap_err().kind(), ErrorKind::Unroutable);
    let begun = std::time::Instant::now();
    communicator.sleep(SHORT).unwrap();
    assert!(begun.elapsed() >= SHORT);
    let waits = communicator.to_async().sleep(Duration::MAX);
    let closing = std::thread::spawn({
        let communicator = communicator.clone();
        move || {
            std::thread::sleep(Duration::from_millis(50));
            communicator.close()
        }
    });
    assert_eq!(crate::blocking::wait(waits).unwrap_err().kind(), ErrorKind::CommunicatorClosed);
    closing.join().unwrap().unwrap();
}

#[tokio::test]
async fn a_task_without_a_reply_keeps_the_time_that_was_set_before() {
    let name = uuid::Uuid::new_v4().to_string();
    let communicator = Communicator::connect(&format!("memory:{name}")).await.unwrap();
    let controller = ProcessController::new(&communicator);
    let mut events = communicator.events();
    crate::broker::memory::fault::set_blocked(&name, Some("memory"));
    while !matches!(events.next().await, Some(crate::ConnectionEvent::Blocked { .. })) {}
    let launch = controller.launch("jobs:Relax").timeout(SHORT).no_reply().unwrap();
    let continues = controller.continue_process(7).timeout(SHORT).no_reply().unwrap();
    // The default is a minute.
    for sending in [launch, continues] {
        let ended = tokio::time::timeout(LONG, sending).await.expect("it ends in time");
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::TimedOut);
    }
    crate::broker::memory::fault::set_blocked(&name, None);
    communicator.close().await.unwrap();
}
