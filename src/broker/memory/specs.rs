//! What the trait declares, in the engine's words.

use std::time::Duration;

use homing_broker::engine;

use crate::broker::{Access, AutoDelete, Durability, QueueSpec};

/// The engine has RabbitMQ's longest time: ten years, in milliseconds.
const LONGEST: i64 = 315_360_000_000;

pub(super) fn durability(durability: Durability) -> engine::Durability {
    match durability {
        Durability::Durable => engine::Durability::Durable,
        Durability::Transient => engine::Durability::Transient,
    }
}

pub(super) fn auto_delete(auto_delete: AutoDelete) -> engine::AutoDelete {
    match auto_delete {
        AutoDelete::Yes => engine::AutoDelete::Yes,
        AutoDelete::No => engine::AutoDelete::No,
    }
}

pub(super) fn queue(spec: &QueueSpec) -> engine::QueueSpec {
    let mut queue = engine::QueueSpec::new(&spec.name);
    queue.durability = durability(spec.durability);
    queue.auto_delete = auto_delete(spec.auto_delete);
    queue.access = match spec.access {
        Access::Exclusive => engine::Access::Exclusive,
        Access::Shared => engine::Access::Shared,
    };
    let millis = |time: Duration| engine::Field::I64(i64::try_from(time.as_millis()).unwrap_or(LONGEST).min(LONGEST));
    if let Some(ttl) = spec.message_ttl {
        queue.arguments.insert("x-message-ttl", millis(ttl));
    }
    if let Some(expires) = spec.expires {
        queue.arguments.insert("x-expires", millis(expires));
    }
    if let Some(to) = &spec.dead_letter_to {
        queue.arguments.insert("x-dead-letter-exchange", engine::Field::text(""));
        queue.arguments.insert("x-dead-letter-routing-key", engine::Field::text(to));
    }
    if let Some(most) = spec.priorities {
        queue.arguments.insert("x-max-priority", engine::Field::U8(most));
    }
    if let Some(most) = spec.max_length {
        queue.arguments.insert("x-max-length", engine::Field::I64(most.into()));
        queue.arguments.insert("x-overflow", engine::Field::text("reject-publish"));
        queue.arguments.insert("x-queue-type", engine::Field::text("classic"));
    }
    queue
}
