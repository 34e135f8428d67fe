//! A whole life, and what may come in the way of one.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_lives_from_created_to_finished_and_all_are_notified() {
    let home = Home::start(2).await;
    let mut broadcasts = home.controller.events(Vec::<Pid>::new()).await.unwrap();
    assert_eq!(home.run("whole", "step slow sleep").await.unwrap(), Value::from(4));
    let expected = [
        "None.created",
        "created.running",
        "running.running",
        "running.running",
        "running.waiting",
        "waiting.running",
        "running.finished",
    ];
    assert_eq!(*home.changes.lock(), expected);
    for subject in expected {
        let change = tokio::time::timeout(LONG, broadcasts.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(change.subject(), format!("state_changed.{subject}"));
    }
    assert_eq!(Stage::of("whole").notes(), ["0:step", "1:slow", "2:sleep", "3:"]);
    let [pid] = &home.store.list(store::ListFilter::new()).await.unwrap().processes[..] else { panic!("one process") };
    assert_eq!((pid.state(), pid.exit_status(), pid.step()), (ProcessState::Finished, Some(3), 3));
    assert!(pid.lease().is_none(), "its lease ended with it");
    home.close().await;
}

#[tokio::test]
async fn on_a_runtime_of_one_thread_it_is_the_same() {
    let home = Home::start(1).await;
    assert_eq!(home.run("one-thread", "step sleep step").await.unwrap(), Value::from(4));
    home.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_in_user_code_ends_its_own_process_only() {
    let home = Home::start(2).await;
    for (number, script, text) in
        [(1, "fail", "boom: ü"), (2, "panic", "it does not like its inputs"), (3, "step panic", "out of the blue")]
    {
        let launch = home.controller.launch("script").arg("wrong").arg(script).kwarg("pid", number);
        let error = launch.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::RemoteException, "{script}: {error}");
        assert!(error.to_string().contains(text), "{script}: {error}");
    }
    let expected = Outcome::Excepted { type_name: "Boom".into(), message: "boom: ü".into(), chain: Vec::new() };
    assert_eq!(home.record(&1.into()).await.outcome(), Some(&expected));
    assert!(home.store.record(2.into()).await.unwrap().is_none(), "there never was one");
    assert_eq!(home.record(&3.into()).await.checkpoint().step(), 1);
    let error = home.controller.launch("script").await.unwrap_err();
    assert!(error.to_string().contains("the stage is missing"), "{error}");
    // A class that nobody has is for another worker.
    let nobody = home.controller.launch("nobody").timeout(Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::TimedOut, "{nobody}");
    let error = home.controller.continue_process(99).await.unwrap_err();
    assert!(error.to_string().contains("no process 99"), "{error}");
    let error = home.controller.continue_process(99).tag("old").await.unwrap_err();
    assert!(error.to_string().contains("\"old\""), "{error}");
    assert_eq!(home.run("wrong", "step").await.unwrap(), Value::from(2), "and it goes on");
    home.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_is_created_continued_and_continued_again() {
    let home = Home::start(1).await;
    let pid = home.controller.create("script").arg("again").arg("step").kwarg("pid", 4).await.unwrap();
    assert_eq!(pid, Pid::from(4));
    assert_eq!(home.record(&pid).await.checkpoint().state(), ProcessState::Created);
    assert!(home.controller.status(4).await.is_err(), "it is not run yet");
    assert_eq!(home.controller.continue_process(4).await.unwrap(), Value::from(2));
    assert_eq!(home.controller.continue_process(4).await.unwrap(), Value::from(2), "what came of it stays");
    assert_eq!(Stage::of("again").begun(), 2);
    home.close().await;
}

/// P3: in one worker by its table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_runs_once_however_often_it_is_continued() {
    let home = Home::start(4).await;
    let pid = home.launch("once", "gate").await;
    let stage = Stage::of("once");
    eventually("its step runs", || stage.begun() == 1).await;
    let continued: Vec<_> = (0..10).map(|_| tokio::spawn(home.controller.continue_process(&pid))).collect();
    assert_eq!(home.controller.continue_process(&pid).nowait().await.unwrap(), pid);
    assert_eq!(home.worker.as_ref().unwrap().pids(), std::slice::from_ref(&pid));
    stage.open();
    for continued in continued {
        assert_eq!(continued.await.unwrap().unwrap(), Value::from(2));
    }
    assert_eq!((stage.begun(), stage.most.load(Ordering::SeqCst)), (2, 1));
    home.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_steps_run_at_once_than_there_are_slots() {
    let home = Home::start(3).await;
    let runs: Vec<_> =
        (0..20).map(|_| home.controller.launch("script").arg("slots").arg("slow slow sleep slow")).collect();
    let runs: Vec<_> = runs.into_iter().map(tokio::spawn).collect();
    for run in runs {
        run.await.unwrap().unwrap();
    }
    let most = Stage::of("slots").most.load(Ordering::SeqCst);
    assert!((2..=3).contains(&most), "{most} at once");
    home.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_reports_of_itself_while_it_runs() {
    let home = Home::start(1).await;
    let pid = home.launch("reports", "status described").await;
    let until = Instant::now() + LONG;
    while home.record(&pid).await.checkpoint().status_text() != Some("half way") {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let page = home.store.log(pid.clone(), 0, 10).await.unwrap();
    assert_eq!(page.lines.iter().map(store::LogLine::text).collect::<Vec<_>>(), ["a line"]);
    let status = home.controller.status(&pid).await.unwrap();
    assert_eq!((status.state(), status.description()), (ProcessState::Running, "script at 0"));
    assert!(status.created().is_some_and(|created| created.elapsed().is_ok_and(|age| age < LONG)));
    Stage::of("reports").open();
    home.becomes(&pid, "finished").await;
    home.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_subscriber_of_a_very_short_process_is_removed_in_order() {
    let home = Home::start(8).await;
    let mut events = home.communicator.events();
    let runs: Vec<_> =
        (0..100).map(|_| home.controller.launch("script").arg("short").arg("")).map(tokio::spawn).collect();
    for run in runs {
        run.await.unwrap().unwrap();
    }
    home.close().await;
    let mut gone = 0;
    while let Some(event) = events.next().await {
        gone += u32::from(matches!(event, crate::ConnectionEvent::SubscriberGone { .. }));
    }
    assert_eq!(gone, 0, "they are reported as subscribers whose home has ended");
}
