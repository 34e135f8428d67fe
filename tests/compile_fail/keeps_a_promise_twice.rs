//! A subscriber's promise is a completer like any other.

fn main() {
    let (promise, _answer) = homing::Answer::promise().unwrap();
    promise.answer(1);
    promise.fail(homing::Failure::Cancelled);
}
