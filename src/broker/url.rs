//! To come.
/// A broker's URL, read.
pub(crate) struct BrokerUrl;
