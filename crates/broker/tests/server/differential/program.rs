//! What a program does: operations of AMQP, as data that can be printed, cut down and run again.

use homing_broker::protocol::{TableWriter, Value, table::ArrayWriter};

/// The channels that a program uses: two on the first connection, one on the second.
pub const PLACES: [(usize, u16); 3] = [(0, 1), (0, 2), (1, 1)];

/// A value in a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    Bool(bool),
    Int(i32),
    Long(i64),
    Double(f64),
    Text(String),
    List(Vec<Field>),
    Void,
}

/// A table. A name that begins with `%` is the program's own: the `%` becomes what sets it apart on the broker.
pub type Fields = Vec<(String, Field)>;

/// How a queue or an exchange is declared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Declare {
    pub name: String,
    pub kind: String,
    pub passive: bool,
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub no_wait: bool,
    pub arguments: Fields,
}

/// A queue or an exchange that is bound to an exchange.
#[derive(Clone, Debug, PartialEq)]
pub struct Bind {
    pub source: String,
    pub destination: String,
    pub key: String,
    pub arguments: Fields,
}

/// A message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Publish {
    pub exchange: String,
    pub key: String,
    pub mandatory: bool,
    pub body: String,
    pub headers: Fields,
    pub delivery_mode: Option<u8>,
    pub priority: Option<u8>,
    pub expiration: Option<String>,
    pub user_id: Option<String>,
    pub message_id: Option<String>,
}

/// What a consumer is like.
#[derive(Clone, Debug, PartialEq)]
pub struct Consume {
    pub queue: String,
    pub tag: String,
    pub no_ack: bool,
    pub exclusive: bool,
    pub arguments: Fields,
}

/// What becomes of a message that is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Ack,
    Nack { requeue: bool },
    Reject { requeue: bool },
}

/// How many messages are settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Many {
    One,
    UpTo,
    All,
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    DeclareQueue(Declare),
    DeleteQueue {
        name: String,
        if_unused: bool,
        if_empty: bool,
    },
    Purge {
        name: String,
    },
    DeclareExchange(Declare),
    DeleteExchange {
        name: String,
        if_unused: bool,
    },
    BindQueue(Bind),
    UnbindQueue(Bind),
    BindExchange(Bind),
    UnbindExchange(Bind),
    Publish(Publish),
    Get {
        queue: String,
        no_ack: bool,
    },
    Consume(Consume),
    Cancel {
        tag: String,
    },
    Qos {
        count: u16,
        global: bool,
    },
    /// One of the messages that are out on the channel, by its number among them.
    Settle {
        pick: usize,
        how: How,
        many: Many,
    },
    /// A delivery tag that was never given.
    SettleUnknown {
        how: How,
    },
    Recover {
        requeue: bool,
    },
    ConfirmSelect,
    TxSelect,
    TxCommit,
    TxRollback,
    CloseChannel,
    CloseConnection,
    /// Lets short times to live pass.
    Sleep,
    /// Asks for the counts of all queues.
    Probe,
}

impl Action {
    /// Whether messages may go elsewhere then.
    pub fn changes_routes(&self) -> bool {
        matches!(
            self,
            Action::DeclareExchange(_)
                | Action::DeleteExchange { .. }
                | Action::BindQueue(_)
                | Action::UnbindQueue(_)
                | Action::BindExchange(_)
                | Action::UnbindExchange(_)
                | Action::DeleteQueue { .. }
                | Action::Cancel { .. }
                | Action::CloseChannel
                | Action::CloseConnection
        )
    }

    /// Whether it is answered with counts. RabbitMQ's queues count before they take in what has come.
    pub fn counts(&self) -> bool {
        matches!(self, Action::DeclareQueue(_) | Action::DeleteQueue { .. } | Action::Purge { .. })
    }
}

/// An operation on one of the [`PLACES`].
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub place: usize,
    pub action: Action,
}

/// A program.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    pub steps: Vec<Step>,
    /// The queues whose counts are asked for, and that are emptied at the end.
    pub queues: Vec<String>,
    /// The exchanges that are deleted at the end.
    pub exchanges: Vec<String>,
}

impl Program {
    /// As it is printed when it fails.
    pub fn print(&self) -> String {
        self.steps.iter().map(|step| format!("  {}: {:?}\n", step.place, step.action)).collect()
    }

    /// Whether a queue of this name is declared as a quorum queue: one that does much later than it answers.
    pub fn is_quorum(&self, name: &str) -> bool {
        let quorum = Field::Text("quorum".into());
        self.is_declared_with(name, |argument, value| argument == "x-queue-type" && *value == quorum)
    }

    /// Whether a queue of this name is declared with an argument of this kind.
    pub fn is_declared_with(&self, name: &str, is_it: impl Fn(&str, &Field) -> bool) -> bool {
        self.steps.iter().any(|step| match &step.action {
            Action::DeclareQueue(declare) => {
                declare.name == name && declare.arguments.iter().any(|(argument, value)| is_it(argument, value))
            }
            _ => false,
        })
    }

    /// Whether a queue has such an argument: one whose name begins so.
    pub fn has_argument(&self, start: &str) -> bool {
        self.steps.iter().any(|step| match &step.action {
            Action::DeclareQueue(declare) => declare.arguments.iter().any(|(name, _)| name.starts_with(start)),
            _ => false,
        })
    }

    /// Whether something in it is over while it sleeps.
    pub fn has_short_times(&self) -> bool {
        let short = super::generate::SHORT;
        self.steps.iter().any(|step| match &step.action {
            Action::DeclareQueue(declare) => declare.arguments.iter().any(|(_, value)| *value == Field::Int(short)),
            Action::Publish(publish) => publish.expiration == Some(short.to_string()),
            _ => false,
        })
    }

    /// The queue that a consumer is for. One whose tag the broker made up stands for the first of those.
    pub fn queue_of(&self, consumer: &str) -> &str {
        let queue = self.steps.iter().find_map(|step| match &step.action {
            Action::Consume(consume) if consume.tag == consumer => Some(&*consume.queue),
            Action::Consume(consume) if consume.tag.is_empty() && consumer.starts_with("%gen") => Some(&*consume.queue),
            _ => None,
        });
        queue.unwrap_or_default()
    }

    /// What ends a program: its consumers, then its channels, one by one, so that what comes back does so in one order.
    pub fn epilogue(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for Step { place, action } in &self.steps {
            if let Action::Consume(consume) = action
                && !consume.tag.is_empty()
            {
                let cancel = Step { place: *place, action: Action::Cancel { tag: consume.tag.clone() } };
                if !steps.contains(&cancel) {
                    steps.push(cancel);
                }
            }
        }
        let mut places: Vec<_> = self.steps.iter().map(|step| step.place).collect();
        places.sort_unstable();
        places.dedup();
        steps.extend(places.into_iter().map(|place| Step { place, action: Action::CloseChannel }));
        steps
    }

    /// Programs with less in them, the smallest first.
    pub fn smaller(&self) -> Vec<Program> {
        let mut all = Vec::new();
        let mut size = self.steps.len() / 2;
        while size > 0 {
            for start in (0..self.steps.len()).step_by(size) {
                let mut steps = self.steps.clone();
                steps.drain(start..(start + size).min(self.steps.len()));
                all.push(Program { steps, ..self.clone() });
            }
            size /= 2;
        }
        for (at, step) in self.steps.iter().enumerate() {
            for action in simpler(&step.action) {
                let mut steps = self.steps.clone();
                steps[at].action = action;
                all.push(Program { steps, ..self.clone() });
            }
            if step.place != 0 {
                let mut steps = self.steps.clone();
                steps[at].place = 0;
                all.push(Program { steps, ..self.clone() });
            }
        }
        all
    }
}

/// The same operation with one thing less in it.
fn simpler(action: &Action) -> Vec<Action> {
    let mut all = Vec::new();
    match action {
        Action::DeclareQueue(declare) => {
            all.extend(simpler_declarations(declare).into_iter().map(Action::DeclareQueue));
        }
        Action::DeclareExchange(declare) => {
            all.extend(simpler_declarations(declare).into_iter().map(Action::DeclareExchange));
        }
        Action::Publish(publish) => all.extend(simpler_messages(publish).into_iter().map(Action::Publish)),
        Action::Consume(consume) => {
            let base = consume.clone();
            all.extend([
                Action::Consume(Consume { no_ack: false, ..base.clone() }),
                Action::Consume(Consume { exclusive: false, ..base.clone() }),
                Action::Consume(Consume { arguments: Vec::new(), ..base }),
            ]);
        }
        Action::Settle { pick, how, .. } => {
            all.push(Action::Settle { pick: *pick, how: *how, many: Many::One });
            all.push(Action::Settle { pick: 0, how: *how, many: Many::One });
        }
        _ => {}
    }
    all.retain(|simpler| simpler != action);
    all
}

fn simpler_messages(publish: &Publish) -> Vec<Publish> {
    let base = publish.clone();
    let mut all: Vec<_> =
        without_one(&base.headers).into_iter().map(|headers| Publish { headers, ..base.clone() }).collect();
    all.extend([
        Publish { delivery_mode: None, ..base.clone() },
        Publish { priority: None, ..base.clone() },
        Publish { expiration: None, ..base.clone() },
        Publish { user_id: None, ..base.clone() },
        Publish { message_id: None, ..base.clone() },
        Publish { mandatory: false, ..base },
    ]);
    all
}

fn simpler_declarations(declare: &Declare) -> Vec<Declare> {
    let base = declare.clone();
    let mut all: Vec<_> =
        without_one(&base.arguments).into_iter().map(|arguments| Declare { arguments, ..base.clone() }).collect();
    all.extend([
        Declare { durable: false, ..base.clone() },
        Declare { exclusive: false, ..base.clone() },
        Declare { auto_delete: false, ..base.clone() },
        Declare { internal: false, ..base.clone() },
        Declare { no_wait: false, ..base.clone() },
    ]);
    all.retain(|simpler| *simpler != base);
    all
}

fn without_one(fields: &Fields) -> Vec<Fields> {
    (0..fields.len())
        .map(|at| {
            let mut rest = fields.clone();
            rest.remove(at);
            rest
        })
        .collect()
}

/// A table as bytes. `name` makes the program's names those of the broker.
pub fn table(fields: &Fields, name: &dyn Fn(&str) -> String) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut table = TableWriter::new(&mut bytes);
    for (field, value) in fields {
        match value {
            Field::List(values) => table.array(field.as_bytes(), |array| write_list(array, values, name)),
            Field::Text(text) => table.field(field.as_bytes(), &Value::String(name(text).as_bytes())),
            value => table.field(field.as_bytes(), &scalar(value)),
        }
    }
    bytes
}

fn write_list(array: &mut ArrayWriter<'_>, values: &[Field], name: &dyn Fn(&str) -> String) {
    for value in values {
        match value {
            Field::Text(text) => array.value(&Value::String(name(text).as_bytes())),
            value => array.value(&scalar(value)),
        }
    }
}

fn scalar(value: &Field) -> Value<'static> {
    match value {
        Field::Bool(value) => Value::Bool(*value),
        Field::Int(value) => Value::I32(*value),
        Field::Long(value) => Value::I64(*value),
        Field::Double(value) => Value::F64(*value),
        Field::Void | Field::Text(_) | Field::List(_) => Value::Void,
    }
}
