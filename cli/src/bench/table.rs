//! What is printed at the end.

use std::time::Duration;

use serde_json::json;

use super::limit::{Limit, Network};
use super::work::Row;
use crate::args::Format;
use crate::failure::Failure;
use crate::out;

pub(super) fn print(rows: &[Row], format: Format, network: &Network) -> Result<(), Failure> {
    match format {
        Format::Json => rows.iter().try_for_each(|row| out!("{}", line(row))),
        Format::Text => text(rows, network),
    }
}

fn line(row: &Row) -> serde_json::Value {
    let micros = |time: Duration| (time.as_secs_f64() * 1e7).round() / 10.0;
    let (limit, part) = match row.limit {
        Limit::Client(part) | Limit::Machine(part) => ("client", Some(part)),
        Limit::Network(part) => ("network", Some(part)),
        Limit::Broker => ("broker", None),
    };
    json!({
        "work": row.work, "per_second": row.rate.round(), "p50_us": micros(row.p50), "p99_us": micros(row.p99),
        "cpu_us": micros(row.cpu), "limited_by": limit, "part": part,
    })
}

fn text(rows: &[Row], network: &Network) -> Result<(), Failure> {
    out!("{:<29} {:>9} {:>10} {:>10} {:>8}  limited by", "", "a second", "p50", "p99", "CPU")?;
    for row in rows {
        let limit = match row.limit {
            Limit::Client(part) => format!("client (its busiest thread: {:.0} %)", part * 100.0),
            Limit::Machine(part) => format!("client ({:.0} % of this machine's CPU)", part * 100.0),
            Limit::Network(part) => format!("network ({:.0} % of the time)", part * 100.0),
            Limit::Broker => "broker".to_owned(),
        };
        let [p50, p99, cpu] = [row.p50, row.p99, row.cpu].map(short);
        out!("{:<29} {:>9.0} {p50:>10} {p99:>10} {cpu:>8}  {limit}", row.work, row.rate)?;
    }
    out!("")?;
    out!("CPU: of this program for each, caller and subscriber together.")?;
    if let Some(round_trip) = network.round_trip {
        out!("Network: {} there and back.", short(round_trip))?;
    }
    Ok(())
}

/// To three digits.
fn short(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    match micros {
        micros if micros < 1e3 => format!("{micros:.0} us"),
        micros if micros < 1e6 => format!("{:.*} ms", if micros < 1e4 { 2 } else { 1 }, micros / 1e3),
        micros => format!("{:.2} s", micros / 1e6),
    }
}
