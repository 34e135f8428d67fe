//! What the public items of the library promise in their documentation, read off the source: what a dropped await does, how a
//! call fails, and which types may grow.

use std::path::{Path, PathBuf};

/// Types that are complete: another variant would be another idea.
const COMPLETE: [&str; 5] = ["Attempt", "Kind", "Nested", "Ran", "TestingMode"];

/// Public only to the tests and tools of the project.
const NOT_PUBLIC: [&str; 7] =
    ["simulation", "fuzzing", "tests", "model.rs", "simulated.rs", "panics.rs", "home/src/audit.rs"];

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if NOT_PUBLIC.iter().any(|part| path.to_string_lossy().contains(part)) {
            continue;
        }
        match path.is_dir() {
            true => sources(&path, into),
            false => into.push(path),
        }
    }
}

/// A public item: where it is, its attributes, its documentation, and its first lines up to the body.
struct Item {
    place: String,
    attributes: String,
    documentation: String,
    signature: String,
}

fn items() -> Vec<Item> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    sources(&root.join("crates/home/src"), &mut files);
    let mut items = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let (mut documentation, mut attributes) = (String::new(), String::new());
        for (number, line) in lines.iter().enumerate() {
            if let Some(more) = line.strip_prefix("///") {
                documentation.push_str(more);
                documentation.push('\n');
            } else if line.starts_with("#[") {
                attributes.push_str(line);
            } else {
                // What has no documentation is not public outside of its module: `missing_docs` sees to that.
                if line.starts_with("pub ") && !documentation.is_empty() {
                    let head = lines[number..].iter().position(|line| line.contains(['{', ';']));
                    let signature = lines[number..=number + head.unwrap_or(0)].join(" ");
                    let place = format!("{}:{}", file.display(), number + 1);
                    items.push(Item {
                        place,
                        attributes: std::mem::take(&mut attributes),
                        documentation: std::mem::take(&mut documentation),
                        signature,
                    });
                }
                documentation.clear();
                attributes.clear();
            }
        }
    }
    assert!(items.len() > 200, "{} items", items.len());
    items
}

#[test]
fn whatever_is_awaited_says_what_a_dropped_await_does() {
    let mut awaited = 0;
    for item in items().iter().filter(|item| item.signature.starts_with("pub async fn")) {
        awaited += 1;
        assert!(item.documentation.contains("# Cancel safety"), "{}: {}", item.place, item.signature);
    }
    assert!(awaited > 20, "{awaited}");
    let mut limited = 0;
    for item in items().iter().filter(|item| item.signature.starts_with("pub fn next_blocking_timeout")) {
        limited += 1;
        assert!(item.documentation.contains("# Cancel safety"), "{}: {}", item.place, item.signature);
    }
    assert!(limited >= 4, "{limited}");
    for name in [
        "HomeFuture",
        "LocalFuture",
        "AsCompleted",
        "Reservation",
        "RpcSend",
        "TaskSend",
        "TaskSendNoReply",
        "BroadcastSend",
        "Reply",
        "CallerGone",
        "OwnershipLost",
    ] {
        let is_it = |item: &&Item| {
            let after = item.signature.strip_prefix("pub struct ").and_then(|rest| rest.strip_prefix(name));
            after.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
        };
        let items = items();
        let item = items.iter().find(is_it).unwrap_or_else(|| panic!("no {name}"));
        assert!(item.documentation.contains("# Cancel safety"), "{}: {name}", item.place);
    }
}

#[test]
fn whatever_fails_says_how() {
    let is_function = |item: &&Item| {
        ["pub fn ", "pub async fn ", "pub const fn "].iter().any(|head| item.signature.starts_with(head))
    };
    for item in items().iter().filter(is_function) {
        let returned = item.signature.split("->").nth(1).unwrap_or_default();
        if returned.contains("Result<") {
            assert!(item.documentation.contains("# Errors"), "{}: {}", item.place, item.signature);
        }
    }
}

#[test]
fn types_that_may_grow_are_marked() {
    let mut enums = 0;
    for item in items() {
        let Some(rest) = item.signature.strip_prefix("pub enum ") else { continue };
        let name = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        enums += 1;
        if item.attributes.contains("doc(hidden)") {
            continue;
        }
        let is_marked = item.attributes.contains("non_exhaustive");
        assert_ne!(is_marked, COMPLETE.contains(&name), "{}: {name}", item.place);
    }
    assert!(enums > 10, "{enums}");
}

#[test]
fn what_a_user_starts_from_has_an_example() {
    let items = items();
    for (file, name) in [
        ("client/communicator.rs", "Communicator"),
        ("client/blocking.rs", "Communicator"),
        ("client/builder.rs", "CommunicatorBuilder"),
        ("client/builder.rs", "LongTasks"),
        ("client/body.rs", "Body"),
        ("client/queue.rs", "TaskQueue"),
        ("client/reply.rs", "Reply"),
        ("client/send.rs", "RpcSend"),
        ("client/send.rs", "TaskSend"),
        ("client/send.rs", "BroadcastSend"),
        ("serve/answer.rs", "Subscriber"),
        ("serve/answer.rs", "Answer"),
        ("serve/answer.rs", "Promise"),
        ("serve/failure.rs", "Failure"),
        ("serve/failure.rs", "HandlerError"),
        ("serve/rpc.rs", "RpcRequest"),
        ("serve/task.rs", "TaskRequest"),
        ("serve/task.rs", "IncomingTask"),
        ("serve/broadcast.rs", "Broadcast"),
        ("serve/broadcast.rs", "Broadcasts"),
        ("serve/filter.rs", "BroadcastFilter"),
        ("wire/names.rs", "Identifier"),
        ("driver/port/events.rs", "Events"),
        ("codec/value.rs", "Value"),
        ("codec/json.rs", "Json"),
        ("codec/yaml/mod.rs", "Yaml"),
        ("src/error.rs", "Error"),
        ("src/handle.rs", "Home"),
        ("src/event_loop.rs", "EventLoop"),
        ("src/foreign.rs", "ForeignLoop"),
        ("src/completer.rs", "Completer"),
    ] {
        let is_it = |item: &&Item| {
            let name_is = ["pub struct ", "pub enum "].iter().any(|kind| {
                let after = item.signature.strip_prefix(kind).and_then(|rest| rest.strip_prefix(name));
                after.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
            });
            name_is && item.place.contains(&format!("{file}:"))
        };
        let item = items.iter().find(is_it).unwrap_or_else(|| panic!("no {name} in {file}"));
        let example = item.documentation.split("# Examples").nth(1);
        assert!(example.is_some_and(|example| example.contains("```")), "{}: {name}", item.place);
    }
}
