//! `homing doctor`: what is wrong with a broker, and what to do.

mod compare;
mod http;
mod nearby;

use homing::Value;
use homing::codec::Map;
use homing::inspect::{self, Kind, Report, Verdict};
use homing::{CommunicatorBuilder, Error, ErrorKind, Identifier};

use self::compare::Fix;
pub(crate) use self::http::{Answer, Management, segment};
use crate::args::{Doctor, Format, Global};
use crate::connection::options;
use crate::failure::Failure;
use crate::stop::{Stop, or_interrupted};
use crate::{not_given, values};

pub(crate) async fn run(command: Doctor, global: &Global, stop: Stop) -> Result<(), Failure> {
    let options = options(global)?;
    let management = command.management.as_deref().map(Management::at).transpose()?;
    or_interrupted(stop, async move {
        let (mut report, mut fixes) = look(&options, management.clone()).await?;
        if !command.fix {
            fixes.clear();
        }
        let does = command.yes && fixes.iter().any(Fix::is_possible);
        if let (true, Some(management)) = (does, management) {
            let at = management.clone();
            fixes = in_background(move || fixes.into_iter().map(|fix| fix.carry_out(&at)).collect::<Vec<_>>()).await?;
            // What counts is what is left.
            report = look(&options, Some(management)).await?.0;
        }
        if let Some(instead) = not_given::instead(&global.broker) {
            report.push(nearby::look(instead, nearby::RABBITMQ).await);
        }
        print(&report, &fixes, global.output.format)?;
        conclusion(&report)
    })
    .await
}

async fn look(options: &CommunicatorBuilder, management: Option<Management>) -> Result<(Report, Vec<Fix>), Failure> {
    let mut report = inspect::inspect(options).await?;
    let Some(management) = management else { return Ok((report, Vec::new())) };
    let target = inspect::target(options)?;
    let declared = inspect::declared(options)?;
    in_background(move || {
        let fixes = compare::look(&mut report, &management, &target, &declared);
        (report, fixes)
    })
    .await
}

/// The HTTP client blocks.
pub(crate) async fn in_background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Failure::Other(error.to_string()))
}

fn print(report: &Report, fixes: &[Fix], format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        let mut map = Map::new();
        if let Value::Map(findings) = report.to_value() {
            map = findings;
        }
        map.insert("fixes", fixes.iter().map(Fix::to_value).collect::<Vec<_>>());
        return values::print(&Value::Map(map), format);
    }
    let width = report.findings().iter().map(|finding| finding.check().chars().count()).max().unwrap_or(0);
    let mut lines = String::new();
    for finding in report.findings() {
        lines.push_str(&format!("{:<8} {:<width$}  {}\n", finding.verdict(), finding.check(), finding.text()));
        if let (Some(advice), true) = (finding.what_to_do(), finding.verdict() != Verdict::Ok) {
            lines.push_str(&format!("{:<8} {:<width$}  -> {advice}\n", "", ""));
        }
    }
    for fix in fixes {
        lines.push_str(&format!("{fix}\n"));
    }
    values::print(&Value::from(lines), format)
}

fn conclusion(report: &Report) -> Result<(), Failure> {
    if !report.is_connected() && !report.is_idle() {
        let text = "no connection to the broker could be made; the last line of the checks has the reason";
        let kind = if report.is_refused() { ErrorKind::AccessRefused } else { ErrorKind::Connection };
        return Err(Failure::Checked(Error::new(kind, text)));
    }
    match report.count(Verdict::Problem) {
        0 => Ok(()),
        1 => Err(Failure::Other("1 problem found".to_owned())),
        several => Err(Failure::Other(format!("{several} problems found"))),
    }
}

/// How many subscribers to calls of an identifier the management API knows.
///
/// # Errors
/// `Usage` for the URL; `Other` when the API does not answer.
pub(crate) async fn listeners(
    options: &CommunicatorBuilder,
    management: &str,
    identifier: &Identifier,
) -> Result<usize, Failure> {
    let management = Management::at(management)?;
    let exchange = inspect::declared(options)?.into_iter().find(|declared| declared.kind == Kind::Exchange);
    let Some(exchange) = exchange else { return Ok(0) };
    let vhost = segment(&inspect::target(options)?.virtual_host);
    let path = format!("/api/exchanges/{vhost}/{}/bindings/source", segment(&exchange.name));
    let key = format!("[rpc].{}", identifier.as_str());
    in_background(move || match management.get(&path) {
        Ok(Answer { status: 200, body }) => {
            let bindings = body.as_array().map(Vec::as_slice).unwrap_or_default();
            Ok(bindings.iter().filter(|binding| binding["routing_key"] == key.as_str()).count())
        }
        // Nobody has declared it.
        Ok(Answer { status: 404, .. }) => Ok(0),
        Ok(Answer { status, .. }) => {
            Err(Failure::Other(format!("the management API answers with status {status} when asked for bindings")))
        }
        Err(why) => Err(Failure::Other(why)),
    })
    .await?
}
