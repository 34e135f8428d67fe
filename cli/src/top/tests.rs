//! The model and its frames, without a terminal and without a broker.

use std::time::{Duration, SystemTime};

use homing::process::{Pid, ProcessState, StateChange};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;

use super::model::{
    Action, Ask, Done, Event, Found, Key, Link, LogEntry, MOST_EVENTS, MOST_PROCESSES, Model, Moment, Now, Page, Queue,
    Rates, Row, StatusAnswer, Trouble,
};
use super::view::{self, Theme};
use super::{draw, once};

use ProcessState::{Created, Excepted, Finished, Killed, Running, Waiting};

/// So many seconds after the view began.
fn at(seconds: u64) -> Now {
    let at = Duration::from_secs(seconds);
    Now { at, time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + at }
}

fn model() -> Model {
    Model::new("amqp://h/", None, &[], at(0))
}

fn change(pid: i64, from: Option<ProcessState>, to: ProcessState) -> Event {
    Event::Change(StateChange::new(pid, from, to))
}

fn row(pid: i64, state: ProcessState) -> Row {
    Row {
        pid: pid.into(),
        class: "shell".to_owned(),
        state,
        pause: None,
        status: Some(format!("program {pid}")),
        created: at(0).time - Duration::from_secs(60),
        changed: at(0).time,
        exit_status: (state == Finished).then_some(0),
        worker: (!state.is_terminal()).then(|| "4711".to_owned()),
    }
}

fn page(began: u64, rows: Vec<Row>) -> Event {
    Event::Stored(Page { began: Duration::from_secs(began), rows, ..Page::default() })
}

fn answer(state: ProcessState, is_paused: bool) -> StatusAnswer {
    StatusAnswer {
        state,
        is_paused,
        created: Some(at(0).time - Duration::from_secs(3600)),
        description: "a calculation".to_owned(),
        fields: vec![("queue".to_owned(), "3".to_owned())],
    }
}

fn keys(model: &mut Model, keys: &str, now: Now) -> Vec<Ask> {
    let mut asks = Vec::new();
    for key in keys.chars() {
        model.settle(20, now);
        asks.extend(model.update(Event::Key(Key::Char(key)), now));
    }
    asks
}

/// A frame of this size, as a terminal shows it.
fn frame(model: &mut Model, width: u16, height: u16, now: Now) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| {
            let area = frame.area();
            draw(model, Theme::Plain, area, frame.buffer_mut(), now);
        })
        .unwrap();
    view::text(terminal.backend().buffer())
}

fn line<'a>(frame: &'a str, with: &str) -> &'a str {
    frame.lines().find(|line| line.contains(with)).unwrap_or_else(|| panic!("no line with {with:?} in\n{frame}"))
}

#[test]
fn a_frame_shows_processes_queues_and_events() {
    let mut model = Model::new("amqp://broker/", Some("/s.db"), &[], at(0));
    let mut paused = row(2, Running);
    paused.pause = Some(Some("the disk is full".to_owned()));
    model.update(page(1, vec![row(1, Running), paused, row(3, Finished)]), at(1));
    let queue = Queue {
        name: "jobs".to_owned(),
        ready: Some(7),
        unacknowledged: Some(3),
        consumers: Some(2),
        rates: Rates { published: Some(1.5), ..Rates::default() },
        ..Queue::default()
    };
    let missing = Queue { name: "jobs.quarantine".to_owned(), is_missing: true, ..Queue::default() };
    model.update(Event::Queues(vec![queue, missing]), at(1));
    model.update(change(1, Some(Running), Excepted), at(2));
    let frame = frame(&mut model, 120, 30, at(10));
    assert!(frame.starts_with(" homing top  2027-01-15T08:00:10Z   connected  amqp://broker/\n"), "{frame}");
    line(&frame, " running 1 (1 paused)  finished 1  excepted 1");
    assert_eq!(
        line(&frame, "jobs  ").split_whitespace().collect::<Vec<_>>(),
        ["jobs", "7", "3", "2", "1.5", "-", "-", "-"]
    );
    assert!(line(&frame, "jobs.quarantine").contains("no such queue yet"));
    let rows: Vec<Vec<&str>> = frame
        .lines()
        .skip_while(|line| !line.starts_with("PID"))
        .take(4)
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0], ["PID", "STATE", "AGE", "FOR", "WORKER", "CLASS", "MESSAGE"]);
    assert_eq!(rows[1].join(" "), "2 running, paused 70s 10s 4711 shell the disk is full");
    // What has ended stands below, the last first; nobody has it any more.
    assert_eq!(rows[2].join(" "), "1 excepted 70s 8s shell program 1");
    assert_eq!(rows[3].join(" "), "3 finished 70s 10s shell exit status 0; program 3");
    assert!(line(&frame, "running -> excepted").starts_with("08:00:02Z 1  running -> excepted"));
    assert!(line(&frame, "K kill").contains("p pause"));
}

#[test]
fn a_broadcast_is_newer_than_a_store_that_was_asked_before_it() {
    let mut model = model();
    model.update(page(1, vec![row(1, Running)]), at(1));
    model.update(change(1, Some(Running), Waiting), at(5));
    model.update(page(4, vec![row(1, Running)]), at(6));
    assert_eq!(model.process(&1.into()).unwrap().state, Some(Waiting));
    model.update(page(7, vec![row(1, Finished)]), at(8));
    let process = model.process(&1.into()).unwrap();
    assert_eq!((process.state, process.exit_status, process.worker.as_str()), (Some(Finished), Some(0), ""));
    // The same of an action.
    model.update(page(9, vec![row(2, Running)]), at(9));
    model.update(Event::Acted(2.into(), Action::Pause, Ok(Done::Yes)), at(11));
    model.update(page(10, vec![row(2, Running)]), at(12));
    assert!(model.process(&2.into()).unwrap().is_paused);
    model.update(page(13, vec![row(2, Running)]), at(14));
    assert!(!model.process(&2.into()).unwrap().is_paused, "somebody else plays it");
}

#[test]
fn an_answer_that_was_asked_for_before_a_change_does_not_undo_it() {
    let mut model = model();
    model.update(change(1, Some(Waiting), Running), at(3));
    let status =
        |asked| Event::Status { pid: 1.into(), asked: Duration::from_secs(asked), answer: Ok(answer(Waiting, true)) };
    model.update(status(2), at(4));
    let process = model.process(&1.into()).unwrap();
    assert_eq!((process.state, process.is_paused), (Some(Running), false));
    model.update(status(5), at(6));
    let process = model.process(&1.into()).unwrap();
    assert_eq!(
        (process.state, process.is_paused, process.last_message().as_str()),
        (Some(Waiting), true, "a calculation")
    );
}

#[test]
fn what_is_not_in_the_store_any_more_is_not_shown_any_more() {
    let mut model = model();
    model.update(page(1, vec![row(1, Running), row(2, Waiting), row(3, Finished)]), at(1));
    model.update(change(9, None, Created), at(1));
    model.settle(20, at(2));
    // The one under the cursor stays.
    keys(&mut model, "g", at(2));
    let selected = model.rows().find(|(_, is_selected)| *is_selected).map(|(process, _)| process.pid.clone());
    assert_eq!(selected, Some(Pid::from(9)));
    model.update(page(3, vec![row(1, Running)]), at(4));
    let known = |pid: i64| model.process(&pid.into()).is_some();
    assert_eq!([1, 2, 3, 9].map(known), [true, false, true, true]);
}

#[test]
fn nothing_grows_without_bound() {
    let mut model = model();
    let long = "x".repeat(10_000);
    for pid in 0..30_000 {
        model.update(change(pid, None, Created), at(1));
    }
    assert!(model.known() <= MOST_PROCESSES, "{}", model.known());
    assert_eq!(usize::try_from(model.left_out()).unwrap() + model.known(), 30_000);
    let rows: Vec<Row> = (200_000..201_700).map(|pid| Row { class: long.clone(), ..row(pid, Running) }).collect();
    for round in 0..5 {
        model.update(page(round + 2, rows.clone()), at(round + 2));
    }
    assert!(model.known() <= MOST_PROCESSES);
    for _ in 0..20 {
        model.update(Event::Log(long.clone()), at(9));
    }
    model.update(Event::Link(Link::Lost(long.clone())), at(9));
    model.update(
        Event::Queues((0..1000).map(|n| Queue { name: format!("{n}{long}"), ..Queue::default() }).collect()),
        at(9),
    );
    assert_eq!(model.events.len(), MOST_EVENTS);
    assert!(model.events.iter().all(|line| line.text.chars().count() <= 301));
    assert_eq!(model.queues.len(), 16);
    let process = model.process(&200_001.into()).unwrap();
    assert_eq!(process.class.chars().count(), 301);
    // A process that goes to and fro.
    for _ in 0..1000 {
        model.update(change(200_001, Some(Running), Waiting), at(10));
    }
    assert!(model.process(&200_001.into()).unwrap().history.len() <= 20);
    assert!(frame(&mut model, 80, 24, at(11)).contains(&format!("{} left out", model.left_out())));
}

#[test]
fn those_that_have_ended_make_room_first_and_the_selected_one_stays() {
    let mut model = model();
    model.update(change(-1, None, Created), at(1));
    model.update(change(-2, Some(Running), Finished), at(9));
    model.settle(20, at(9));
    for pid in 0..i64::try_from(MOST_PROCESSES).unwrap() - 2 {
        model.update(change(pid, None, Created), at(10));
    }
    model.update(change(99_999, None, Created), at(11));
    assert!(model.process(&(-2).into()).is_none(), "it had ended");
    assert!(model.process(&(-1).into()).is_some(), "it is selected");
}

#[test]
fn a_process_is_paused_and_played_by_a_key() {
    let mut model = model();
    model.update(change(7, Some(Created), Running), at(1));
    assert_eq!(keys(&mut model, "p", at(2)), [Ask::Act(7.into(), Action::Pause)]);
    assert!(frame(&mut model, 80, 24, at(2)).contains("pausing 7 …"));
    // Again while no answer has come: once is enough.
    assert_eq!(keys(&mut model, "p", at(2)), []);
    assert!(frame(&mut model, 80, 24, at(2)).contains("already"));
    model.update(Event::Received(7.into(), Action::Pause), at(3));
    assert!(frame(&mut model, 80, 24, at(3)).contains("pausing 7: received, it pauses when its step has ended"));
    let asks = model.update(Event::Acted(7.into(), Action::Pause, Ok(Done::Yes)), at(4));
    assert_eq!(asks, [Ask::Status(7.into())], "what it is now");
    let shown = frame(&mut model, 80, 24, at(4));
    assert!(shown.contains("\n7 paused") && line(&shown, "running, paused").starts_with("7 "), "{shown}");
    // The outcome goes by itself.
    model.update(Event::Tick, at(30));
    assert!(!frame(&mut model, 80, 24, at(30)).contains("\n7 paused"));
    for key in ["l", " "] {
        assert_eq!(keys(&mut model, key, at(31)), [Ask::Act(7.into(), Action::Play)]);
        model.update(Event::Acted(7.into(), Action::Play, Ok(Done::Yes)), at(31));
        assert!(!model.process(&7.into()).unwrap().is_paused);
    }
}

#[test]
fn nothing_is_killed_by_one_key() {
    let mut model = model();
    model.update(change(7, Some(Created), Running), at(1));
    // No printable key, and no pasted text, kills alone.
    for key in ' '..='~' {
        let mut other = Model::new("b", None, &[], at(0));
        other.update(change(7, Some(Created), Running), at(1));
        let asks = keys(&mut other, &key.to_string(), at(2));
        assert!(!asks.iter().any(|ask| matches!(ask, Ask::Act(_, Action::Kill | Action::KillByForce))), "{key}");
    }
    assert_eq!(model.update(Event::Key(Key::Paste("Ky".to_owned())), at(2)), []);
    assert_eq!(keys(&mut model, "K", at(2)), []);
    let shown = frame(&mut model, 80, 24, at(2));
    assert!(shown.contains("kill 7?  y kills, f kills by force"), "{shown}");
    assert_eq!(keys(&mut model, "n", at(2)), []);
    assert!(frame(&mut model, 80, 24, at(2)).contains("7 is not killed"));
    // The question is out of the way, and y is no command.
    assert_eq!(keys(&mut model, "y", at(2)), []);
    assert_eq!(keys(&mut model, "Kf", at(2)), [Ask::Act(7.into(), Action::KillByForce)]);
    assert_eq!(keys(&mut model, "Ky", at(2)), [Ask::Act(7.into(), Action::Kill)]);
    assert!(frame(&mut model, 80, 24, at(2)).contains("(2 requests under way)"));
    model.update(Event::Acted(7.into(), Action::Kill, Ok(Done::Yes)), at(3));
    assert_eq!(model.process(&7.into()).unwrap().state, Some(Killed));
    assert!(frame(&mut model, 80, 24, at(3)).contains("\n7 killed"));
}

#[test]
fn a_question_is_about_the_process_that_it_names() {
    let mut model = model();
    model.update(change(7, Some(Created), Running), at(1));
    keys(&mut model, "K", at(2));
    // Meanwhile it ends, and others come before it.
    model.update(change(7, Some(Running), Waiting), at(3));
    for pid in 8..40 {
        model.update(change(pid, None, Created), at(4));
    }
    assert_eq!(keys(&mut model, "y", at(5)), [Ask::Act(7.into(), Action::Kill)]);
}

#[test]
fn the_cursor_stays_on_its_process() {
    let mut model = model();
    for pid in 1..=3 {
        model.update(change(pid, Some(Created), Running), at(1));
    }
    // The newest is the first; of the same age the higher pid.
    keys(&mut model, "j", at(2));
    model.update(change(9, None, Created), at(5));
    assert_eq!(keys(&mut model, "p", at(6)), [Ask::Act(2.into(), Action::Pause)]);
    // It ends, and its row goes to the end of the list.
    model.update(change(2, Some(Running), Finished), at(7));
    assert_eq!(keys(&mut model, "l", at(8)), [Ask::Act(2.into(), Action::Play)]);
    // A filter that lets it through no more takes nothing away under the user's hand.
    keys(&mut model, "/finished", at(9));
    model.update(Event::Key(Key::Enter), at(9));
    model.update(change(2, None, Created), at(10));
    model.update(change(3, Some(Running), Finished), at(10));
    assert_eq!(keys(&mut model, "K", at(11)), []);
    assert_eq!(model.confirm.as_ref().map(|confirm| confirm.name.as_str()), Some("2"));
}

#[test]
fn keys_that_come_at_once_are_about_what_they_would_be_one_by_one() {
    let mut model = model();
    for pid in 1..=3 {
        model.update(change(pid, Some(Created), Running), at(1));
    }
    model.settle(20, at(2));
    // No frame is drawn in between.
    let mut asks = Vec::new();
    for key in [Key::Char('/'), Key::Char('2'), Key::Enter, Key::Char('p'), Key::Escape, Key::Char('j'), Key::Char('l')]
    {
        asks.extend(model.update(Event::Key(key), at(2)));
    }
    assert_eq!(asks, [Ask::Act(2.into(), Action::Pause), Ask::Act(2.into(), Action::Play)]);
}

#[test]
fn outcomes_that_are_none_are_shown() {
    let mut model = model();
    for pid in 1..=4 {
        model.update(change(pid, Some(Created), Running), at(1));
    }
    for (outcome, text) in [
        (Err(Trouble::Unreachable), "4 is unreachable: no worker has it (not paused)"),
        (Err(Trouble::TimedOut("it was sent, and not answered".to_owned())), "pausing 4 timed out: it was sent"),
        (Err(Trouble::Failed("no step".to_owned())), "pausing 4 failed: no step"),
        (Ok(Done::Refused), "4 refused to pause: it has ended, or is being killed"),
    ] {
        assert_eq!(keys(&mut model, "p", at(2)), [Ask::Act(4.into(), Action::Pause)]);
        model.update(Event::Acted(4.into(), Action::Pause, outcome), at(2));
        let shown = frame(&mut model, 100, 24, at(2));
        // In the last lines, and in the events.
        assert_eq!(shown.matches(text).count(), 2, "{shown}");
        assert!(!model.process(&4.into()).unwrap().is_paused);
    }
}

#[test]
fn a_filter_shows_those_with_all_words() {
    let mut model = model();
    let mut rows = vec![row(1, Running), row(2, Waiting), row(3, Finished)];
    rows[1].class = "Relax".to_owned();
    rows[1].pause = Some(Some("Disk full".to_owned()));
    model.update(page(1, rows), at(1));
    for (filter, shown) in [
        ("", &[2, 1, 3][..]),
        ("relax", &[2]),
        ("shell program", &[1, 3]),
        ("PAUSED disk", &[2]),
        ("4711", &[2, 1]),
        ("nothing", &[]),
        ("3", &[3]),
    ] {
        keys(&mut model, &format!("/{filter}"), at(2));
        model.settle(20, at(2));
        let pids: Vec<i64> = model.rows().filter_map(|(process, _)| process.pid.as_i64()).collect();
        assert_eq!(pids, shown, "{filter}");
        assert!(frame(&mut model, 80, 24, at(2)).contains(&format!("/{filter}_")));
        model.update(Event::Key(Key::Enter), at(2));
    }
    // While one is typed, no key is a command. Esc brings back the one before, and then none.
    keys(&mut model, "/qpK?", at(3));
    assert_eq!(model.filter, "qpK?");
    model.update(Event::Key(Key::Backspace), at(3));
    model.update(Event::Key(Key::Paste("a\u{1b}b".to_owned())), at(3));
    assert_eq!(model.filter, "qpKa\u{fffd}b");
    model.update(Event::Key(Key::Escape), at(3));
    assert_eq!(model.filter, "3");
    assert!(frame(&mut model, 80, 24, at(3)).contains("filter \"3\" shows 1 of 3"));
    model.update(Event::Key(Key::Escape), at(3));
    assert_eq!(model.filter, "");
    for _ in 0..300 {
        keys(&mut model, "/", at(4));
    }
    assert!(model.filter.len() <= 100);
}

#[test]
fn keys_move_and_scroll() {
    let mut model = model();
    for pid in 1..=50 {
        model.update(change(pid, None, Created), at(u64::try_from(pid).unwrap()));
    }
    let mut press = |key: Key| {
        model.update(Event::Key(key), at(60));
        model.settle(10, at(60));
        let rows: Vec<(i64, bool)> =
            model.rows().filter_map(|(process, is_selected)| Some((process.pid.as_i64()?, is_selected))).collect();
        let selected = rows.iter().find(|(_, is_selected)| *is_selected).map(|(pid, _)| *pid);
        (rows[0].0, selected.unwrap())
    };
    assert_eq!(press(Key::Home), (50, 50));
    for (key, first, selected) in [
        (Key::Down, 50, 49),
        (Key::Char('j'), 50, 48),
        (Key::Up, 50, 49),
        (Key::Char('k'), 50, 50),
        (Key::Char('k'), 50, 50),
        (Key::PageDown, 49, 40),
        (Key::PageDown, 39, 30),
        (Key::PageUp, 40, 40),
        (Key::End, 10, 1),
        (Key::Down, 10, 1),
        (Key::PageUp, 11, 11),
        (Key::Char('g'), 50, 50),
        (Key::Char('G'), 10, 1),
    ] {
        let named = format!("{key:?}");
        assert_eq!(press(key), (first, selected), "{named}");
    }
    assert_eq!(model.update(Event::Key(Key::Char('q')), at(60)), [Ask::Quit]);
    assert_eq!(model.update(Event::Key(Key::Control('z')), at(60)), [Ask::Suspend]);
    // Ctrl-C ends it whatever goes on.
    for mode in ["?", "/", "K"] {
        keys(&mut model, mode, at(61));
        assert_eq!(model.update(Event::Key(Key::Control('c')), at(61)), [Ask::Quit]);
        model.update(Event::Key(Key::Escape), at(61));
    }
}

#[test]
fn one_process_is_looked_into() {
    let mut model = Model::new("b", Some("s.db"), &[], at(0));
    model.update(page(1, vec![row(1, Running)]), at(1));
    model.settle(20, at(1));
    assert_eq!(model.update(Event::Key(Key::Enter), at(2)), [Ask::Detail(1.into()), Ask::Status(1.into())]);
    // It is asked again when it has answered, and not before.
    assert_eq!(model.update(Event::Tick, at(5)), []);
    let log = |n: usize| LogEntry { time: at(2).time, is_error: n % 2 == 1, text: format!("line {n}\u{1b}[2J") };
    let found = Found::Stored {
        facts: vec![("inputs".to_owned(), "{\"command\": \"x\"}".to_owned())],
        moments: vec![
            Moment { time: at(0).time, state: Created, is_paused: false, step: 0 },
            Moment { time: at(1).time, state: Running, is_paused: true, step: 1 },
        ],
        log: (0..50).map(log).collect(),
    };
    model.update(Event::Detail(1.into(), found), at(5));
    model.update(Event::Status { pid: 1.into(), asked: at(2).at, answer: Ok(answer(Running, false)) }, at(5));
    assert_eq!(model.update(Event::Tick, at(6)), [Ask::Detail(1.into())]);
    let shown = frame(&mut model, 100, 24, at(6));
    for text in [
        "process      1",
        "state        running since 2027-01-15T08:00:00Z, for 6s",
        "worker       4711",
        "  queue      3",
        "inputs       {\"command\": \"x\"}",
        "  2027-01-15T08:00:00Z  created, step 0",
        "  2027-01-15T08:00:01Z  running, paused, step 1",
        "  08:00:02Z  line 0\u{fffd}[2J",
        "Esc back",
    ] {
        assert!(shown.contains(text), "{text}\n{shown}");
    }
    assert!(!shown.contains("line 49"));
    model.update(Event::Key(Key::End), at(6));
    let shown = frame(&mut model, 100, 24, at(6));
    assert!(shown.contains("line 49") && !shown.contains("process      1"), "{shown}");
    // At the end it follows.
    let more = Found::Stored { facts: Vec::new(), moments: Vec::new(), log: (0..90).map(log).collect() };
    model.update(Event::Detail(1.into(), more), at(6));
    assert!(frame(&mut model, 100, 24, at(6)).contains("line 89"));
    for key in [Key::Up, Key::PageUp] {
        model.update(Event::Key(key), at(6));
        assert!(!frame(&mut model, 100, 24, at(6)).contains("line 89"));
    }
    model.update(Event::Key(Key::Home), at(6));
    assert!(frame(&mut model, 100, 24, at(6)).contains("process      1"));
    // Keys are about the one that is looked into.
    model.update(change(5, None, Created), at(7));
    assert_eq!(keys(&mut model, "p", at(7)), [Ask::Act(1.into(), Action::Pause)]);
    model.update(Event::Key(Key::Escape), at(8));
    assert!(model.detail.is_none());
    // What comes late opens nothing.
    model.update(Event::Detail(1.into(), Found::NotThere), at(9));
    assert!(model.detail.is_none() && frame(&mut model, 100, 24, at(9)).contains("EVENTS"));
}

#[test]
fn without_a_store_one_sees_the_states_since_the_view_began() {
    let mut model = model();
    model.update(change(1, None, Created), at(1));
    model.update(change(1, Some(Created), Running), at(2));
    model.settle(20, at(2));
    assert_eq!(model.update(Event::Key(Key::Enter), at(3)), [Ask::Status(1.into())]);
    model.update(Event::Status { pid: 1.into(), asked: at(3).at, answer: Err(Trouble::Unreachable) }, at(4));
    let shown = frame(&mut model, 80, 24, at(4));
    for text in
        ["unreachable: no worker has it", "states since this view began", "08:00:01Z  created", "08:00:02Z  running"]
    {
        assert!(shown.contains(text), "{text}\n{shown}");
    }
}

#[test]
fn processes_in_sight_are_asked_for_their_status_in_turn() {
    let mut model = model();
    for pid in 1..=100 {
        model.update(change(pid, None, Created), at(1));
    }
    model.update(page(1, vec![row(200, Running)]), at(1));
    model.settle(40, at(2));
    let asked = model.update(Event::Tick, at(2));
    assert_eq!(asked.len(), 16, "so many at once");
    assert_eq!(model.update(Event::Tick, at(3)), []);
    let Ask::Status(first) = asked[0].clone() else { panic!("{asked:?}") };
    let Ask::Status(second) = asked[1].clone() else { panic!("{asked:?}") };
    model.update(Event::Status { pid: first.clone(), asked: at(2).at, answer: Ok(answer(Created, false)) }, at(3));
    model.update(Event::Status { pid: second.clone(), asked: at(2).at, answer: Err(Trouble::Unreachable) }, at(3));
    let again = model.update(Event::Tick, at(4));
    assert_eq!(again.len(), 2);
    assert!(
        !again.contains(&asked[0]) && !again.contains(&Ask::Status(200.into())),
        "the store knows that one: {again:?}"
    );
    for pid in 1..=100 {
        let answer = Ok(answer(Created, false));
        model.update(Event::Status { pid: pid.into(), asked: at(3).at, answer }, at(4));
    }
    // Those that have answered, after a while; one that cannot be reached, much later; after a gap, at once.
    for _ in 0..5 {
        for ask in model.update(Event::Tick, at(5)) {
            let Ask::Status(pid) = ask else { continue };
            model.update(Event::Status { pid, asked: at(5).at, answer: Ok(answer(Created, false)) }, at(5));
        }
    }
    assert_eq!(model.update(Event::Tick, at(6)), []);
    model.update(Event::Link(Link::Gap { away: Duration::from_secs(1) }), at(6));
    assert_eq!(model.update(Event::Tick, at(7)).len(), 16);
    // Without a connection nobody is asked.
    model.update(Event::Link(Link::Lost("gone".to_owned())), at(8));
    assert_eq!(model.update(Event::Tick, at(100)), []);
}

#[test]
fn one_that_cannot_be_reached_is_left_alone_for_a_while() {
    let mut model = Model::new("b", None, &[1.into()], at(0));
    model.settle(20, at(0));
    let unreachable = |model: &mut Model, second| {
        assert_eq!(model.update(Event::Tick, at(second)), [Ask::Status(1.into())], "{second}");
        let answer = Err(Trouble::Unreachable);
        model.update(Event::Status { pid: 1.into(), asked: at(second).at, answer }, at(second));
    };
    unreachable(&mut model, 1);
    assert_eq!(model.update(Event::Tick, at(40)), []);
    unreachable(&mut model, 61);
    // Whoever looks into it asks at once.
    assert_eq!(model.update(Event::Key(Key::Enter), at(62)), [Ask::Status(1.into())]);
}

#[test]
fn a_view_of_some_processes_shows_no_others() {
    let mut model = Model::new("b", None, &[1.into(), 2.into()], at(0));
    assert!(line(&frame(&mut model, 80, 24, at(0)), "2 ").contains('?'));
    assert_eq!(model.update(Event::Tick, at(1)).len(), 2);
    model.update(change(3, None, Created), at(1));
    model.update(page(1, vec![row(1, Running), row(4, Running)]), at(1));
    model.update(Event::Status { pid: 2.into(), asked: at(1).at, answer: Err(Trouble::Unreachable) }, at(2));
    model.settle(20, at(2));
    let mut shown: Vec<String> =
        model.rows().map(|(process, _)| format!("{} {}", process.name, process.state_text())).collect();
    shown.sort();
    assert_eq!(shown, ["1 running", "2 unreachable"]);
    assert!(model.events.is_empty());
}

#[test]
fn the_header_shows_the_connection() {
    let mut model = model();
    model.update(Event::Link(Link::Lost("the broker is gone\u{1b}[31m".to_owned())), at(1));
    model.update(Event::Link(Link::Reconnecting { attempt: 3 }), at(2));
    let shown = frame(&mut model, 120, 10, at(5));
    let expected = "CONNECTION LOST for 4s, reconnecting, attempt 3: the broker is gone\u{fffd}[31m";
    assert!(shown.lines().next().unwrap().contains(expected), "{shown}");
    model.update(Event::Link(Link::Restored { away: Duration::from_secs(4) }), at(5));
    let shown = frame(&mut model, 120, 24, at(6));
    assert!(shown.contains("   connected") && shown.contains("connected again after 4.0 s"), "{shown}");
    model.update(Event::Link(Link::Blocked("low on memory".to_owned())), at(7));
    assert!(frame(&mut model, 120, 24, at(7)).contains("BLOCKED: low on memory"));
    model.update(Event::Link(Link::Unblocked), at(8));
    model.update(Event::Lagged(12), at(8));
    assert!(frame(&mut model, 120, 24, at(8)).contains("12 changes missed"));
    // A store that cannot be read is in sight as long as it cannot, and one line of the events.
    for second in 9..20 {
        model.update(Event::StoreFailed("locked".to_owned()), at(second));
    }
    let shown = frame(&mut model, 120, 24, at(20));
    assert!(shown.contains("THE STORE CANNOT BE READ") && shown.matches("the store: locked").count() == 1, "{shown}");
    model.update(page(20, Vec::new()), at(21));
    assert!(!frame(&mut model, 120, 24, at(21)).contains("CANNOT"));
}

#[test]
fn a_queue_grows_at_a_rate() {
    let mut model = model();
    let queue = |ready| Queue { name: "q".to_owned(), ready: Some(ready), ..Queue::default() };
    model.update(Event::Queues(vec![queue(10)]), at(1));
    model.update(Event::Queues(vec![queue(40)]), at(3));
    assert_eq!(model.queues[0].rates.growth, Some(15.0));
    model.update(Event::Queues(vec![queue(0)]), at(5));
    assert_eq!(model.queues[0].rates.growth, Some(-20.0));
    assert!(line(&frame(&mut model, 100, 24, at(5)), "q ").trim_end().ends_with("-20.0"));
    let troubled = Queue { name: "q".to_owned(), trouble: Some("no answer\u{7}".to_owned()), ..Queue::default() };
    model.update(Event::Queues(vec![troubled]), at(7));
    assert!(line(&frame(&mut model, 100, 24, at(7)), "q ").ends_with("no answer\u{fffd}"));
}

#[test]
fn what_others_write_reaches_no_cell_as_a_control() {
    let mut model = Model::new("amqp://h/\u{1b}c", Some("s\u{9b}2J"), &[], at(0));
    let hostile = "\u{1b}]0;title\u{7}\u{9b}2J\u{202e}txt\r\n\u{0}";
    let mut hostile_row = row(1, Running);
    hostile_row.class = hostile.to_owned();
    hostile_row.status = Some(hostile.to_owned());
    hostile_row.worker = Some(hostile.to_owned());
    model.update(page(1, vec![hostile_row]), at(1));
    model.update(Event::Queues(vec![Queue { name: hostile.to_owned(), ..Queue::default() }]), at(1));
    model.update(Event::Link(Link::Blocked(hostile.to_owned())), at(1));
    model.update(Event::Log(hostile.to_owned()), at(1));
    let named = Pid::new("a\u{202e}b\u{9b}c").or_else(|_| Pid::new("a\u{202e}b")).unwrap();
    model.update(Event::Change(StateChange::new(named, None, Created)), at(1));
    model.update(Event::Acted(1.into(), Action::Pause, Err(Trouble::Failed(hostile.to_owned()))), at(1));
    model.settle(20, at(1));
    let steers = |text: &str| {
        text.chars()
            .any(|c| (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
    };
    let check = |model: &mut Model| {
        let shown = frame(model, 200, 40, at(2));
        assert!(!steers(&shown) && shown.contains('\u{fffd}'), "{shown:?}");
        assert!(!steers(&once::frame(model, 200, at(2))));
    };
    check(&mut model);
    model.update(Event::Key(Key::End), at(2));
    model.update(Event::Key(Key::Enter), at(2));
    let found = Found::Stored {
        facts: vec![(hostile.to_owned(), hostile.to_owned())],
        moments: Vec::new(),
        log: vec![LogEntry { time: at(1).time, is_error: false, text: hostile.to_owned() }],
    };
    let pid = model.detail.as_ref().unwrap().pid.clone();
    model.update(Event::Detail(pid.clone(), found), at(2));
    let mut told = answer(Running, false);
    told.fields = vec![(hostile.to_owned(), hostile.to_owned())];
    model.update(Event::Status { pid: pid.clone(), asked: at(2).at, answer: Ok(told) }, at(2));
    check(&mut model);
    model.update(Event::Status { pid, asked: at(2).at, answer: Err(Trouble::Failed(hostile.to_owned())) }, at(2));
    check(&mut model);
}

#[test]
fn wide_characters_leave_the_columns_where_they_are() {
    let mut model = model();
    let mut rows = vec![row(1, Running), row(2, Running), row(3, Running)];
    rows[0].status = Some("日本語のメッセージ".repeat(20));
    rows[1].class = "計算クラス名前の長い計算クラス".to_owned();
    rows[2].worker = Some("e\u{301}".repeat(40));
    model.update(page(1, rows), at(1));
    let names = [Pid::new("プロセス").unwrap(), Pid::new("👩‍🔬").unwrap()];
    for name in names {
        model.update(Event::Change(StateChange::new(name, None, Created)), at(2));
    }
    assert!(once::frame(&mut model, 120, at(3)).contains(" 日本語のメッセージ日本語"), "no blanks within");
    for width in 1..130 {
        let mut terminal = Terminal::new(TestBackend::new(width, 20)).unwrap();
        let _ = terminal.draw(|frame| {
            let area = frame.area();
            draw(&mut model, Theme::Plain, area, frame.buffer_mut(), at(3));
        });
        if width < 90 {
            continue;
        }
        let buffer = terminal.backend().buffer();
        let text_at = |x: u16, y: u16, width: u16| (x..x + width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        let head = (0..20).find(|y| text_at(0, *y, 3) == "PID").unwrap();
        let column = |name: &str| {
            let length = u16::try_from(name.len()).unwrap();
            (0..width - length).find(|x| text_at(*x, head, length) == name).unwrap()
        };
        let (state, message) = (column("STATE"), column("MESSAGE"));
        for y in head + 1..=head + 5 {
            assert!(["running", "created"].contains(&text_at(state, y, 7).as_str()), "{width}");
            assert_eq!(text_at(message - 1, y, 1), " ", "{width}");
        }
    }
}

#[test]
fn a_terminal_of_any_size_will_do() {
    let mut list = Model::new("amqp://h/", Some("s.db"), &[], at(0));
    list.update(page(1, (1..40).map(|pid| row(pid, Running)).collect()), at(1));
    list.update(Event::Queues(vec![Queue { name: "q".to_owned(), ..Queue::default() }]), at(1));
    for second in 1..20 {
        list.update(change(1, Some(Running), Waiting), at(second));
    }
    for (mode, width, height) in (0..6).flat_map(|mode| {
        let sizes = (0..12).flat_map(|width| (0..12).map(move |height| (width, height)));
        sizes
            .chain([(20, 5), (5, 20), (300, 3), (3, 300), (1000, 200)])
            .map(move |(width, height)| (mode, width, height))
    }) {
        let keys: &[Key] = match mode {
            1 => &[Key::Enter],
            2 => &[Key::Char('?')],
            3 => &[Key::Char('K')],
            4 => &[Key::Char('/'), Key::Char('x')],
            5 => &[Key::End, Key::PageDown, Key::PageUp],
            _ => &[],
        };
        for key in keys {
            list.update(Event::Key(key.clone()), at(20));
        }
        let shown = frame(&mut list, width, height, at(20));
        assert_eq!(shown.lines().count(), usize::from(height));
        if (width, height) == (20, 5) {
            let expected = ["PID", "process      ", "KEYS", "kill ", "/x_", "PID"][mode];
            assert!(shown.contains(expected), "{mode}\n{shown}");
        }
        if (mode, width) == (3, 20) || (mode == 3 && width == 11 && height > 0) {
            assert!(shown.contains("kill "), "a question is in sight: {height}\n{shown}");
        }
        list.update(Event::Key(Key::Escape), at(20));
        list.update(Event::Key(Key::Escape), at(20));
    }
}

#[test]
fn colours_are_used_where_they_are_wanted() {
    let mut model = model();
    model.update(change(1, Some(Running), Excepted), at(1));
    model.update(change(2, Some(Running), Finished), at(1));
    for (theme, coloured) in [(Theme::Colours, true), (Theme::Plain, false)] {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal
            .draw(|frame| {
                let area = frame.area();
                draw(&mut model, theme, area, frame.buffer_mut(), at(2));
            })
            .unwrap();
        let has_colour =
            terminal.backend().buffer().content().iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        assert_eq!(has_colour, coloured);
    }
}

#[test]
fn one_frame_has_every_process() {
    let mut model = Model::new("amqp://h/", Some("s.db"), &[], at(0));
    model.update(page(1, (1..=300).map(|pid| row(pid, Running)).collect()), at(1));
    model.update(change(301, None, Created), at(2));
    let text = once::frame(&mut model, 120, at(2));
    for pid in [1, 150, 300, 301] {
        line(&text, &format!("{pid} "));
    }
    assert!(
        text.contains("created 1  running 300") && text.contains("301  created") && !text.contains("K kill"),
        "{text}"
    );
    assert!(text.lines().all(|line| !line.is_empty()) && text.ends_with('\n'));
    model.prefix = Some("jobs".to_owned());
    let text = once::frame(&mut model, 120, at(2));
    assert!(text.lines().next().is_some_and(|line| line.ends_with("amqp://h/  prefix jobs")), "{text}");
    let object = once::object(&model);
    let of = |key: &str| object.get(key).and_then(homing::Value::as_str);
    assert_eq!((of("broker"), of("prefix")), (Some("amqp://h/"), Some("jobs")));
    let homing::Value::List(processes) = object.get("processes").unwrap() else { panic!("no list") };
    assert_eq!(processes.len(), 301);
    assert_eq!(processes[1].get("worker").and_then(homing::Value::as_str), Some("4711"));
    assert_eq!(object.get("store").and_then(homing::Value::as_str), Some("s.db"));
}

#[test]
fn ages_are_short() {
    let ages =
        [0, 99, 100, 5999, 6000, 172_799, 172_800, 9_000_000].map(|seconds| view::short(Duration::from_secs(seconds)));
    assert_eq!(ages, ["0s", "99s", "1m", "99m", "1h", "47h", "2d", "104d"]);
}
