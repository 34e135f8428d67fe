//! Words of the command line that are more than a string: durations, what to do about a lost connection.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use homing::ReconnectPolicy;
use homing::process::Pid;

/// The most workers that a supervisor keeps.
pub(crate) const MOST_WORKERS: u16 = 256;

/// A hundred years, which no command lasts.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The longest that a task can be held back, as the library has it.
const LONGEST_DELAY: Duration = Duration::from_secs(45 * 86_400);

/// A time such as `5s`, `1m30s`, `200ms`; a bare number counts seconds.
fn time(text: &str) -> Result<Duration, String> {
    let wanted = || format!("{text:?} is not a time; give a number of seconds, or a time such as 5s, 1m30s or 200ms");
    let time = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| wanted())?,
        Err(_) => humantime::parse_duration(text).map_err(|_| wanted())?,
    };
    if time > LONGEST {
        return Err("the time is over 100 years; give fewer seconds".to_owned());
    }
    Ok(time)
}

/// A time that is not zero.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    match time(text)? {
        Duration::ZERO => {
            Err("the time is zero; a number of seconds over 0 is wanted, or a time such as 5s".to_owned())
        }
        time => Ok(time),
    }
}

/// A point in time, in UTC.
pub(super) fn point_in_time(text: &str) -> Result<SystemTime, String> {
    let time = humantime::parse_rfc3339_weak(text).map_err(|_| {
        format!(
            "{text:?} is not a point in time in UTC; give one such as 2030-01-31T12:00:00Z, without another time zone"
        )
    })?;
    held_back(time.duration_since(SystemTime::now()).unwrap_or_default())?;
    Ok(time)
}

/// How long a task is held back.
pub(super) fn delay(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    held_back(time)?;
    Ok(time)
}

/// How long a key of a task is in use.
pub(super) fn key_time(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if time > LONGEST_DELAY => Err("a key can be in use for 45 days at most".to_owned()),
        time => Ok(time),
    }
}

fn held_back(time: Duration) -> Result<(), String> {
    if time > LONGEST_DELAY {
        return Err("the time is more than 45 days away, and a queue can hold a task back no longer".to_owned());
    }
    Ok(())
}

/// A time that may be zero.
pub(super) fn duration_or_zero(text: &str) -> Result<Duration, String> {
    time(text)
}

pub(super) fn reconnect(text: &str) -> Result<ReconnectPolicy, String> {
    match text {
        "never" => Ok(ReconnectPolicy::Never),
        "for-ever" => Ok(ReconnectPolicy::ForEver),
        time => duration(time)
            .map(ReconnectPolicy::For)
            .map_err(|_| "it is never, for-ever, or a time such as 30 (seconds) or 5m".to_owned()),
    }
}

/// A process id as it is typed.
pub(super) fn pid(text: &str) -> Result<Pid, String> {
    text.parse::<Pid>().map_err(|error| error.to_string())
}

/// A whole number within these limits.
pub(super) fn whole<T: FromStr>(from: u64, to: u64) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let number = text.parse::<u64>().ok().filter(|number| (from..=to).contains(number));
        number.and_then(|_| text.parse().ok()).ok_or_else(|| match to {
            u64::MAX => format!("a whole number from {from} on is wanted"),
            _ => format!("a whole number from {from} to {to} is wanted"),
        })
    }
}

/// A number of bytes that is not zero: `1048576`, `512MiB`, `2GiB`, `1.5GB`.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let wanted = || format!("{text:?} is not a size; give a number of bytes, or a size such as 512MiB or 2GiB");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u32 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return Err(wanted()),
    };
    let bytes = match number.parse::<usize>() {
        Ok(number) => usize::try_from(unit).ok().and_then(|unit| number.checked_mul(unit)),
        // More bytes than a float counts one by one are no memory of a machine.
        Err(_) => number
            .parse::<f64>()
            .ok()
            .map(|number| number * f64::from(unit))
            .filter(|bytes| *bytes < 9e15)
            .map(|bytes| bytes as usize),
    };
    match bytes {
        None => Err(wanted()),
        Some(0) => Err("the size is zero; a number of bytes over 0 is wanted, or a size such as 512MiB".to_owned()),
        Some(bytes) => Ok(bytes),
    }
}

/// Where a server listens.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "an IP address and a port are wanted, such as 127.0.0.1:5672 or [::1]:5672".to_owned())
}

/// A name that is not empty.
pub(super) fn name(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("the name is empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// How many workers.
pub(super) fn workers(text: &str) -> Result<NonZeroU16, String> {
    let most = MOST_WORKERS;
    text.parse::<NonZeroU16>()
        .ok()
        .filter(|number| number.get() <= most)
        .ok_or_else(|| format!("a whole number from 1 to {most} is wanted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_of_bytes_or_has_a_unit() {
        for (text, bytes) in [
            ("1", 1),
            ("1048576", 1 << 20),
            ("5B", 5),
            ("2k", 2 << 10),
            ("512MiB", 512 << 20),
            ("512 mib", 512 << 20),
            ("1.5GiB", 3 << 29),
            ("2GB", 2_000_000_000),
            ("3mb", 3_000_000),
            ("0.5kB", 500),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for wrong in [
            "",
            "much",
            "-1",
            "0",
            "0GiB",
            "0.1B",
            "1TiX",
            "MiB",
            "1.2.3",
            "99999999999999999999",
            "1e3",
            "99999999999GiB",
        ] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_time_is_a_number_of_seconds_or_has_units() {
        for (text, milliseconds) in [("2.5", 2500), ("5s", 5000), ("2m", 120_000), ("1m30s", 90_000), ("200ms", 200)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for wrong in ["", "soon", "-1", "0", "0s", "inf", "NaN", "5 parsecs", "1e30"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(duration_or_zero("0"), Ok(Duration::ZERO));
    }

    #[test]
    fn a_task_is_held_back_until_a_time_in_utc_that_can_be() {
        assert!(delay("44d").is_ok() && point_in_time("2020-01-01 00:00:00").is_ok());
        assert!(delay("46d").is_err_and(|why| why.contains("45 days")));
        assert!(point_in_time("2999-01-01T00:00:00Z").is_err_and(|why| why.contains("45 days")));
        assert!(point_in_time("2030-01-31T12:00:00+02:00").is_err_and(|why| why.contains("UTC")));
    }
}
