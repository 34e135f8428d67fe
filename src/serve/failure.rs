//! How a handler fails: what a failure means for its message, and how any error becomes one.

use std::error::Error as StdError;
use std::fmt;

use super::answer::Answer;
use crate::codec::Value;
use crate::wire::response::ErrorDetails;

/// How many sources of an error are read. An error may be its own source.
const SOURCES_MOST: usize = 64;

/// How a subscriber fails.
///
/// It is an error like any other: a handler that returns `anyhow::Error` or a boxed error may return a failure within it, and
/// its meaning stays.
///
/// # Examples
///
/// ```
/// use homing::{Failure, TaskRequest, TaskSubscriber};
///
/// let work = TaskSubscriber::closure(|task: TaskRequest| match task.body().as_str() {
///     None => Err(Failure::Unreadable("a string was expected".into())),
///     Some("") => Err(Failure::TryAgain("nothing is there yet".into())),
///     Some(text) => Ok(text.len()),
/// });
/// # drop(work);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// The caller gets this text as a remote exception.
    Exception(String),
    /// A task is not for this subscriber: the next one gets it, and after the last it goes back to the queue. A call ends
    /// with a remote exception.
    Rejected(String),
    /// Something temporary was in the way (a database that was not there, for example): a task is handed out again after a
    /// pause that grows, up to [`task_attempts`](crate::CommunicatorBuilder::task_attempts) times, and then goes to the
    /// quarantine queue. A call ends with a remote exception.
    TryAgain(String),
    /// The body is not one that this handler can read, today or later: a task goes to the quarantine queue, and its sender
    /// gets a remote exception. A call ends with a remote exception.
    Unreadable(String),
    /// The work was cancelled. The caller of an RPC is notified; a task goes back to the queue after a pause, and keeps its place
    /// among the prefetched ones meanwhile: a worker with a prefetch of 1 takes no other.
    Cancelled,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Exception(text)
            | Failure::Rejected(text)
            | Failure::TryAgain(text)
            | Failure::Unreadable(text) => f.write_str(text),
            Failure::Cancelled => f.write_str("the work was cancelled"),
        }
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(match self {
            Failure::Exception(_) => return None,
            Failure::Rejected(_) => &Meaning::Rejected,
            Failure::TryAgain(_) => &Meaning::TryAgain,
            Failure::Unreadable(_) => &Meaning::Unreadable,
            Failure::Cancelled => &Meaning::Cancelled,
        })
    }
}

/// What a failure means, as the source of its error. `anyhow` and others hide the type of the error that they wrap, but not
/// its source: a wrapped failure is recognised by it.
#[derive(Debug)]
enum Meaning {
    Rejected,
    TryAgain,
    Unreadable,
    Cancelled,
}

impl fmt::Display for Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Meaning::Rejected => "the handler rejected it",
            Meaning::TryAgain => "the handler asked for another attempt",
            Meaning::Unreadable => "the handler cannot read its body",
            Meaning::Cancelled => "the handler cancelled it",
        })
    }
}

impl StdError for Meaning {}

impl Failure {
    /// True for what somebody should see to. A rejected task is for another subscriber, and a cancellation was asked for.
    pub(crate) fn is_fault(&self) -> bool {
        !matches!(self, Failure::Rejected(_) | Failure::Cancelled)
    }

    /// The failure that an error is: one that is wrapped somewhere in it, or else an exception. Its text is that of the error
    /// and of all its sources. And the texts of the sources.
    fn of(error: &(dyn StdError + 'static)) -> (Self, Vec<String>) {
        let mut text = error.to_string();
        let mut chain = Vec::new();
        let mut next = error.source();
        for _ in 0..SOURCES_MOST {
            let Some(source) = next else { break };
            match source.downcast_ref() {
                Some(Meaning::Rejected) => return (Failure::Rejected(text), chain),
                Some(Meaning::TryAgain) => return (Failure::TryAgain(text), chain),
                Some(Meaning::Unreadable) => return (Failure::Unreadable(text), chain),
                Some(Meaning::Cancelled) => return (Failure::Cancelled, chain),
                None => {}
            }
            let (following, source) = (source.source(), source.to_string());
            // Many errors end with the text of their source.
            if !text.ends_with(&source) {
                text.push_str(": ");
                text.push_str(&source);
            }
            chain.push(source);
            next = following;
        }
        (Failure::Exception(text), chain)
    }
}

/// The name of an error's type, unless it is one that hides another error or holds a text alone.
fn type_name<E>() -> Option<&'static str> {
    let name = std::any::type_name::<E>();
    let tells_nothing = name.contains("dyn ")
        || name.ends_with("str")
        || name.ends_with("::String")
        || name.starts_with("alloc::borrow::Cow")
        || name == "anyhow::Error"
        || name == "eyre::Report";
    (!tells_nothing).then_some(name)
}

/// The error of a handler: made by `?` from any error, `anyhow::Error`, `Box<dyn Error + Send + Sync>`, a [`Failure`] or a
/// string.
///
/// A [`Failure`] within keeps its meaning. Anything else is an exception with the text of the error and of all its sources.
///
/// A caller of homing gets more than the text: the error's type, its own message, those of its sources, and what
/// [`with_data`](Self::with_data) adds ([`Error::remote_details`](crate::Error::remote_details)). kiwipy's callers get the text.
///
/// # Examples
///
/// ```
/// use homing::{Failure, HandlerResult, TaskRequest, TaskSubscriber};
///
/// async fn count_lines(task: TaskRequest) -> HandlerResult<u64> {
///     let path: String = task.decode()?;
///     if path.starts_with("ftp:") {
///         return Err(Failure::Rejected("only local files".into()).into());
///     }
///     let text = std::fs::read_to_string(path)?;
///     Ok(text.lines().count() as u64)
/// }
///
/// let subscriber = TaskSubscriber::future(count_lines);
/// ```
#[derive(Clone, PartialEq)]
pub struct HandlerError {
    failure: Failure,
    details: Option<Box<ErrorDetails>>,
    log: Log,
}

/// Whether an error is a warning in the log where a handler returns it.
#[derive(Clone, Copy, PartialEq)]
enum Log {
    Warning,
    Nothing,
}

/// What a handler returns that can fail. `HandlerResult::Ok(value)` at the end of a closure names the error type that `?`
/// needs.
///
/// # Examples
///
/// ```
/// use homing::{HandlerResult, RpcRequest, RpcSubscriber};
///
/// let double = RpcSubscriber::closure(|request: RpcRequest| {
///     let number: i64 = request.decode()?;
///     HandlerResult::Ok(number * 2)
/// });
/// ```
pub type HandlerResult<T = Answer> = Result<T, HandlerError>;

impl HandlerError {
    /// An exception with this text.
    #[must_use]
    pub fn exception(message: impl Into<String>) -> Self {
        Self::of_failure(Failure::Exception(message.into()))
    }

    pub(crate) fn of_failure(failure: Failure) -> Self {
        HandlerError { failure, details: None, log: Log::Warning }
    }

    /// What kind of error it is, for the caller's program: a name of your own, in place of that of the Rust type.
    #[must_use]
    pub fn with_type(mut self, name: impl Into<String>) -> Self {
        self.details_mut().type_name = Some(name.into());
        self
    }

    /// What the caller's program is to know beside the text.
    #[must_use]
    pub fn with_data(mut self, data: impl Into<Value>) -> Self {
        self.details_mut().data = data.into();
        self
    }

    /// Writes no warning to the log: an ordinary answer, or one that the program reports itself.
    #[must_use]
    pub fn without_warning(mut self) -> Self {
        self.log = Log::Nothing;
        self
    }

    /// True if it is to be a warning in the log of whoever ran the handler.
    pub(crate) fn is_warning(&self) -> bool {
        self.failure.is_fault() && self.log == Log::Warning
    }

    fn details_mut(&mut self) -> &mut ErrorDetails {
        let failure = &self.failure;
        self.details.get_or_insert_with(|| {
            let (message, chain) = (failure.to_string(), Vec::new());
            Box::new(ErrorDetails { type_name: None, message, chain, data: Value::Null })
        })
    }

    /// What it means for the message.
    #[must_use]
    pub fn failure(&self) -> &Failure {
        &self.failure
    }

    /// What the caller gets beside the text.
    #[must_use]
    pub fn details(&self) -> Option<&ErrorDetails> {
        self.details.as_deref()
    }

    /// Its meaning, and what the caller gets beside the text.
    pub(crate) fn into_parts(self) -> (Failure, Option<Box<ErrorDetails>>) {
        (self.failure, self.details)
    }
}

impl<E: Into<Box<dyn StdError + Send + Sync>>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        let error = match error.into().downcast::<Failure>() {
            Ok(failure) => return Self::of_failure(*failure),
            Err(error) => error,
        };
        let (failure, chain) = Failure::of(&*error);
        let type_name = type_name::<E>();
        let details = (type_name.is_some() || !chain.is_empty()).then(|| {
            let (type_name, message) = (type_name.map(str::to_owned), error.to_string());
            Box::new(ErrorDetails { type_name, message, chain, data: Value::Null })
        });
        HandlerError { failure, details, log: Log::Warning }
    }
}

impl From<HandlerError> for Failure {
    fn from(error: HandlerError) -> Self {
        error.failure
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure.fmt(f)
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.failure, f)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// An error that leaves its source to the reader of the chain, and one that repeats it.
    #[derive(Debug)]
    struct Outer {
        repeats: bool,
        source: Box<dyn StdError + Send + Sync>,
    }

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            if self.repeats { write!(f, "outer: {}", self.source) } else { f.write_str("outer") }
        }
    }

    impl StdError for Outer {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&*self.source)
        }
    }

    fn failure(error: impl Into<HandlerError>) -> Failure {
        error.into().into()
    }

    #[test]
    fn a_caller_gets_the_type_the_message_and_the_chain_of_an_error() {
        let details = |error: HandlerError| error.into_parts().1.map(|details| *details);
        let within = Outer { repeats: false, source: io::Error::other("innermost").into() };
        let known = details(within.into()).expect("details");
        assert!(known.type_name().is_some_and(|name| name.ends_with("::Outer")), "{known:?}");
        assert_eq!((known.message(), known.chain()), ("outer", ["innermost".to_owned()].as_slice()));
        // What holds a text alone has no type that a caller could use.
        assert_eq!(details("a text".into()), None);
        assert_eq!(details(String::from("a text").into()), None);
        assert_eq!(details(Failure::TryAgain("later".into()).into()), None);
        let wrapped = anyhow::Error::new(io::Error::other("innermost")).context("outside");
        let known = details(wrapped.into()).expect("details");
        assert_eq!((known.type_name(), known.chain()), (None, ["innermost".to_owned()].as_slice()));
        let named = HandlerError::exception("no funds").with_type("Funds").with_data(3);
        assert_eq!(named.failure(), &exception("no funds"));
        let known = details(named).expect("details");
        assert_eq!((known.type_name(), known.message(), known.data().as_i64()), (Some("Funds"), "no funds", Some(3)));
    }

    fn exception(text: &str) -> Failure {
        Failure::Exception(text.to_owned())
    }

    #[test]
    fn an_error_takes_its_whole_chain_along_once() {
        let innermost = || io::Error::other("innermost");
        let within = |repeats| Outer { repeats, source: innermost().into() };
        assert_eq!(failure(innermost()), exception("innermost"));
        assert_eq!(failure(within(false)), exception("outer: innermost"));
        assert_eq!(failure(within(true)), exception("outer: innermost"));
        let boxed: Box<dyn StdError + Send + Sync> = Box::new(Outer { repeats: false, source: within(false).into() });
        assert_eq!(failure(boxed), exception("outer: innermost"));
        assert_eq!(failure("a text"), exception("a text"));
        assert_eq!(failure(String::from("a text")), exception("a text"));
        let wrapped = anyhow::Error::new(innermost()).context("middle").context("outside");
        assert_eq!(failure(wrapped), exception("outside: middle: innermost"));
    }

    #[test]
    fn a_failure_keeps_its_meaning_however_it_is_wrapped() {
        let all = [
            exception("x"),
            Failure::Rejected("x".into()),
            Failure::TryAgain("x".into()),
            Failure::Unreadable("x".into()),
            Failure::Cancelled,
        ];
        for one in all {
            assert_eq!(failure(one.clone()), one);
            let boxed: Box<dyn StdError + Send + Sync> = one.clone().into();
            assert_eq!(failure(boxed), one);
            assert_eq!(failure(anyhow::Error::from(one.clone())), one);
            let deep = failure(Outer { repeats: true, source: Box::new(one.clone()) });
            let context = failure(anyhow::Error::from(one.clone()).context("outer"));
            assert_eq!(deep, context);
            assert_eq!(std::mem::discriminant(&deep), std::mem::discriminant(&one));
        }
        let context = anyhow::Error::from(Failure::TryAgain("no database".into())).context("storing");
        assert_eq!(failure(context), Failure::TryAgain("storing: no database".into()));
    }

    #[test]
    fn an_error_that_is_its_own_source_ends() {
        #[derive(Debug)]
        struct Circle;
        impl fmt::Display for Circle {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("round")
            }
        }
        impl StdError for Circle {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                Some(self)
            }
        }
        assert_eq!(failure(Circle), exception("round"));
    }
}
