//! The stress program: that a run passes, that each fault which is put in makes it fail and is named, and that the same
//! seed decides the same. No time is asserted.

use std::process::{Command, Output, Stdio};

fn stress(arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_homing"))
        .arg("stress")
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("HOMING_BROKER")
        .env_remove("RUST_LOG")
        .output()
        .expect("the command starts");
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    (status.code(), text)
}

/// The number behind this word.
fn number_behind(text: &str, word: &str) -> u64 {
    let rest = text.split_once(word).unwrap_or_else(|| panic!("no {word:?} in:\n{text}")).1;
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no number behind {word:?} in:\n{text}"))
}

#[test]
fn a_run_loses_doubles_and_misplaces_nothing_and_its_numbers_add_up() {
    let (code, text) = stress(&["--seconds", "2", "--seed", "7"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("seed 7"), "{text}");
    assert!(text.contains("lost 0, doubled 0, misplaced 0, wrong 0"), "{text}");
    let made = number_behind(&text, "\nmade");
    assert!(made > 0, "{text}");
    assert_eq!(
        made,
        number_behind(&text, "= ended")
            + number_behind(&text, "+ given up")
            + number_behind(&text, "+ gone with their home")
    );
    assert_eq!(
        number_behind(&text, "\nvalues"),
        number_behind(&text, "= dropped at home")
            + number_behind(&text, "+ by their sender")
            + number_behind(&text, "+ after their home")
    );
    assert!(number_behind(&text, "\naudit:") > 0, "{text}");
    assert!(text.contains("permits held 0 of"), "{text}");
    assert!(text.contains("subscribers without a server 0 of"), "{text}");
    assert!(text.contains("late closes 0 of"), "{text}");
    for kind in ["tokio multi-thread", "tokio current-thread", "event loop", "foreign loop", "plain thread"] {
        assert!(number_behind(&text, kind) > 0, "no home of the kind {kind:?}:\n{text}");
    }
}

/// Runs with a fault, and demands that the run fails and says this.
fn finds(fault: &str, said: &str) {
    let (code, text) = stress(&["--seconds", "1", "--seed", "7", "--stuck-after", "5", "--seed-fault", fault]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(said), "{said:?} is not in:\n{text}");
}

#[test]
fn a_write_off_home_is_found() {
    finds("off-home-write", "writes off home: 1");
}

#[test]
fn a_wake_off_home_is_found() {
    finds("off-home-wake", "wakes off home: 1");
}

#[test]
fn a_callback_off_home_is_found() {
    finds("off-home-callback", "callbacks off home: 1");
}

#[test]
fn a_drop_off_home_by_the_library_is_found() {
    finds("off-home-drop", "drops off home: 1");
}

#[test]
fn a_lost_future_is_found_and_its_home_and_kind_are_named() {
    finds("lost", "lost 1 where it is stuck");
    finds("lost", "open there: 1 of the kind");
}

#[test]
fn a_doubled_outcome_is_found() {
    finds("doubled", "doubled: 1");
}

#[test]
fn a_misplaced_value_is_found() {
    finds("misplaced", "misplaced: 1");
}

#[test]
fn a_permit_that_is_held_is_found() {
    let (code, text) = stress(&["--seconds", "4", "--seed", "7", "--seed-fault", "permit-held"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("permits held: "), "{text}");
}

#[test]
fn a_late_close_is_found() {
    finds("late-close", "late closes: 1");
}

#[test]
fn too_few_events_are_a_failure() {
    let (code, text) = stress(&["--seconds", "0.1", "--seed", "7", "--events", "1000000000000"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("1000000000000 were required"), "{text}");
}

#[test]
fn wrong_arguments_exit_with_2() {
    for arguments in [
        ["--seconds", "never"],
        ["--seconds", "0"],
        ["--seed", "-1"],
        ["--homes", "0"],
        ["--producers", "0"],
        ["--seed-fault", "none-such"],
        ["--broker", "memory:"],
    ] {
        let (code, text) = stress(&arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
    }
}
