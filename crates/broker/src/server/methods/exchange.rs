//! Exchanges and what binds them to each other.

use super::{RESERVED, without_line_ends};
use crate::engine::{
    AutoDelete, Binding, DeleteExchange, Destination, Durability, ExchangeKind, ExchangeSpec, Field, Object,
    Publishers, Refusal,
};
use crate::protocol::{ReplyCode, Table, methods::exchange};
use crate::server::{
    accounts::{Right, Topic},
    arguments::arguments,
    call::Call,
    exception::{Exception, Result},
    topics,
};

impl Call<'_> {
    pub(in crate::server) fn declare_exchange(&mut self, declare: &exchange::Declare<'_>) -> Result<()> {
        let name = without_line_ends(declare.exchange);
        if declare.passive {
            self.request(|engine| engine.check_exchange(self.session, &name, self.now))?;
        } else {
            let kind = ExchangeKind::from_name(declare.kind).ok_or_else(|| {
                // The word depends on what is a word to Erlang, which nothing is.
                let problem = if declare.kind.is_empty() { "invalid" } else { "unknown" };
                Exception::new(ReplyCode::CommandInvalid, format!("{problem} exchange type '{}'", declare.kind))
            })?;
            let spec = ExchangeSpec {
                name: name.into(),
                kind,
                durability: if declare.durable { Durability::Durable } else { Durability::Transient },
                auto_delete: if declare.auto_delete { AutoDelete::Yes } else { AutoDelete::No },
                publishers: if declare.internal { Publishers::Exchanges } else { Publishers::Anybody },
                arguments: arguments(declare.arguments),
            };
            self.may_declare_exchange(&spec)?;
            self.request(|engine| engine.declare_exchange(self.session, &spec, self.now))?;
        }
        self.answer_unless(declare.no_wait, &exchange::DeclareOk {});
        Ok(())
    }

    /// A new exchange that passes on what it cannot route takes from itself and gives to the other one.
    fn may_declare_exchange(&self, spec: &ExchangeSpec) -> Result<()> {
        self.may(Right::Configure, Object::Exchange, &spec.name)?;
        if let Some(alternate) = spec.arguments.get("alternate-exchange").and_then(Field::as_text)
            && self.host.engine(|engine| engine.exchange(&spec.name).is_none())
        {
            self.may(Right::Read, Object::Exchange, &spec.name)?;
            self.may(Right::Write, Object::Exchange, alternate)?;
        }
        Ok(())
    }

    pub(in crate::server) fn delete_exchange(&mut self, delete: &exchange::Delete<'_>) -> Result<()> {
        let name = without_line_ends(delete.exchange);
        // The default exchange and the system's own are refused to everybody, and in other words.
        if !name.is_empty() && !name.starts_with(RESERVED) {
            self.may(Right::Configure, Object::Exchange, &name)?;
        }
        let condition = if delete.if_unused { DeleteExchange::IfUnused } else { DeleteExchange::Always };
        let deleted = self.host.engine(|engine| engine.delete_exchange(self.session, &name, condition, self.now));
        self.host.settle();
        deleted.map_err(|refusal| match refusal {
            Refusal::Reserved { name, .. } => Exception::new(
                ReplyCode::AccessRefused,
                format!("deletion of system exchange '{name}' in vhost '{}' not allowed", self.host.name),
            ),
            refusal => Exception::refused(&refusal, &self.host.name),
        })?;
        self.answer_unless(delete.no_wait, &exchange::DeleteOk {});
        Ok(())
    }

    pub(in crate::server) fn bind_exchange(&mut self, bind: &exchange::Bind<'_>) -> Result<()> {
        let binding = self.exchange_binding(bind.source, bind.destination, bind.routing_key, bind.arguments)?;
        self.request(|engine| engine.bind(self.session, &binding, self.now))?;
        self.answer_unless(bind.no_wait, &exchange::BindOk {});
        Ok(())
    }

    pub(in crate::server) fn unbind_exchange(&mut self, unbind: &exchange::Unbind<'_>) -> Result<()> {
        let binding = self.exchange_binding(unbind.source, unbind.destination, unbind.routing_key, unbind.arguments)?;
        self.request(|engine| engine.unbind(self.session, &binding, self.now))?;
        self.answer_unless(unbind.no_wait, &exchange::UnbindOk {});
        Ok(())
    }

    fn exchange_binding(&self, source: &str, destination: &str, key: &str, table: Table<'_>) -> Result<Binding> {
        self.may(Right::Write, Object::Exchange, destination)?;
        if source.is_empty() || destination.is_empty() {
            return Err(Exception::refused(&Refusal::DefaultExchange, &self.host.name));
        }
        self.may(Right::Read, Object::Exchange, source)?;
        topics::check(self.permit, self.host, Topic::Read, source, [key])?;
        Ok(Binding {
            source: source.into(),
            destination: Destination::Exchange(destination.into()),
            key: key.into(),
            arguments: arguments(table),
        })
    }
}
