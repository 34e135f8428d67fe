//! The methods of AMQP 0-9-1 and of RabbitMQ's extensions to it, each read and written.
//!
//! Fields have the names of the specification. Fields that it reserves are read over and written as zero.

mod fields;
#[macro_use]
mod define;

pub mod access;
pub mod basic;
pub mod channel;
pub mod confirm;
pub mod connection;
pub mod exchange;
pub mod queue;
pub mod tx;

pub(crate) use fields::Encode;

use super::{Violation, read::Reader};

/// Class and number of a method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MethodId {
    /// The class.
    pub class: u16,
    /// The number within the class.
    pub method: u16,
}

/// Reads the arguments of a method.
pub(crate) trait Decode<'a>: Sized {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, Violation>;
}

macro_rules! all {
    ($($variant:ident: $class:ident :: $name:ident $(<$life:lifetime>)?,)*) => {
        /// Any method.
        #[derive(Clone, Copy, Debug, PartialEq)]
        #[non_exhaustive]
        pub enum Method<'a> {
            $(
                #[doc = concat!("[`", stringify!($class), "::", stringify!($name), "`]")]
                $variant($class::$name $(<$life>)?),
            )*
        }

        impl<'a> Method<'a> {
            /// Reads the payload of a method frame.
            ///
            /// # Errors
            /// The method is unknown, or its arguments are not what the specification asks for.
            #[inline]
            pub fn read(payload: &'a [u8]) -> Result<Self, Violation> {
                let mut reader = Reader::new(payload);
                let id = MethodId { class: reader.u16()?, method: reader.u16()? };
                match id {
                    $(<$class::$name>::ID => {
                        let method = <$class::$name as Decode>::decode(&mut reader)?;
                        if reader.is_empty() { Ok(Self::$variant(method)) } else { Err(Violation::Excess) }
                    })*
                    unknown => Err(Violation::UnknownMethod(unknown)),
                }
            }

            /// Class and number.
            pub fn id(&self) -> MethodId {
                match self {
                    $(Self::$variant(_) => <$class::$name>::ID,)*
                }
            }

            /// The name, as in `queue.declare`.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => <$class::$name>::NAME,)*
                }
            }

            /// One of each method, with any fields, for tests.
            #[cfg(test)]
            pub(crate) fn samples(random: &mut fastrand::Rng) -> Vec<Method<'static>> {
                vec![$(Method::$variant(<$class::$name>::sample(random)),)*]
            }

            /// Appends a method frame.
            pub fn write(&self, out: &mut Vec<u8>, channel: u16) {
                match self {
                    $(Self::$variant(method) => super::frame::write_method(out, channel, method),)*
                }
            }
        }

        $(impl<'a> From<$class::$name $(<$life>)?> for Method<'a> {
            fn from(method: $class::$name $(<$life>)?) -> Self {
                Self::$variant(method)
            }
        })*
    };
}

all! {
    BasicPublish: basic::Publish<'a>,
    BasicAck: basic::Ack,
    ConnectionStart: connection::Start<'a>,
    ConnectionStartOk: connection::StartOk<'a>,
    ConnectionSecure: connection::Secure<'a>,
    ConnectionSecureOk: connection::SecureOk<'a>,
    ConnectionTune: connection::Tune,
    ConnectionTuneOk: connection::TuneOk,
    ConnectionOpen: connection::Open<'a>,
    ConnectionOpenOk: connection::OpenOk,
    ConnectionClose: connection::Close<'a>,
    ConnectionCloseOk: connection::CloseOk,
    ConnectionBlocked: connection::Blocked<'a>,
    ConnectionUnblocked: connection::Unblocked,
    ConnectionUpdateSecret: connection::UpdateSecret<'a>,
    ConnectionUpdateSecretOk: connection::UpdateSecretOk,
    ChannelOpen: channel::Open,
    ChannelOpenOk: channel::OpenOk,
    ChannelFlow: channel::Flow,
    ChannelFlowOk: channel::FlowOk,
    ChannelClose: channel::Close<'a>,
    ChannelCloseOk: channel::CloseOk,
    AccessRequest: access::Request<'a>,
    AccessRequestOk: access::RequestOk,
    ExchangeDeclare: exchange::Declare<'a>,
    ExchangeDeclareOk: exchange::DeclareOk,
    ExchangeDelete: exchange::Delete<'a>,
    ExchangeDeleteOk: exchange::DeleteOk,
    ExchangeBind: exchange::Bind<'a>,
    ExchangeBindOk: exchange::BindOk,
    ExchangeUnbind: exchange::Unbind<'a>,
    ExchangeUnbindOk: exchange::UnbindOk,
    QueueDeclare: queue::Declare<'a>,
    QueueDeclareOk: queue::DeclareOk<'a>,
    QueueBind: queue::Bind<'a>,
    QueueBindOk: queue::BindOk,
    QueueUnbind: queue::Unbind<'a>,
    QueueUnbindOk: queue::UnbindOk,
    QueuePurge: queue::Purge<'a>,
    QueuePurgeOk: queue::PurgeOk,
    QueueDelete: queue::Delete<'a>,
    QueueDeleteOk: queue::DeleteOk,
    BasicQos: basic::Qos,
    BasicQosOk: basic::QosOk,
    BasicConsume: basic::Consume<'a>,
    BasicConsumeOk: basic::ConsumeOk<'a>,
    BasicCancel: basic::Cancel<'a>,
    BasicCancelOk: basic::CancelOk<'a>,
    BasicReturn: basic::Return<'a>,
    BasicDeliver: basic::Deliver<'a>,
    BasicGet: basic::Get<'a>,
    BasicGetOk: basic::GetOk<'a>,
    BasicGetEmpty: basic::GetEmpty,
    BasicReject: basic::Reject,
    BasicRecoverAsync: basic::RecoverAsync,
    BasicRecover: basic::Recover,
    BasicRecoverOk: basic::RecoverOk,
    BasicNack: basic::Nack,
    ConfirmSelect: confirm::Select,
    ConfirmSelectOk: confirm::SelectOk,
    TxSelect: tx::Select,
    TxSelectOk: tx::SelectOk,
    TxCommit: tx::Commit,
    TxCommitOk: tx::CommitOk,
    TxRollback: tx::Rollback,
    TxRollbackOk: tx::RollbackOk,
}
