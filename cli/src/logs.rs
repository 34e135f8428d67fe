//! Logs to standard error.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::args::Output;
use crate::output::{Errors, colours, json_errors};

/// The target of the line that a worker writes for each task or call.
pub(crate) const WORK: &str = "work";

/// Starts logging. `library` is the level for the library where nothing else is asked for.
pub(crate) fn start(options: &Output, library: &str) {
    let level = match options.verbose {
        0 => library,
        1 => "info",
        _ => "debug",
    };
    let mut filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("homing={level}")));
    let work = if options.quiet { "work=warn" } else { "work=info" };
    // Whatever RUST_LOG asks for: lapin logs messages with their bodies, and at `trace` the frame with the password.
    for directive in ["lapin=off", "amq_protocol=off", work] {
        if let Ok(directive) = directive.parse() {
            filter = filter.add_directive(directive);
        }
    }
    let coloured = colours(options.color);
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || Errors { coloured })
        .with_target(false)
        // A message is a span, where those are asked for; its line comes with its outcome.
        .with_span_events(FmtSpan::CLOSE)
        .with_ansi(coloured)
        // It would be reported on standard error, by a panic.
        .log_internal_errors(false);
    if json_errors(options) {
        subscriber.json().flatten_event(true).init();
    } else {
        subscriber.init();
    }
}
