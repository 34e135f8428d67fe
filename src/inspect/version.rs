//! What a RabbitMQ version means for tasks that run long.

/// How long a delivery may stay unacknowledged before the server closes its channel (`consumer_timeout`), by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeliveryTimeout {
    /// The server knows no such limit, for classic queues.
    None,
    Minutes(u32),
    /// The version cannot be read.
    Unknown,
}

/// From the change logs of RabbitMQ: 15 minutes came with 3.8.15, 30 with 3.8.17; 4.3 has it for quorum queues only.
pub(super) fn delivery_timeout(version: &str) -> DeliveryTimeout {
    match numbers(version) {
        None => DeliveryTimeout::Unknown,
        Some(version) if version < (3, 8, 15) => DeliveryTimeout::None,
        Some(version) if version < (3, 8, 17) => DeliveryTimeout::Minutes(15),
        Some(version) if version < (4, 3, 0) => DeliveryTimeout::Minutes(30),
        Some(_) => DeliveryTimeout::None,
    }
}

/// Reads `3.10.8`, and `4.3.0-rc.1` as 4.3.0.
fn numbers(version: &str) -> Option<(u32, u32, u32)> {
    let mut parts = version.split('.').map(|part| {
        let digits = part.find(|c: char| !c.is_ascii_digit()).map_or(part, |end| &part[..end]);
        digits.parse::<u32>().ok()
    });
    Some((parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_that_of_the_version() {
        for (version, expected) in [
            ("3.8.14", DeliveryTimeout::None),
            ("3.8.15", DeliveryTimeout::Minutes(15)),
            ("3.8.16", DeliveryTimeout::Minutes(15)),
            ("3.8.17", DeliveryTimeout::Minutes(30)),
            ("3.10.8", DeliveryTimeout::Minutes(30)),
            ("3.10.8+1.debian", DeliveryTimeout::Minutes(30)),
            ("4.2.9", DeliveryTimeout::Minutes(30)),
            ("4.3.0-rc.1", DeliveryTimeout::None),
            ("4.3", DeliveryTimeout::None),
            ("10.0.0", DeliveryTimeout::None),
            ("", DeliveryTimeout::Unknown),
            ("four", DeliveryTimeout::Unknown),
        ] {
            assert_eq!(delivery_timeout(version), expected, "{version}");
        }
    }
}
