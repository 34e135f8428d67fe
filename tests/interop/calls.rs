//! Calls between kiwipy and homing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use homing::codec::{Codec, Tagged};
use homing::{
    Answer, ErrorKind, Failure, HandlerError, HandlerResult, ReplyStage, Result, RpcRequest, RpcSubscriber, Value,
};
use serde_json::json;

use crate::support::{Broker, Peer, TestResult};
use crate::{Rust, Table, interop, is_exception, is_result, python};

pub(crate) fn add(table: &mut Table<'_>) {
    interop!(table:
        kiwipy_calls_homing,
        homing_calls_kiwipy,
        a_call_is_acknowledged_before_its_handler_runs,
        exceptions_cross_in_both_directions,
        kiwipy_reads_an_error_with_details_as_its_text,
        pending_and_nested_pending_cross_in_both_directions,
        a_cancelled_future_is_heard_by_a_kiwipy_caller,
        a_bad_reply_fails_the_caller,
        a_call_that_cannot_be_read_is_answered_with_an_exception,
        a_request_without_reply_to_runs_its_handler,
        second_and_unknown_replies_are_dropped,
        a_name_taken_twice_is_the_same_error,
        one_name_on_two_communicators_is_answered_once,
        wildcards_and_long_names_are_refused,
        a_removed_subscriber_leaves_no_queue,
        json_codecs_understand_each_other,
        tags_survive_a_round_trip,
        kiwipy_hears_nothing_when_a_caller_is_gone,
    );
}

fn echo() -> RpcSubscriber {
    RpcSubscriber::closure(RpcRequest::into_body)
}

fn kiwipy_calls_homing(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    rust.run(rust.communicator.add_rpc_subscriber("echo", echo()))?;
    for body in [
        json!({"a": [1, 2.5, null, true, "é 1e5"], "b": {"$tuple": [1, "x"]}}),
        json!({"$bytes": "AP8="}),
        json!("yes"),
    ] {
        is_result(&peer.call("rpc_send", json!({"recipient": "echo", "body": body}))?, &body)?;
    }
    is_exception(&peer.call("rpc_send", json!({"recipient": "nobody", "body": 1}))?, "UnroutableError", "")
}

fn homing_calls_kiwipy(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    peer.call("add_rpc_subscriber", json!({"identifier": "echo"}))?;
    let body = Value::from_json(
        &json!({"a": [1, 1e20, 1e-7, null, true, "1e5", "0o17", "", "a\nb"], "t": {"$tuple": [1, "x"]}, "b": {"$bytes": "AP8="}, "i": {"$int": "123456789012345678901234567890"}, "f": {"$float": "inf"}}),
    )?;
    assert_eq!(rust.run(rust.communicator.rpc_send("echo", body.clone()))?, body);
    let error = rust.run(rust.communicator.rpc_send("nobody", 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);
    Ok(())
}

fn a_call_is_acknowledged_before_its_handler_runs(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    // More calls than one subscriber may have unacknowledged all reach handlers that do not end.
    let started = Arc::new(AtomicUsize::new(0));
    let count = started.clone();
    let holds = RpcSubscriber::future(move |_: RpcRequest| {
        count.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<Value>()
    });
    rust.run(rust.communicator.add_rpc_subscriber("holds", holds))?;
    for _ in 0..20 {
        peer.call("rpc_send", json!({"recipient": "holds", "body": 1, "wait": false}))?;
    }
    rust.run(crate::support::eventually(|| started.load(Ordering::SeqCst) == 20));
    Ok(())
}

fn exceptions_cross_in_both_directions(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    let fails = RpcSubscriber::closure(|_: RpcRequest| Err::<Value, _>(Failure::Exception("boom: äöü".into())));
    rust.run(rust.communicator.add_rpc_subscriber("rust", fails))?;
    is_exception(&peer.call("rpc_send", json!({"recipient": "rust", "body": 1}))?, "RemoteException", "boom: äöü")?;
    peer.call("add_rpc_subscriber", json!({"identifier": "python", "behaviour": "raise", "text": "boom: äöü"}))?;
    let error = rust.run(rust.communicator.rpc_send("python", 1)).unwrap_err();
    assert_eq!((error.kind(), error.remote_text()), (ErrorKind::RemoteException, Some("boom: äöü")));
    peer.call("add_rpc_subscriber", json!({"identifier": "empty", "behaviour": "raise-empty"}))?;
    assert_eq!(rust.run(rust.communicator.rpc_send("empty", 1)).unwrap_err().remote_text(), Some(""));
    Ok(())
}

fn kiwipy_reads_an_error_with_details_as_its_text(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    let fails = RpcSubscriber::closure(|_: RpcRequest| -> HandlerResult<Value> {
        Err(HandlerError::exception("3 are missing").with_type("InsufficientFunds").with_data(vec![1, 2]))
    });
    rust.run(rust.communicator.add_rpc_subscriber("rust", fails))?;
    is_exception(&peer.call("rpc_send", json!({"recipient": "rust", "body": 1}))?, "RemoteException", "3 are missing")?;
    // homing gets the rest too, over the same wire; from kiwipy there is none.
    let error = rust.run(rust.communicator.rpc_send("rust", 1)).unwrap_err();
    let details = error.remote_details().expect("sent by homing");
    assert_eq!((details.type_name(), details.data()), (Some("InsufficientFunds"), &Value::from(vec![1, 2])));
    peer.call("add_rpc_subscriber", json!({"identifier": "python", "behaviour": "raise", "text": "boom"}))?;
    let error = rust.run(rust.communicator.rpc_send("python", 1)).unwrap_err();
    assert_eq!((error.remote_text(), error.remote_details()), (Some("boom"), None));
    Ok(())
}

fn kiwipy_hears_nothing_when_a_caller_is_gone(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    peer.call("add_rpc_subscriber", json!({"identifier": "python", "behaviour": "hold"}))?;
    let reply = rust.run(rust.communicator.rpc_send("python", "held").send())?;
    assert_eq!(peer.call("heard", json!({"log": "python", "count": 1}))?.as_array().map(Vec::len), Some(1));
    drop(reply);
    let late = rust.run(rust.communicator.rpc_send("python", 1).timeout(Duration::from_secs(3)).into_future());
    assert_eq!(late.unwrap_err().kind(), ErrorKind::TimedOut);
    // The next call comes after the words that went after those two, had there been a way for them.
    peer.call("add_rpc_subscriber", json!({"identifier": "other"}))?;
    rust.run(rust.communicator.rpc_send("other", 1).into_future())?;
    let heard = peer.call("heard", json!({"log": "python", "count": 3, "timeout": 0.5}))?;
    assert_eq!(heard.as_array().map(Vec::len), Some(2), "{heard}");
    Ok(())
}

fn pending_and_nested_pending_cross_in_both_directions(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    let nested = RpcSubscriber::closure(|request: RpcRequest| {
        let value = request.into_body();
        Answer::later(async { Answer::later(async { Answer::Value(value) }) })
    });
    rust.run(rust.communicator.add_rpc_subscriber("rust", nested))?;
    let outcome = peer.call("rpc_send", json!({"recipient": "rust", "body": 7}))?;
    is_result(&outcome, &json!(7))?;
    assert_eq!(outcome["stages"], 2);

    peer.call("add_rpc_subscriber", json!({"identifier": "python", "behaviour": "nested-future", "depth": 3}))?;
    let mut reply = rust.run(rust.communicator.rpc_send("python", 7).send())?;
    for _ in 0..3 {
        assert_eq!(rust.run(reply.stage())?, ReplyStage::Pending);
    }
    assert_eq!(rust.run(reply.stage())?, ReplyStage::Done(Value::from(7)));
    peer.call("add_rpc_subscriber", json!({"identifier": "fails", "behaviour": "future-exception", "text": "late"}))?;
    assert_eq!(rust.run(rust.communicator.rpc_send("fails", 7)).unwrap_err().remote_text(), Some("late"));
    Ok(())
}

fn a_cancelled_future_is_heard_by_a_kiwipy_caller(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    let cancels = RpcSubscriber::closure(|_: RpcRequest| {
        let (promise, answer) = Answer::promise()?;
        std::thread::spawn(move || promise.cancel());
        HandlerResult::Ok(answer)
    });
    rust.run(rust.communicator.add_rpc_subscriber("cancels", cancels))?;
    let outcome = peer.call("rpc_send", json!({"recipient": "cancels", "body": 1}))?;
    assert_eq!((&outcome["outcome"], &outcome["stages"]), (&json!("cancelled"), &json!(1)), "{outcome}");
    Ok(())
}

/// A peer that consumes calls by hand and answers them with anything.
fn raw_server(broker: &Broker, peer: &Peer, name: &str) -> TestResult {
    peer.call("raw_connect", json!({"url": broker.url()}))?;
    let bind = json!([[broker.message_exchange(), format!("[rpc].{name}")]]);
    peer.call("raw_declare_queue", json!({"queue": broker.name(name), "exclusive": true, "bind": bind}))?;
    peer.call("raw_consume", json!({"queue": broker.name(name), "log": name}))?;
    Ok(())
}

fn a_bad_reply_fails_the_caller(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    // Declares the exchange.
    rust.run(rust.communicator.add_rpc_subscriber("any", echo()))?;
    raw_server(broker, &peer, "bad")?;
    for (count, body) in (1..).zip(["{unclosed", "- a list", "what: 1\n", "\u{0}"]) {
        let reply = rust.run(rust.communicator.rpc_send("bad", 1).send())?;
        let heard = peer.call("heard", json!({"log": "bad", "count": count}))?;
        let properties = &heard[count - 1]["properties"];
        peer.call(
            "raw_publish",
            json!({"exchange": broker.message_exchange(), "routing_key": properties["reply_to"], "body": body,
                   "properties": {"correlation_id": properties["correlation_id"]}}),
        )?;
        let error = rust.run(reply).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode, "{body:?}: {error}");
    }
    assert_eq!(rust.run(rust.communicator.rpc_send("any", 1))?, Value::from(1), "it goes on");
    Ok(())
}

/// A queue of the peer's own for replies, bound as kiwipy does.
fn reply_queue(broker: &Broker, peer: &Peer) -> Result<String, crate::support::PeerError> {
    let name = broker.name("replies");
    let bind = json!([[broker.message_exchange(), name]]);
    peer.call("raw_declare_queue", json!({"queue": name, "exclusive": true, "bind": bind}))?;
    peer.call("raw_consume", json!({"queue": name, "log": "replies"}))?;
    Ok(name)
}

fn a_call_that_cannot_be_read_is_answered_with_an_exception(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    rust.run(rust.communicator.add_rpc_subscriber("echo", echo()))?;
    peer.call("raw_connect", json!({"url": broker.url()}))?;
    let replies = reply_queue(broker, &peer)?;
    peer.call(
        "raw_publish",
        json!({"exchange": broker.message_exchange(), "routing_key": "[rpc].echo", "body": "{unclosed",
               "properties": {"correlation_id": "c-1", "reply_to": replies}}),
    )?;
    let heard = peer.call("heard", json!({"log": "replies", "count": 1}))?;
    let body = heard[0]["body"]["$bytes"].as_str().or_else(|| heard[0]["body"].as_str()).unwrap_or("").to_owned();
    assert_eq!(heard[0]["properties"]["correlation_id"], "c-1");
    let yaml = match Value::from_json(&json!({"$bytes": body})) {
        Ok(Value::Bytes(bytes)) => String::from_utf8(bytes)?,
        _ => body,
    };
    assert!(yaml.contains("exception") && yaml.contains("cannot be read"), "{yaml}");
    is_result(&peer.call("rpc_send", json!({"recipient": "echo", "body": 1}))?, &json!(1))
}

fn a_request_without_reply_to_runs_its_handler(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    let (tell, told) = std::sync::mpsc::channel();
    let notes =
        RpcSubscriber::closure(move |request: RpcRequest| tell.send(request.into_body()).ok().map_or(0, |()| 1));
    rust.run(rust.communicator.add_rpc_subscriber("notes", notes))?;
    peer.call("raw_connect", json!({"url": broker.url()}))?;
    peer.call(
        "raw_publish",
        json!({"exchange": broker.message_exchange(), "routing_key": "[rpc].notes", "body": "5\n...\n"}),
    )?;
    assert_eq!(told.recv_timeout(crate::LONG)?, Value::from(5));
    rust.run(crate::support::eventually(|| rust.communicator.counts().replies_not_wanted == 1));
    is_result(&peer.call("rpc_send", json!({"recipient": "notes", "body": 1}))?, &json!(1))
}

fn second_and_unknown_replies_are_dropped(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    rust.run(rust.communicator.add_rpc_subscriber("any", echo()))?;
    raw_server(broker, &peer, "twice")?;
    let reply = rust.run(rust.communicator.rpc_send("twice", 1).send())?;
    let heard = peer.call("heard", json!({"log": "twice", "count": 1}))?;
    let (reply_to, correlation) = (&heard[0]["properties"]["reply_to"], &heard[0]["properties"]["correlation_id"]);
    for (correlation, body) in
        [(&json!("unknown"), "result: 0\n"), (correlation, "result: 1\n"), (correlation, "result: 2\n")]
    {
        peer.call(
            "raw_publish",
            json!({"exchange": broker.message_exchange(), "routing_key": reply_to, "body": body,
                   "properties": {"correlation_id": correlation}}),
        )?;
    }
    assert_eq!(rust.run(reply)?, Value::from(1));
    rust.run(crate::support::eventually(|| rust.communicator.counts().late_replies == 2));
    Ok(())
}

fn a_name_taken_twice_is_the_same_error(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    rust.run(rust.communicator.add_rpc_subscriber("one", echo()))?;
    let error = rust.run(rust.communicator.add_rpc_subscriber("one", echo())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DuplicateSubscriberIdentifier);
    peer.call("add_rpc_subscriber", json!({"identifier": "two"}))?;
    let error = peer.call("add_rpc_subscriber", json!({"identifier": "two"})).expect_err("taken");
    assert_eq!(error.kind, "DuplicateSubscriberIdentifier");
    // One queue answers, not an orphan beside it.
    is_result(&peer.call("rpc_send", json!({"recipient": "one", "body": 1}))?, &json!(1))
}

fn one_name_on_two_communicators_is_answered_once(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    rust.run(rust.communicator.add_rpc_subscriber("both", RpcSubscriber::closure(|_: RpcRequest| "answer")))?;
    peer.call("add_rpc_subscriber", json!({"identifier": "both", "behaviour": "return", "value": "answer"}))?;
    assert_eq!(rust.run(rust.communicator.rpc_send("both", 1))?, Value::from("answer"));
    rust.run(crate::support::eventually(|| rust.communicator.counts().late_replies == 1));
    is_result(&peer.call("rpc_send", json!({"recipient": "both", "body": 1}))?, &json!("answer"))
}

fn wildcards_and_long_names_are_refused(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    for bad in ["*", "#", "a.*.b", &"x".repeat(250)] {
        let error = rust.run(rust.communicator.add_rpc_subscriber(bad, echo())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    // What kiwipy's subscriber of the longest name gets, homing's does too.
    let longest = "x".repeat(249);
    rust.run(rust.communicator.add_rpc_subscriber(&longest, echo()))?;
    is_result(&peer.call("rpc_send", json!({"recipient": longest, "body": 1}))?, &json!(1))
}

fn a_removed_subscriber_leaves_no_queue(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    // Guards: in testing mode the exchange goes with what is bound to it last, and kiwipy does not declare it again.
    peer.call("add_rpc_subscriber", json!({"identifier": "stays"}))?;
    rust.run(rust.communicator.add_rpc_subscriber("gone", echo()))?;
    rust.run(rust.communicator.remove_rpc_subscriber("gone"))?;
    is_exception(&peer.call("rpc_send", json!({"recipient": "gone", "body": 1}))?, "UnroutableError", "")?;
    peer.call("add_rpc_subscriber", json!({"identifier": "there"}))?;
    assert_eq!(rust.run(rust.communicator.rpc_send("there", 1))?, Value::from(1));
    peer.call("remove_rpc_subscriber", json!({"identifier": "there"}))?;
    let until = std::time::Instant::now() + crate::LONG;
    while rust.run(rust.communicator.rpc_send("there", 1).timeout(Duration::from_millis(200))).is_ok() {
        assert!(std::time::Instant::now() < until);
    }
    Ok(())
}

fn json_codecs_understand_each_other(broker: &Broker) -> TestResult {
    let rust = Rust::with(broker, |options| options.codec(homing::codec::Json::default()));
    let peer = Peer::kiwipy(broker, json!({"codec": "json"}))?;
    rust.run(rust.communicator.add_rpc_subscriber("rust", echo()))?;
    peer.call("add_rpc_subscriber", json!({"identifier": "python"}))?;
    let body = json!({"a": [1, 2.5, null, true, "é😀"]});
    is_result(&peer.call("rpc_send", json!({"recipient": "rust", "body": body}))?, &body)?;
    let value = Value::from_json(&body)?;
    assert_eq!(rust.run(rust.communicator.rpc_send("python", value.clone()))?, value);
    Ok(())
}

fn tags_survive_a_round_trip(broker: &Broker) -> TestResult {
    let rust = Rust::connect(broker);
    let peer = Peer::kiwipy(broker, json!({"codec": "tags"}))?;
    rust.run(rust.communicator.add_rpc_subscriber("rust", echo()))?;
    peer.call("add_rpc_subscriber", json!({"identifier": "python"}))?;
    for tag in ["!aiida_node", "!aiida_group", "!uuid", "!plumpy:attributes_frozendict", "!enum"] {
        let body = json!({"x": {"$tag": tag, "value": "a-uuid"}});
        is_result(&peer.call("rpc_send", json!({"recipient": "rust", "body": body}))?, &body)?;
        let value = Value::from_iter([(
            "x",
            Value::Tagged(Box::new(Tagged { tag: tag.to_owned(), value: Value::from("a-uuid") })),
        )]);
        assert_eq!(rust.run(rust.communicator.rpc_send("python", value.clone()))?, value);
    }
    let yaml = homing::codec::Yaml::default();
    let uuid = yaml.decode(b"!!python/object:uuid.UUID\nint: 143098242404177361603877621312831893704\n")?;
    assert_eq!(yaml.decode(&yaml.encode(&uuid)?)?, uuid);
    Ok(())
}
